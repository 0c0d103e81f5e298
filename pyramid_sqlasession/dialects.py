"""What databases and drivers differ in, with the reason: errors, locks,
transactions.

Nothing here knows what a session is.  Types of columns differ in ``model``;
``libpq`` and ``sqlite`` are what two drivers can do alone.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
import enum
import hashlib
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from pyramid_sqlasession.pooling import has_one_connection
from pyramid_sqlasession.pooling import invalidate_all
from pyramid_sqlasession.pooling import private_connection

#: MariaDB and MySQL, by the name of their dialect.
MYSQL = ('mysql', 'mariadb')


class Fault(enum.Enum):
    """What an error of the database means for the request."""

    #: The database refused one of two transactions: run it again.
    CONFLICT = 'conflict'
    #: The same, but only after a wait for the other one.
    LOCKED = 'locked'
    #: Nobody answers, or not now.
    UNAVAILABLE = 'unavailable'
    #: The table or a column of it does not exist.
    MISSING = 'missing'
    #: A key exists already.
    DUPLICATE = 'duplicate'
    #: A table, an index or a type exists already.
    EXISTS = 'exists'
    OTHER = 'other'


# https://www.postgresql.org/docs/current/errcodes-appendix.html
_SQLSTATES = {
    '40001': Fault.CONFLICT,  # serialization_failure
    '40P01': Fault.CONFLICT,  # deadlock_detected
    '55P03': Fault.LOCKED,  # lock_not_available: lock_timeout ran out
    '42P01': Fault.MISSING,  # undefined_table
    '3F000': Fault.MISSING,  # invalid_schema_name
    '42703': Fault.MISSING,  # undefined_column
    '23505': Fault.DUPLICATE,  # unique_violation
    '42P07': Fault.EXISTS,  # duplicate_table: an index, too
    '42710': Fault.EXISTS,  # duplicate_object: a type
    '25006': Fault.UNAVAILABLE,  # a standby: read_only_sql_transaction
    '3D000': Fault.UNAVAILABLE,  # invalid_catalog_name: no such database
    '57P01': Fault.UNAVAILABLE,  # admin_shutdown
    '57P02': Fault.UNAVAILABLE,  # crash_shutdown
    '57P03': Fault.UNAVAILABLE,  # cannot_connect_now
}

# https://mariadb.com/kb/en/mariadb-error-codes/
_ERRNOS = {
    1213: Fault.CONFLICT,  # deadlock; on Galera: refused by certification
    1205: Fault.LOCKED,  # lock wait timeout
    1020: Fault.CONFLICT,  # innodb_snapshot_isolation: record has changed
    1146: Fault.MISSING,  # no such table
    1054: Fault.MISSING,  # unknown column
    1062: Fault.DUPLICATE,
    1050: Fault.EXISTS,  # table
    1061: Fault.EXISTS,  # index
    1021: Fault.UNAVAILABLE,  # disk full
    1040: Fault.UNAVAILABLE,  # too many connections
    1044: Fault.UNAVAILABLE,  # as 1045, for this database
    1045: Fault.UNAVAILABLE,  # name or password of the role are refused
    1047: Fault.UNAVAILABLE,  # Galera: node not ready; ping still succeeds
    1049: Fault.UNAVAILABLE,  # no such database
    1053: Fault.UNAVAILABLE,  # server shutdown in progress
    1114: Fault.UNAVAILABLE,  # table full, the disk of InnoDB's too
    1180: Fault.UNAVAILABLE,  # Galera: quorum lost during the write
    1203: Fault.UNAVAILABLE,  # too many connections of this role
    1226: Fault.UNAVAILABLE,  # the same, by a limit of its own
    1290: Fault.UNAVAILABLE,  # read-only replica
    1317: Fault.UNAVAILABLE,  # KILL QUERY
    1792: Fault.UNAVAILABLE,  # transaction_read_only
    1836: Fault.UNAVAILABLE,  # innodb_read_only
    1927: Fault.UNAVAILABLE,  # connection was killed
    1969: Fault.UNAVAILABLE,  # max_statement_time ran out
    2002: Fault.UNAVAILABLE,  # no connection, by a socket's file
    2003: Fault.UNAVAILABLE,  # the same, by TCP
    2006: Fault.UNAVAILABLE,  # the server has gone away
    2013: Fault.UNAVAILABLE,  # connection lost during the statement
    2014: Fault.UNAVAILABLE,  # driver and server are out of step
    2055: Fault.UNAVAILABLE,  # connection lost, with an error of the system
    3024: Fault.UNAVAILABLE,  # MySQL: max_execution_time ran out
}

_SQLITE = (
    ('database is locked', Fault.LOCKED),
    ('database table is locked', Fault.LOCKED),
    ('no such table', Fault.MISSING),
    ('has no column named', Fault.MISSING),
    ('no such column', Fault.MISSING),
    ('UNIQUE constraint failed', Fault.DUPLICATE),
    ('already exists', Fault.EXISTS),
    ('unable to open database file', Fault.UNAVAILABLE),
    ('disk I/O error', Fault.UNAVAILABLE),
    ('database or disk is full', Fault.UNAVAILABLE),
    ('readonly database', Fault.UNAVAILABLE),
)


def fault_of(error: BaseException | None) -> Fault:
    """Return what *error* means, whichever driver it comes from."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, exc.DBAPIError):
            fault = _driver_fault(error.orig)
            if fault is Fault.OTHER and error.connection_invalidated:
                return Fault.UNAVAILABLE
            return fault
        # The pool has no connection left, for as long as it may wait.
        if isinstance(error, exc.TimeoutError):
            return Fault.UNAVAILABLE
        # zope.sqlalchemy and the ORM wrap errors of a flush.
        error = error.__cause__
    return Fault.OTHER


def _sqlstate_of(error: BaseException | None) -> str | None:
    # psycopg and asyncpg: sqlstate; psycopg2: pgcode.
    state = getattr(error, 'sqlstate', None) or getattr(error, 'pgcode', None)
    if state is None and error is not None and error.args:
        # pg8000: the first argument is the server's message, by letter.
        message = error.args[0]
        state = message.get('C') if isinstance(message, dict) else None
    return state if isinstance(state, str) else None


def _errno_of(error: BaseException | None) -> int | None:
    # PyMySQL and mysqlclient: the first argument; mariadb and
    # mysql-connector: errno.
    number = getattr(error, 'errno', None)
    if not isinstance(number, int):
        number = error.args[0] if error is not None and error.args else None
    return number if isinstance(number, int) else None


#: What MariaDB and MySQL say of a value, by errors of several classes.
_TOO_LONG = 1406
_VALUE_ERRNOS = {1264, 1265, 1292, 1366, _TOO_LONG, 1411}


def is_about_value(error: exc.DBAPIError) -> bool:
    """Return whether *error* is about a value that does not fit its column,
    whichever class the driver has for it.
    """
    state = _sqlstate_of(error.orig) or ''
    return (
        isinstance(error, exc.DataError)
        or state[:2] == '22'
        or _errno_of(error.orig) in _VALUE_ERRNOS
    )


def is_too_long(error: exc.DBAPIError) -> bool:
    """Return whether *error* is about a text that is longer than its column.
    """
    return (
        _sqlstate_of(error.orig) == '22001'
        or _errno_of(error.orig) == _TOO_LONG
    )


def named_in(error: exc.DBAPIError, names: Iterable[str]) -> str | None:
    """Return which of the columns *names* MariaDB or MySQL blames, in any
    language; PostgreSQL names none.
    """
    text = str(error.orig)
    for name in names:
        if f"'{name}'" in text or f'`{name}`' in text:
            return name
    return None


#: Of a statement that was cancelled, by a limit of its time usually.  (3024 is
#: what mysql-connector says of its own read_timeout, too, after which the
#: connection is lost.)
_CANCELLED = {'57014', 1317, 1969}


def has_waited(error: BaseException) -> bool:
    """Return whether the server gave up a statement that took too long; the
    connection is good, and the same again would take as long.
    """
    if not isinstance(error, exc.DBAPIError):
        return False
    orig = error.orig
    return (
        _sqlstate_of(orig) in _CANCELLED
        or _errno_of(orig) in _CANCELLED
        or fault_of(error) is Fault.LOCKED
    )


def is_lost(error: BaseException) -> bool:
    """Return whether *error* tells of a connection that is of no use."""
    return fault_of(error) is Fault.UNAVAILABLE and not has_waited(error)


def is_in_vain(error: BaseException) -> bool:
    """Return whether another statement would wait now as the one that raised
    *error* did.
    """
    return fault_of(error) in (Fault.LOCKED, Fault.UNAVAILABLE)


def is_from_server(error: BaseException) -> bool:
    """Return whether PostgreSQL has said *error*, and not the driver: the
    transaction has failed then.
    """
    return isinstance(error, exc.DBAPIError) and (
        _sqlstate_of(error.orig) is not None
    )


def _driver_fault(error: BaseException | None) -> Fault:
    state = _sqlstate_of(error)
    if state in _SQLSTATES:
        return _SQLSTATES[state]
    number = _errno_of(error)
    if number is not None and number in _ERRNOS:
        return _ERRNOS[number]
    text = str(error)
    if type(error).__module__.partition('.')[0] in ('sqlite3', 'pysqlite3'):
        # A reader that wants to write; does not wait.
        if getattr(error, 'sqlite_errorname', '') == 'SQLITE_BUSY_SNAPSHOT':
            return Fault.CONFLICT
        for words, fault in _SQLITE:
            if words in text:
                return fault
        return Fault.OTHER
    # Connections, roles that are refused, resources (a full disk), and the
    # operator's interventions.
    if state is not None and state[:2] in ('08', '28', '53', '57'):
        return Fault.UNAVAILABLE
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {'OperationalError', 'InterfaceError'} and (
        state is None and number is None
    ):
        # libpq reports a refused or lost connection as bare text; psycopg
        # has a class of its own for one that takes too long.
        return Fault.UNAVAILABLE
    return Fault.OTHER


def said_by(error: BaseException) -> str:
    """Return what *error* says, in one line of a log."""
    # Not SQLAlchemy's text: it repeats the statement and the parameters.
    return ' '.join(str(getattr(error, 'orig', error)).split())


def is_stale(error: BaseException) -> bool:
    """Return whether *error* tells of a connection that is of no use, and of
    others, although SQLAlchemy does not take it for a lost one.

    A Galera node that has lost the cluster says so on each of its
    connections, and answers a ping all the same.  For the other kind see
    :func:`wrapped_errors`.
    """
    orig = error.orig if isinstance(error, exc.DBAPIError) else None
    return isinstance(orig, ConnectionError) or (
        _errno_of(orig) in (1047, 1180)
    )


def discard(connection: sa.Connection, error: exc.DBAPIError) -> None:
    """Have the pool replace *connection*, and others if *error* tells of
    them, too.
    """
    if is_stale(error):
        invalidate_all(connection, error)
    else:
        connection.invalidate(error)


@contextmanager
def wrapped_errors(engine: sa.Engine) -> Iterator[None]:
    """Raise errors of the socket as SQLAlchemy raises those of a driver.

    pg8000 lets them through; with all others they come from elsewhere.
    """
    try:
        yield
    except (ConnectionError, TimeoutError) as error:
        if engine.driver != 'pg8000':
            raise
        raise exc.OperationalError(
            None, None, error, connection_invalidated=True
        ) from error


def connect(engine: sa.Engine) -> sa.Connection:
    """Return a connection of *engine*.

    :raises sqlalchemy.exc.DBAPIError: not the bare error of a socket.
    """
    with wrapped_errors(engine):
        return engine.connect()


def is_retryable(error: BaseException | None) -> bool:
    """Return whether running the request again can succeed."""
    return fault_of(error) in (Fault.CONFLICT, Fault.LOCKED)


def is_repeatable(error: BaseException) -> bool:
    """Return whether the same should be done again at once.

    Who has waited for a lock in vain shall not wait for as long again.
    """
    return fault_of(error) is Fault.CONFLICT


def has_cheap_autocommit(engine: sa.Engine) -> bool:
    """Return whether one statement should run without BEGIN and COMMIT.

    PostgreSQL: saves two of three round trips.  MariaDB opens no transaction
    for a single SELECT at all, but changing its autocommit mode costs round
    trips of its own; SQLite has no round trips.
    """
    return engine.dialect.name == 'postgresql'


def locks_rows(dialect: sa.Dialect) -> bool:
    """Return whether ``SELECT … FOR UPDATE`` exists.

    SQLite has one writer at a time anyway, and no such clause.
    """
    return dialect.name != 'sqlite'


def keeps_locks(options: Mapping[str, Any]) -> bool:
    """Return whether a lock that a statement takes outlives it.

    :param options: the execution options of its connection.
    """
    return options.get('isolation_level') != 'AUTOCOMMIT'


def rollback_can_fail(dialect: sa.Dialect) -> bool:
    """Return whether a ROLLBACK may answer with an error.

    Galera: whoever lost a conflict hears of it (1213) at the next statement,
    whatever it is.
    """
    return dialect.name in MYSQL


def prepare_engine(engine: sa.Engine) -> None:
    """Set up an engine that this package has made itself."""
    if engine.dialect.name != 'sqlite':
        return

    @sa.event.listens_for(engine, 'connect')
    def set_up(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        # Writers wait for each other; without it the second one fails.
        cursor.execute('PRAGMA busy_timeout = 30000')
        # Readers and the writer do not block each other.
        cursor.execute('PRAGMA journal_mode = WAL')
        # Safe with WAL: a power cut can undo the last commits, not more.
        cursor.execute('PRAGMA synchronous = NORMAL')
        cursor.close()


def read_committed(connection: sa.Connection) -> None:
    """Have many rows deleted or written at READ COMMITTED.

    No gap locks on MariaDB, no serialization failures on PostgreSQL.
    """
    if locks_rows(connection.dialect):
        connection.execution_options(isolation_level='READ COMMITTED')


def size_of(column: sa.Column[Any], dialect: sa.Dialect) -> Any:
    """Return the expression for the bytes of a text column."""
    if dialect.name == 'sqlite':
        # octet_length() came with SQLite 3.43.
        return sa.func.length(sa.cast(column, sa.LargeBinary))
    return sa.func.octet_length(column)


def begin_writing(connection: sa.Connection) -> None:
    """Begin a transaction of our own that is going to write.

    SQLite: a transaction that begins by reading cannot wait for the lock
    later (SQLITE_BUSY_SNAPSHOT); taking the lock first makes it wait in
    line.
    """
    if connection.dialect.name == 'sqlite':
        raw = connection.connection.dbapi_connection
        if raw is not None and not getattr(raw, 'in_transaction', True):
            connection.exec_driver_sql('BEGIN IMMEDIATE')


def create_once(
    engine: sa.Engine, create: Callable[[sa.Connection], None],
    is_there: Callable[[sa.Connection], bool], name: str,
) -> None:
    """Run *create*, also when many processes do so at the same moment."""
    with private_connection(engine) as connection:
        if not has_one_connection(engine):
            # Without the lock below, for which whoever asks may have to wait
            # for itself.
            if is_there(connection):
                return
            connection.rollback()
        if engine.dialect.name == 'postgresql':
            # CREATE TABLE IF NOT EXISTS can fail in a race there; the lock
            # ends with the transaction.
            connection.execute(
                sa.text('SELECT pg_advisory_xact_lock(:number)'),
                {'number': _number(name)},
            )
        else:
            begin_writing(connection)
        try:
            create(connection)
            connection.commit()
        except exc.DBAPIError as error:
            connection.rollback()
            # PostgreSQL: who creates it without our lock (a migration), and
            # commits while we wait, is met at a key of the catalogue.
            if fault_of(error) not in (Fault.EXISTS, Fault.DUPLICATE):
                raise
            # Now it is seen to be there; or what is in the way is another
            # table's, an index of the same name.
            create(connection)
            connection.commit()


def _number(name: str) -> int:
    return int.from_bytes(
        hashlib.sha256(name.encode()).digest()[:8], signed=True
    )


def is_writing(connection: sa.Connection) -> bool:
    """Return whether *connection* keeps all others from writing.

    SQLite has one writer at a time: a second connection of the same request
    would wait for itself.
    """
    if connection.dialect.name != 'sqlite':
        return False
    raw = connection.connection.dbapi_connection
    return bool(getattr(raw, 'in_transaction', False))


def commit(connection: sa.Connection) -> None:
    """Commit; a connection whose COMMIT failed is not used again.

    SQLite: the transaction is still open then, and SQLAlchemy would return
    the connection to the pool without a ROLLBACK.
    """
    try:
        with wrapped_errors(connection.engine):
            connection.commit()
    except exc.DBAPIError as error:
        discard(connection, error)
        raise


def discard_leftovers(connection: sa.Connection) -> None:
    """Roll back what a failed COMMIT of somebody else left on *connection*.

    SQLite: a COMMIT that fails (a deferred foreign key) leaves the
    transaction open, and SQLAlchemy returns the connection to the pool
    without a ROLLBACK then.
    """
    if connection.dialect.name != 'sqlite' or (
        has_one_connection(connection.engine)
    ):
        return
    raw = connection.connection.dbapi_connection
    if raw is not None and getattr(raw, 'in_transaction', False):
        raw.rollback()


@contextmanager
def elected(connection: sa.Connection, name: str) -> Iterator[bool]:
    """Yield whether this is the only one who does the work *name* now.

    Used within a transaction of *connection*; nobody waits.
    """
    number = _number(name)
    if connection.dialect.name == 'postgresql':
        # Ends with the transaction, so a lost connection holds nothing.
        yield bool(
            connection.scalar(
                sa.text('SELECT pg_try_advisory_xact_lock(:number)'),
                {'number': number},
            )
        )
    elif connection.dialect.name in MYSQL:
        # Of this node only: on Galera each node may elect one, which is
        # harmless.  At most 64 characters.
        lock = f'sqlasession:{number & (1 << 64) - 1:x}'
        got = connection.scalar(
            sa.text('SELECT GET_LOCK(:lock, 0)'), {'lock': lock}
        )
        try:
            yield bool(got)
        finally:
            if got and not connection.invalidated:
                connection.scalar(
                    sa.text('SELECT RELEASE_LOCK(:lock)'), {'lock': lock}
                )
    else:
        yield True
