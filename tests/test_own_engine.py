"""Sessions with an engine of their own (T0)."""

import gc
import weakref

import pytest
import sqlalchemy as sa
import transaction

from pyramid_sqlasession import SessionCreated
from pyramid_sqlasession import SessionError
from pyramid_sqlasession import SessionInvalidated
from pyramid_sqlasession import SessionRotated

from .failing import answering
from .failing import each_refusal
from .failing import Failure
from .failing import give_up_early
from .failing import kill_connections
from .failing import raiser
from .failing import refuse_commits
from .failing import Voter
from .forking import Child
from .given import Given
from .shop import with_views
from .site import Note
from .site import Statements

STORED = {'n': 1, 'list': [1]}

CHANGES = {
    'put': lambda session: session.update(n=2),
    'nested': lambda session: session.setdefault('list', []).append(2),
    'flash': lambda session: session.flash('Saved!'),
    'rotate': lambda session: session.rotate(),
    'invalidate': lambda session: session.invalidate(),
    'replace': lambda session: (session.invalidate(), session.update(n=3)),
}


class House:
    """A site and its sessions' own database."""

    def __init__(self, site):
        self.site = site
        application = site.application
        self.engine = application.engine
        self.table = application.records.table
        # For SQLite in memory the statements are seen in the same engine.
        self.statements = Statements(self.engine)

        with_views(site)

        @site.view
        def work(request):
            if 'dbsession' in dir(request):
                request.dbsession.add(Note(text='a note'))
            CHANGES[request.params['change']](request.session)
            return self.end(request)

    def listen(self):
        """Note the statements from now on."""
        self.statements.clear()

    def end(self, request):
        """Replaced by tests: what the view ``work`` ends with."""

    def rows(self):
        """Return the records, read with another connection."""
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(self.table)).mappings()
            return [dict(row) for row in rows]

    def data(self):
        """Return the decoded data of the only record."""
        (row,) = self.rows()
        return self.site.application.codec.read(row['data'])[0]

    def start_over(self):
        """Remove everything; return a browser with a stored session."""
        with self.engine.begin() as connection:
            connection.execute(sa.delete(self.table))
        if self.site.registry.get('dbsession_factory'):
            self.site.execute('DELETE FROM notes')
        browser = self.site.browser()
        browser.get('/fill')
        return browser


def second_url(database, tmp_path):
    """Return the URL of the sessions' database."""
    if database.name == 'sqlite':
        # Two writers of one file would lock each other out.
        return f'sqlite:///{tmp_path}/sessions.sqlite'
    return database.url


@pytest.fixture(params=['own database', 'no dbsession', 'sqlalchemy.url'])
def settings(request, database, tmp_path):
    """The ways in which sessions come to an engine of their own."""
    url = second_url(database, tmp_path)
    return {
        'own database': {'url': url},
        'no dbsession': {'url': url, 'with_dbsession': False},
        # With the thread's manager, for a change.
        'sqlalchemy.url': {
            'sqlalchemy.url': url, 'with_dbsession': False,
            'tm.manager_hook': None,
        },
    }[request.param]


@pytest.fixture
def make_house(make_site):
    """A function that makes a ``House``."""

    def make(**settings):
        return House(make_site(**settings))

    yield make
    # The thread's manager is the next test's too.
    transaction.abort()


@pytest.fixture
def own(make_house, database, tmp_path):
    """A function that makes one with a dbsession and another database."""

    def make(**settings):
        return make_house(url=second_url(database, tmp_path), **settings)

    return make


def test_each_change_is_committed(make_house, settings):
    """T0: the session commits with ``request.tm``, the cookie fits it."""
    house = make_house(**settings)
    expected = {
        'put': {'n': 2, 'list': [1]},
        'nested': {'n': 1, 'list': [1, 2]},
        'flash': STORED | {'_f_': ['Saved!']},
        'rotate': STORED,
        'replace': {'n': 3},
    }
    for change in CHANGES:
        browser = house.start_over()
        browser.get(f'/work?change={change}')
        if change == 'invalidate':
            assert house.rows() == []
            assert house.site.token(browser) is None
            continue
        assert (change, house.data()) == (change, expected[change])
        assert browser.get('/show').text == str(expected[change])
        if settings.get('with_dbsession', True):
            assert house.site.notes() == ['a note']


def doom(request):
    request.tm.doom()


def veto(request):
    request.response.status = 409
    return request.response


def abort(request):
    request.tm.abort()
    request.tm.begin()


def fail(request):
    raise Failure


def fail_vote(request):
    Voter(request, raiser())


def test_nothing_is_stored_after_an_abort(make_house, settings):
    """T0, T2: no record, no cookie, no event, however it came to it."""
    house = make_house(**{
        'tm.commit_veto': 'pyramid_tm.default_commit_veto',
    }, **settings)
    browser, stranger = house.start_over(), house.site.browser()
    before, token = house.rows(), house.site.token(browser)
    with house.site.events(
        SessionCreated, SessionInvalidated, SessionRotated
    ) as events:
        for house.end in (doom, veto, abort, fail, fail_vote):
            for change in CHANGES:
                for visitor in (browser, stranger):
                    try:
                        visitor.get(
                            f'/work?change={change}', expect_errors=True
                        )
                    except Failure:
                        assert house.end in (fail, fail_vote)
                    assert (house.end, change, house.rows()) == (
                        house.end, change, before
                    )
    assert events == []
    assert house.site.token(browser) == token
    assert house.site.token(stranger) is None
    assert browser.get('/show').text == str(STORED)


def test_an_exception_view(own):
    """T0, T3: the view's words are gone, the error page's are stored."""
    house = own(
        configure=answering(
            lambda request: request.session.flash('Please log in')
        ),
    )
    house.end = fail
    browser = house.start_over()
    browser.get('/work?change=flash')
    assert house.data() == STORED | {'_f_': ['Please log in']}
    stranger = house.site.browser()
    stranger.get('/work?change=flash')
    assert stranger.get('/show').text == "{'_f_': ['Please log in']}"


def test_an_exception_view_and_a_commit(own):
    """T0, T3: with a veto that lets it pass both words are stored."""
    house = own(
        configure=answering(
            lambda request: request.session.flash('Please log in')
        ), **{'tm.commit_veto': lambda request, response: False},
    )
    house.end = fail
    house.start_over().get('/work?change=flash')
    assert house.data() == STORED | {'_f_': ['Saved!', 'Please log in']}


def test_statements(own):
    """T0, D4: no more statements than with the application's engine."""
    house = own()
    browser = house.start_over()
    for path, verbs in [
        ('/show', ['SELECT']),
        ('/work?change=put', ['SELECT', 'UPDATE']),
        ('/work?change=rotate', ['SELECT', 'UPDATE']),
        ('/work?change=invalidate', ['SELECT', 'DELETE']),
        ('/show', []),
        ('/work?change=put', ['INSERT']),
    ]:
        house.listen()
        browser.get(path)
        assert (path, house.statements.verbs) == (path, verbs)
        house.site.execute('DELETE FROM notes')


def test_the_applications_engine_is_left_alone(own):
    """T0: the sessions send it nothing."""
    house = own()
    browser = house.start_over()
    house.site.listen()
    browser.get('/show')
    browser.get('/work?change=put')
    house.site.clock.advance(minutes=10)
    browser.get('/show')
    assert all('notes' in text for text in house.site.statements)


def test_a_session_that_is_only_read_commits_the_rows(own):
    """T0: rows do not need a change of the session to be committed."""
    house = own()

    @house.site.view
    def add(request):
        request.dbsession.add(Note(text=request.session['n'] * 'x'))

    house.start_over().get('/add')
    assert house.site.notes() == ['x']


def test_the_applications_commit_fails(own, database):
    """T0: then nothing of the session is stored either."""
    house = own()

    @house.site.view
    def add(request):
        request.session['n'] = 2
        request.dbsession.add_all([Note(text='same'), Note(text='same')])

    browser = house.start_over()
    with pytest.raises(sa.exc.IntegrityError):
        browser.get('/add')
    assert house.data() == STORED


def test_the_applications_last_word_is_a_failure(own):
    """T0, T2: its COMMIT comes first, as it is more likely to fail."""
    house = own()

    def stop(connection):
        if house.armed:
            house.armed = False
            raise Failure

    house.armed = False
    sa.event.listen(house.site.engine, 'commit', stop)
    browser = house.start_over()

    def arm(request):
        house.armed = True

    house.end = arm
    with pytest.raises(Failure):
        browser.get('/work?change=put')
    assert house.data() == STORED
    assert house.site.notes() == []
    assert browser.get('/show').text == str(STORED)


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_an_abort_of_a_connection_that_was_lost(own, caplog):
    """T0, T2, T3: it takes the view's words back, and nobody else's."""
    house = own(configure=answering(
        lambda request: request.session.update(sorry=True)
    ))
    browser = house.start_over()

    def lose():
        kill_connections(house.site.database)
        raise Failure

    house.end = lambda request: Voter(request, lose)
    browser.get('/work?change=put')
    assert house.data() == STORED | {'sorry': True}
    assert 'closing the connection failed' in caplog.text


def test_commit_and_abort_by_hand(own):
    """T0, T9: what was committed stays, the rest is gone."""
    house = own()

    @house.site.view
    def half(request):
        request.session['a'] = 1
        request.tm.commit()
        assert house.data()['a'] == 1
        request.tm.begin()
        request.session['b'] = 2
        request.tm.abort()
        request.tm.begin()
        request.session['c'] = 3

    house.start_over().get('/half')
    assert house.data() == STORED | {'a': 1, 'c': 3}


def test_a_savepoint(own):
    """T0, T9: after its rollback the session is what it was there."""
    house = own()

    @house.site.view
    def maybe(request):
        request.session['a'] = 1
        savepoint = request.tm.savepoint()
        request.session['b'] = 2
        request.session.invalidate()
        savepoint.rollback()
        request.session['c'] = 3

    house.start_over().get('/maybe')
    assert house.data() == STORED | {'a': 1, 'c': 3}


def test_the_store(own):
    """T0: it commits and aborts with ``request.tm``."""
    house = own()

    @house.site.view
    def revoke(request):
        count = request.session_store.revoke_all()
        if 'fail' in request.params:
            request.tm.doom()
        return count

    browser = house.start_over()
    assert house.site.browser().get('/revoke?fail=1').text == '1'
    assert browser.get('/show').text == str(STORED)
    assert house.site.browser().get('/revoke').text == '1'
    assert browser.get('/show').text == '{}'


@pytest.mark.parametrize('look', ['before', 'after'])
def test_the_session_after_the_store_has_ended_it(
    make_house, settings, look
):
    """T0, C4: the request sees its own revocation, revives nothing."""
    house = make_house(**settings)

    @house.site.view
    def revoke(request):
        if look == 'before':
            len(request.session)
        request.session_store.revoke_all()
        if look == 'after':
            return dict(request.session)
        request.session['n'] = 2
        return '{}'

    browser = house.start_over()
    assert browser.get('/revoke').text == '{}'
    assert house.rows() == []
    assert browser.get('/show').text == '{}'


@pytest.mark.parametrize('kept', [True, False])
def test_the_store_in_a_given_transaction(own, kept):
    """T0, T7: what follows in it waits for no lock of its own."""
    house = own(
        additional_fields='user_id: Integer index', max_sessions_per_user=1,
    )
    give_up_early(house.engine)

    @house.site.view
    def revoke(request):
        count = request.session_store.revoke_all()
        request.session['user_id'] = 7
        return count

    browser = house.start_over()
    given = Given(house.site)
    visitor = given.browser()
    try:
        visitor.get('/fill')
        assert visitor.get('/revoke').text == '2'
        assert visitor.get('/show').text == "{'user_id': 7}"
        house.site.clock.advance(minutes=10)
        assert visitor.get('/show').text == "{'user_id': 7}"
        if kept:
            given.commit()
    finally:
        given.abort()
    assert house.engine.pool.checkedout() == 0
    expected = '{}' if kept else str(STORED)
    assert browser.get('/show').text == expected
    assert house.site.browser(like=visitor).get('/show').text == (
        "{'user_id': 7}" if kept else '{}'
    )


def test_a_pool_of_one_connection_is_enough(make_house, settings):
    """T0: a request holds one connection of the sessions' own at most."""
    prefix = 'engine' if 'url' in settings else 'sqlalchemy'
    house = make_house(**{
        f'{prefix}.{name}' if prefix == 'sqlalchemy'
        else f'sqlasession.{prefix}.{name}': value
        for name, value in (
            ('pool_size', '1'), ('max_overflow', '0'), ('pool_timeout', '2'),
        )
    }, **settings)

    @house.site.view
    def everything(request):
        request.session_store.count()
        assert request.session['n'] == 1
        request.session['n'] = 2
        request.session_store.find()
        request.session.rotate()
        request.add_response_callback(
            lambda request, response: request.session.update(late=True)
        )

    browser = house.start_over()
    browser.get('/everything')
    assert house.data() == STORED | {'n': 2, 'late': True}
    house.site.clock.advance(minutes=10)
    assert "'n': 2" in browser.get('/show').text
    assert house.engine.pool.checkedout() == 0


def test_due_touches_survive_an_abort(own):
    """T0, E2: they are no part of the transaction."""
    house = own()

    @house.site.view
    def read(request):
        assert request.session['n'] == 1
        request.tm.doom()

    browser = house.start_over()
    (before,) = house.rows()
    house.site.clock.advance(minutes=10)
    response = browser.get('/read')
    (after,) = house.rows()
    assert after['expires'] > before['expires']
    assert 'Set-Cookie' in response.headers


def test_no_transaction(own):
    """T0, T8: with pyramid_tm inactive the session is stored at once."""
    house = own(
        **{'tm.activate_hook': lambda request: False}
    )
    browser = house.site.browser()
    browser.get('/fill')
    assert browser.get('/show').text == str(STORED)
    assert house.engine.pool.checkedout() == 0


def test_two_requests_at_once(own, stage):
    """T0, T6, C1: no lock while the view runs, both keys are kept."""
    house = own()

    @house.site.view
    def slow(request):
        request.session[request.params['key']] = True
        stage.reach(request.params['key'])

    one = house.start_over()
    other = stage.run(house.site.browser(like=one).get, '/slow?key=slow')
    stage.wait('slow')
    stage.let('quick')
    one.get('/slow?key=quick')
    stage.let('slow')
    other.result()
    assert house.data() == STORED | {'slow': True, 'quick': True}


def test_retried(own):
    """T0, T5: one record and one cookie after three attempts."""
    house = own(retry=True)

    @house.site.view
    def attempt(request):
        request.session['n'] = request.session.get('n', 0) + 1
        if request.environ['retry.attempt'] < 2:
            raise transaction.interfaces.TransientError

    browser = house.site.browser()
    browser.get('/attempt')
    assert house.data() == {'n': 1}
    assert browser.get('/show').text == "{'n': 1}"


@pytest.mark.parametrize('database', ['sqlite'], indirect=True)
@pytest.mark.parametrize('with_dbsession', [True, False])
def test_a_database_in_memory(make_house, with_dbsession):
    """T0: a whole site works on ``sqlite://``, as tests like to."""
    house = make_house(url='sqlite://', with_dbsession=with_dbsession)

    @house.site.view
    def revoke(request):
        request.session_store.revoke_all()
        request.session['n'] = 9
        return dict(request.session)

    browser = house.start_over()
    browser.get('/work?change=rotate')
    assert browser.get('/show').text == str(STORED)
    house.site.clock.advance(minutes=10)
    assert browser.get('/show').text == str(STORED)
    assert browser.get('/revoke').text == "{'n': 9}"
    assert house.data() == {'n': 9}


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_an_option_that_no_ini_file_can_say(make_house, settings):
    """T0: what ``main()`` puts into the settings gets to the driver."""
    prefix = 'sqlasession.engine' if 'url' in settings else 'sqlalchemy'
    house = make_house(**{
        f'{prefix}.connect_args': {'prepare_threshold': None},
    }, **settings)
    with house.engine.connect() as connection:
        assert connection.connection.prepare_threshold is None


@pytest.mark.parametrize('database', ['postgresql', 'mariadb'], indirect=True)
def test_a_forked_process_connects_anew(make_house, settings, database):
    """T0, E3: the connection in the pool is the parent's, and stays so."""
    house = make_house(**settings)
    browser = house.start_over()
    identity = sa.text({
        'postgresql': 'SELECT pg_backend_pid()',
        'mariadb': 'SELECT CONNECTION_ID()',
    }[database.name])

    def connected():
        with house.engine.connect() as connection:
            return connection.scalar(identity)

    before, pool = connected(), weakref.ref(house.engine.pool)

    def look():
        gc.collect()
        return (
            browser.get('/show').text == str(STORED)
            and connected() != before
            # Not collected, by which some drivers end the parent's.
            and pool() is not None
        )

    assert Child(look).is_fine()
    assert connected() == before


@pytest.mark.parametrize('database', ['sqlite'], indirect=True)
def test_a_forked_process_has_its_database_in_memory(make_house):
    """T0: it is a copy, and not thrown away."""
    house = make_house(url='sqlite://')
    browser = house.start_over()
    child = Child(lambda: browser.get('/show').text == str(STORED))
    assert child.is_fine()


@pytest.mark.parametrize('database', ['sqlite'], indirect=True)
def test_an_sqlite_file_of_their_own_is_set_up(make_house, settings):
    """T0: readers and the writer do not block each other, writers wait."""
    with make_house(**settings).engine.connect() as connection:
        found = [
            connection.exec_driver_sql(f'PRAGMA {name}').scalar()
            for name in ('journal_mode', 'busy_timeout', 'synchronous')
        ]
    assert found == ['wal', 30000, 1]


@pytest.mark.parametrize('database', ['postgresql', 'mariadb'], indirect=True)
def test_an_sqlite_file_beside_a_server(make_house, tmp_path):
    """T0: the two databases may be of two kinds."""
    house = make_house(url=f'sqlite:///{tmp_path}/sessions.sqlite')
    browser = house.start_over()
    browser.get('/work?change=put')
    assert house.data()['n'] == 2
    assert house.site.notes() == ['a note']
    house.end = doom
    browser.get('/work?change=invalidate')
    assert house.data()['n'] == 2


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
@each_refusal
def test_the_commit_of_the_sessions_meets_a_conflict(
    own, failures, state, tries
):
    """T0, T3: the session is written again, the request does not run again."""
    # Its data are committed; only after a conflict, and not for ever.
    house = own(retry=3)
    browser = house.start_over()
    tried = refuse_commits(house.site, failures, state)
    if failures < tries:
        browser.get('/work?change=put')
        assert house.data() == {'n': 2, 'list': [1]}
    else:
        with pytest.raises(SessionError, match='were committed, but'):
            browser.get('/work?change=put')
        assert house.data() == STORED
    assert house.site.notes() == ['a note']
    assert tried() == tries


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_the_commit_of_a_revocation_meets_a_conflict(own):
    """T0, C4: it is done again with the rest of the transaction."""
    house = own(retry=3)
    house.start_over()
    (other,) = house.rows()
    browser = house.site.browser()
    browser.get('/fill')

    @house.site.view
    def revoke(request):
        request.session['n'] = 2
        return request.session_store.revoke(other['id'])

    tried = refuse_commits(house.site, 2, '40001', after='UPDATE OR DELETE')
    assert browser.get('/revoke').text == '1'
    assert tried() == 4
    assert house.data() == {'n': 2, 'list': [1]}


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_the_commit_of_the_sessions_meets_a_change(own):
    """T0, C2: nor does it run again with ``retry`` if the key was changed."""
    # Before the session could be written again.
    house = own(conflict='retry', retry=3)
    browser = house.start_over()
    refuse_commits(house.site, 1, '40001')

    def change_too(context):
        house.site.execute(
            'UPDATE sessions SET version = version + 1, data = :data '
            'WHERE version = 1', data='{"n":7}',
        )

    # The COMMIT was refused, and the row's lock is gone with it.
    sa.event.listen(house.engine, 'handle_error', change_too)
    with pytest.raises(SessionError, match='were committed, but'):
        browser.get('/work?change=put')
    assert house.site.notes() == ['a note']
    assert house.data() == {'n': 7}


@pytest.mark.parametrize('database', ['sqlite'], indirect=True)
def test_the_commit_of_the_sessions_fails(own):
    """T0, T2: nothing of it is stored, now or with the next COMMIT."""
    house = own()
    sa.event.listen(
        house.engine, 'connect',
        lambda connection, record: connection.execute(
            'PRAGMA foreign_keys = ON'
        ),
    )
    house.engine.dispose()
    browser = house.start_over()
    token = house.site.token(browser)
    with house.engine.begin() as connection:
        for sql in (
            'CREATE TABLE parents (id INTEGER PRIMARY KEY)',
            'CREATE TABLE children (parent INTEGER REFERENCES parents (id) '
            'DEFERRABLE INITIALLY DEFERRED)',
            'CREATE TRIGGER refuse AFTER INSERT ON sessions '
            'BEGIN INSERT INTO children VALUES (1); END',
        ):
            connection.execute(sa.text(sql))
    with pytest.raises(SessionError, match='were committed, but'):
        browser.get('/work?change=replace')
    # The application's COMMIT came first: the docs say so.
    assert house.site.notes() == ['a note']
    assert house.site.token(browser) == token
    house.site.execute('DELETE FROM notes')
    browser.get('/work?change=put')
    assert house.data() == {'n': 2, 'list': [1]}
    assert house.engine.pool.checkedout() == 0


def test_under_the_cookiecutters_fixtures(make_house, settings):
    """T0, T7: what a test stores is committed at once, and seen by it."""
    house = make_house(**settings)
    tm = transaction.TransactionManager(explicit=True)
    tm.begin()
    tm.doom()
    browser = house.site.browser(**{'tm.active': True, 'tm.manager': tm})
    browser.get('/fill')
    assert browser.get('/show').text == str(STORED)
    tm.abort()
    assert house.data() == STORED
