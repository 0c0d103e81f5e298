"""What databases and drivers differ in, with the reason: locks, transactions,
connections.

Nothing here knows what a session is.  What their errors mean is in
``faults``, types of columns differ in ``model``, and ``libpq`` and ``sqlite``
are what two drivers can do alone.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
from contextlib import AbstractContextManager
from contextlib import contextmanager
import hashlib
import logging
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.ext.compiler import compiles

from pyramid_sqlasession.faults import Fault
from pyramid_sqlasession.faults import fault_of
from pyramid_sqlasession.faults import is_stale
from pyramid_sqlasession.liveness import is_closed_by_server
from pyramid_sqlasession.pooling import has_one_connection
from pyramid_sqlasession.pooling import invalidate_all
from pyramid_sqlasession.pooling import private_connection

log = logging.getLogger(__name__)

#: So many connections of a pool may turn out to be closed, one after another:
#: after a restart of the server all of them are.
MOST_LOST = 64

# The one driver that lets them through; with all others they come from
# elsewhere.
_RAISES_ERRORS_OF_SOCKETS = 'pg8000'

#: MariaDB and MySQL, by the name of their dialect.
MYSQL = ('mysql', 'mariadb')

#: All that the package knows.
DIALECTS = ('postgresql', *MYSQL, 'sqlite')


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
    """Raise errors of the socket as SQLAlchemy raises those of a driver."""
    try:
        yield
    except OSError as error:
        if engine.driver != _RAISES_ERRORS_OF_SOCKETS:
            raise
        raise exc.OperationalError(
            None, None, error, connection_invalidated=True
        ) from error


@contextmanager
def replaced_if_stale(connection: sa.Connection) -> Iterator[None]:
    """Have the pool replace *connection* if the block finds it stale, or its
    socket broken; errors of the socket are raised as above.
    """
    try:
        with wrapped_errors(connection.engine):
            yield
    except exc.DBAPIError as error:
        if is_stale(error) or isinstance(error.orig, OSError):
            discard(connection, error)
        raise


def connect(engine: sa.Engine) -> sa.Connection:
    """Return a connection of *engine* that the server has not closed, so far
    as can be told without asking it: a write cannot be done twice (D1).

    :raises sqlalchemy.exc.DBAPIError: not the bare error of a socket.
    """
    with wrapped_errors(engine):
        connection = engine.connect()
        if engine.dialect.name == 'sqlite':
            return connection
        for _ in range(MOST_LOST):
            if not is_closed_by_server(connection.connection.dbapi_connection):
                break
            log.debug('a connection was closed by the server')
            connection.invalidate()
            connection.close()
            connection = engine.connect()
        return connection


def has_cheap_autocommit(engine: sa.Engine) -> bool:
    """Return whether one statement should run without BEGIN and COMMIT.

    PostgreSQL: saves two of three round trips.  MariaDB opens no transaction
    for a single SELECT at all, but changing its autocommit mode costs round
    trips of its own; SQLite has no round trips.  pg8000 parses a statement in
    one and executes it in the next: outside of a transaction a pooler may hand
    each to another server, which executes somebody else's.
    """
    return engine.dialect.name == 'postgresql' and (
        engine.dialect.driver != 'pg8000'
    )


@contextmanager
def committed_at_once(connection: sa.Connection) -> Iterator[None]:
    """Have the one statement of the block be committed at once where that is
    cheap; elsewhere it is not committed.
    """
    if not has_cheap_autocommit(connection.engine):
        yield
    elif _is_begun(connection):
        yield
        connection.commit()
    else:
        with _as_it_was(connection, 'autocommit') as raw:
            raw.autocommit = True
            yield


@contextmanager
def in_transaction(connection: sa.Connection) -> Iterator[None]:
    """Have the block run in a transaction, which it commits, also where the
    application has its connections in autocommit (not on SQLite, where the
    driver alone knows when to begin one).

    PostgreSQL: at READ COMMITTED.  Guards and locks are all that a record
    needs; a higher level would refuse what they let merge.
    """
    if connection.dialect.name in MYSQL and _is_autocommit(connection):
        with replaced_if_stale(connection):
            connection.exec_driver_sql('BEGIN')
    if connection.dialect.name != 'postgresql' or _is_begun(connection):
        yield
        return
    with _as_it_was(connection, 'isolation_level', 'autocommit') as raw:
        if hasattr(raw, 'isolation_level'):
            # psycopg says it with BEGIN, which costs no round trip.
            connection.dialect.set_isolation_level(raw, 'READ COMMITTED')
        else:
            raw.autocommit = False
            with replaced_if_stale(connection):
                connection.exec_driver_sql(
                    'SET TRANSACTION ISOLATION LEVEL READ COMMITTED'
                )
        yield


@contextmanager
def _as_it_was(connection: sa.Connection, *names: str) -> Iterator[Any]:
    """Give the driver's connection, whose attributes *names* are afterwards
    what they were.

    SQLAlchemy's option ``isolation_level`` sets them to what the first
    connection had before a listener of the application could say anything:
    the application would go on at another level than it has chosen.
    """
    raw: Any = connection.connection.dbapi_connection
    before = {
        name: getattr(raw, name) for name in names if hasattr(raw, name)
    }
    try:
        yield raw
    finally:
        if not connection.invalidated:
            try:
                # Within a transaction they cannot be set.
                connection.rollback()
                for name, value in before.items():
                    setattr(raw, name, value)
            except Exception as error:
                log.debug('a connection is given up: %s', error)
                connection.invalidate(error)


def _is_begun(connection: sa.Connection) -> bool:
    """Return whether a connection of the pool is in a transaction already.

    PostgreSQL: a listener of the application to ``checkout`` has set a
    ``search_path``, say, which a ROLLBACK would take back.
    """
    raw: Any = connection.connection.dbapi_connection
    if connection.dialect.driver == 'pg8000':
        return bool(getattr(raw, '_in_transaction', False))
    # 0 is idle, with psycopg and psycopg2.
    info = getattr(raw, 'info', None)
    return bool(getattr(info, 'transaction_status', 0))


def _is_autocommit(connection: sa.Connection) -> bool:
    """Return whether a connection to MariaDB or MySQL is in autocommit, by
    the driver's own word: there are many ways to tell it so.
    """
    dialect = connection.dialect
    if getattr(dialect, 'skip_autocommit_rollback', False):
        # A transaction that we begin would never be rolled back.
        return False
    raw: Any = connection.connection.dbapi_connection
    if hasattr(raw, 'get_autocommit'):
        return bool(raw.get_autocommit())
    # MySQL's own driver would have to ask the server.
    return dialect.driver == 'mariadbconnector' and bool(raw.autocommit)


#: Options that have results read bit by bit.
STREAMING = {'stream_results', 'yield_per', 'max_row_buffer'}
_AS_IT_IS = contextlib.nullcontext()


def borrowed(connection: sa.Connection) -> AbstractContextManager[None]:
    """Have the block's statements executed as others are, although the
    application streams what it reads with *connection*; and have the pool
    replace it as :func:`replaced_if_stale` does, as far as drivers need that.

    Some drivers would send all with a cursor of the server, of which an
    UPDATE is none.  After the bare error of a socket SQLAlchemy takes the
    connection for a good one: the ROLLBACK at its end would raise, and hide
    what has happened.
    """
    options = connection.get_execution_options()
    if options and not STREAMING.isdisjoint(options):
        return _unstreamed(connection, options)
    return _watched(connection)


def _watched(connection: sa.Connection) -> AbstractContextManager[None]:
    if connection.dialect.driver == _RAISES_ERRORS_OF_SOCKETS:
        return replaced_if_stale(connection)
    return _AS_IT_IS


@contextmanager
def _unstreamed(
    connection: sa.Connection, options: Mapping[str, Any]
) -> Iterator[None]:
    before = {name: options[name] for name in STREAMING & options.keys()}
    connection.execution_options(**dict.fromkeys(before))
    try:
        with _watched(connection):
            yield
    finally:
        connection.execution_options(**before)


def locks_rows(dialect: sa.Dialect) -> bool:
    """Return whether ``SELECT … FOR UPDATE`` exists.

    SQLite has one writer at a time anyway, and no such clause.
    """
    return dialect.name != 'sqlite'


#: So many keys may be named at once: of a thousand, by default, MariaDB makes
#: a table, and looks at all rows for them.
MOST_KEYS = 500

# The hint for MariaDB and MySQL.
_BY_PRIMARY_KEY = 'FORCE INDEX (PRIMARY)'


class SelectLatest(sa.Select[Any]):
    """A ``SELECT … FOR UPDATE`` of what is committed now, however old the
    snapshot of its transaction is; as are the next two.

    MariaDB refuses it (1020), by default from 11.6.2 on, and ends the
    transaction.  That keeps updates from being lost, which the statements of
    this package see to by themselves: what they find changed they merge.
    """

    inherit_cache = True


class UpdateLatest(sa.Update):
    """An UPDATE of such rows."""

    inherit_cache = True


class DeleteLatest(sa.Delete):
    """A DELETE of such rows."""

    inherit_cache = True


class DeleteByKey(DeleteLatest):
    """A DELETE that names the keys of its rows, up to ``MOST_KEYS``, and looks
    at no others.
    """

    inherit_cache = True


class DeleteAtOnce(DeleteByKey):
    """The same, which MariaDB refuses (1205) where it would have to wait.

    A DELETE needs the entries of all indexes, and rows of other tables that
    refer to its own, of which no ``SKIP LOCKED`` has asked.  Whoever has
    locked them, and then waits for one of its rows, would be the victim of a
    deadlock.

    So a statement says it: a connection that waits for no lock at all (0)
    makes MariaDB give up a ``SKIP LOCKED`` with error 1180.
    """

    inherit_cache = True


def is_refused_at_once(dialect: sa.Dialect) -> bool:
    """Return whether a :class:`DeleteAtOnce` waits for nothing."""
    return _is_mariadb(dialect)


def _is_mariadb(dialect: Any) -> bool:
    return dialect.name in MYSQL and dialect.is_mariadb


def _of_latest(dialect: Any, text: str) -> str:
    """Return what only a server reads that knows the setting, in which *text*
    has the word for it; '' where none does.
    """
    # By the server that reads it, as those of a cluster differ during an
    # upgrade: a comment for others, and so for a proxy that looks for the
    # first word of a statement.
    version = dialect.server_version_info if _is_mariadb(dialect) else None
    if not version or (11, 0) <= version < (11, 4):
        # Of these, short-lived ones, some know it and some do not.
        return ''
    since = '110402' if version >= (11, 4) else '101108'
    setting = 'innodb_snapshot_isolation = 0'
    return f'/*M!{since} {text.format(setting)} */'


@compiles(SelectLatest, *MYSQL)
@compiles(UpdateLatest, *MYSQL)
@compiles(DeleteLatest, *MYSQL)
def _latest(statement: Any, compiler: Any, **options: Any) -> str:
    visit = getattr(compiler, f'visit_{statement.__visit_name__}')
    begins = _of_latest(compiler.dialect, 'SET STATEMENT {} FOR')
    return ' '.join(filter(None, (begins, visit(statement, **options))))


def select_by_key(
    statement: sa.Select[Any], table: sa.Table
) -> sa.Select[Any]:
    """Return *statement*, which names keys of *table* in the same way, so that
    it looks at no other rows.
    """
    for name in MYSQL:
        statement = statement.with_hint(table, _BY_PRIMARY_KEY, name)
    return statement


@compiles(DeleteByKey, *MYSQL)
def _delete_by_key(
    statement: DeleteByKey, compiler: Any, **options: Any
) -> str:
    # They wait for each row that they look at, and lock it; of a small table,
    # or one with few rows that have not expired, they would look at all, or
    # walk along another index.  A DELETE takes no such hint but with USING.
    text: str = compiler.visit_delete(statement, **options)
    table = compiler.preparer.format_table(statement.table)
    end = len('DELETE FROM ') + len(table)
    head, rest = text[:end], text[end:]
    assert head.endswith(table)
    text = f'{head} USING {table} {_BY_PRIMARY_KEY}{rest}'
    if not _is_mariadb(compiler.dialect):
        return text
    # Safe updates are none to it that have USING.
    variables = 'sql_safe_updates = 0'
    if isinstance(statement, DeleteAtOnce):
        variables += ', innodb_lock_wait_timeout = 0'
    variables += _of_latest(compiler.dialect, ', {}')
    return f'SET STATEMENT {variables} FOR {text}'


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
        # From Python 3.12 on a transaction may be begun already, in which the
        # mode of the journal cannot be changed.
        is_begun = getattr(connection, 'autocommit', None) is False
        if is_begun:
            connection.autocommit = True
        cursor = connection.cursor()
        # Writers wait for each other; without it the second one fails.
        cursor.execute('PRAGMA busy_timeout = 30000')
        # Readers and the writer do not block each other.
        cursor.execute('PRAGMA journal_mode = WAL')
        # Safe with WAL: a power cut can undo the last commits, not more.
        cursor.execute('PRAGMA synchronous = NORMAL')
        cursor.close()
        if is_begun:
            connection.autocommit = False


def read_committed(connection: sa.Connection) -> None:
    """Have many rows deleted or written at READ COMMITTED.

    No gap locks on MariaDB, no serialization failures on PostgreSQL, where a
    transaction that is begun already stays at its own level.
    """
    if locks_rows(connection.dialect) and not _is_begun(connection):
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
    if connection.dialect.name != 'sqlite':
        return
    raw: Any = connection.connection.dbapi_connection
    # Of the driver, from Python 3.12 on: True, and what is begun here would
    # not be committed; False, and one is begun already, without a lock.
    mode = getattr(raw, 'autocommit', None)
    if mode is True:
        return
    if getattr(raw, 'in_transaction', True) and (
        mode is not False or has_one_connection(connection.engine)
    ):
        return
    # A listener to "begin" (SQLAlchemy's recipe for SAVEPOINT) sends its own
    # BEGIN, which has taken no lock yet either.
    if not connection.in_transaction():
        connection.begin()
    if raw.in_transaction:
        connection.exec_driver_sql('ROLLBACK')
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
            # A rollback would take back what a listener of the application
            # has set.
            connection.commit()
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


def is_streaming(connection: sa.Connection) -> bool:
    """Return whether rows of a statement are still to come, so far as can be
    told: another statement on *connection* would end them.

    PyMySQL drops the rest, with a warning and no error.
    """
    if connection.dialect.name not in MYSQL:
        return False
    raw = connection.connection.dbapi_connection
    # Private; if it goes, the docs say what to do.
    result = getattr(raw, '_result', None)
    return getattr(result, 'unbuffered_active', False) is True


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
    raw: Any = connection.connection.dbapi_connection
    if getattr(raw, 'in_transaction', False):
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
        # SQLite has one writer at a time; the next one finds nothing left.
        yield True
