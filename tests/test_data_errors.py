"""What a failing or incomplete database does to requests (D1, D2)."""

import contextlib
import logging
import sqlite3
import time

import pymysql
from pyramid.response import Response
import pytest
import sqlalchemy as sa

from pyramid_sqlasession import SessionError
from pyramid_sqlasession import SessionNotSerializable
from pyramid_sqlasession import SessionStoreUnavailable
from pyramid_sqlasession import SessionTooLarge

from .failing import close_pooled
from .failing import fill_pool
from .failing import give_up_early
from .failing import kill_connections
from .failing import refused_inserts
from .meeting import put
from .naming import shown
from .services.databases import Database
from .services.mariatemp import TempMariaDB
from .services.pgtemp import TempPostgres
from .site import Note
from .site import Site

ON_SQLITE = pytest.mark.parametrize('database', ['sqlite'], indirect=True)
ON_SERVERS = pytest.mark.parametrize(
    'database', ['postgresql', 'mariadb'], indirect=True
)


def with_views(site):
    """Add the views that these tests visit; returns *site*."""

    @site.view
    def write(request):
        request.session['n'] = request.session.get('n', 0) + 1

    @site.view
    def read(request):
        return request.session.get('n')

    @site.view
    def ignore(request):
        return 'fine'

    @site.view
    def busy(request):
        request.dbsession.execute(sa.text('SELECT 1'))
        return request.session.get('n')

    @site.view
    def count(request):
        return request.session_store.count()

    @site.view
    def revoke(request):
        return request.session_store.revoke_all()

    return site


@pytest.fixture
def shop(site):
    """A site with the views of these tests."""
    return with_views(site)


# -- stale connections (D1) ---------------------------------------------------

@ON_SERVERS
@pytest.mark.parametrize('path', ['/read', '/write'])
@pytest.mark.parametrize('pooled', [1, 4])
def test_stale_connection_is_replaced_on_read(shop, path, pooled):
    """D1: after a restart of the server no reader sees an error."""
    browser = shop.browser()
    browser.get('/write')
    shop.engine.dispose()
    fill_pool(shop.engine, pooled)
    kill_connections(shop.database)
    for _ in range(pooled + 1):
        browser.get(path)
    assert browser.get('/read').text == str(
        1 if path == '/read' else pooled + 2
    )


@ON_SERVERS
@pytest.mark.parametrize('pooled', [1, 4])
@pytest.mark.parametrize('path', ['/count', '/revoke'])
def test_stale_connection_is_replaced_for_the_store(shop, pooled, path):
    """D1: for one who uses it first, as a job does, too."""
    shop.browser().get('/write')
    close_pooled(shop.engine, shop.database, pooled)
    assert [shop.browser().get(path).text for _ in range(2)] == (
        ['1', '1'] if path == '/count' else ['1', '0']
    )


@ON_SERVERS
@pytest.mark.parametrize('pooled', [1, 4])
def test_stale_connection_is_replaced_on_a_read_with_a_touch(shop, pooled):
    """D1, E2: the touch is sent all the same."""
    browser = shop.browser()
    browser.get('/write')
    (before,) = shop.rows()
    shop.engine.dispose()
    fill_pool(shop.engine, pooled)
    shop.clock.advance(minutes=10)
    kill_connections(shop.database)
    shop.outside.dispose()
    assert browser.get('/read').text == '1'
    (after,) = shop.rows()
    assert after['accessed'] > before['accessed']


@ON_SERVERS
@pytest.mark.parametrize(('begin', 'notes'), [
    (lambda dbsession: dbsession.add(Note(text='early')), ['early']),
    (lambda dbsession: dbsession.begin(), []),
    (lambda dbsession: dbsession.begin_nested(), []),
], ids=['add', 'begin', 'savepoint'])
def test_stale_connection_after_the_application_has_begun(shop, begin, notes):
    """D1: a view that has sent nothing yet is one that looks first."""

    @shop.view
    def early(request):
        begin(request.dbsession)
        return request.session['n']

    browser = shop.browser()
    browser.get('/write')
    shop.engine.dispose()
    fill_pool(shop.engine, 4)
    kill_connections(shop.database)
    shop.outside.dispose()
    assert browser.get('/early').text == '1'
    assert shop.notes() == notes


@ON_SERVERS
def test_stale_connection_of_an_engine_of_its_own(make_site, database):
    """D1, T0: the same with ``sqlasession.url``."""
    shop = with_views(make_site(url=database.url))
    browser = shop.browser()
    browser.get('/write')
    fill_pool(shop.application.engine)
    kill_connections(database)
    assert browser.get('/read').text == '1'


@ON_SERVERS
def test_stale_connection_of_a_second_engine(make_site, database):
    """D1: the application's dbsession is on another engine than ours."""
    shop = with_views(make_site(engine=database.create_engine()))

    @shop.view
    def late(request):
        # Made, but without a transaction yet.
        assert request.dbsession is not None
        return request.session.get('n')

    browser = shop.browser()
    browser.get('/write')
    fill_pool(shop.engine)
    fill_pool(shop.application.engine)
    kill_connections(database)
    assert browser.get('/late').text == '1'


@ON_SERVERS
def test_a_connection_that_is_lost_within_the_transaction(shop):
    """D1: one request has the error; the others' connections are replaced."""
    lost = []

    @shop.view
    def lose(request):
        request.dbsession.execute(sa.text('SELECT 1'))
        if not lost:
            lost.append(1)
            kill_connections(shop.database)
        return request.session['n']

    browser = shop.browser()
    browser.get('/write')
    shop.engine.dispose()
    fill_pool(shop.engine, 4)
    browser.get('/lose', status=503)
    for _ in range(4):
        assert browser.get('/lose').text == '1'


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
def test_a_commit_that_lost_the_cluster(shop, monkeypatch):
    """D1: its connection is not opened again, to the node that has failed."""
    browser = shop.browser()
    browser.get('/write')
    opened = []
    sa.event.listen(
        shop.engine, 'connect', lambda *args: opened.append(args)
    )

    def refuse(connection):
        raise pymysql.OperationalError(1180, 'Got error 5 during COMMIT')

    with monkeypatch.context() as broken:
        broken.setattr(shop.engine.dialect, 'do_commit', refuse)
        browser.get('/write', status=503)
    assert opened == []
    assert browser.get('/write').status_int == 200
    assert len(opened) == 1


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
@pytest.mark.parametrize('path', ['/write', '/replace'])
def test_a_write_to_a_node_that_lost_the_cluster(shop, monkeypatch, path):
    """D1: 503, and each connection of the pool is replaced afterwards."""

    @shop.view
    def replace(request):
        request.session.invalidate()
        request.session['n'] = 2

    browser = shop.browser()
    if path == '/replace':
        browser.get('/write')
    fill_pool(shop.engine)
    opened = []
    sa.event.listen(
        shop.engine, 'connect', lambda *args: opened.append(args)
    )
    execute = shop.engine.dialect.do_execute

    def refuse(cursor, statement, *args):
        if statement.startswith('INSERT'):
            raise pymysql.OperationalError(1047, 'WSREP has not yet prepared')
        execute(cursor, statement, *args)

    with monkeypatch.context() as broken:
        broken.setattr(shop.engine.dialect, 'do_execute', refuse)
        browser.get(path, status=503)
    fill_pool(shop.engine)
    assert len(opened) == 3


# -- the database is down (D1) ------------------------------------------------


@pytest.fixture(params=[TempPostgres, TempMariaDB], ids=['pg', 'maria'])
def down(request):
    """A site with a session; ``halt`` and ``launch`` its server."""
    with request.param() as server:
        name = 'postgresql' if request.param is TempPostgres else 'mariadb'
        database = Database(name, server.url)
        site = with_views(Site(database, additional_fields='user_id: Integer'))
        site.visitor = site.browser()
        site.visitor.get('/write')
        site.halt, site.launch = server.halt, server.launch
        yield site
        site.close()
        database.dispose()


def test_database_down(down, caplog):
    """D1: 200 without a session, 503 with one, and well again after it."""
    browser = down.visitor
    token = down.token(browser)
    down.halt()
    assert browser.get('/ignore').text == 'fine'
    assert down.browser().get('/read').text == ''
    for path in ('/read', '/write', '/count', '/revoke'):
        response = browser.get(path, status=503)
        assert 'Set-Cookie' not in response.headers
    response = down.browser().get('/write', status=503)
    assert 'Set-Cookie' not in response.headers
    # Once, however many requests there are.
    (said,) = [
        r.getMessage() for r in caplog.records
        if r.name.startswith('pyramid_sqlasession')
        and r.levelno >= logging.WARNING
    ]
    assert said.startswith('the database of the sessions does not answer: ')
    down.launch()
    down.outside.dispose()
    assert down.token(browser) == token
    assert browser.get('/read').text == '1'
    browser.get('/write')
    assert down.data() == {'n': 2}


@ON_SERVERS
def test_each_cause_of_an_outage_is_told(shop, caplog):
    """D1: the one before does not hide it, and none is told twice."""
    dialect, outside = shop.engine.dialect, shop.outside
    read_only, no_answer = {
        'postgresql': ('25006', ('refused',)),
        'mariadb': (1290, (2003, 'refused')),
    }[shop.database.name]
    shop.visitor = shop.browser()
    shop.visitor.get('/write')

    @shop.view
    def idle(request):
        request.dbsession.execute(sa.text('SELECT 1'))
        outside.dispose()
        kill_connections(shop.database)
        return request.session.get('n')

    def refuse(*args):
        raise dialect.loaded_dbapi.OperationalError(*no_answer)

    shop.visitor.get('/idle', status=503)
    with refused_inserts(shop, read_only):
        for _ in range(2):
            shop.browser().get('/write', status=503)
    shop.engine.dispose()
    sa.event.listen(shop.engine, 'do_connect', refuse)
    for _ in range(2):
        shop.visitor.get('/read', status=503)
    lost, *others = [
        one for one in caplog.messages if 'does not answer' in one
    ]
    assert 'refused' not in lost
    assert len(others) == 2


@pytest.mark.parametrize('when', ['read', 'changed'])
def test_database_that_goes_down_while_a_view_runs(down, when, caplog):
    """D1, T2: what cannot be committed is 503; a touch costs nothing."""
    browser = down.visitor
    down.clock.advance(minutes=10)

    @down.view
    def view(request):
        assert request.session['n'] == 1
        if when == 'changed':
            request.session['n'] = 2
        down.halt()
        return 'fine'

    if when == 'read':
        assert browser.get('/view').text == 'fine'
        warnings = [
            r for r in caplog.records
            if r.name.startswith('pyramid_sqlasession')
            and r.levelno >= logging.WARNING
        ]
        assert len(warnings) == 1
    else:
        response = browser.get('/view', status=503)
        assert 'Set-Cookie' not in response.headers
    down.launch()
    assert browser.get('/read').text == '1'


#: Errors of a server that is full, ends, is a standby, has lost its cluster,
#: lets nobody in, or gives up a statement that takes too long.
OUT_OF_SERVICE = {
    'postgresql': [
        '53100', '53200', '53300', '57014', '57P01', '57P02', '57P03',
        '25006', '08006',
    ],
    'mariadb': [
        1021, 1040, 1044, 1045, 1047, 1049, 1053, 1114, 1129, 1130, 1180,
        1203, 1226, 1290, 1317, 1792, 1820, 1836, 1862, 1927, 1969, 3032,
        3100, 4151,
    ],
}


@pytest.mark.parametrize(('database', 'number'), [
    (name, number) for name, numbers in OUT_OF_SERVICE.items()
    for number in numbers
], indirect=['database'])
def test_a_server_that_is_out_of_service(make_site, number):
    """D1: whatever it says, the answer is 503, and nothing is stored."""
    site = make_site()
    site.views['write'] = put(n=1)
    with refused_inserts(site, number):
        response = site.browser().get('/write', status=503)
        assert 'Set-Cookie' not in response.headers
    assert site.rows() == []
    site.browser().get('/write')
    assert len(site.rows()) == 1


def test_a_write_that_waited_in_vain(shop):
    """C7, D1: it waits once, for as long as the application has set."""
    give_up_early(shop.engine)
    browser = shop.browser()
    browser.get('/write')
    shop.listen()
    with shop.outside.begin() as connection:
        connection.execute(sa.text('UPDATE sessions SET version = version'))
        browser.get('/write', status=503)
    assert shop.statements.verbs.count('UPDATE') == 1
    assert shop.data() == {'n': 1}


@ON_SERVERS
def test_a_touch_that_waited_in_vain(shop, caplog):
    """D1, E2: the page is answered, and the log says what was not done."""
    give_up_early(shop.engine)
    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(minutes=11)
    with shop.outside.begin() as connection:
        connection.execute(sa.text('UPDATE sessions SET version = version'))
        caplog.clear()
        assert browser.get('/read').text == '1'
    (said,) = [
        r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING
    ]
    assert said.startswith('a session has waited for a lock in vain: ')


#: Seconds after which the server gives up a statement; two such waits can be
#: told from one on a busy machine, too.
LIMIT = 2
TWICE = 2 * LIMIT

#: How the server is told so.
LIMITS = {
    'postgresql': [
        f"SET statement_timeout = '{LIMIT}s'",
        f"SET lock_timeout = '{LIMIT}s'",
    ],
    'mariadb': [
        f'SET max_statement_time = {LIMIT}',
        f'SET lock_wait_timeout = {LIMIT}',
    ],
}

#: How somebody has the table alone.
ALONE = {
    'postgresql': 'LOCK TABLE sessions',
    'mariadb': 'LOCK TABLES sessions WRITE',
}


def limit(engine, sql):
    """Set a limit for all connections of *engine*; return a list that gets
    those which are opened later.
    """
    opened = []

    def set_up(connection, record):
        cursor = connection.cursor()
        cursor.execute(sql)
        cursor.close()
        connection.commit()
        opened.append(record)

    sa.event.listen(engine, 'connect', set_up)
    engine.dispose()
    fill_pool(engine)
    opened.clear()
    return opened


@pytest.fixture
def limited(shop):
    """A function that sets a limit for all connections of a site with a
    session, and returns the connections that were opened since.
    """
    shop.visitor = shop.browser()
    shop.visitor.get('/write')
    return lambda sql: limit(shop.engine, sql)


@contextlib.contextmanager
def locked_table(shop):
    """Have somebody have the table alone; nothing may wait for it twice."""
    with shop.outside.connect() as connection:
        connection.execute(sa.text(ALONE[shop.database.name]))
        begun = time.monotonic()
        yield
        assert time.monotonic() - begun < TWICE
        connection.rollback()
        if shop.database.name == 'mariadb':
            connection.execute(sa.text('UNLOCK TABLES'))


@ON_SERVERS
@pytest.mark.parametrize('which', ['statement', 'lock'])
def test_a_read_that_waited_in_vain(shop, limited, which):
    """D1: it waits once, and its connection, which is good, is kept."""
    opened = limited(LIMITS[shop.database.name][which == 'lock'])
    with locked_table(shop):
        shop.visitor.get('/read', status=503)
    assert opened == []
    assert shop.visitor.get('/read').text == '1'


def test_the_page_of_a_view_that_waited_in_vain(make_site):
    """T4: it reads the session, for which no lock is needed."""

    def sorry(error, request):
        seen.append(dict(request.session))
        request.session.flash('sorry')
        return Response('sorry')

    seen = []
    shop = with_views(make_site(
        additional_fields='user_id: Integer', configure=lambda config: (
            config.add_exception_view(sorry, SessionStoreUnavailable)
        ),
    ))
    give_up_early(shop.engine)
    browser = shop.browser()
    browser.get('/write')

    @shop.view
    def end_others(request):
        request.session_store.revoke_where(user_id=None)

    with shop.outside.begin() as connection:
        connection.execute(sa.text('UPDATE sessions SET version = version'))
        assert browser.get('/end_others').text == 'sorry'
    assert seen == [{'n': 1}]


def test_a_request_without_a_transaction_that_waited_in_vain(make_site):
    """T5: what it has committed by hand is not done twice."""
    orders = []
    shop = with_views(make_site(
        retry=True, **{'tm.activate_hook': lambda request: False}
    ))
    give_up_early(shop.engine)
    browser = shop.browser()
    browser.get('/write')

    @shop.view
    def order(request):
        orders.append(1)
        request.session['n'] = 2

    with shop.outside.begin() as connection:
        connection.execute(sa.text('UPDATE sessions SET version = version'))
        browser.get('/order', status=503)
    assert orders == [1]


class Identifying:
    """A security policy that asks the session, as pyramid_tm asks it."""

    def authenticated_userid(self, request):
        return request.session.get('n')

    identity = authenticated_userid


@ON_SERVERS
@pytest.mark.parametrize('which', ['statement', 'lock'])
def test_a_view_without_session_while_the_table_is_locked(
    make_site, which
):
    """D1: it is run, once, though pyramid_tm has asked for the user."""
    runs = []

    def ping(request):
        runs.append(1)
        return Response('pong')

    shop = with_views(make_site(
        retry=True,
        configure=lambda config: config.set_security_policy(Identifying()),
    ))
    shop.views['ping'] = ping
    visitor = shop.browser()
    visitor.get('/write')
    limit(shop.engine, LIMITS[shop.database.name][which == 'lock'])
    with locked_table(shop):
        assert visitor.get('/ping').text == 'pong'
    assert runs == [1]


@ON_SERVERS
def test_no_touch_waits_after_a_write_that_waited(shop, limited):
    """D1: 503 within the driver's timeout, also if a touch is due."""
    opened = limited(LIMITS[shop.database.name][0])
    shop.clock.advance(minutes=11)
    with shop.outside.begin() as connection:
        connection.execute(sa.text('UPDATE sessions SET version = version'))
        begun = time.monotonic()
        shop.visitor.get('/write', status=503)
        assert time.monotonic() - begun < TWICE
    assert opened == []
    assert shop.visitor.get('/read').text == '1'


class Refusal:
    """Has all connects of an engine fail while ``on``, and counts them."""

    def __init__(self, engine):
        self.on = True
        self.count = 0
        sa.event.listen(engine, 'do_connect', self._connect)

    def _connect(self, *args):
        if self.on:
            self.count += 1
            raise sqlite3.OperationalError('unable to open database file')


@pytest.fixture
def refused(make_site):
    """A function that makes a site whose database refuses to connect."""

    def make(**settings):
        shop = with_views(make_site(
            engine_options={'poolclass': sa.NullPool}, **settings
        ))
        shop.visitor = shop.browser()
        shop.visitor.get('/write')
        shop.refusal = Refusal(shop.engine)
        return shop

    return make


@ON_SQLITE
@pytest.mark.parametrize('path', ['/read', '/write', '/count'])
def test_no_request_waits_twice_for_a_connect(refused, path):
    """D1: 503 within the driver's timeout, not within two of them."""
    shop = refused()
    shop.visitor.get(path, status=503)
    assert shop.refusal.count == 1


@ON_SQLITE
def test_answer_says_what_happened(refused):
    """D1: a plain 503 that a visitor understands, nothing of SQL in it."""
    shop = refused()
    response = shop.visitor.get('/read', status=503)
    assert 'try again' in response.text
    for word in ('sqlite', 'SELECT', 'Traceback', 'unable to open'):
        assert word not in response.text


@ON_SQLITE
@pytest.mark.parametrize('kind', [SessionStoreUnavailable, SessionError])
def test_application_has_its_own_view(refused, kind):
    """Section 3: the error reaches an exception view of the application."""
    seen = []

    def configure(config):
        config.add_exception_view(sorry, context=kind)

    def sorry(error, request):
        seen.append(error)
        # Layouts look at the session: it is empty here, and costs no wait.
        session = request.session
        return Response(f'closed {dict(session)} {session.pop_flash()}')

    shop = refused(configure=configure)
    response = shop.visitor.get('/read')
    assert response.text == 'closed {} []'
    assert 'Set-Cookie' not in response.headers
    (error,) = seen
    assert isinstance(error, SessionError)
    assert isinstance(error.__cause__, sa.exc.DBAPIError)
    assert shop.refusal.count == 1
    shop.refusal.on = False
    assert shop.visitor.get('/read').text == '1'


class Curious:
    """A security policy that looks at the session, and once more."""

    def __init__(self):
        self.seen = []

    def authenticated_userid(self, request):
        user = request.session.get('user')
        self.seen.append((user, len(request.session)))
        return user

    identity = authenticated_userid


@ON_SQLITE
def test_who_asks_for_the_user_before_the_view(refused):
    """D1, T10: is told of nobody; the view has the error, if it looks."""
    policy = Curious()
    shop = refused(
        configure=lambda config: config.set_security_policy(policy)
    )
    policy.seen.clear()
    assert shop.visitor.get('/ignore').text == 'fine'
    shop.visitor.get('/read', status=503)
    assert policy.seen == [(None, 0)] * 2
    assert shop.refusal.count == 2


@ON_SQLITE
def test_who_writes_before_the_view(refused):
    """D1, T8: hears at once that it is lost, whether the view looks or not."""

    class Writing(Curious):
        """A security policy that counts the requests."""

        def authenticated_userid(self, request):
            request.session['count'] = 1

        identity = authenticated_userid

    shop = refused(
        configure=lambda config: config.set_security_policy(Writing())
    )
    with pytest.raises(SessionStoreUnavailable):
        shop.visitor.get('/ignore')


@ON_SQLITE
def test_error_page_of_another_error_can_look_at_the_session(refused):
    """D1, T4: a layout that greets the visitor does not fail again."""

    def sorry(error, request):
        return Response(f'sorry {dict(request.session)}')

    shop = refused(
        configure=lambda config: config.add_exception_view(
            sorry, context=KeyError
        )
    )

    @shop.view
    def fail(request):
        raise KeyError

    response = shop.visitor.get('/fail')
    assert response.text == 'sorry {}'
    assert 'Set-Cookie' not in response.headers


@ON_SQLITE
def test_session_of_the_error_page_is_not_stored_later(refused, caplog):
    """D1: what an error page puts in begins no session; a line says so."""

    def sorry(error, request):
        request.session.flash('We are closed')
        return Response('closed')

    shop = refused(
        configure=lambda config: config.add_exception_view(
            sorry, context=SessionStoreUnavailable
        )
    )
    # Once in a minute, however many requests there are.
    for _ in range(3):
        response = shop.visitor.get('/read')
        assert response.text == 'closed'
        assert 'Set-Cookie' not in response.headers
    (said,) = [r for r in caplog.records if r.levelname == 'ERROR']
    assert said.getMessage() == (
        'the session could not be saved: the database does not answer'
    )
    assert said.exc_info is None
    shop.refusal.on = False
    assert len(shop.rows()) == 1
    assert shop.visitor.get('/read').text == '1'


@ON_SQLITE
def test_create_table_in_a_database_that_is_down(refused):
    """D1: it is answered as whatever else needs the database."""
    shop = refused()
    shop.views['create'] = lambda request: (
        request.session_store.create_table()
    )
    shop.visitor.get('/create', status=503)


def test_pool_that_is_used_up_is_503(make_site, caplog):
    """D1: no connection in time is no answer in time; the log says so once."""
    shop = with_views(make_site(engine_options={
        'poolclass': sa.QueuePool, 'pool_size': 1, 'max_overflow': 0,
        'pool_timeout': 0.05,
    }))
    browser = shop.browser()
    browser.get('/write')
    with shop.engine.connect():
        for _ in range(2):
            browser.get('/read', status=503)
        assert browser.get('/ignore').text == 'fine'
    assert browser.get('/read').text == '1'
    (said,) = [
        r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING
    ]
    assert said.startswith('no connection of the pool is free for a session: ')


# -- missing parts (D2) -------------------------------------------------------

USES = ['/read', '/write', '/count', '/revoke']


@pytest.mark.parametrize('path', USES)
def test_missing_table(make_site, path):
    """D2: the error names the table and the command, and is no 503."""
    shop = with_views(make_site(table_name='my_sessions'))
    browser = shop.browser()
    browser.get('/write')
    shop.execute('ALTER TABLE my_sessions RENAME TO away')
    with pytest.raises(SessionError) as caught:
        browser.get(path)
    assert not isinstance(caught.value, SessionStoreUnavailable)
    assert 'my_sessions' in str(caught.value)
    assert 'psessions' in str(caught.value)
    assert 'table' in str(caught.value)
    shop.execute('ALTER TABLE away RENAME TO my_sessions')
    browser.get(path)


def test_missing_table_and_first_write(make_site):
    """D2: without a cookie there is no read that could have told."""
    shop = with_views(make_site(create=False))
    Note.__table__.create(shop.outside)

    @shop.view
    def order(request):
        request.dbsession.add(Note(text='an order'))
        request.session['n'] = 1

    for path in ('/write', '/order'):
        with pytest.raises(SessionError, match='psessions'):
            shop.browser().get(path)
    assert shop.notes() == []
    assert shop.browser().get('/ignore').text == 'fine'
    assert shop.browser().get('/read').text == ''


@pytest.mark.parametrize('column', ['rotated', 'data'])
@pytest.mark.parametrize('path', ['/read', '/write'])
def test_missing_column(shop, path, column):
    """D2: a table of an earlier version says so too."""
    browser = shop.browser()
    browser.get('/write')
    shop.execute(f'ALTER TABLE sessions DROP COLUMN {column}')
    with pytest.raises(SessionError, match='psessions') as caught:
        browser.get(path)
    assert 'sessions' in str(caught.value)
    assert column in str(caught.value)


def test_missing_additional_field(shop, make_site):
    """D2, D3: a field that was added to the ini, but not to the table."""
    later = with_views(make_site(
        additional_fields='user_id: Integer\nnote: String(8)', create=False
    ))
    browser = later.browser()
    with pytest.raises(SessionError, match='psessions') as caught:
        browser.get('/write')
    assert 'note' in str(caught.value)


@ON_SERVERS
@pytest.mark.parametrize('path', ['/write', '/grow'])
@pytest.mark.parametrize('fields', ['', 'note: String(8)'])
def test_a_column_for_the_data_that_is_too_narrow(
    make_site, database, fields, path
):
    """D2, D3: a table made by hand: the error does not blame the fields."""
    site = make_site(additional_fields=fields)
    site.views['write'] = put(n='x' * 100)
    site.views['grow'] = lambda request: request.session.update(
        n='x' * 100, note='y'
    )
    site.views['begin'] = put(n=1)
    browser = site.browser()
    if path == '/grow':
        browser.get('/begin')
    how = 'ALTER COLUMN data TYPE' if database.name == 'postgresql' else (
        'MODIFY data'
    )
    site.execute(f'ALTER TABLE sessions {how} VARCHAR(80)')
    before = site.rows()
    with pytest.raises(SessionError, match='LONGTEXT') as caught:
        browser.get(path)
    assert 'the data of the session' in str(caught.value)
    # PostgreSQL does not say which column it is.
    blames = bool(fields) and database.name == 'postgresql'
    assert ('(note)' in str(caught.value)) == blames
    assert site.rows() == before


@ON_SERVERS
def test_a_column_for_a_field_that_is_too_narrow(make_site, database):
    """D2, D3: the error does not blame the data where it is known."""
    site = make_site(additional_fields='note: String(8)')
    site.views['write'] = put(note='1234567')
    how = 'ALTER COLUMN note TYPE' if database.name == 'postgresql' else (
        'MODIFY note'
    )
    site.execute(f'ALTER TABLE sessions {how} VARCHAR(4)')
    with pytest.raises(SessionError, match=r'\(note\)') as caught:
        site.browser().get('/write')
    blames = database.name == 'postgresql'
    assert ('the data of' in str(caught.value)) == blames


def test_missing_table_of_the_application_is_its_own_error(shop):
    """D2: we do not speak for tables that are not ours."""

    @shop.view
    def view(request):
        request.session['n'] = 1
        request.dbsession.add(Note(text='x'))

    shop.execute('DROP TABLE notes')
    with pytest.raises(sa.exc.DBAPIError):
        shop.browser().get('/view')
    assert shop.rows() == []


# -- values that cannot be stored ---------------------------------------------


def test_too_large(make_site):
    """Section 2: above ``max_size`` nothing at all is stored."""
    shop = with_views(make_site(max_size='1KiB'))

    @shop.view
    def large(request):
        request.dbsession.add(Note(text='lost'))
        request.session['text'] = 'x' * 2000

    with pytest.raises(SessionTooLarge) as caught:
        shop.browser().get('/large')
    assert caught.value.limit == 1024
    assert caught.value.size > 2000
    assert 'sqlasession.max_size' in str(caught.value)
    assert shop.rows() == []
    assert shop.notes() == []


@ON_SQLITE
def test_record_stays_when_it_would_become_too_large(make_site):
    """Section 2: the session is that of before, and works on."""
    shop = with_views(make_site(max_size='1KiB'))

    @shop.view
    def large(request):
        request.session['text'] = 'x' * 2000

    browser = shop.browser()
    browser.get('/write')
    before = shop.rows()
    with pytest.raises(SessionTooLarge):
        browser.get('/large')
    assert shop.rows() == before
    browser.get('/write')
    assert shop.data() == {'n': 2}


@ON_SQLITE
@pytest.mark.parametrize('letter', ['x', 'ß', '\U0001f36a'])
def test_size_counts_bytes(make_site, letter):
    """Section 2: ``max_size`` is of the serialized data, in bytes."""
    shop = make_site(max_size='4KiB')

    @shop.view
    def put(request):
        request.session['t'] = letter * int(request.params['count'])

    # {"t":"..."}
    fits = (4096 - 8) // len(letter.encode())
    shop.browser().get(f'/put?count={fits}')
    with pytest.raises(SessionTooLarge):
        shop.browser().get(f'/put?count={fits + 1}')
    assert len(shop.rows()) == 1


@pytest.mark.parametrize('path', ['/read', '/write'])
def test_a_renewal_at_the_limit(make_site, path):
    """R11: what it keeps beside the data does not make them too large."""
    text = 'x' * 100
    limit = len(f'{{"n":"{text}"}}')
    site = with_views(make_site(max_size=limit, renewal_interval='1h'))
    site.views['write'] = put(n=text)
    browser = site.browser()
    browser.get('/write')
    token, (before,) = site.token(browser), site.rows()
    site.views['write'] = put(n='y' * 100)
    site.clock.advance(hours=2)
    browser.get(path)
    assert site.token(browser) != token
    (after,) = site.rows()
    assert after['expires'] > before['expires']
    # The limit itself stays what it is.
    site.views['write'] = put(n='y' * 101)
    with pytest.raises(SessionTooLarge) as caught:
        browser.get('/write')
    assert caught.value.size == limit + 1
    assert site.rows() == [after]


@ON_SQLITE
def test_a_renewal_above_a_limit_that_was_lowered(make_site):
    """R11: a session in use does not run out for that."""
    site = with_views(make_site())
    site.views['write'] = put(n='x' * 100)
    browser = site.browser()
    browser.get('/write')
    site = with_views(make_site(
        max_size=50, renewal_interval='1h', create=False
    ))
    browser, (before,) = site.browser(like=browser), site.rows()
    site.clock.advance(hours=2)
    token = site.token(browser)
    browser.get('/read')
    assert site.token(browser) != token
    (after,) = site.rows()
    assert after['expires'] > before['expires']


@ON_SQLITE
def test_sessions_that_are_too_large_together(make_site, stage):
    """C1, Section 2: two changes that fit alone, and not together."""
    shop = with_views(make_site(max_size='1KiB'))
    browser = shop.browser()
    browser.get('/write')

    @shop.view
    def slow(request):
        request.session['a'] = 'x' * 700
        stage.reach('slow')

    @shop.view
    def quick(request):
        request.session['b'] = 'x' * 700

    slow_one = stage.run(shop.browser(like=browser).get, '/slow')
    stage.wait('slow')
    browser.get('/quick')
    stage.let('slow')
    with pytest.raises(SessionTooLarge):
        slow_one.result()
    assert set(shop.data()) == {'n', 'b'}


@ON_SQLITE
@pytest.mark.parametrize(
    'value', [object(), {1: 'x'}, ['\ud800'], lambda: None, 1j], ids=shown
)
def test_value_of_another_type(shop, value):
    """R6: nothing is stored, of the application's data neither."""

    @shop.view
    def put(request):
        request.dbsession.add(Note(text='lost'))
        request.session['cart'] = [value]

    with pytest.raises(SessionNotSerializable, match='cart'):
        shop.browser().get('/put')
    assert shop.rows() == []
    assert shop.notes() == []


@ON_SQLITE
@pytest.mark.parametrize(
    'error', [SessionTooLarge, SessionNotSerializable],
    ids=lambda error: error.__name__,
)
def test_application_answers_what_cannot_be_stored(make_site, error):
    """Section 3: an exception view, whose words are stored (T3)."""

    def sorry(caught, request):
        request.session.flash('That was too much')
        return Response('sorry')

    shop = make_site(
        max_size='1KiB',
        configure=lambda config: config.add_exception_view(
            sorry, context=error
        ),
    )

    @shop.view
    def put(request):
        request.dbsession.add(Note(text='lost'))
        request.session['x'] = (
            'x' * 2000 if error is SessionTooLarge else object()
        )

    assert shop.browser().get('/put').text == 'sorry'
    assert shop.notes() == []
    assert shop.data() == {'_f_': ['That was too much']}


def with_charset(database, charset, name='charset'):
    """Return the URL of the database with another character set."""
    url = sa.make_url(database.url)
    changed = url.update_query_dict({name: charset})
    return changed.render_as_string(hide_password=False)


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
def test_a_connection_on_which_a_backslash_is_half_a_character(
    make_site, database, caplog
):
    """R3: the log says what a cookie can do there with some drivers."""
    make_site(url=with_charset(database, 'gbk'), create=False)
    (advice,) = [text for text in caplog.messages if 'charset=' in text]
    assert 'can send SQL' in advice
    assert len(advice) < 250


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
@pytest.mark.parametrize('fields', ['', 'n: Integer'])
@pytest.mark.parametrize('charset', ['utf8', 'latin1'])
@pytest.mark.parametrize('stored', [False, True], ids=['insert', 'update'])
def test_a_connection_that_sends_not_all_characters(
    make_site, database, caplog, charset, fields, stored
):
    """R6: the log and the error say what to do, and nothing is stored."""
    site = make_site(
        url=with_charset(database, charset), additional_fields=fields
    )
    (advice,) = [text for text in caplog.messages if 'charset=' in text]
    assert f'has charset={charset}, ' in advice
    assert len(advice) < 250
    site.views['begin'] = put(n=1)
    site.views['smile'] = put(text='\U0001f600')
    browser = site.browser()
    if stored:
        browser.get('/begin')
    before = site.rows()
    with pytest.raises(SessionError, match='charset=utf8mb4 in the') as caught:
        browser.get('/smile')
    assert 'additional fields' not in str(caught.value)
    assert 'LONGTEXT' not in str(caught.value)
    assert site.rows() == before


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
def test_characters_that_are_not_sent_in_the_words_of_mysql(make_site):
    """R6: it names the column as it quotes the text, which ends with a '"'."""
    site = make_site()
    site.views['smile'] = put(text='\U0001f600')
    said = "Incorrect string value: ''\\\\xF0\"}'' for column ''data'' at row"
    with refused_inserts(site, f"1366, MESSAGE_TEXT = '{said}'"):
        with pytest.raises(SessionError, match='charset=utf8mb4 in the'):
            site.browser().get('/smile')


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
@pytest.mark.parametrize('charset', ['utf8', 'latin1'])
def test_a_field_with_characters_that_are_not_sent(
    make_site, database, charset
):
    """D3: so does the error for a field, and for a value to find."""
    site = make_site(
        url=with_charset(database, charset), additional_fields='who: Text',
        extend_default_fields=lambda *args: {'who': '\U0001f600'},
    )
    site.views['put'] = put(n=1)
    site.views['find'] = lambda request: len(
        request.session_store.find(who='\U0001f600')
    )
    paths = ['/put'] if charset == 'utf8' else ['/put', '/find']
    for path in paths:
        with pytest.raises(SessionError, match='charset=utf8mb4 in the'):
            site.browser().get(path)


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
def test_a_url_with_the_character_set_that_has_all(
    make_site, database, caplog
):
    """R6: nothing is said about it."""
    site = make_site(url=with_charset(database, 'utf8mb4'))
    assert 'charset' not in caplog.text
    site.views['smile'] = put(text='\U0001f600')
    site.browser().get('/smile')
    assert site.data() == {'text': '\U0001f600'}


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_an_encoding_that_has_not_all_characters(make_site, database):
    """R6: the error says so, and what has a place there is stored."""
    site = make_site(url=with_charset(database, 'latin1', 'client_encoding'))
    site.views['put'] = put(text='Gr\xf6\xdfe')
    site.views['smile'] = put(text='\U0001f600')
    browser = site.browser()
    browser.get('/put')
    with pytest.raises(SessionError, match='a client_encoding, of UTF8'):
        browser.get('/smile')
    assert site.data() == {'text': 'Gr\xf6\xdfe'}
