"""What an error of a database means, whichever driver it comes from.

Nothing here knows what a session is.
"""

from __future__ import annotations

from collections.abc import Iterable
import enum
import re

from sqlalchemy import exc


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
    1412: Fault.CONFLICT,  # the table was made anew since the snapshot
    3101: Fault.CONFLICT,  # Group Replication: refused by certification
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
    1129: Fault.UNAVAILABLE,  # this host is blocked, after many errors
    1130: Fault.UNAVAILABLE,  # this host is not let in
    1180: Fault.UNAVAILABLE,  # Galera: quorum lost during the write
    1203: Fault.UNAVAILABLE,  # too many connections of this role
    1226: Fault.UNAVAILABLE,  # the same, by a limit of its own
    1290: Fault.UNAVAILABLE,  # read-only replica
    1317: Fault.UNAVAILABLE,  # KILL QUERY
    1792: Fault.UNAVAILABLE,  # transaction_read_only
    1820: Fault.UNAVAILABLE,  # the role's password has expired
    1836: Fault.UNAVAILABLE,  # innodb_read_only
    1862: Fault.UNAVAILABLE,  # as 1820, at the connect
    1927: Fault.UNAVAILABLE,  # connection was killed
    1969: Fault.UNAVAILABLE,  # max_statement_time ran out
    2002: Fault.UNAVAILABLE,  # no connection, by a socket's file
    2003: Fault.UNAVAILABLE,  # the same, by TCP
    2006: Fault.UNAVAILABLE,  # the server has gone away
    2013: Fault.UNAVAILABLE,  # connection lost during the statement
    2014: Fault.UNAVAILABLE,  # driver and server are out of step
    2055: Fault.UNAVAILABLE,  # connection lost, with an error of the system
    3024: Fault.UNAVAILABLE,  # MySQL: max_execution_time ran out
    3032: Fault.UNAVAILABLE,  # MySQL: offline_mode
    3100: Fault.UNAVAILABLE,  # Group Replication: quorum lost at the COMMIT
    3118: Fault.UNAVAILABLE,  # MySQL: the role is locked
    4151: Fault.UNAVAILABLE,  # the same on MariaDB
}

#: In what 1180 says of a COMMIT, in whatever language: HA_ERR_LOCK_DEADLOCK.
#: Group Replication gives it up for that of another node.
_LOST_TO_ANOTHER = re.compile(r'\b149\b')

#: The modules that SQLAlchemy has SQLite by; two of them with encryption.
_SQLITE_MODULES = ('sqlite3', 'pysqlite3', 'sqlcipher3', 'pysqlcipher3')

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
    # -1 is what mysql-connector says of a connection that is lost: none.
    return number if isinstance(number, int) and number != -1 else None


#: What PostgreSQL says of a value of another type: datatype_mismatch and
#: cannot_coerce.
_TYPE_STATES = {'42804', '42846'}

#: What MariaDB and MySQL say of a value, by errors of several classes.
_TOO_LONG = 1406
_NOT_THIS_VALUE = 1366
_VALUE_ERRNOS = {1264, 1265, 1292, _NOT_THIS_VALUE, _TOO_LONG, 1411}


def is_about_value(error: exc.DBAPIError) -> bool:
    """Return whether *error* is about a value that does not fit its column,
    whichever class the driver has for it.
    """
    state = _sqlstate_of(error.orig) or ''
    return (
        isinstance(error, exc.DataError)
        or state[:2] == '22'
        or state in _TYPE_STATES
        or _errno_of(error.orig) in _VALUE_ERRNOS
    )


def is_about_characters(error: exc.DBAPIError) -> bool:
    """Return whether *error*, about a text, is about one with characters that
    the connection or the column has not.
    """
    return _errno_of(error.orig) == _NOT_THIS_VALUE


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
    # Not of the whole, in which quotes may be escaped.
    text = ' '.join(map(str, error.orig.args)) if error.orig else ''
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
    number, text = _errno_of(error), str(error)
    if number == 1180 and _LOST_TO_ANOTHER.search(text):
        return Fault.CONFLICT
    if number is not None and number in _ERRNOS:
        return _ERRNOS[number]
    if type(error).__module__.partition('.')[0] in _SQLITE_MODULES:
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


def cause_of(error: exc.DBAPIError) -> str:
    """Return a short name of why *error* came; there are some hundred.

    The database's own number for it, or the driver's class.
    """
    orig = error.orig
    named = (
        _errno_of(orig) or _sqlstate_of(orig)
        or getattr(orig, 'sqlite_errorname', None)
    )
    if named:
        return str(named)
    # libpq has one class for a connection that was lost, and one that was
    # refused.
    lost = 'lost' if error.connection_invalidated else 'refused'
    return f'{type(orig).__name__}, {lost}'


def said_by(error: BaseException) -> str:
    """Return what *error* says, in one line of a log."""
    # Not SQLAlchemy's text: it repeats the statement and the parameters.
    return ' '.join(str(getattr(error, 'orig', error)).split())


#: What PostgreSQL says of a prepared statement that somebody has deallocated,
#: or whose tables were altered: nothing was executed.
NOT_PREPARED = {'26000', '0A000'}


def is_stale(error: BaseException) -> bool:
    """Return whether *error* tells of a connection that is of no use, and of
    others, although SQLAlchemy does not take it for a lost one.

    A Galera node that has lost the cluster says so on each of its
    connections, and answers a ping all the same.  Drivers that prepare
    statements use them again until a ROLLBACK, which in autocommit never
    comes.  For the third kind see :func:`dialects.wrapped_errors`.
    """
    orig = error.orig if isinstance(error, exc.DBAPIError) else None
    return (
        (isinstance(orig, OSError) and not isinstance(orig, TimeoutError))
        or _errno_of(orig) in (1047, 1180)
        or _sqlstate_of(orig) in NOT_PREPARED
    )


def is_retryable(error: BaseException | None) -> bool:
    """Return whether running the request again can succeed."""
    return fault_of(error) in (Fault.CONFLICT, Fault.LOCKED)


def is_repeatable(error: BaseException) -> bool:
    """Return whether the same should be done again at once.

    Who has waited for a lock in vain shall not wait for as long again.
    """
    return fault_of(error) is Fault.CONFLICT
