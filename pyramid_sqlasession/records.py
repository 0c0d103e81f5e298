"""The SQL on records, on a given connection.

A method is one statement, but for those that first choose what they delete, or
look for damage.  Whoever calls decides on connection, transaction and
meaning.  Times are aware UTC and come from the caller: there is one clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
import datetime as dt
import hmac
from typing import Any
from typing import Protocol
import uuid
import warnings

import sqlalchemy as sa

from pyramid_sqlasession import dialects
from pyramid_sqlasession import faults
from pyramid_sqlasession.cookie import Token
from pyramid_sqlasession.errors import unsendable
from pyramid_sqlasession.lenient import leniently
from pyramid_sqlasession.lenient import Unreadable
from pyramid_sqlasession.model import StoredId
from pyramid_sqlasession.model import table_of
from pyramid_sqlasession.retired import CURRENT
from pyramid_sqlasession.retired import Standing
from pyramid_sqlasession.retired import unpack_retired
from pyramid_sqlasession.retired import WRONG


# Not frozen: that makes three times as dear what each request does.
@dataclass(slots=True)
class Record:
    """A row, without ``sweep``, which follows from ``expires``, and without
    the additional fields; nobody changes it.
    """

    id: uuid.UUID
    secret_hash: bytes = field(repr=False)
    retired: bytes | None = field(repr=False)
    version: int
    #: What the serializer wrote; None if the row is damaged.
    data: str | None = field(repr=False)
    # Those that are often the same one side by side: a driver reads them
    # once.
    created: dt.datetime
    started: dt.datetime
    rotated: dt.datetime
    accessed: dt.datetime
    expires: dt.datetime
    lifetime: int | None

    def written(self, data: str | None) -> Record:
        """Return what it is after a write that stores *data*."""
        # By hand: replace() costs ten times as much.
        return Record(
            self.id, self.secret_hash, self.retired, self.version + 1, data,
            self.created, self.started, self.rotated, self.accessed,
            self.expires, self.lifetime,
        )

    def standing(self, token: Token, now: dt.datetime | None) -> Standing:
        """Return what *token* is to this record, in constant time.

        :param now: None for a request in flight, for which *token* has opened
            the record already: no grace ends for it.
        """
        presented = token.secret_hash
        if hmac.compare_digest(presented, self.secret_hash):
            return CURRENT
        for entry in unpack_retired(self.retired):
            if hmac.compare_digest(presented, entry.secret_hash) and (
                now is None or entry.until > now
            ):
                return entry.standing
        return WRONG


class Executor(Protocol):
    """What executes a statement: a ``sqlalchemy.Connection``, or less."""

    @property
    def dialect(self) -> sa.Dialect:
        """The database's."""

    def execute(self, statement: Any, values: Any, /) -> Any:
        """Execute *statement* with *values*."""

    def get_execution_options(self) -> Mapping[str, Any]:
        """Return how it is executed."""


#: The execution option of what is there for one statement, and commits it at
#: once.  Not so a connection that the application has in autocommit: there is
#: no other way to write with that one.
SINGLE = 'sqlasession_single'


#: What a :class:`Record` is made of, in its order.
COLUMNS = tuple(one.name for one in fields(Record))

#: The columns that a touch sets.
EXPIRY = ('accessed', 'expires', 'sweep')


class Records:
    """The statements on one table, built once."""

    def __init__(self, model: type[Any]) -> None:
        self.table = table = table_of(model)
        c = table.c
        #: For finding rows by what they have, an id or not.
        self.stored_id = sa.type_coerce(c.id, StoredId())
        # No column may be called as one of the parameters, and none is:
        # Python makes _Session__now of an attribute __now.
        alive = c.expires > sa.bindparam('__now')
        this = c.id == sa.bindparam('__id')
        # Whoever looks for an id knows it.
        columns = [c[name] for name in COLUMNS if name != 'id']
        self.find_statement = sa.select(*columns).where(this, alive)
        # An expired one too: whoever looks again wants to know why.
        self._look_again = dialects.SelectLatest(*columns).where(this)
        self._identify = sa.select(c.secret_hash, c.version).where(
            this, alive
        )
        # NULL is said, as a column may have a default of the application's;
        # and by the statement: as a parameter it is the dearest of all for
        # sqlite3.
        self._insert_lasting = table.insert().values(retired=sa.null())
        self._insert = self._insert_lasting.values(lifetime=sa.null())
        self._update = dialects.UpdateLatest(table).where(
            this, self._guard(), alive
        )
        # Another machine's clock may be ahead: never backwards (C3).
        self._extend = self._update.values({
            name: sa.case(
                (c[name] > sa.bindparam(f'__{name}'), c[name]),
                else_=sa.bindparam(f'__{name}', type_=c[name].type),
            )
            for name in EXPIRY
        })
        self._touch = self._update.where(c.accessed == sa.bindparam('__seen'))
        self._delete = dialects.DeleteLatest(table).where(
            this, c.secret_hash == sa.bindparam('__hash')
        )
        #: Those of most requests, built once: each is known by its id().
        self.statements = (
            self.find_statement, self._insert, self._insert_lasting,
            self._update, self._extend, self._touch, self._delete,
        )

    def _guard(self) -> sa.ColumnElement[bool]:
        """Return what a write asks: has nobody written since it read?"""
        return self.table.c.version == sa.bindparam('__version')

    # -- one record ----------------------------------------------------------

    def find(
        self, connection: Executor, id: uuid.UUID, now: dt.datetime
    ) -> Record | None:
        """Return the live record *id*, or None."""
        return self._one(connection, self.find_statement, id, now)

    def look_again(
        self, connection: Executor, id: uuid.UUID, now: dt.datetime
    ) -> Record | None:
        """Return the record *id*, expired or not, or None.

        Reads what is committed now, not what a snapshot shows, and keeps
        others from changing it (not on SQLite, where the writer is alone).
        """
        statement = self._look_again
        if dialects.locks_rows(connection.dialect):
            statement = statement.with_for_update()
        return self._one(connection, statement, id, now)

    def _one(
        self, connection: Executor, statement: Any, id: uuid.UUID,
        now: dt.datetime,
    ) -> Record | None:
        values = {'__id': id, '__now': now}
        try:
            row = connection.execute(statement, values).first()
            return None if row is None else self._record(id, row, now)
        except (ValueError, TypeError, OverflowError, sa.exc.DataError):
            # SQLite keeps any text in a column of dates, PostgreSQL knows
            # infinity, MariaDB a day zero.
            row = connection.execute(self._identify, values).first()
            return None if row is None else _damaged(id, row, now)

    @staticmethod
    def _record(id: uuid.UUID, row: Any, now: dt.datetime) -> Record:
        # SQLite keeps any value in any column, and schemas get altered.
        if (
            None in (row.created, row.started, row.accessed, row.expires,
                     row.rotated)
            or not isinstance(row.version, int)
            or not isinstance(row.data, str)
            or not isinstance(row.lifetime, int | None)
            or not 0 <= (row.lifetime or 0) < 2**31
        ):
            return _damaged(id, row, row.accessed or now)
        secret_hash, retired, *others = row
        if not isinstance(retired, bytes):
            retired = None
        return Record(id, _hash(secret_hash), retired, *others)

    def insert(
        self, connection: Executor, record: Record, sweep: dt.datetime,
        fields: Mapping[str, Any],
    ) -> None:
        """Insert *record*, which was never there.

        :param sweep: where the cleaner's index has it.
        :param fields: the additional fields.
        """
        statement = self._insert
        if record.lifetime is not None:
            statement = self._insert_lasting
            fields = {**fields, 'lifetime': record.lifetime}
        statement, fields = _with_expressions(statement, fields)
        # By hand: to ask for each of COLUMNS by its name costs four times
        # as much.
        values = {
            'id': record.id, 'secret_hash': record.secret_hash,
            'version': record.version, 'data': record.data,
            'created': record.created, 'started': record.started,
            'accessed': record.accessed, 'rotated': record.rotated,
            'expires': record.expires, 'sweep': sweep, **fields,
        }
        try:
            connection.execute(statement, values)
        except UnicodeEncodeError as error:
            raise unsendable(error) from error

    def update(
        self, connection: Executor, id: uuid.UUID, version: int,
        now: dt.datetime, values: Mapping[str, Any], *, extends: bool,
    ) -> bool:
        """Update the record if it lives and nobody wrote since *version*.

        The new version is one higher.  Return whether there was one.

        :param extends: the columns of the expiry are only moved forward.
        """
        statement = self._update
        if extends:
            statement = self._extend
            values = {
                f'__{name}' if name in EXPIRY else name: value
                for name, value in values.items()
            }
        statement, values = _with_expressions(statement, values)
        values = {
            '__id': id, '__version': version, '__now': now, **values,
            'version': version + 1,
        }
        try:
            return bool(connection.execute(statement, values).rowcount == 1)
        except UnicodeEncodeError as error:
            raise unsendable(error) from error

    def touch(
        self, connection: Executor, record: Record, now: dt.datetime,
        values: Mapping[str, Any],
    ) -> bool:
        """Extend the expiry if nobody wrote to or touched the record since.

        The version stays, so that a touch is no conflict for a write.
        """
        found = connection.execute(
            self._touch,
            {'__id': record.id, '__version': record.version, '__now': now,
             '__seen': record.accessed, **values},
        ).rowcount
        return bool(found == 1)

    def delete(
        self, connection: Executor, id: uuid.UUID, secret_hash: bytes
    ) -> bool:
        """Delete the record if its secret is still this one."""
        found = connection.execute(
            self._delete, {'__id': id, '__hash': secret_hash}
        ).rowcount
        return bool(found == 1)

    # -- many records --------------------------------------------------------

    def live(
        self, now: dt.datetime, oldest: dt.datetime | None
    ) -> sa.ColumnElement[bool]:
        """Return which records live.

        :param oldest: those that started until then do not, whatever
            ``expires`` says.
        """
        c = self.table.c
        found: sa.ColumnElement[bool] = c.expires > now
        return found if oldest is None else found & (c.started > oldest)

    def count(
        self, connection: sa.Connection, where: sa.ColumnElement[bool]
    ) -> int:
        """Return how many records there are."""
        statement = sa.select(sa.func.count()).select_from(self.table)
        return int(connection.scalar(statement.where(where)) or 0)

    def rows(
        self, connection: sa.Connection,
        where: Iterable[sa.ColumnElement[bool]],
    ) -> list[dict[sa.Column[Any], Any]]:
        """Return the rows, newest first: by column a value, or an
        :class:`Unreadable`.
        """
        table = self.table
        statement = (
            sa.select(*map(leniently, table.c))
            .where(*where)
            .order_by(table.c.created.desc(), table.c.id.desc())
        )
        try:
            return self._read(connection, statement)
        except (ValueError, OverflowError, sa.exc.DataError) as error:
            if faults.is_from_server(error):
                raise
            # A moment that PostgreSQL has and Python has not: the driver
            # raises it before a type could.
            ids = connection.scalars(statement.with_only_columns(table.c.id))
            found = [self._read_alone(connection, id) for id in ids.all()]
            # Some may have gone meanwhile.
            return [row for row in found if row[table.c.id] is not None]

    def _read(
        self, connection: sa.Connection, statement: Any
    ) -> list[dict[sa.Column[Any], Any]]:
        return [
            dict(zip(self.table.c, row, strict=True))
            for row in connection.execute(statement)
        ]

    def _read_alone(
        self, connection: sa.Connection, id: uuid.UUID
    ) -> dict[sa.Column[Any], Any]:
        """Return the row *id*, read column by column."""
        c = self.table.c
        found: dict[sa.Column[Any], Any] = {}
        for column in c:
            try:
                found[column] = connection.scalar(
                    sa.select(leniently(column)).where(c.id == id)
                )
            except (ValueError, OverflowError, sa.exc.DataError):
                found[column] = Unreadable()
        return found

    def remove(
        self, connection: sa.Connection, now: dt.datetime,
        where: Iterable[sa.ColumnElement[bool]],
    ) -> int:
        """Delete live records; return how many."""
        # Those too that an absolute timeout has ended since they were stored:
        # they would come back when it is lengthened.
        table = self.table
        return connection.execute(
            dialects.DeleteLatest(table).where(table.c.expires > now, *where)
        ).rowcount

    def remove_surplus(
        self, connection: sa.Connection, now: dt.datetime,
        where: sa.ColumnElement[bool], limit: int,
    ) -> int:
        """Delete all but the *limit* newest live records; return how many.

        Two statements: MariaDB and MySQL refuse to delete from a table what
        a LIMIT on it selects.
        """
        c, id = self.table.c, self.stored_id
        surplus = connection.execute(
            sa.select(id, leniently(c.started))
            .where(c.expires > now, where)
            .order_by(c.started.desc(), c.created.desc(), c.id.desc())
            # MariaDB knows OFFSET only behind LIMIT.
            .limit(10_000).offset(limit)
        ).all()
        if not surplus:
            return 0
        # Whoever has logged in by one of them meanwhile keeps it.
        still = [where]
        newest = [at for _, at in surplus if isinstance(at, dt.datetime)]
        if newest:
            still.append(c.started <= max(newest))
        ids, count = [found for found, _ in surplus], 0
        for start in range(0, len(ids), dialects.MOST_KEYS):
            some = id.in_(ids[start:start + dialects.MOST_KEYS])
            count += connection.execute(
                dialects.DeleteByKey(self.table).where(some, *still)
            ).rowcount
        return count

    def remove_expired(
        self, connection: sa.Connection, now: dt.datetime, limit: int,
        *, exactly: bool = False, oldest: dt.datetime | None = None,
    ) -> int:
        """Delete up to *limit* expired records; return how many.

        On servers it waits for nobody, and a record that was touched
        meanwhile survives.

        :param exactly: find all, without the index on ``sweep``, by which
            a record is found up to a sixteenth of ``sqlasession.expiration``
            late (of what that was when the record was written).
        :param oldest: see :meth:`live`.
        """
        c, id = self.table.c, self.stored_id
        expired = ~self.live(now, oldest)
        if not exactly:
            expired &= c.sweep <= now
        chosen = (
            dialects.SelectLatest(id)
            .where(expired).order_by(c.sweep).limit(limit)
        )
        if exactly and dialects.locks_rows(connection.dialect):
            # MariaDB and MySQL lock all that they look at, until the
            # transaction ends, and no index leads to these alone.
            ids = list(connection.scalars(chosen))
            if not ids:
                return 0
            return self.remove_unlocked(connection, ids, expired)
        return self._remove_unlocked(
            connection, chosen, dialects.DeleteAtOnce(self.table), expired
        )

    def remove_unlocked(
        self, connection: sa.Connection, ids: Sequence[Any],
        where: sa.ColumnElement[bool],
    ) -> int:
        """Delete those of these records that nobody has locked; return how
        many.

        :param ids: ``dialects.MOST_KEYS`` at most.
        :param where: what has to hold still.
        """
        id = self.stored_id
        chosen = dialects.select_by_key(
            dialects.SelectLatest(id).where(id.in_(ids), where), self.table
        )
        return self._remove_unlocked(
            connection, chosen, dialects.DeleteByKey(self.table), where
        )

    def _remove_unlocked(
        self, connection: sa.Connection, chosen: sa.Select[Any],
        delete: dialects.DeleteByKey, where: sa.ColumnElement[bool],
    ) -> int:
        id = self.stored_id
        if dialects.locks_rows(connection.dialect):
            chosen = chosen.with_for_update(skip_locked=True)
        ids = list(connection.scalars(chosen))
        if not ids:
            return 0
        return connection.execute(delete.where(id.in_(ids), where)).rowcount

    def remove_expired_of(
        self, connection: Executor, now: dt.datetime,
        where: sa.ColumnElement[bool], oldest: dt.datetime | None,
    ) -> None:
        """Delete those of some records that have expired.

        :param where: which.
        :param oldest: see :meth:`live`.
        """
        # Usually there are none, and on MariaDB a DELETE that finds nothing
        # locks the gap that others insert into.
        id = self.stored_id
        is_over = ~self.live(now, oldest)
        found = connection.execute(
            sa.select(id).where(is_over, where), {}
        )
        if ids := [row.id for row in found]:
            connection.execute(
                dialects.DeleteByKey(self.table).where(id.in_(ids), is_over),
                {},
            )

    def has_expired(self, connection: Executor, now: dt.datetime) -> bool:
        """Return whether :meth:`remove_expired` would find a record."""
        c = self.table.c
        first = sa.select(c.id).where(c.expires <= now, c.sweep <= now)
        first = first.order_by(c.sweep).limit(1)
        return connection.execute(first, {}).first() is not None

    # -- the table -----------------------------------------------------------

    def is_there(self, connection: sa.Connection) -> bool:
        """Return whether the table exists."""
        return sa.inspect(connection).has_table(
            self.table.name, schema=connection.schema_for_object(self.table)
        )

    def missing_columns(self, connection: sa.Connection) -> list[str]:
        """Return the names of the columns that the table, which is there,
        lacks.
        """
        there = {
            _folded(column['name']) for column in self._there(connection)
        }
        return [
            column.name for column in self.table.columns
            if _folded(column.name) not in there
        ]

    def unfilled_columns(self, connection: sa.Connection) -> list[str]:
        """Return the names of the columns that the table, which is there, has
        beyond ours, and that an INSERT of ours leaves without a value which
        they need.
        """
        known = {_folded(column.name) for column in self.table.columns}
        return [
            column['name'] for column in self._there(connection)
            if _folded(column['name']) not in known
            and not column['nullable'] and column['default'] is None
            and column.get('autoincrement') is not True
            and not {'identity', 'computed'} & column.keys()
        ]

    def _there(self, connection: sa.Connection) -> list[Any]:
        """Return the columns that the database has."""
        # Not by a SELECT, which on PostgreSQL would wait for a migration that
        # alters the table.
        with warnings.catch_warnings():
            # Of types that come from an extension.
            warnings.simplefilter('ignore', sa.exc.SAWarning)
            return sa.inspect(connection).get_columns(
                self.table.name,
                schema=connection.schema_for_object(self.table),
            )

    def create_table(self, connection: sa.Connection) -> None:
        """Create the table and its indexes if they are missing."""
        self.table.create(connection, checkfirst=True)


def _folded(name: str) -> str:
    # Only PostgreSQL tells two that differ in this from each other.  (The
    # method of str itself: a name that is to be quoted stays as it is.)
    return str.lower(name)


def _with_expressions(
    statement: Any, values: Mapping[str, Any]
) -> tuple[Any, Mapping[str, Any]]:
    """Return *statement* with those values that are SQL expressions."""
    if not values:
        return statement, values
    expressions = {
        name: value
        for name, value in values.items()
        if isinstance(value, sa.ClauseElement)
    }
    if not expressions:
        return statement, values
    return statement.values(expressions), {
        name: value
        for name, value in values.items()
        if name not in expressions
    }


def _hash(value: Any) -> bytes:
    # Anything else is damage; nothing has the empty hash, so that the
    # session is unknown.
    return bytes(value) if isinstance(value, bytes | memoryview) else b''


def _damaged(id: uuid.UUID, row: Any, now: dt.datetime) -> Record:
    return Record(
        id, _hash(row.secret_hash), None,
        row.version if isinstance(row.version, int) else 0, None,
        now, now, now, now, now, None,
    )
