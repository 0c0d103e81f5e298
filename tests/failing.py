"""Ways in which a view, the end of its transaction or a connection fails."""

import contextlib
import sqlite3
import time

from pyramid.response import Response
import pytest
import sqlalchemy as sa
import transaction
import webtest

from pyramid_sqlasession.liveness import is_closed_by_server

#: For a test of which nothing depends on the database.
on_sqlite = pytest.mark.parametrize('database', ['sqlite'], indirect=True)


class Failure(Exception):
    """What a view of a test raises."""


class Passing(transaction.interfaces.TransientError):
    """What a view raises that would work if it was run again."""


class Voter:
    """A data manager that calls *vote* when it is asked to vote.

    :param sort_key: when: the application's databases come at
        ``~sqlalchemy``.
    """

    def __init__(self, request, vote, sort_key='a'):
        self.transaction_manager = request.tm
        self.tpc_vote = lambda transaction: vote()
        self.sortKey = lambda: sort_key
        request.tm.get().join(self)

    def _do_nothing(self, transaction):
        pass

    abort = tpc_begin = commit = tpc_finish = tpc_abort = _do_nothing


class Mailer(Voter):
    """Fails once all have voted, as a data manager that sends mail."""

    def __init__(self, request, error=Failure):
        super().__init__(request, lambda: None)
        self.error = error

    def tpc_finish(self, transaction):
        """The mail server does not answer."""
        raise self.error


def raiser(error=Failure):
    """Return a function that raises *error*, for a ``Voter``."""

    def fail():
        raise error

    return fail


def answering(view, context=Failure):
    """Return a ``configure`` for a ``Site`` with this exception view."""

    def answer(error, request):
        answered = view(request)
        if isinstance(answered, Response):
            return answered
        return Response('' if answered is None else str(answered))

    def configure(config):
        config.add_exception_view(answer, context=context)

    return configure


#: How a server says an error with this number of it.
_RAISE = {
    'postgresql': "RAISE EXCEPTION 'refused' USING ERRCODE = '{}';",
    'mariadb': "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {};",
}

#: How the number is that of each INSERT of a session, in one step or more.
_AT_INSERT = {
    'postgresql': [
        'CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN {} END $$ '
        'LANGUAGE plpgsql',
        'CREATE TRIGGER refuse BEFORE INSERT ON sessions FOR EACH ROW '
        'EXECUTE FUNCTION refuse()',
    ],
    'mariadb': [
        'CREATE TRIGGER refuse BEFORE INSERT ON sessions FOR EACH ROW {}',
    ],
}
_NO_MORE = {
    'postgresql': 'DROP TRIGGER refuse ON sessions',
    'mariadb': 'DROP TRIGGER refuse',
}


def refusal(database, number):
    """Return a statement that fails with this error of the server."""
    said = _RAISE[database.name].format(number)
    if database.name == 'postgresql':
        return f'DO $$ BEGIN {said} END $$'
    return said


def refuse_connections(engine, delay=0.0):
    """Have no database from now on; the pool of *engine* must keep none.

    :param delay: seconds after which the driver gives up.
    """

    def refuse(*args):
        time.sleep(delay)
        raise sqlite3.OperationalError('unable to open database file')

    sa.event.listen(engine, 'do_connect', refuse)


@contextlib.contextmanager
def refused_inserts(site, number):
    """Have the server refuse each INSERT of a session with this error."""
    name = site.database.name
    said = _RAISE[name].format(number)
    for sql in _AT_INSERT[name]:
        site.execute(sql.format(said))
    yield
    site.execute(_NO_MORE[name])


def _refusals(most):
    """Return how many COMMITs are refused, as what, and how many are tried:
    *most* after conflicts, one after anything else, a wait for a lock too.
    """
    return pytest.mark.parametrize(('failures', 'state', 'tries'), [
        (1, '40001', 2), (most - 1, '40001', most), (most, '40001', most),
        (1, '55P03', 1), (1, '23514', 1),
    ])


each_refusal = _refusals(5)
#: Of what many may do at once.
each_refusal_alone = _refusals(50)


def answered(state):
    """Return a context in which a request meets a refusal."""
    if state == '55P03':
        # A wait for a lock: a session store that is away for now.
        return pytest.raises(webtest.AppError, match='503')
    return pytest.raises(sa.exc.DBAPIError, match='refused')


def refuse_commits(site, count, state, after='INSERT OR UPDATE'):
    """Have PostgreSQL refuse so many COMMITs of a session.

    Return a function that tells how many there were.
    """
    said = _RAISE['postgresql'].format(state)
    # A sequence counts on, whatever is rolled back.
    for sql in (
        'CREATE SEQUENCE tries',
        'CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN '
        f"IF nextval('tries') <= {count} THEN {said} END IF; "
        'RETURN NULL; END $$ LANGUAGE plpgsql',
        f'CREATE CONSTRAINT TRIGGER refuse AFTER {after} ON sessions '
        'DEFERRABLE INITIALLY DEFERRED FOR EACH ROW '
        'EXECUTE FUNCTION refuse()',
    ):
        site.execute(sql)
    return lambda: site.execute('SELECT last_value FROM tries').scalar()


_PATIENCE = {
    'sqlite': 'PRAGMA busy_timeout = 2000',
    'postgresql': "SET lock_timeout = '2s'",
    'mariadb': 'SET innodb_lock_wait_timeout = 2',
    'mysql': 'SET innodb_lock_wait_timeout = 2',
}


def give_up_early(engine):
    """Have connections wait for locks for two seconds, not for long.

    For a request that locks itself out: it would wait for nobody.
    """

    def set_up(connection, record):
        cursor = connection.cursor()
        cursor.execute(_PATIENCE[engine.dialect.name])
        cursor.close()
        connection.commit()

    sa.event.listen(engine, 'connect', set_up)
    engine.dispose()


#: How to list the connections of others, and how to end one.
CONNECTIONS = {
    'postgresql': (
        'SELECT pid FROM pg_stat_activity WHERE '
        "datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend'",
        'SELECT pg_terminate_backend({})',
    ),
    'mariadb': (
        'SELECT id FROM information_schema.processlist '
        'WHERE db = DATABASE() AND id <> CONNECTION_ID()',
        'KILL {}',
    ),
}

#: Close all connections but this one, and wait until they are.
TERMINATE = (
    'SELECT pg_terminate_backend(pid, 9000) FROM pg_stat_activity '
    'WHERE pid <> pg_backend_pid() AND datname = current_database()'
)


def fill_pool(engine, count=3):
    """Have *count* idle connections in the pool of *engine*."""
    connections = [engine.connect() for _ in range(count)]
    for connection in connections:
        connection.scalar(sa.text('SELECT 1'))
    for connection in connections:
        connection.close()
    assert engine.pool.checkedin() >= count


def close_pooled(engine, database, count):
    """Have *count* idle connections in the pool of *engine* that the server
    has closed, and the driver could know it.
    """
    held = [engine.connect() for _ in range(count)]
    sockets = [held.connection.dbapi_connection for held in held]
    for connection in held:
        connection.close()
    kill_connections(database)
    end = time.monotonic() + 10
    while not all(map(is_closed_by_server, sockets)):
        assert time.monotonic() < end


def kill_connections(database):
    """End all connections on the server, as its restart does."""
    find, end = CONNECTIONS[database.name]
    engine = sa.create_engine(
        database.url, poolclass=sa.NullPool, isolation_level='AUTOCOMMIT'
    )
    with engine.connect() as connection:
        numbers = list(connection.scalars(sa.text(find)))
        for number in numbers:
            # It may have ended by itself: MariaDB lists one for a moment that
            # its client has just closed.
            with contextlib.suppress(sa.exc.OperationalError):
                connection.execute(sa.text(end.format(number)))
        while connection.scalars(sa.text(find)).all():
            pass
    assert numbers
