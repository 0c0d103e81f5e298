"""One statement by the driver alone: psycopg's libpq, and sqlite3.

Three quarters of the time of a single statement by its key are spent in the
layers above: contexts, results and rows that one row has no use for.  What is
here skips them, for the types that a record is made of, and raises
:class:`Uncommon` for whatever else it meets, before anything is executed.

Knows neither records nor sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import contextlib
from dataclasses import dataclass
from dataclasses import field
import datetime as dt
import hashlib
from operator import eq
from operator import is_
from operator import itemgetter
import struct
import sys
from typing import Any
from typing import Protocol
import uuid

import sqlalchemy as sa

from pyramid_sqlasession.model import PublicId
from pyramid_sqlasession.model import UTCDateTime

Row = tuple[Any, ...]
Convert = Callable[[Any], Any]
Places = tuple[tuple[int, Convert], ...]

# Where a pooled connection keeps what was prepared on it: it goes with the
# connection.
_INFO = 'sqlasession.statements'


class Uncommon(Exception):
    """There is no short way for this; nothing was written."""


def _as_is(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Compiled:
    """A statement in the words of one driver."""

    text: Any
    #: From the parameters by name to those in order.
    take: Callable[[Mapping[str, Any]], Iterable[Any]]
    #: The parameters that are not sent as they are.
    sent: Places
    #: How many columns there are; none for a write.
    width: int
    #: The columns that are not read as they are.
    received: Places
    #: The type that a column must have on the server.
    oids: tuple[int, ...] = ()
    #: Under which it is prepared.
    name: bytes = b''

    @property
    def words(self) -> str:
        """The statement for people."""
        text = self.text
        return text.decode() if isinstance(text, bytes) else str(text)


def _taker(names: list[str]) -> Callable[[Mapping[str, Any]], Iterable[Any]]:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: [values[name] for name in names]


def _places(converts: Iterable[Convert]) -> Places:
    return tuple(
        (place, convert) for place, convert in enumerate(converts)
        if convert is not _as_is
    )


class Driver(Protocol):
    """What runs one statement on a pooled connection.

    In no transaction, and then a write is committed at once; or *inside* the
    transaction that the connection is in.
    """

    def compile(self, statement: Any, names: Iterable[str]) -> Compiled:
        """Return *statement* with these parameters.

        :raises Uncommon: if a type of it has no short way.
        """

    def is_lost(self, pooled: Any) -> bool:
        """Return whether the server has closed the connection.

        Costs no round trip; a closing that is under way is not noticed.
        """

    def fetch(
        self, pooled: Any, compiled: Compiled, values: Mapping[str, Any],
        *, inside: bool,
    ) -> Row | None:
        """Return the only row, or None.

        :raises Uncommon: if it is unlike what a record is made of.
        """

    def write(
        self, pooled: Any, compiled: Compiled, values: Mapping[str, Any],
        *, inside: bool,
    ) -> int:
        """Return how many rows were written."""


def driver_of(engine: sa.Engine) -> Driver:
    """Return the driver of *engine*.

    :raises Uncommon: if there is none here.
    """
    dialect = engine.dialect
    if dialect.name == 'sqlite' and dialect.driver == 'pysqlite':
        return SQLite(dialect)
    if dialect.name == 'postgresql' and dialect.driver == 'psycopg':
        if _is_cooperative():
            # libpq would block all others of the thread while it waits.
            raise Uncommon
        return Psycopg(dialect)
    raise Uncommon


def _is_cooperative() -> bool:
    patched = sys.modules.get('gevent.monkey')
    return (
        patched is not None and bool(patched.is_module_patched('select'))
    ) or 'eventlet.patcher' in sys.modules


def _compiled(
    statement: Any, dialect: sa.Dialect, names: Iterable[str]
) -> tuple[Any, dict[str, Any]]:
    """Return *statement* as SQLAlchemy compiles it, and the types of its
    parameters.
    """
    names = set(names)
    compiled = statement.compile(dialect=dialect, column_keys=list(names))
    if (
        compiled.escaped_bind_names
        # Defaults that SQLAlchemy would compute, or fetch.
        or not compiled.binds.keys() <= names
        or getattr(compiled, 'effective_returning', ())
    ):
        raise Uncommon
    types = {name: bind.type for name, bind in compiled.binds.items()}
    for kind in types.values():
        if _is_varied(kind, dialect):
            raise Uncommon
    return compiled, types


def _is_varied(kind: Any, dialect: sa.Dialect) -> bool:
    """Return whether it is another type on this database (with_variant)."""
    try:
        plain = type(kind)()
    except TypeError:
        # None of those that have a short way.
        return True
    return type(kind.dialect_impl(dialect)) is not type(
        plain.dialect_impl(dialect)
    )


# -- PostgreSQL --------------------------------------------------------------

_IDLE = 0  # PQTRANS_IDLE
_IN_TRANSACTION = 2  # PQTRANS_INTRANS
_COMMAND_OK = 1
_TUPLES_OK = 2
_BINARY = 1

# Of a statement that somebody has deallocated (psycopg does so after a
# ROLLBACK), or whose tables were altered.
_NOT_PREPARED = (b'26000', b'0A000')
_SQLSTATE = 67  # PG_DIAG_SQLSTATE: 'C'

_MILLENNIUM = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_int64 = struct.Struct('>q')


def _moment_to_binary(value: dt.datetime) -> bytes:
    return _int64.pack((value - _MILLENNIUM) // _MICROSECOND)


def _moment_from_binary(raw: bytes) -> dt.datetime:
    # By place: five of these are in each record, and names cost a third.
    return _MILLENNIUM + dt.timedelta(0, 0, _int64.unpack(raw)[0])


def _int_from_binary(raw: bytes) -> int:
    return int.from_bytes(raw, 'big', signed=True)


#: type -> (its oid, is it sent in binary, to the driver, from it).  An int is
#: sent as text, as its length in binary is the column's affair; a text in
#: binary, as libpq would end it at a NUL.
_ON_POSTGRESQL: dict[type, tuple[int, bool, Convert, Convert]] = {
    PublicId: (
        2950, True, lambda value: value.bytes,
        lambda raw: uuid.UUID(bytes=raw),
    ),
    UTCDateTime: (1184, True, _moment_to_binary, _moment_from_binary),
    sa.LargeBinary: (17, True, bytes, bytes),
    sa.Text: (25, True, str.encode, bytes.decode),
    sa.String: (1043, True, str.encode, bytes.decode),
    sa.Integer: (
        23, False, lambda value: b'%d' % value, _int_from_binary
    ),
    sa.SmallInteger: (
        21, False, lambda value: b'%d' % value, _int_from_binary
    ),
    sa.BigInteger: (
        20, False, lambda value: b'%d' % value, _int_from_binary
    ),
}


class Psycopg:
    """psycopg's own binding of libpq (``psycopg.pq``).

    A statement is prepared as psycopg prepares it: from the fifth use of a
    connection on (``prepare_threshold``), or never (None).  Inside of a
    transaction it is not: psycopg deallocates what is prepared after each
    ROLLBACK, and to be told so there would cost the transaction.
    """

    def __init__(self, dialect: sa.Dialect) -> None:
        import psycopg

        self._dialect = dialect
        self._psycopg = psycopg

    def compile(self, statement: Any, names: Iterable[str]) -> Compiled:
        """Return *statement* with ``$1`` instead of names."""
        compiled, types = _compiled(statement, self._dialect, names)
        parameters, places = [], {}
        for place, (name, kind) in enumerate(types.items(), 1):
            if type(kind) not in _ON_POSTGRESQL:
                raise Uncommon
            _, is_binary, convert, _ = _ON_POSTGRESQL[type(kind)]
            parameters.append((name, convert, is_binary))
            places[name] = f'${place}'
        columns = [column.type for column in _selected(statement)]
        # psycopg's form is that of the operator %.
        text = (compiled.string % places).encode()
        return _PostgreSQL(
            text,
            _taker([name for name, _, _ in parameters]),
            _places(convert for _, convert, _ in parameters),
            len(columns),
            _places(_ON_POSTGRESQL[type(kind)][3] for kind in columns),
            tuple(_ON_POSTGRESQL[type(kind)][0] for kind in columns),
            b'sqlasession_' + hashlib.sha256(text).hexdigest()[:16].encode(),
            [int(is_binary) for _, _, is_binary in parameters],
        )

    def is_lost(self, pooled: Any) -> bool:
        """Look whether the end of the connection has arrived."""
        pgconn = pooled.driver_connection.pgconn
        try:
            # The server's last words, and then the end.
            pgconn.consume_input()
            pgconn.consume_input()
        except self._psycopg.Error:
            return True
        return False

    def fetch(
        self, pooled: Any, compiled: Compiled, values: Mapping[str, Any],
        *, inside: bool,
    ) -> Row | None:
        """Return the only row, read in binary."""
        result = self._execute(pooled, compiled, values, inside, _TUPLES_OK)
        if not result.ntuples:
            return None
        get = result.get_value
        return _received(
            compiled, [get(0, n) for n in range(compiled.width)]
        )

    def write(
        self, pooled: Any, compiled: Compiled, values: Mapping[str, Any],
        *, inside: bool,
    ) -> int:
        """Return how many rows were written; without BEGIN, committed."""
        result = self._execute(pooled, compiled, values, inside, _COMMAND_OK)
        return int(result.command_tuples or 0)

    def _execute(
        self, pooled: Any, compiled: Any, values: Mapping[str, Any],
        inside: bool, wanted: int,
    ) -> Any:
        """Return a result of the status *wanted*; each question of libpq
        costs as much as a column.
        """
        driver = pooled.driver_connection
        pgconn = driver.pgconn
        sent = _sent(compiled, values)
        uses = pooled.info.get(_INFO)
        if uses is None:
            if driver.info.encoding != 'utf-8':
                raise Uncommon
            uses = pooled.info[_INFO] = {}
        if pgconn.transaction_status != (_IN_TRANSACTION if inside else _IDLE):
            # psycopg sends BEGIN with the first statement of its own.
            raise Uncommon
        if not inside:
            result = self._execute_prepared(
                driver, uses, compiled, sent, wanted
            )
            if result is not None:
                return result
        result = pgconn.exec_params(
            compiled.text, sent, None, compiled.formats, _BINARY
        )
        _check_types(result, compiled)
        if result.status != wanted:
            raise self._error(result)
        return result

    def _execute_prepared(
        self, driver: Any, uses: dict[bytes, Any], compiled: Any,
        sent: list[Any], wanted: int,
    ) -> Any:
        """Return the result, None if it is not prepared.

        :param uses: of each statement how often it was used, or None if it is
            prepared.
        """
        pgconn, name = driver.pgconn, compiled.name
        count = uses.get(name, 0)
        if count is None:
            result = pgconn.exec_prepared(
                name, sent, compiled.formats, _BINARY
            )
            if result.status == wanted:
                return result
            if result.error_field(_SQLSTATE) not in _NOT_PREPARED:
                raise self._error(result)
            count = 0
        threshold = driver.prepare_threshold
        if threshold is not None and count >= threshold:
            result = pgconn.prepare(name, compiled.text)
            if result.status == _COMMAND_OK:
                uses[name] = None
                result = pgconn.exec_prepared(
                    name, sent, compiled.formats, _BINARY
                )
                if result.status != wanted:
                    raise self._error(result)
                return result
            # There is one of the name: it was made behind a pooler that
            # gives us another server each time.
            count = -sys.maxsize
        uses[name] = count + 1
        return None

    def _error(self, result: Any) -> Exception:
        errors = self._psycopg.errors
        state = (result.error_field(_SQLSTATE) or b'').decode()
        kind: type[Exception] = self._psycopg.DatabaseError
        if not state:
            # libpq's own words: the connection is lost.
            kind = self._psycopg.OperationalError
        else:
            with contextlib.suppress(KeyError):
                kind = errors.lookup(state)
        text = result.error_message.decode(errors='replace').strip()
        return kind(text, info=result)  # type: ignore[call-arg]


@dataclass(frozen=True)
class _PostgreSQL(Compiled):
    #: 1 = binary, of each parameter.  A list: psycopg 3.1 takes no tuple.
    formats: list[int] = field(default_factory=list)


def _check_types(result: Any, compiled: Compiled) -> None:
    # A table that was made otherwise; what is prepared keeps its types.
    for number, oid in enumerate(compiled.oids):
        if result.status == _TUPLES_OK and result.ftype(number) != oid:
            raise Uncommon


# -- SQLite ------------------------------------------------------------------


def _moment_to_text(value: dt.datetime) -> str:
    # As SQLAlchemy stores it, to the letter: SQLite compares texts.
    if value.tzinfo is not dt.UTC:
        value = value.astimezone(dt.UTC)
    # isoformat() and an f-string take twice as long.
    return '%04d-%02d-%02d %02d:%02d:%02d.%06d' % (  # noqa: UP031
        value.year, value.month, value.day, value.hour, value.minute,
        value.second, value.microsecond,
    )


def _moment_from_text(text: Any) -> dt.datetime:
    # One that has a zone already is none of ours, and an error here.
    return dt.datetime.fromisoformat(text + '+00:00')


_ON_SQLITE: dict[type, tuple[Convert, Convert]] = {
    PublicId: (
        lambda value: value.bytes, lambda raw: uuid.UUID(bytes=raw)
    ),
    UTCDateTime: (_moment_to_text, _moment_from_text),
    **dict.fromkeys(
        (sa.LargeBinary, sa.Text, sa.String, sa.Integer, sa.SmallInteger,
         sa.BigInteger),
        (_as_is, _as_is),
    ),
}


class SQLite:
    """The module ``sqlite3``."""

    def __init__(self, dialect: sa.Dialect) -> None:
        self._dialect = dialect

    def compile(self, statement: Any, names: Iterable[str]) -> Compiled:
        """Return *statement* with question marks."""
        compiled, types = _compiled(statement, self._dialect, names)
        if not {type(kind) for kind in types.values()} <= _ON_SQLITE.keys():
            raise Uncommon
        names, columns = list(compiled.positiontup), list(_selected(statement))
        return Compiled(
            compiled.string,
            _taker(names),
            _places(_ON_SQLITE[type(types[name])][0] for name in names),
            len(columns),
            _places(_ON_SQLITE[type(one.type)][1] for one in columns),
        )

    def is_lost(self, pooled: Any) -> bool:
        """A file is not."""
        return False

    def fetch(
        self, pooled: Any, compiled: Compiled, values: Mapping[str, Any],
        *, inside: bool,
    ) -> Row | None:
        """Return the only row."""
        driver = pooled.driver_connection
        if driver.in_transaction and not inside:
            raise Uncommon
        # By its key there is one row: the driver sees so at once, and nothing
        # stays open that would keep the log from being emptied.
        row = driver.execute(
            compiled.text, _sent(compiled, values)
        ).fetchone()
        return None if row is None else _received(compiled, row)

    def write(
        self, pooled: Any, compiled: Compiled, values: Mapping[str, Any],
        *, inside: bool,
    ) -> int:
        """Return how many rows were written."""
        driver = pooled.driver_connection
        sent = _sent(compiled, values)
        if inside:
            return int(driver.execute(compiled.text, sent).rowcount)
        if driver.in_transaction:
            raise Uncommon
        # The driver would send BEGIN and COMMIT, and compile them each time;
        # a statement alone is all or nothing as well.
        level, driver.isolation_level = driver.isolation_level, None
        try:
            return int(driver.execute(compiled.text, sent).rowcount)
        finally:
            driver.isolation_level = level


def _sent(compiled: Compiled, values: Mapping[str, Any]) -> list[Any]:
    """Return the parameters as the driver sends them.

    :raises Uncommon: for a value that is not of its column's usual type.
    """
    # Not whether they are equal: two instants of the hour that a clock is put
    # back are, for Python.
    try:
        return _converted(compiled.take(values), compiled.sent, is_)
    except (AttributeError, TypeError, ValueError, struct.error) as error:
        raise Uncommon from error


def _received(compiled: Compiled, values: Iterable[Any]) -> Row:
    """Return the columns of a row as the driver gives them in Python's
    types.
    """
    # Texts or bytes, and new ones each time.
    return tuple(_converted(values, compiled.received, eq))


def _converted(
    values: Iterable[Any], places: Places, is_same: Callable[[Any, Any], bool]
) -> list[Any]:
    """Return *values* with those at *places* converted; None stays.

    :param is_same: whether a value is what the one before it was.
    """
    found = list(values)
    before = by = made = None
    for place, convert in places:
        value = found[place]
        if value is None:
            continue
        # Most moments of a record are the same one.
        if convert is not by or not is_same(value, before):
            before, by = value, convert
            made = convert(value)
        found[place] = made
    return found


def _selected(statement: Any) -> Iterable[Any]:
    return getattr(statement, 'selected_columns', ())
