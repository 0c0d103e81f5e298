"""``request.session_store``: all sessions, for lists of devices."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
import datetime as dt
import logging
from typing import Any
from typing import Protocol
from typing import TypeVar
import uuid

import sqlalchemy as sa

from pyramid_sqlasession import faults
from pyramid_sqlasession.application import Application
from pyramid_sqlasession.codec import DamagedData
from pyramid_sqlasession.dialects import MOST_KEYS
from pyramid_sqlasession.errors import SessionArgumentError
from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.errors import SessionFieldError
from pyramid_sqlasession.errors import unsendable
from pyramid_sqlasession.lenient import Unreadable

log = logging.getLogger(__name__)

Result = TypeVar('Result')

BATCH = MOST_KEYS


class Perform(Protocol):
    """Has work done in the transaction of the request."""

    def __call__(
        self, work: Callable[[sa.Connection], Result], *, writes: bool
    ) -> Result:
        """Return what *work* did.

        :param writes: it has to be committed, and may be done again.
        """


class StoredSession:
    """A record as :class:`SessionStore` returns it.

    The additional fields are attributes of the same name.  There is nothing
    in it that works as a cookie.

    .. attribute:: id

       The public id (str).

    .. attribute:: created
    .. attribute:: accessed
    .. attribute:: expires

       Aware datetimes, UTC; None if the value in the table is damaged.

    .. attribute:: data

       The content, a dict; empty if it cannot be read.

    .. attribute:: fields

       All additional fields, a dict.
    """

    def __init__(
        self, id: str, created: dt.datetime, accessed: dt.datetime,
        expires: dt.datetime, data: dict[str, Any], fields: dict[str, Any],
    ) -> None:
        self.id = id
        self.created = created
        self.accessed = accessed
        self.expires = expires
        self.data = data
        self.fields = fields

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__.get('fields', {})
        if name in fields:
            return fields[name]
        raise AttributeError(
            f'a stored session has no {name!r}; its fields are '
            f'{sorted(fields) or "none"}'
        )

    def __repr__(self) -> str:
        return f'<StoredSession {self.id}>'


class SessionStore:
    """The sessions in the database.

    ``request.session_store`` works in the transaction of the request; what
    it writes is committed or rolled back with it.  Without a transaction each
    method has one of its own.

    Each method raises :class:`SessionStoreUnavailable` if the database does
    not answer, and :class:`SessionError` if the table or a column is missing.
    """

    def __init__(self, application: Application, perform: Perform) -> None:
        self._application = application
        self._perform = perform
        self._records = application.records
        #: Whether it has ended sessions by ``revoke*``.
        self.has_revoked = False

    # -- reading -------------------------------------------------------------

    def count(self) -> int:
        """Return how many sessions live."""
        live = self._application.live()
        return self._perform(
            lambda connection: self._records.count(connection, live),
            writes=False,
        )

    def get(self, id: str | uuid.UUID | None) -> StoredSession | None:
        """Return the live session *id*, or None; it is None for None.

        :param id: as ``request.session.id`` has it, or the column.
        """
        found = _parsed(id)
        if found is None:
            return None
        rows = self._rows([self._records.table.c.id == found])
        return rows[0] if rows else None

    def find(self, **fields: Any) -> list[StoredSession]:
        """Return the live sessions with these fields, newest first.

        None stands for those in which the field has no value.

        :raises SessionFieldError: for an unknown field, or a value that
            does not fit it.
        :raises SessionError: for a value that the database alone refuses.
        """
        with _understood(fields):
            return self._rows(self._where(fields))

    # -- ending --------------------------------------------------------------

    def revoke(self, id: str | uuid.UUID | None) -> int:
        """End the session *id*; return 1, or 0 if there is none.

        None, the ``id`` of a session without a record, is none.
        """
        found = _parsed(id)
        if found is None:
            return 0
        return self._remove([self._records.table.c.id == found])

    def revoke_where(
        self, *, except_id: str | uuid.UUID | None = None, **fields: Any
    ) -> int:
        """End all sessions with these fields; return how many.

        None stands for those in which the field has no value.

        :param except_id: the one to keep, mostly ``request.session.id``.
        :raises SessionArgumentError: without a field, which would end
            everybody's session, and for an *except_id* that is no id (a
            ``TypeError``).
        :raises SessionFieldError: for an unknown field, or a value that
            does not fit it.
        :raises SessionError: for a value that the database alone refuses.
        """
        if not fields:
            raise SessionArgumentError(
                'revoke_where() needs a field, such as user_id=7; '
                'revoke_all() ends the sessions of everybody'
            )
        with _understood(fields):
            return self._remove(self._where(fields) + self._except(except_id))

    def revoke_all(self, except_id: str | uuid.UUID | None = None) -> int:
        """End the sessions of everybody; return how many.

        :param except_id: the one to keep.
        :raises SessionArgumentError: if that is no id (a ``TypeError``).
        """
        return self._remove(self._except(except_id))

    def delete_expired(self) -> int:
        """Delete the expired records; return how many."""
        now = self._application.now()
        oldest = self._application.expiry.oldest(now)

        def work(connection: sa.Connection) -> int:
            total = 0
            while count := self._records.remove_expired(
                connection, now, BATCH, exactly=True, oldest=oldest
            ):
                total += count
            return total

        return self._perform(work, writes=True)

    def create_table(self) -> None:
        """Create the table if it is missing, outside of the transaction.

        An SQLite database in memory has one connection: there it commits
        what the request has done with it.
        """
        with self._application.database.translated_errors():
            self._application.database.create_table()

    # -- parts ---------------------------------------------------------------

    def _rows(
        self, where: list[sa.ColumnElement[bool]]
    ) -> list[StoredSession]:
        where = [self._application.live(), *where]
        rows = self._perform(
            lambda connection: self._records.rows(connection, where),
            writes=False,
        )
        return [self._stored(row) for row in rows]

    def _remove(self, where: list[sa.ColumnElement[bool]]) -> int:
        now = self._application.now()
        count = self._perform(
            lambda connection: self._records.remove(connection, now, where),
            writes=True,
        )
        self.has_revoked = self.has_revoked or count > 0
        return count

    def _except(
        self, id: str | uuid.UUID | None
    ) -> list[sa.ColumnElement[bool]]:
        if id is None:
            return []
        found = _parsed(id)
        if found is None:
            raise SessionArgumentError(
                f'except_id = {id!r} is no id of a session: nothing was ended'
            )
        return [self._records.table.c.id != found]

    def _where(self, fields: dict[str, Any]) -> list[sa.ColumnElement[bool]]:
        known = self._application.fields
        where: list[sa.ColumnElement[bool]] = []
        for name, value in fields.items():
            column = known.columns.get(name)
            if column is None:
                names = ', '.join(sorted(known.columns)) or 'none'
                raise SessionFieldError(
                    name, value, 'no value',
                    f'there is no session field {name!r}; there are: {names}',
                )
            if value is None:
                where.append(column.is_(None))
            elif isinstance(column.type, sa.JSON):
                raise SessionFieldError(
                    name, value,
                    'None only: databases do not compare JSON',
                )
            else:
                where.append(column == known.check(name, value))
        return where

    def _stored(self, row: dict[sa.Column[Any], Any]) -> StoredSession:
        application = self._application
        c = application.records.table.c
        damaged = sorted(
            column.key for column, value in row.items()
            if isinstance(value, Unreadable)
        )
        if damaged:
            log.warning(
                'session %s has values that do not fit their columns: %s',
                row[c.id], ', '.join(damaged),
            )
        values: dict[sa.Column[Any], Any] = {
            column: None if isinstance(value, Unreadable) else value
            for column, value in row.items()
        }
        try:
            data, _ = application.codec.read(values[c.data] or '')
        except DamagedData as error:
            log.warning('session %s cannot be read: %s', values[c.id], error)
            data = {}
        return StoredSession(
            str(values[c.id]), values[c.created], values[c.accessed],
            values[c.expires], data,
            {
                name: values[column]
                for name, column in application.fields.columns.items()
            },
        )


@contextmanager
def _understood(fields: dict[str, Any]) -> Iterator[None]:
    # Whatever the checks of the fields do not know.
    try:
        yield
    except UnicodeEncodeError as error:
        raise unsendable(error) from error
    except sa.exc.DBAPIError as error:
        if not faults.is_about_value(error):
            raise
        raise SessionError(
            f'the database refuses a value that was asked for '
            f'({", ".join(fields)}): {error.orig}. It does not fit its column'
        ) from error


def _parsed(id: object) -> uuid.UUID | None:
    try:
        return uuid.UUID(str(id))
    except ValueError:
        return None
