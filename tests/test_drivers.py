"""Drivers beside psycopg 3 and PyMySQL, with which all other tests run.

Each reports an error in its own way: what it means has to be the same.
"""

import contextlib
import datetime as dt
import decimal
import socket
import sqlite3
import uuid

import pytest
import sqlalchemy as sa

from pyramid_sqlasession import SessionError
from pyramid_sqlasession import SessionStoreUnavailable

from .failing import answered
from .failing import close_pooled
from .failing import each_refusal_alone
from .failing import kill_connections
from .failing import on_sqlite
from .failing import refusal
from .failing import refuse_commits
from .meeting import look
from .meeting import put
from .roundtrips import RoundTrips
from .services.databases import Database
from .services.mariatemp import TempMariaDB
from .services.pgtemp import TempPostgres
from .site import Site

DRIVERS = [
    'postgresql+psycopg2', 'postgresql+pg8000', 'mariadb+mysqlconnector',
]

ON_POSTGRESQL = pytest.mark.parametrize('database', DRIVERS[:2], indirect=True)


@pytest.fixture(params=DRIVERS)
def database(request, make_database):
    """An empty database that is reached by another driver."""
    return make_database(request.param)


@pytest.fixture(autouse=True)
def closed(no_socket_left):
    """No other test hears of pg8000's sockets."""


def with_views(site):
    """Add the views of these tests; return *site*."""
    site.views.update(
        put=put(n=1), look=look, ignore=lambda request: 'fine',
        logout=lambda request: request.session.invalidate(),
    )
    return site


#: Of each type that a field can have and JSON has not.
VALUES = {
    'when': dt.datetime(2026, 11, 29, 12, 30, 15, 123456, dt.UTC),
    'day': dt.date(2026, 11, 29),
    'sum': decimal.Decimal('12.50'),
    'raw': b'\x00\xff',
    'yes': True,
    'part': 0.1,
    'many': [1, {'ä': None}],
}
FIELDS = '\n'.join([
    'when: pyramid_sqlasession.model.UTCDateTime', 'day: Date',
    'sum: Numeric(8, 2)',
    'raw: LargeBinary', 'yes: Boolean', 'part: Float(53)', 'many: JSON',
])


def test_a_session_is_stored_read_changed_and_ended(make_site):
    """R6, D3: with its fields, and what a table of them is asked for."""
    site = with_views(make_site(additional_fields=FIELDS))
    seen = []
    site.views['put'] = put(id=uuid.UUID(int=7), text='ß' * 300, **VALUES)
    site.views['look'] = lambda request: seen.append(dict(request.session))
    browser = site.browser()
    browser.get('/put')
    browser.get('/look')
    assert seen == [VALUES | {'id': uuid.UUID(int=7), 'text': 'ß' * 300}]
    site.views['put'] = put(day=None, sum=decimal.Decimal(1))
    browser.get('/put')
    (row,) = site.rows()
    assert (row['day'], row['sum'], row['raw']) == (None, 1, b'\x00\xff')
    assert row['when'] == VALUES['when']
    browser.get('/logout')
    assert site.rows() == []


#: How Group Replication, in its words, gives up a COMMIT for another node's.
LOST = (
    "1180, MESSAGE_TEXT = 'Got error 149 - ''Lock deadlock; Retry "
    "transaction'' during COMMIT'"
)

CONFLICTS = {
    'postgresql': ['40001', '40P01', '55P03'],
    'mariadb': [1213, 1205, 1020, 1412, 3101, LOST],
}


@pytest.mark.parametrize(('database', 'number'), [
    (driver, number)
    for driver in [*DRIVERS, 'postgresql', 'mariadb']
    for number in CONFLICTS[driver.partition('+')[0]]
], indirect=['database'])
def test_a_conflict_is_repeated(make_site, number):
    """C7, T5: what the database says of it is understood."""
    site = with_views(make_site(retry=True))
    sql = refusal(site.database, number)
    attempts = []

    @site.view
    def work(request):
        request.session['n'] += 1
        request.dbsession.execute(sa.text('SELECT 1'))
        attempts.append(1)
        if len(attempts) < 3:
            request.dbsession.execute(sa.text(sql))

    browser = site.browser()
    browser.get('/put')
    browser.get('/work')
    assert len(attempts) == 3
    assert site.data() == {'n': 2}


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
def test_the_table_is_made_anew_meanwhile(make_site):
    """C7: by an ``OPTIMIZE TABLE``, which no older snapshot can read."""
    site = with_views(make_site(retry=True))
    browser = site.browser()
    browser.get('/put')
    attempts = []

    @site.view
    def work(request):
        request.dbsession.execute(sa.text('SELECT * FROM notes'))
        if not attempts:
            site.execute('OPTIMIZE TABLE sessions')
        attempts.append(1)
        request.session['n'] += 1

    browser.get('/work')
    assert len(attempts) == 2
    assert site.data() == {'n': 2}


@ON_POSTGRESQL
@each_refusal_alone
def test_a_session_alone_meets_a_conflict(make_site, failures, state, tries):
    """T3: the write is done again, after a conflict only."""
    site = with_views(make_site())
    tried = refuse_commits(site, failures, state)
    browser = site.browser()
    if failures < tries:
        browser.get('/put')
        assert site.data() == {'n': 1}
    else:
        with answered(state):
            browser.get('/put')
        assert site.rows() == []
    assert tried() == tries


def test_a_field_that_is_unique(make_site):
    """D3: the database decides."""
    site = make_site(additional_fields='seat: String(8) unique')
    site.views['take'] = put(seat='7A')
    site.browser().get('/take')
    with pytest.raises(sa.exc.DBAPIError) as caught:
        site.browser().get('/take')
    assert '7A' in str(caught.value.orig)
    assert len(site.rows()) == 1


@pytest.mark.parametrize('sql', [
    'ALTER TABLE sessions RENAME TO away',
    'ALTER TABLE sessions DROP COLUMN rotated',
])
def test_what_is_missing(make_site, sql):
    """D2: an error that names the table and the command."""
    site = with_views(make_site())
    browser = site.browser()
    browser.get('/put')
    site.execute(sql)
    with pytest.raises(SessionError, match='psessions') as caught:
        browser.get('/look')
    assert not isinstance(caught.value, SessionStoreUnavailable)


@on_sqlite
@pytest.mark.parametrize('module', ['pysqlite3', 'sqlcipher3', 'pysqlcipher3'])
def test_another_module_that_has_sqlite(make_site, module):
    """C7, D2: what it says of a lock, and of a table, is understood."""
    kind = type('OperationalError', (sqlite3.OperationalError,), {
        '__module__': f'{module}.dbapi2',
    })
    said = {}
    site = with_views(make_site(retry=True))

    @sa.event.listens_for(site.engine, 'do_execute')
    def refuse(cursor, sql, *args):
        if text := said.pop(sql.split()[0], None):
            raise kind(text)

    browser = site.browser()
    browser.get('/put')
    site.views['put'] = put(n=2)
    said['UPDATE'] = 'database is locked'
    browser.get('/put')
    assert said == {}
    assert site.data() == {'n': 2}
    said['SELECT'] = 'no such table: sessions'
    with pytest.raises(SessionError, match='psessions') as caught:
        browser.get('/look')
    assert not isinstance(caught.value, SessionStoreUnavailable)


@pytest.mark.parametrize('path', ['look', 'put'])
def test_a_connection_that_ends_during_a_request(make_site, path):
    """D1: whatever the driver says of it, the answer is 503."""
    site = with_views(make_site())
    browser = site.browser()
    browser.get('/put')

    @site.view
    def work(request):
        request.dbsession.execute(sa.text('SELECT 1'))
        kill_connections(site.database)
        return site.views[path](request)

    site.outside.dispose()
    browser.get('/work', status=503)
    assert browser.get('/look').text == "{'n': 1}"


def test_a_stale_connection_is_replaced(make_site):
    """D1: after a restart of the server no reader sees an error."""
    site = with_views(make_site())
    browser = site.browser()
    browser.get('/put')
    browser.get('/look')
    kill_connections(site.database)
    assert browser.get('/look').text == "{'n': 1}"


@pytest.mark.parametrize(
    'database', [*DRIVERS, 'postgresql', 'mariadb'], indirect=True
)
@pytest.mark.parametrize('is_apart', [False, True])
@pytest.mark.parametrize('fields', ['', 'total: Numeric(8, 2)'])
def test_a_stale_connection_is_not_written_with(
    make_site, database, is_apart, fields,
):
    """D1: a new visitor, who reads nothing, is served after a restart, too."""
    given = {'url': database.url} if is_apart else {}
    site = with_views(make_site(additional_fields=fields, **given))
    site.browser().get('/put')
    close_pooled(site.application.engine, database, 3)
    site.outside.dispose()
    for _ in range(3):
        site.browser().get('/put')
    assert len(site.rows()) == 4


@contextlib.contextmanager
def proxy_before(database):
    """A proxy on the way to *database*, which can reset connections."""
    url = sa.make_url(database.url)
    with RoundTrips(url) as proxy:
        database.url = url.set(
            host='127.0.0.1', port=sa.make_url(proxy.url).port
        ).render_as_string(hide_password=False)
        yield proxy


# pg8000 leaves the socket open, as above.
@pytest.mark.filterwarnings('ignore:unclosed <socket')
@ON_POSTGRESQL
@pytest.mark.parametrize('path', ['look', 'put', 'first'])
def test_a_connection_that_is_reset(make_site, database, path):
    """D1: 503, however often the network does so."""
    with proxy_before(database) as proxy:
        site = with_views(make_site())
        site.views['first'] = put(n=1)
        browser = site.browser()
        browser.get('/put')
        proxy.resets = True
        for _ in range(3):
            if path == 'first':
                browser = site.browser()
            answer = browser.get(f'/{path}', status=503)
            assert 'Set-Cookie' not in answer.headers
        proxy.resets = False
        assert browser.get(f'/{path}').status_int == 200


@pytest.mark.filterwarnings('ignore:unclosed <socket')
@ON_POSTGRESQL
@pytest.mark.parametrize('is_apart', [False, True])
@pytest.mark.parametrize('act', [
    lambda request: request.session.get('n'),
    lambda request: request.session.update(n=2),
    lambda request: request.session_store.revoke_where(user_id=8),
])
@pytest.mark.parametrize('is_looked_at', [False, True])
def test_a_connection_that_is_reset_within_a_transaction(
    make_site, database, act, is_apart, is_looked_at,
):
    """D1, C7: 503, and the next request is served."""
    with proxy_before(database) as proxy:
        given = {'url': database.url} if is_apart else {}
        site = with_views(make_site(
            additional_fields='user_id: Integer index', **given
        ))
        browser = site.browser()
        browser.get('/put')

        @site.view
        def work(request):
            if not is_apart:
                request.dbsession.execute(sa.text('SELECT 1'))
            request.session_store.revoke_where(user_id=7)
            if is_looked_at:
                request.session['late'] = True
            proxy.resets = True
            return str(act(request))

        browser.get('/work', status=503)
        proxy.resets = False
        assert browser.get('/look').text == "{'n': 1}"


@pytest.mark.filterwarnings('ignore:unclosed <socket')
@pytest.mark.parametrize('database', DRIVERS[1:2], indirect=True)
@pytest.mark.parametrize('is_used', [False, True])
@pytest.mark.parametrize('path', ['look', 'put', 'first'])
def test_a_statement_that_takes_too_long(make_site, path, is_used):
    """D1: pg8000 has a limit of its own; 503, and the next one is served."""
    site = with_views(make_site())
    site.views['first'] = put(n=1)
    browser = site.browser()
    browser.get('/put')

    def limit(dialect, record, args, options):
        options['timeout'] = 1

    @site.view
    def work(request):
        if is_used:
            request.dbsession.execute(sa.text('SELECT 1'))
        return site.views[path](request)

    # Not before: a busy machine may need as long for anything.
    sa.event.listen(site.engine, 'do_connect', limit)
    site.engine.dispose()
    with site.outside.begin() as connection:
        connection.execute(sa.text('LOCK TABLE sessions'))
        (site.browser() if path == 'first' else browser).get(
            '/work', status=503
        )
    sa.event.remove(site.engine, 'do_connect', limit)
    assert browser.get('/look').text == "{'n': 1}"
    assert len(site.rows()) == 1


@pytest.mark.parametrize('change', [
    {'database': 'nowhere'}, {'username': 'nobody'},
])
def test_a_server_that_lets_nobody_in(make_site, database, change):
    """D1: a role or a database that is gone is 503, as a server is."""
    site = with_views(make_site())
    browser = site.browser()
    browser.get('/put')
    other = sa.create_engine(sa.make_url(database.url).set(**change))
    _, refused = other.dialect.create_connect_args(other.url)

    def divert(dialect, record, args, options):
        options.clear()
        options.update(refused)

    sa.event.listen(site.engine, 'do_connect', divert)
    site.engine.dispose()
    browser.get('/look', status=503)
    sa.event.remove(site.engine, 'do_connect', divert)
    site.engine.dispose()
    assert browser.get('/look').text == "{'n': 1}"


#: The argument for how long a driver waits for a connection.
PATIENCE = {
    'psycopg': 'connect_timeout', 'psycopg2': 'connect_timeout',
    'pg8000': 'timeout',
}


@pytest.mark.parametrize(
    'database', ['postgresql', *DRIVERS[:2]], indirect=True
)
# pg8000 leaves the socket open.
@pytest.mark.filterwarnings('ignore::ResourceWarning')
def test_a_server_that_says_nothing(make_site):
    """D1: who waits in vain for a connection is answered with 503."""
    site = with_views(make_site())
    browser = site.browser()
    browser.get('/put')
    with socket.create_server(('127.0.0.1', 0)) as mute:

        def divert(dialect, record, args, options):
            options['port'] = mute.getsockname()[1]
            options[PATIENCE[dialect.driver]] = 2

        sa.event.listen(site.engine, 'do_connect', divert)
        site.engine.dispose()
        browser.get('/look', status=503)
        sa.event.remove(site.engine, 'do_connect', divert)
    assert browser.get('/look').text == "{'n': 1}"


@pytest.mark.parametrize(('launcher', 'name', 'driver'), [
    (TempPostgres, 'postgresql', 'psycopg2'),
    (TempPostgres, 'postgresql', 'pg8000'),
    (TempMariaDB, 'mariadb', 'mysqlconnector'),
])
def test_a_database_that_is_down(launcher, name, driver):
    """D1: 503 for who needs the session, and it is there afterwards."""
    with launcher() as server:
        database = Database(name, server.url)
        database.take_driver(driver)
        site = with_views(Site(database))
        browser = site.browser()
        browser.get('/put')
        server.halt()
        assert browser.get('/ignore').text == 'fine'
        for path in ('/look', '/put'):
            answer = browser.get(path, status=503)
            assert 'Set-Cookie' not in answer.headers
        server.launch()
        assert browser.get('/look').text == "{'n': 1}"
        site.close()
        database.dispose()
