"""What the application has chosen for its connections, and what is done to
its session with one of them: neither changes the other.
"""

import pymysql
import pytest
import sqlalchemy as sa

from pyramid_sqlasession import SessionStoreUnavailable
from pyramid_sqlasession.dialects import UpdateLatest
from pyramid_sqlasession.scripts import batches

from .failing import Failure
from .failing import refused_inserts
from .failing import TERMINATE
from .meeting import isolate_snapshots
from .meeting import look
from .meeting import open_snapshot
from .meeting import put

postgresql = pytest.mark.parametrize(
    'database',
    ['postgresql', 'postgresql+psycopg2', 'postgresql+pg8000'],
    indirect=True,
)

LEVEL = sa.text('SHOW transaction_isolation')


def anew(request):
    """End the session and begin another one: two statements."""
    request.session.invalidate()
    request.session['n'] = 2


@pytest.fixture
def make_single(make_site):
    """A function that makes a site with a single connection.

    It takes a function of the driver's connection that is called for each new
    one, or whenever the pool hands it out.
    """

    def make(prepare, when='connect'):
        site = make_site(engine_options={'pool_size': 1, 'max_overflow': 0})
        site.views.update(put=put(n=1), look=look, anew=anew)
        # Connected once before: SQLAlchemy has asked what the default is.
        sa.event.listen(site.engine, when, lambda raw, *_: prepare(raw))
        site.engine.dispose()
        # By SQLAlchemy's way.
        site.listen()
        return site

    return make


def by_statement(raw):
    """Say it to the server."""
    raw.cursor().execute(
        'SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL '
        'SERIALIZABLE'
    )
    raw.commit()


def by_attribute(raw):
    """Say it to the driver, if it can be told."""
    if type(raw).__module__.startswith('pg8000'):
        by_statement(raw)
    elif type(raw).__module__.startswith('psycopg2'):
        raw.isolation_level = 'SERIALIZABLE'
    else:
        raw.isolation_level = 4  # psycopg.IsolationLevel.SERIALIZABLE


@postgresql
@pytest.mark.parametrize('prepare', [by_statement, by_attribute])
def test_the_level_that_a_listener_has_set(make_single, prepare):
    """T0: the application's next transaction is at its own level."""
    site = make_single(prepare)

    @site.view
    def level(request):
        return request.dbsession.scalar(LEVEL)

    browser = site.browser()
    for path in ('/put', '/look', '/anew'):
        assert browser.get('/level').text == 'serializable'
        browser.get(path)
    assert browser.get('/level').text == 'serializable'
    with site.application.database.own_transaction() as connection:
        assert connection.scalar(LEVEL) == 'read committed'


def commit_each(raw):
    """Have each statement committed at once."""
    raw.autocommit = True


@postgresql
def test_a_connection_in_autocommit_stays_so(make_single):
    """T0: what the application writes past pyramid_tm is committed."""
    site = make_single(commit_each)
    browser = site.browser()
    for path in ('/put', '/look', '/anew'):
        browser.get(path)
        with site.engine.connect() as connection:
            assert connection.connection.dbapi_connection.autocommit is True


@pytest.mark.parametrize(
    'database',
    ['postgresql', 'postgresql+psycopg2', 'postgresql+pg8000', 'mariadb'],
    indirect=True,
)
@pytest.mark.parametrize('how', ['engine', 'option'])
def test_two_statements_where_each_is_committed(make_site, how):
    """T2: a session that could not begin has not ended the one before."""
    options = {'isolation_level': 'AUTOCOMMIT'}
    # With a unique field the first one ends before the second one begins.
    site = make_site(
        additional_fields='seat: Integer unique',
        engine_options=options if how == 'engine' else {},
    )
    site.views.update(put=put(n=1), anew=anew)
    database = site.application.database
    if how == 'option':
        database._engine = site.engine.execution_options(**options)
    browser = site.browser()
    browser.get('/put')
    number = 'P0001' if site.database.name == 'postgresql' else 1644
    with refused_inserts(site, number), pytest.raises(sa.exc.DBAPIError):
        browser.get('/anew')
    assert site.data() == {'n': 1}
    browser.get('/anew')
    assert site.data() == {'n': 2}


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
def test_a_node_that_refuses_to_begin(make_site, monkeypatch):
    """D1: the connection to a node that answers 1047 is replaced."""
    site = make_site(engine_options={
        'isolation_level': 'AUTOCOMMIT', 'pool_size': 1, 'max_overflow': 0,
    })
    site.views.update(put=put(n=1), anew=anew)
    browser = site.browser()
    browser.get('/put')
    database = site.application.database
    with site.engine.connect() as connection:
        before = connection.connection.dbapi_connection

    def refuse(*args):
        raise pymysql.OperationalError(1047, 'WSREP has not yet prepared')

    with monkeypatch.context() as broken:
        for name in ('do_execute', 'do_execute_no_params'):
            broken.setattr(site.engine.dialect, name, refuse)
        with pytest.raises(SessionStoreUnavailable):
            database.own_transaction().__enter__()
    with site.engine.connect() as connection:
        assert connection.connection.dbapi_connection is not before


def begin(raw):
    """Say something that a ROLLBACK takes back."""
    raw.cursor().execute("SET application_name = 'shop'")


@postgresql
def test_a_listener_that_begins_the_transaction(make_single):
    """T8: what it has said holds for the session's statements, too."""
    site = make_single(begin, 'checkout')
    name = sa.text('SHOW application_name')
    browser = site.browser()
    for path, data in (('/put', {'n': 1}), ('/anew', {'n': 2})):
        browser.get(path)
        assert site.data() == data
        assert browser.get('/look').text == str(data)
    database = site.application.database
    assert database.read_aside(lambda found: found.scalar(name)) == 'shop'
    with database.own_transaction() as connection:
        assert connection.scalar(name) == 'shop'


def look_aside(raw):
    """Choose the schema, in a transaction that is not ended."""
    raw.cursor().execute('SET search_path TO aside')


@postgresql
def test_a_listener_that_chooses_the_schema(make_site):
    """Section 2, E3, C4: sessions are stored there, expire there and end."""

    def follow(config):
        engine = config.registry['dbsession_factory'].kw['bind']
        with engine.begin() as connection:
            connection.exec_driver_sql('CREATE SCHEMA aside')
        sa.event.listen(engine, 'checkout', lambda raw, *_: look_aside(raw))

    site = make_site(
        create=False, create_table='true', check_expiration_interval='1d',
        configure=follow,
    )
    site.views['put'] = put(n=1)
    site.browser().get('/put')
    count = sa.text('SELECT count(*) FROM aside.sessions')
    with site.engine.connect() as connection:
        assert connection.scalar(count) == 1
        connection.rollback()
        site.clock.advance(days=30)
        assert site.application.cleaner.clean() == 1
        assert site.application.cleaner.clean() == 0
        assert connection.scalar(count) == 0
    site.browser().get('/put')
    table = site.application.records.table
    assert batches.execute(site.application, sa.delete(table)) == 1


@pytest.mark.usefixtures('no_socket_left')
@pytest.mark.filterwarnings('ignore:unclosed <socket')
@postgresql
def test_a_connection_that_cannot_be_as_it_was(make_single):
    """D1: it is replaced, and hides no other error."""
    site = make_single(commit_each)
    site.browser().get('/put')

    def fail():
        with site.application.database.own_transaction() as connection:
            connection.execute(LEVEL)
            site.execute(TERMINATE)
            raise Failure

    with pytest.raises(Failure):
        fail()
    browser = site.browser()
    browser.get('/put')
    assert browser.get('/look').text == "{'n': 1}"


def take_the_seat(request):
    """Begin a session with a value of one that is over."""
    request.session.update(seat='7A', n=2)


def clean_up(request):
    """Delete those that are over in the request's transaction."""
    assert request.session_store.delete_expired() == 1


@pytest.mark.parametrize('database', ['mariadb', 'galera'], indirect=True)
@pytest.mark.parametrize(
    ('act', 'left'), [(take_the_seat, [2]), (clean_up, [])]
)
def test_what_is_over_has_changed_since_the_snapshot(make_site, act, left):
    """C7, E1: MariaDB's default from 11.6.2 on refuses only others' writes."""
    site = make_site(
        additional_fields='seat: String(8) unique\nn: Integer',
        expiration='1h',
    )
    isolate_snapshots(site)
    site.views['sit'] = lambda request: request.session.update(seat='7A', n=1)
    site.browser().get('/sit')
    site.clock.advance(hours=2)

    @site.view
    def work(request):
        open_snapshot(request)
        site.execute('UPDATE sessions SET n = 3')
        act(request)

    site.browser().get('/work')
    assert [row['n'] for row in site.rows()] == left


@pytest.mark.parametrize(('version', 'begins'), [
    ((10, 11, 19), '/*M!101108 SET STATEMENT'),
    ((11, 2, 3), 'UPDATE'), ((11, 3, 2), 'UPDATE'),
    ((11, 4, 2), '/*M!110402 SET STATEMENT'), ((12, 0), '/*M!110402 SET'),
    # As long as nobody has connected.
    (None, 'UPDATE'),
])
def test_a_mariadb_that_may_not_know_the_setting(version, begins):
    """C7: of a series in which some know it each is spared the question."""
    dialect = sa.create_engine('mariadb+pymysql://').dialect
    dialect.server_version_info = version
    statement = UpdateLatest(sa.table('t', sa.column('n'))).values(n=1)
    assert str(statement.compile(dialect=dialect)).startswith(begins)
