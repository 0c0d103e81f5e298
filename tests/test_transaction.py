"""The session in the transaction of the request (T1 to T4, T9)."""

from pyramid.httpexceptions import HTTPFound
from pyramid.request import Request
from pyramid.response import Response
from pyramid.tweens import EXCVIEW
import pytest
import sqlalchemy as sa
import transaction
from zope.sqlalchemy import mark_changed

from pyramid_sqlasession import SessionCreated
from pyramid_sqlasession import SessionInvalidated
from pyramid_sqlasession import SessionRotated

from .failing import answering
from .failing import Failure
from .failing import give_up_early
from .failing import on_sqlite
from .failing import raiser
from .failing import Voter
from .site import Note

#: What the application's sites in this file are made with.
MANAGERS = {'explicit': 'pyramid_tm.explicit_manager', 'implicit': None}

#: What a view can do to its session.
CHANGES = {
    'put': lambda session: session.update(n=2),
    'nested': lambda session: session.setdefault('list', []).append(2),
    'flash': lambda session: session.flash('Saved!'),
    'csrf': lambda session: session.new_csrf_token(),
    'clear': lambda session: session.clear(),
    'rotate': lambda session: session.rotate(),
    'expiry': lambda session: session.set_expiry(7200),
    'touch': lambda session: session.touch(),
    'invalidate': lambda session: session.invalidate(),
    'replace': lambda session: (session.invalidate(), session.update(n=3)),
}


#: The second kind of manager is not another one on a server.
both_managers = pytest.mark.parametrize(
    ('database', 'make_shop'),
    [
        ('sqlite', 'explicit'), ('sqlite', 'implicit'),
        ('postgresql', 'explicit'), ('mariadb', 'explicit'),
    ],
    indirect=True,
)


@pytest.fixture
def make_shop(request, make_site):
    """A function that makes a site; see ``both_managers``."""
    manager = MANAGERS[getattr(request, 'param', 'explicit')]

    def make(**settings):
        site = make_site(**{'tm.manager_hook': manager, **settings})

        @site.view
        def fill(request):
            request.session.update(n=1, list=[1])

        @site.view
        def show(request):
            return dict(request.session)

        return site

    yield make
    # The thread's manager is the next test's too.
    transaction.abort()


@pytest.fixture
def shop(make_shop):
    """A site with the views ``fill`` and ``show``."""
    site = make_shop()
    give_up_early(site.engine)
    return site


#: What ``fill`` stores.
STORED = {'n': 1, 'list': [1]}


def returning(site):
    """Return a browser that has a stored session: ``{n: 1, list: [1]}``."""
    browser = site.browser()
    browser.get('/fill')
    return browser


def start_over(site):
    """Remove everything; return a browser that has a stored session."""
    site.execute('DELETE FROM sessions')
    site.execute('DELETE FROM notes')
    return returning(site)


def add_note(request, text='a note'):
    """Store a row of the application's own."""
    request.dbsession.add(Note(text=text))


# -- T1 -----------------------------------------------------------------------


class Traffic:
    """What goes over the connections of an engine."""

    def __init__(self, engine):
        self.commits = []
        #: The connections that were written with.
        self.writers = set()
        sa.event.listen(engine, 'commit', self._commit)
        sa.event.listen(engine, 'before_cursor_execute', self._execute)

    def _commit(self, connection):
        if connection.get_execution_options().get('isolation_level') != (
            'AUTOCOMMIT'
        ):
            self.commits.append(connection)

    def _execute(self, connection, cursor, statement, *args):
        if not statement.startswith('SELECT'):
            self.writers.add(id(connection.connection.dbapi_connection))


def core_insert(request):
    """Write past the ORM, unmarked: zope.sqlalchemy does not see it."""
    request.dbsession.execute(
        sa.insert(Note.__table__).values(text='a note')
    )


def marked_core_insert(request):
    """Write past the ORM, and say so."""
    core_insert(request)
    mark_changed(request.dbsession, request.tm)


@pytest.mark.parametrize(
    'write', [add_note, core_insert, marked_core_insert]
)
@both_managers
def test_one_connection_and_one_commit(shop, write):
    """T1: session and rows are written by one connection and one COMMIT."""

    @shop.view
    def both(request):
        steps = [lambda: request.session.update(n=2), lambda: write(request)]
        for step in steps[::1 if 'session' in request.params else -1]:
            step()

    for first in ('row', 'session'):
        for is_new in (False, True):
            browser = start_over(shop)
            if is_new:
                shop.execute('DELETE FROM sessions')
                browser = shop.browser()
            traffic = Traffic(shop.engine)
            browser.get(f'/both?{first}=first')
            assert shop.notes() == ['a note']
            assert shop.data()['n'] == 2
            assert len(traffic.commits) == 1
            assert len(traffic.writers) == 1


@both_managers
def test_a_view_that_only_reads_rows_keeps_the_session(shop):
    """T1: zope.sqlalchemy drops a transaction that it saw no write in."""

    @shop.view
    def read(request):
        if 'look' in request.params:
            len(request.session)
        request.dbsession.scalars(sa.select(Note)).all()
        CHANGES[request.params['change']](request.session)

    for change in CHANGES:
        for first in ('look', 'query'):
            browser = start_over(shop)
            before = shop.rows()
            shop.clock.advance(seconds=1)
            browser.get(f'/read?{first}=first&change={change}')
            assert (change, shop.rows()) != (change, before)


@on_sqlite
def test_a_core_write_with_an_untouched_session_is_not_committed(shop):
    """T1: a session that is only read changes nothing of the application."""

    @shop.view
    def read(request):
        core_insert(request)
        return request.session['n']

    assert returning(shop).get('/read').text == '1'
    assert shop.notes() == []


def test_a_pool_of_one_connection_is_enough(make_shop):
    """T1, E2: a request never holds two connections."""
    site = make_shop(
        engine_options={'pool_size': 1, 'max_overflow': 0, 'pool_timeout': 2},
        configure=answering(lambda request: request.session.flash('no')),
    )

    @site.view
    def use(request):
        add_note(request)
        request.dbsession.flush()
        CHANGES[request.params['change']](request.session)
        if 'fail' in request.params:
            raise Failure

    for change in CHANGES:
        browser = start_over(site)
        site.clock.advance(minutes=10)
        browser.get(f'/use?change={change}&fail=1')
        browser.get('/show')
        assert site.notes() == []
        browser.get(f'/use?change={change}')
        site.clock.advance(minutes=10)
        browser.get('/show')
        assert site.notes() == ['a note']


@on_sqlite
def test_changes_in_a_before_commit_hook_are_stored(shop):
    """T1: what the application does while it commits is in the COMMIT."""

    @shop.view
    def hook(request):
        session = request.session
        len(session)
        request.tm.get().addBeforeCommitHook(
            lambda: session.update(hook='first')
        )
        request.tm.get().addBeforeCommitHook(
            lambda: request.tm.get().addBeforeCommitHook(
                lambda: session.update(late='later')
            )
        )

    returning(shop).get('/hook')
    assert shop.data() == {
        'n': 1, 'list': [1], 'hook': 'first', 'late': 'later',
    }


@on_sqlite
@pytest.mark.parametrize('holds', [False, True])
def test_a_hook_comes_before_ours_although_added_later(shop, holds):
    """T1, R7: what it adds to the view's own change is in the same COMMIT,
    also if it only has a value of the session.
    """
    seen = []

    @shop.view
    def hook(request):
        session = request.session
        session['n'] = 2
        held = session['list']
        transaction = request.tm.get()
        transaction.addBeforeCommitHook(
            lambda: held.append(2) if holds else session.update(list=[1, 2])
        )
        transaction.addAfterCommitHook(lambda _: seen.append(shop.data()))
        add_note(request)

    returning(shop).get('/hook')
    assert seen == [{'n': 2, 'list': [1, 2]}]


@on_sqlite
def test_the_first_look_in_a_before_commit_hook_is_stored(shop):
    """T1: a session that a hook opens is in the COMMIT too."""

    @shop.view
    def hook(request):
        request.tm.get().addBeforeCommitHook(
            lambda: request.session.update(hook=True)
        )

    returning(shop).get('/hook')
    assert shop.data()['hook'] is True


@on_sqlite
def test_changes_in_an_orm_event_at_flush_are_stored(shop):
    """T1: the flush of the COMMIT may still change the session."""

    @shop.view
    def flushing(request):
        session = request.session
        len(session)

        @sa.event.listens_for(request.dbsession, 'after_flush')
        def note(dbsession, context):
            session['flushed'] = True

        add_note(request)

    returning(shop).get('/flushing')
    assert shop.data().get('flushed') is True
    assert shop.notes() == ['a note']


#: What may still be done to a session that the COMMIT is writing.
LATE = {
    'a new key': lambda session: session.update(late=True),
    'a key once more': lambda session: session.update(n=3),
    'inside of a value': lambda session: session['list'].append(3),
    'a value removed': lambda session: session.pop('n'),
}


@on_sqlite
@pytest.mark.parametrize('moment', ['flush', 'first vote', 'last vote'])
@pytest.mark.parametrize('late', LATE)
def test_changes_while_the_session_is_saved_are_stored(shop, moment, late):
    """T1, T8: nothing that is done during the commit is lost, although the
    view has changed the session too.
    """

    @shop.view
    def change(request):
        session = request.session
        session.update(n=2, list=[1, 2])

        def more(*args):
            LATE[late](session)

        if moment == 'flush':
            sa.event.listen(request.dbsession, 'after_flush', more)
        else:
            key = 'a' if moment == 'first vote' else '~~~'
            Voter(request, more, sort_key=key)
        add_note(request)

    expected = {'n': 2, 'list': [1, 2]}
    LATE[late](expected)
    returning(shop).get('/change')
    assert shop.data() == expected
    assert shop.notes() == ['a note']


@on_sqlite
def test_two_applications_in_one_transaction(shop, make_site, tmp_path):
    """T9: one application calls another one, and both have a session; each
    is saved last, after the hooks of both.
    """
    url = f'sqlite:///{tmp_path}/inner.sqlite'
    other = make_site(url=url, with_dbsession=False)

    @other.view
    def inner(request):
        session = request.session
        session['inner'] = 1
        request.tm.get().addBeforeCommitHook(
            lambda: session.update(hook='inner')
        )

    @shop.view
    def outer(request):
        session = request.session
        session['outer'] = 1
        request.tm.get().addBeforeCommitHook(
            lambda: session.update(hook='outer')
        )
        called = request.copy()
        called.path_info = '/inner'
        called.get_response(other.app)

    shop.browser().get('/outer')
    assert shop.data() == {'outer': 1, 'hook': 'outer'}
    with other.application.engine.connect() as connection:
        assert connection.exec_driver_sql(
            'SELECT data FROM sessions'
        ).scalar() == '{"inner":1,"hook":"inner"}'


def test_the_cookie_comes_after_the_commit(shop):
    """R4, T2: when the cookie is made, others can see the record."""
    seen = []

    @shop.view
    def add(request):
        request.add_response_callback(
            lambda request, response: seen.append(len(shop.rows()))
        )
        request.session['n'] = 1
        assert shop.rows() == []

    response = shop.browser().get('/add')
    assert seen == [1]
    assert 'Set-Cookie' in response.headers


def test_the_store_is_in_the_transaction_too(shop):
    """T1, T2: what ``session_store`` revokes lives again after an abort."""
    other = returning(shop)

    @shop.view
    def revoke(request):
        count = request.session_store.revoke_all()
        if 'fail' in request.params:
            raise Failure
        return count

    with pytest.raises(Failure):
        shop.browser().get('/revoke?fail=1')
    assert "'n': 1" in other.get('/show').text
    assert shop.browser().get('/revoke').text == '1'
    assert other.get('/show').text == '{}'


# SQLite has no such thing, PostgreSQL's is off by default.
@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
def test_two_phase_commit(make_shop):
    """T1: a ``sessionmaker`` with ``twophase`` stores the session too."""
    site = make_shop()
    site.registry['dbsession_factory'].configure(twophase=True)

    @site.view
    def both(request):
        request.session['n'] = 2
        if 'note' in request.params:
            add_note(request)

    browser = site.browser()
    browser.get('/both')
    assert site.data() == {'n': 2}
    browser.get('/both?note=1')
    assert site.notes() == ['a note']


# -- T2 -----------------------------------------------------------------------


def raised(request, site):
    """The view raises, and nobody answers."""
    raise Failure


def raised_in_a_later_tween(request, site):
    """The view is fine, a tween that it was called by raises."""
    request.environ['test.fail'] = True


def doomed(request, site):
    """The view dooms the transaction."""
    request.tm.doom()


def doomed_before(request, site):
    """The transaction is doomed and the session changed once more."""
    request.tm.doom()
    request.session['after'] = True


def vetoed_status(request, site):
    """The default commit veto refuses an answer of 400."""
    return Response(status=400)


def vetoed_header(request, site):
    """The default commit veto refuses an answer with this header."""
    return Response(headers={'X-Tm': 'abort'})


def flush_fails(request, site):
    """The application violates a unique constraint."""
    request.dbsession.add_all([Note(text='same'), Note(text='same')])
    request.dbsession.flush()


def flush_fails_at_commit(request, site):
    """The same, but the COMMIT flushes it."""
    request.dbsession.add_all([Note(text='same'), Note(text='same')])


def first_vote_fails(request, site):
    """Another data manager refuses before the database has its turn."""
    Voter(request, raiser())


def prepare_deferred(site):
    """Make a table whose constraint is checked by the COMMIT."""
    if site.database.name == 'mariadb':
        return
    site.execute(
        'CREATE TABLE children (id INTEGER PRIMARY KEY, parent INTEGER '
        'REFERENCES notes (id) DEFERRABLE INITIALLY DEFERRED)'
    )
    if site.database.name == 'sqlite':
        sa.event.listen(
            site.engine, 'connect',
            lambda connection, record: connection.execute(
                'PRAGMA foreign_keys = ON'
            ),
        )
        # SQLAlchemy 2.1 does not roll back after a COMMIT that failed, and
        # there SQLite's transaction is still open.
        sa.event.listen(
            site.engine, 'checkin',
            lambda connection, record: connection.rollback(),
        )
        site.engine.dispose()


def commit_fails(request, site):
    """The database refuses the COMMIT, after all statements went well."""
    dbsession = request.dbsession
    if site.database.name == 'mariadb':
        # It knows no deferred constraints: the connection breaks.
        number = dbsession.scalar(sa.text('SELECT CONNECTION_ID()'))
        add_note(request)
        Voter(
            request, lambda: site.execute(f'KILL {number}'), '~sqlalchemy!!'
        )
        return
    dbsession.execute(sa.text('INSERT INTO children VALUES (1, 12345)'))
    mark_changed(dbsession, request.tm)


def before_commit_hook_fails(request, site):
    """A hook of the application refuses."""
    request.tm.get().addBeforeCommitHook(raiser())


def aborted_by_hand(request, site):
    """The view aborts, and goes on with another transaction."""
    request.tm.abort()
    request.tm.begin()


ENDINGS = {
    raised: Failure,
    raised_in_a_later_tween: Failure,
    doomed: None,
    doomed_before: None,
    vetoed_status: None,
    vetoed_header: None,
    flush_fails: sa.exc.IntegrityError,
    flush_fails_at_commit: sa.exc.IntegrityError,
    first_vote_fails: Failure,
    commit_fails: sa.exc.DBAPIError,
    before_commit_hook_fails: Failure,
    aborted_by_hand: None,
}


def failing_tween(handler, registry):
    """Raise if the request says so."""

    def tween(request):
        response = handler(request)
        if request.environ.get('test.fail'):
            raise Failure
        return response

    return tween


@pytest.fixture
def court(make_shop):
    """A site with a view that changes the session and then fails."""
    site = make_shop(
        **{'tm.commit_veto': 'pyramid_tm.default_commit_veto'},
        configure=lambda config: config.add_tween(
            f'{__name__}.failing_tween', under='pyramid_tm.tm_tween_factory',
            over=EXCVIEW,
        ),
    )
    prepare_deferred(site)
    endings = {ending.__name__: ending for ending in ENDINGS}

    @site.view
    def fail(request):
        add_note(request, 'of the view')
        CHANGES[request.params['change']](request.session)
        return endings[request.params['ending']](request, site)

    return site


def provoke(browser, change, ending):
    """Request the failing view; return what came of it, an error or not."""
    path = f'/fail?change={change}&ending={ending.__name__}'
    if ENDINGS[ending] is None:
        return browser.get(path, expect_errors=True)
    with pytest.raises(ENDINGS[ending]) as caught:
        browser.get(path)
    return caught.value


def check_ending(site, ending):
    """Have all changes fail in this way, for old and for new visitors."""
    browser, stranger = start_over(site), site.browser()
    before, token = site.rows(), site.token(browser)
    with site.events(
        SessionCreated, SessionRotated, SessionInvalidated
    ) as events:
        for change in CHANGES:
            for visitor in (browser, stranger):
                answer = provoke(visitor, change, ending)
                assert (ending, change, site.rows()) == (
                    ending, change, before
                )
                if isinstance(answer, Response):
                    assert 'Set-Cookie' not in answer.headers
    assert site.notes() == []
    assert events == []
    assert site.token(browser) == token
    assert site.token(stranger) is None
    assert browser.get('/show').text == str(STORED)
    assert stranger.get('/show').text == '{}'


@pytest.mark.parametrize('ending', ENDINGS)
def test_nothing_is_stored(court, ending):
    """T2: record and cookie stay as they were, whatever the view did."""
    check_ending(court, ending)


@pytest.mark.parametrize('make_shop', ['implicit'], indirect=True)
@on_sqlite
def test_nothing_is_stored_with_the_threads_manager(court):
    """T2: the same, where requests of a thread share a manager."""
    for ending in ENDINGS:
        check_ending(court, ending)


@on_sqlite
def test_an_own_commit_veto(make_shop):
    """T2: a veto of the application's own is heard, and may read."""

    def veto(request, response):
        return request.session.get('n') == 2

    site = make_shop(**{'tm.commit_veto': veto})

    @site.view
    def put(request):
        request.session['n'] = int(request.params['n'])

    browser = returning(site)
    browser.get('/put?n=2')
    assert site.data()['n'] == 1
    browser.get('/put?n=3')
    assert site.data()['n'] == 3


@on_sqlite
def test_a_veto_that_changes_the_session_and_lets_it_pass(make_shop):
    """T1, T2: what the veto puts in shares the fate of the transaction."""

    def veto(request, response):
        if request.path == '/nothing':
            request.session['vetoed'] = 'fail' in request.params
        return 'fail' in request.params

    site = make_shop(**{'tm.commit_veto': veto})

    @site.view
    def nothing(request):
        """Does not look at the session."""

    browser = returning(site)
    browser.get('/nothing?fail=1')
    assert 'vetoed' not in site.data()
    browser.get('/nothing')
    assert site.data()['vetoed'] is False


@pytest.mark.parametrize('ending', [doomed, vetoed_status, raised])
def test_a_due_touch_survives_the_abort(court, ending):
    """T2, E2: the expiry is extended, nothing else."""
    browser = returning(court)
    (before,) = court.rows()
    court.clock.advance(minutes=10)

    @court.view
    def fail(request):
        assert request.session['n'] == 1
        add_note(request)
        return ending(request, court)

    if ending is raised:
        # No response, no response callback: nothing more can be asked for.
        with pytest.raises(Failure):
            browser.get('/fail')
        return
    response = browser.get('/fail', expect_errors=True)
    (after,) = court.rows()
    assert after['expires'] > before['expires']
    assert after['data'] == before['data']
    # The browser has to keep it as long (R11).
    assert 'Set-Cookie' in response.headers
    assert court.notes() == []


def test_the_next_request_of_the_thread_starts_clean(court):
    """T2: a failed request leaves nothing to the next one."""
    one, two = returning(court), court.browser()
    for ending in ENDINGS:
        provoke(one, 'put', ending)
        assert two.get('/show').text == '{}'
    two.get('/fill')
    assert len(court.rows()) == 2
    assert [row['version'] for row in court.rows()] == [1, 1]


@both_managers
def test_an_abort_by_hand_takes_the_session_back(shop):
    """T2: after it the session has what is stored, and works on."""
    seen = []

    @shop.view
    def abort(request):
        session = request.session
        session['n'] = 2
        session['list'].append(2)
        session.flash('Saved!')
        request.tm.abort()
        request.tm.begin()
        seen.append(dict(session))
        session['m'] = 3

    returning(shop).get('/abort')
    assert seen == [{'n': 1, 'list': [1]}]
    assert shop.data() == {'n': 1, 'list': [1], 'm': 3}


@both_managers
def test_an_abort_by_hand_takes_invalidate_back(shop):
    """T2: the session that was ended lives on, under its id."""
    seen = []

    @shop.view
    def abort(request):
        session = request.session
        seen.append(session.id)
        session.invalidate()
        request.tm.abort()
        seen.append(session.id)
        request.tm.begin()
        seen.append(session.id)

    browser = returning(shop)
    response = browser.get('/abort')
    assert len(set(seen)) == 1
    assert 'Set-Cookie' not in response.headers
    assert browser.get('/show').text == "{'n': 1, 'list': [1]}"


# -- T3 -----------------------------------------------------------------------


def flash_error(request):
    """The exception view of most tests here."""
    request.session.flash('Please log in')


@pytest.fixture
def accident(make_shop):
    """A function that makes a site with a view that raises after *work*."""

    def make(work=None, answer=flash_error, **settings):
        site = make_shop(
            configure=answering(answer), **settings
        )

        @site.view
        def fail(request):
            if work is not None:
                work(request)
            add_note(request)
            request.dbsession.flush()
            raise Failure

        return site

    return make


def flash_saved(request):
    """What must not show after an abort."""
    request.session.flash('Saved!')
    request.session['n'] = 2


LET_PASS = {'tm.commit_veto': lambda request, response: False}


@both_managers
@pytest.mark.parametrize('work', [None, flash_saved])
@pytest.mark.parametrize('visitor', ['new', 'returning'])
def test_words_of_the_exception_view_only(accident, work, visitor):
    """T3: what the view put in is gone, the error page's flash is stored."""
    site = accident(work)
    browser = site.browser() if visitor == 'new' else returning(site)
    response = browser.get('/fail')
    assert site.notes() == []
    expected = {'_f_': ['Please log in']}
    if visitor == 'returning':
        expected |= {'n': 1, 'list': [1]}
    assert site.data() == expected
    assert ('Set-Cookie' in response.headers) == (visitor == 'new')
    assert 'Please log in' in browser.get('/show').text


@both_managers
@pytest.mark.parametrize('visitor', ['new', 'returning'])
def test_both_words_if_the_transaction_commits(accident, visitor):
    """T3: a commit veto that lets an error pass stores all of it."""
    site = accident(flash_saved, **LET_PASS)
    browser = site.browser() if visitor == 'new' else returning(site)
    browser.get('/fail')
    assert site.notes() == ['a note']
    data = site.data()
    assert data.pop('_f_') == ['Saved!', 'Please log in']
    assert data['n'] == 2
    assert len(site.rows()) == 1


@on_sqlite
def test_an_exception_view_that_does_not_look(accident):
    """T3: the words of the view are gone all the same."""
    site = accident(flash_saved, lambda request: 'sorry')
    browser = returning(site)
    before = site.rows()
    response = browser.get('/fail')
    assert site.rows() == before
    assert 'Set-Cookie' not in response.headers


@on_sqlite
def test_an_exception_view_that_does_not_look_and_a_commit(accident):
    """T3: with the transaction the words of the view are committed."""
    site = accident(flash_saved, lambda request: 'sorry', **LET_PASS)
    returning(site).get('/fail')
    assert site.data() == {'n': 2, 'list': [1], '_f_': ['Saved!']}
    assert site.notes() == ['a note']


@on_sqlite
def test_the_exception_view_sees_what_is_stored(accident):
    """T3: it does not show a flash of the view that failed."""
    site = accident(
        flash_saved,
        lambda request: f'{request.session.peek_flash()} '
                        f"{request.session.get('n')}",
    )
    assert returning(site).get('/fail').text == '[] 1'


@on_sqlite
def test_a_reference_of_the_view_is_not_the_exception_views(accident):
    """T3: a list changed in place by the view is not changed any more."""

    def work(request):
        request.session['list'].append('of the view')

    def answer(request):
        request.session['list'].append('of the error page')
        return request.session['list']

    site = accident(work, answer)
    response = returning(site).get('/fail')
    assert response.text == "[1, 'of the error page']"
    assert site.data()['list'] == [1, 'of the error page']


@pytest.mark.parametrize('work', [None, flash_saved])
def test_all_that_an_exception_view_can_do(accident, work):
    """T3: each kind of change is stored, and the cookie fits it."""
    expected = {
        'put': {'n': 2, 'list': [1]},
        'nested': {'n': 1, 'list': [1, 2]},
        'clear': {},
        'replace': {'n': 3},
    }

    def answer(request):
        CHANGES[request.params['change']](request.session)

    site = accident(work, answer)
    for change in ('put', 'nested', 'clear', 'rotate', 'expiry', 'touch',
                   'replace'):
        browser = start_over(site)
        token = site.token(browser)
        browser.get(f'/fail?change={change}')
        data = expected.get(change, STORED)
        assert (change, site.data()) == (change, data)
        is_new = change in ('rotate', 'replace')
        assert (site.token(browser) != token) == is_new
        assert browser.get('/show').text == str(data)


@pytest.mark.parametrize('work', [None, flash_saved])
def test_an_exception_view_that_ends_the_session(accident, work):
    """T3: the record is deleted although the transaction was aborted."""
    site = accident(work, lambda request: request.session.invalidate())
    browser = returning(site)
    browser.get('/fail')
    assert site.rows() == []
    assert site.token(browser) is None


def change_as_asked(request):
    """Do what the request says."""
    CHANGES[request.params['change']](request.session)


def test_a_flash_after_whatever_the_view_did(accident):
    """T3: an abort takes all of the view back, the flash is added to it."""
    site = accident(change_as_asked)
    for change in CHANGES:
        browser = start_over(site)
        token = site.token(browser)
        browser.get(f'/fail?change={change}')
        assert site.data() == STORED | {'_f_': ['Please log in']}
        assert site.token(browser) == token


def test_a_flash_added_to_whatever_the_view_did(accident):
    """T3: with a commit the record has what both did."""
    site = accident(change_as_asked, **LET_PASS)
    kept = {'invalidate': None, 'clear': None, 'replace': 3, 'put': 2}
    for change in CHANGES:
        browser = start_over(site)
        browser.get(f'/fail?change={change}')
        data = site.data()
        assert data['_f_'][-1] == 'Please log in'
        assert (change, data.get('n')) == (change, kept.get(change, 1))
        assert 'Please log in' in browser.get('/show').text


@on_sqlite
def test_an_invalidating_exception_view_and_a_commit(accident):
    """T3: the error page ends the session, also what the view put in."""
    site = accident(
        flash_saved, lambda request: request.session.invalidate(), **LET_PASS
    )
    browser = returning(site)
    browser.get('/fail')
    assert site.rows() == []
    assert site.token(browser) is None


@on_sqlite
def test_a_rotating_view_and_a_commit(accident):
    """T3: view and exception view both rotate; the cookie sent works."""
    site = accident(
        lambda request: request.session.rotate(),
        lambda request: request.session.rotate(), **LET_PASS,
    )
    browser = returning(site)
    browser.get('/fail')
    assert browser.get('/show').text == "{'n': 1, 'list': [1]}"


@on_sqlite
def test_an_exception_view_that_pops_what_the_view_flashed(accident):
    """T3, C6: it sees old messages only; that of the view is not lost."""
    site = accident(
        lambda request: request.session.flash('Saved!'),
        lambda request: request.session.pop_flash(), **LET_PASS,
    )

    @site.view
    def flash(request):
        request.session.flash('old')

    browser = returning(site)
    browser.get('/flash')
    assert browser.get('/fail').text == "['old']"
    assert site.data()['_f_'] == ['Saved!']


@on_sqlite
def test_raise_found_and_the_default_veto(make_shop):
    """T3: ``raise HTTPFound`` commits with it, and loses all without."""

    def build(**settings):
        site = make_shop(**settings)

        @site.view
        def leave(request):
            flash_saved(request)
            add_note(request)
            raise HTTPFound('/show')

        returning(site).get('/leave')
        return site

    site = build(**{'tm.commit_veto': 'pyramid_tm.default_commit_veto'})
    assert site.data()['_f_'] == ['Saved!']
    assert site.notes() == ['a note']
    site.execute('DELETE FROM notes')
    site.execute('DELETE FROM sessions')
    site = build()
    assert site.data() == {'n': 1, 'list': [1]}
    assert site.notes() == []


@on_sqlite
def test_an_exception_view_that_raises(accident):
    """T2, T3: nobody answers, nothing is stored."""

    def answer(request):
        flash_error(request)
        raise ZeroDivisionError

    site = accident(flash_saved, answer)
    browser = returning(site)
    before = site.rows()
    with pytest.raises(ZeroDivisionError):
        browser.get('/fail')
    assert site.rows() == before
    assert site.notes() == []


@on_sqlite
@pytest.mark.parametrize('settings', [{}, LET_PASS])
def test_an_exception_view_for_the_error_of_an_exception_view(
    make_shop, settings
):
    """T3: the second error page is the one that speaks."""

    def first(request):
        request.session.flash('first page')
        raise ZeroDivisionError

    def configure(config):
        answering(first)(config)
        answering(
            lambda request: request.session.flash('second page'),
            ZeroDivisionError,
        )(config)
        config.add_tween(
            f'{__name__}.second_excview', over=EXCVIEW,
            under='pyramid_tm.tm_tween_factory',
        )

    site = make_shop(configure=configure, **settings)

    @site.view
    def fail(request):
        flash_saved(request)
        raise Failure

    returning(site).get('/fail')
    messages = site.data()['_f_']
    if settings:
        assert messages[0] == 'Saved!'
    assert messages[-1] == 'second page'
    assert ('Saved!' in messages) == bool(settings)


def second_excview(handler, registry):
    """Answer what the exception view itself raises."""

    def tween(request):
        try:
            return handler(request)
        except ZeroDivisionError:
            return request.invoke_exception_view()

    return tween


@on_sqlite
def test_an_exception_view_called_by_the_view(accident):
    """T3: ``invoke_exception_view`` in a view aborts, its flash stays."""
    site = accident()

    @site.view
    def careful(request):
        flash_saved(request)
        add_note(request)
        try:
            raise Failure
        except Failure:
            return request.invoke_exception_view()

    returning(site).get('/careful')
    assert site.notes() == []
    assert site.data() == {'n': 1, 'list': [1], '_f_': ['Please log in']}


@on_sqlite
def test_an_exception_that_the_view_handles(accident):
    """T3: an error without an exception view is no affair of the session."""
    site = accident()

    @site.view
    def careful(request):
        flash_saved(request)
        try:
            raise Failure
        except Failure:
            request.session.flash('but')

    returning(site).get('/careful')
    assert site.data()['_f_'] == ['Saved!', 'but']


@on_sqlite
def test_a_not_found_view_that_flashes(make_shop):
    """T3: a URL that leads nowhere is an exception view too."""

    def configure(config):
        config.add_notfound_view(
            lambda request: request.session.flash('nowhere')
            or Response(status=404)
        )

    site = make_shop(configure=configure)
    returning(site).get('/no/such/page', status=404)
    assert site.data()['_f_'] == ['nowhere']


@pytest.mark.parametrize(
    'ending', [flush_fails_at_commit, first_vote_fails, commit_fails]
)
def test_an_exception_view_for_a_failing_commit(make_shop, ending):
    """T2, T3: pyramid_tm shows the error page after the abort."""
    site = make_shop(configure=answering(flash_error, Exception))
    prepare_deferred(site)

    @site.view
    def fail(request):
        flash_saved(request)
        add_note(request, 'of the view')
        ending(request, site)

    browser = returning(site)
    browser.get('/fail')
    assert site.data() == {'n': 1, 'list': [1], '_f_': ['Please log in']}
    assert site.notes() == []
    stranger = site.browser()
    response = stranger.get('/fail')
    assert 'Set-Cookie' in response.headers
    assert stranger.get('/show').text == "{'_f_': ['Please log in']}"


@on_sqlite
def test_a_doomed_transaction_whose_view_raised(accident):
    """T3: doomed or not, the error page's words are stored."""
    site = accident(
        lambda request: (flash_saved(request), request.tm.doom()), **LET_PASS
    )
    returning(site).get('/fail')
    assert site.data() == {'n': 1, 'list': [1], '_f_': ['Please log in']}
    assert site.notes() == []


@both_managers
def test_the_exception_view_aborts_by_hand(accident):
    """T2: what it put in before is gone, what comes after is stored."""

    def answer(request):
        request.session.flash('before')
        request.tm.abort()
        request.tm.begin()
        request.session.flash('after')

    site = accident(flash_saved, answer)
    returning(site).get('/fail')
    assert site.data() == {'n': 1, 'list': [1], '_f_': ['after']}


@on_sqlite
def test_the_error_pages_fields_are_in_step(make_shop):
    """T3, D3: the additional field is written with the exception view."""
    site = make_shop(
        additional_fields='user_id: Integer',
        configure=answering(
            lambda request: request.session.update(user_id=7)
        ),
    )

    @site.view
    def fail(request):
        request.session['user_id'] = 8
        raise Failure

    returning(site).get('/fail')
    assert site.rows()[0]['user_id'] == 7


def test_the_error_page_of_a_slow_request_merges(accident, stage):
    """T3, C1: another request's change meanwhile is kept."""
    site = accident(lambda request: (
        len(request.session), stage.reach('in the view'),
    ))

    @site.view
    def put(request):
        request.session['m'] = 2

    one = returning(site)
    two = site.browser(like=one)
    slow = stage.run(one.get, '/fail')
    stage.wait('in the view')
    two.get('/put')
    stage.let('in the view')
    slow.result()
    assert site.data() == {
        'n': 1, 'list': [1], 'm': 2, '_f_': ['Please log in'],
    }


# -- T4 -----------------------------------------------------------------------


def break_by_flush(request):
    """The ORM refuses all but a rollback."""
    request.dbsession.add_all([Note(text='same'), Note(text='same')])
    request.dbsession.flush()


def break_by_statement(request):
    """PostgreSQL refuses all but a ROLLBACK."""
    request.dbsession.execute(sa.text('SELECT no_such_column FROM notes'))


def break_connection(request):
    """The database ends the connection."""
    dbsession = request.dbsession
    name = dbsession.get_bind().dialect.name
    if name == 'sqlite':
        dbsession.connection().connection.dbapi_connection.close()
        dbsession.execute(sa.text('SELECT 1'))
    elif name == 'postgresql':
        dbsession.execute(
            sa.text('SELECT pg_terminate_backend(pg_backend_pid())')
        )
    else:
        number = dbsession.scalar(sa.text('SELECT CONNECTION_ID()'))
        dbsession.execute(sa.text(f'KILL {number}'))


@pytest.mark.parametrize('look', ['before', 'only after'])
@pytest.mark.parametrize(
    'break_it', [break_by_flush, break_by_statement, break_connection]
)
def test_the_session_in_spite_of_a_broken_transaction(
    make_shop, break_it, look
):
    """T4: the exception view reads, and writes, although nothing works."""

    def answer(request):
        request.session.flash('sorry')
        return request.session['n']

    site = make_shop(
        configure=answering(answer, (sa.exc.SQLAlchemyError))
    )

    @site.view
    def fail(request):
        add_note(request)
        request.dbsession.flush()
        if look == 'before':
            request.session['n'] = 2
        break_it(request)

    browser = returning(site)
    response = browser.get('/fail')
    assert response.text == '1'
    assert site.data() == {'n': 1, 'list': [1], '_f_': ['sorry']}
    assert site.notes() == []


def test_a_view_cannot_read_in_a_broken_transaction(shop):
    """T4: only an exception view is helped; a view gets the error."""

    @shop.view
    def fail(request):
        try:
            break_by_flush(request)
        except sa.exc.IntegrityError:
            return request.session['n']

    with pytest.raises(sa.exc.SQLAlchemyError):
        returning(shop).get('/fail')


# -- T6 -----------------------------------------------------------------------


@pytest.fixture
def street(shop, stage):
    """A site with a slow view and a quick one."""

    @shop.view
    def slow(request):
        if 'query' in request.params:
            request.dbsession.scalars(sa.select(Note)).all()
        change_as_asked(request)
        stage.reach(request.params['place'])

    @shop.view
    def quick(request):
        request.session['quick'] = True
        add_note(request, request.params['text'])

    return shop


def test_a_slow_view_holds_no_lock(street, stage):
    """T6: while it runs, others of the same browser are stored at once."""
    one = returning(street)
    places = {
        f'{first}-{change}': f'/slow?change={change}&{first}=1'
        for change in CHANGES for first in ('look', 'query')
    }
    slow = [
        stage.run(street.browser(like=one).get, f'{path}&place={place}')
        for place, path in places.items()
    ]
    stage.wait(*places)
    one.get('/quick?text=meanwhile')
    assert street.data()['quick'] is True
    assert street.notes() == ['meanwhile']
    stage.let(*places)
    for performance in slow:
        performance.result()


def test_six_requests_of_one_browser_run_at_once(street, stage):
    """T6: all are in their views with changes made; all are kept."""

    @street.view
    def together(request):
        request.session[request.params['place']] = True
        stage.reach(request.params['place'])

    one = returning(street)
    places = [f'p{number}' for number in range(6)]
    performances = [
        stage.run(street.browser(like=one).get, f'/together?place={place}')
        for place in places
    ]
    stage.wait(*places)
    stage.let(*places)
    for performance in performances:
        performance.result()
    assert street.data() == STORED | dict.fromkeys(places, True)


@pytest.mark.parametrize('first', ['row first', 'session first'])
def test_no_deadlock_with_rows_of_the_application(street, stage, first):
    """T6: the record is locked last, whichever way a view goes."""
    street.execute("INSERT INTO notes (id, text) VALUES (1, 'old')")

    def write_row(request):
        request.dbsession.get(Note, 1).text = request.params['name']
        request.dbsession.flush()

    @street.view
    def work(request):
        name = request.params['name']
        if request.params['first'] == 'row first':
            write_row(request)
        request.session[name] = True
        stage.reach(name)
        if request.params['first'] != 'row first':
            write_row(request)

    one = returning(street)
    two = street.browser(like=one)
    a = stage.run(one.get, '/work', {'name': 'a', 'first': 'row first'})
    stage.wait('a')
    b = stage.run(two.get, '/work', {'name': 'b', 'first': first})
    if first == 'session first':
        stage.wait('b')
    # B now waits for A's row, or is about to.
    stage.let('b', 'a')
    a.result()
    b.result()
    assert street.data() == STORED | {'a': True, 'b': True}
    assert street.notes() == ['b']


# -- T9: transactions by hand -------------------------------------------------


@both_managers
def test_commit_by_hand_keeps_both_halves(shop):
    """T9: before and after ``tm.commit()``, one record and one cookie."""
    seen = []

    @shop.view
    def twice(request):
        request.session['a'] = 1
        add_note(request)
        request.tm.commit()
        seen.append((shop.data(), shop.notes()))
        request.tm.begin()
        request.session['b'] = 2
        add_note(request, 'another note')

    browser = shop.browser()
    with shop.events() as events:
        response = browser.get('/twice')
    assert seen == [({'a': 1}, ['a note'])]
    assert shop.data() == {'a': 1, 'b': 2}
    assert shop.notes() == ['a note', 'another note']
    assert len(response.headers.getall('Set-Cookie')) == 1
    assert [type(e) for e in events if isinstance(e, SessionCreated)] == [
        SessionCreated
    ]
    assert browser.get('/show').text == "{'a': 1, 'b': 2}"


@both_managers
def test_commit_by_hand_in_a_loop(shop):
    """T9: each round starts from what the last one stored."""

    @shop.view
    def loop(request):
        for _ in range(3):
            request.session['n'] += 1
            request.session['list'].append(len(request.session['list']) + 1)
            request.tm.commit()
            request.tm.begin()

    returning(shop).get('/loop')
    assert shop.data() == {'n': 4, 'list': [1, 2, 3, 4]}


@on_sqlite
def test_a_reference_lives_on_after_a_commit_by_hand(shop):
    """T9, R7: a list that the view holds is still that of the session."""

    @shop.view
    def hold(request):
        held = request.session['list']
        held.append(2)
        request.tm.commit()
        request.tm.begin()
        held.append(3)

    returning(shop).get('/hold')
    assert shop.data()['list'] == [1, 2, 3]


@both_managers
@pytest.mark.parametrize('visitor', ['new', 'returning'])
def test_a_failure_after_a_commit_by_hand(make_shop, visitor):
    """T2, T9: what was committed stays, with its cookie; the rest is gone."""
    site = make_shop(configure=answering(flash_error))

    @site.view
    def half(request):
        request.session['a'] = 1
        request.tm.commit()
        request.tm.begin()
        request.session['b'] = 2
        raise Failure

    browser = site.browser() if visitor == 'new' else returning(site)
    response = browser.get('/half')
    data = site.data()
    assert data['a'] == 1
    assert data['_f_'] == ['Please log in']
    assert 'b' not in data
    assert ('Set-Cookie' in response.headers) == (visitor == 'new')
    assert "'a': 1" in browser.get('/show').text


def test_rotate_and_commit_by_hand_then_a_doomed_rest(shop):
    """T2, T9: the cookie of the rotation that was committed is sent."""

    @shop.view
    def half(request):
        request.session.rotate()
        request.tm.commit()
        request.tm.begin()
        request.session.invalidate()
        request.tm.doom()

    browser = returning(shop)
    token = shop.token(browser)
    browser.get('/half')
    assert shop.token(browser) not in (token, None)
    assert browser.get('/show').text == "{'n': 1, 'list': [1]}"


def test_invalidate_and_commit_by_hand_then_a_new_session(shop):
    """T9: the old record is gone, the new one has the cookie."""

    @shop.view
    def again(request):
        request.session.invalidate()
        request.tm.commit()
        assert shop.rows() == []
        request.tm.begin()
        assert request.session.new
        request.session['b'] = 2

    browser = returning(shop)
    browser.get('/again')
    assert shop.data() == {'b': 2}
    assert browser.get('/show').text == "{'b': 2}"


@both_managers
def test_created_and_invalidated_by_hand(shop):
    """T9: a session that came and went within a request leaves nothing."""

    @shop.view
    def fleeting(request):
        request.session['a'] = 1
        request.tm.commit()
        request.tm.begin()
        request.session.invalidate()

    browser = shop.browser()
    browser.get('/fleeting')
    assert shop.rows() == []
    assert shop.token(browser) is None
    assert browser.get('/show').text == '{}'


@on_sqlite
def test_rotated_twice_by_hand(shop):
    """T9: after each commit another token; the last one is sent."""

    @shop.view
    def turn(request):
        for _ in range(2):
            request.session.rotate()
            request.session['csrf'] = request.session.get_csrf_token()
            request.tm.commit()
            request.tm.begin()

    browser = returning(shop)
    response = browser.get('/turn')
    assert len(response.headers.getall('Set-Cookie')) == 1
    assert "'n': 1" in browser.get('/show').text


@both_managers
def test_a_failing_commit_by_hand(shop):
    """T2, T9: the session is taken back, and the rest of the view counts."""
    seen = []

    @shop.view
    def careful(request):
        request.session['n'] = 2
        flush_fails_at_commit(request, shop)
        try:
            request.tm.commit()
        except sa.exc.IntegrityError:
            request.tm.abort()
        request.tm.begin()
        seen.append(request.session['n'])
        request.session.flash('That exists already')

    returning(shop).get('/careful')
    assert seen == [1]
    assert shop.data() == {
        'n': 1, 'list': [1], '_f_': ['That exists already'],
    }


@both_managers
def test_reading_between_two_transactions(shop):
    """T8, T9: between ``commit`` and ``begin`` the session can be read."""
    seen = []

    @shop.view
    def between(request):
        request.session['n'] = 2
        request.tm.commit()
        seen.append(request.session['n'])
        request.session['m'] = 3
        request.tm.begin()
        seen.append(request.session['m'])

    returning(shop).get('/between')
    assert seen == [2, 3]
    assert shop.data() == {'n': 2, 'list': [1], 'm': 3}


@both_managers
def test_a_change_between_two_transactions_survives_an_abort(shop):
    """T2, T8: it belonged to none, so it is saved when the next one fails."""

    @shop.view
    def between(request):
        request.session['n'] = 2
        request.tm.commit()
        request.session['m'] = 3
        request.tm.begin()
        request.session['lost'] = True
        request.tm.doom()

    returning(shop).get('/between')
    assert shop.data() == {'n': 2, 'list': [1], 'm': 3}


def test_another_request_between_two_transactions(shop):
    """T9, C1: each half is merged with what others stored meanwhile."""

    @shop.view
    def put(request):
        request.session['m'] = 5
        request.session['n'] = 5

    @shop.view
    def slow(request):
        request.session['a'] = 1
        request.tm.commit()
        shop.browser(like=browser).get('/put')
        request.tm.begin()
        request.session['b'] = 2

    browser = returning(shop)
    browser.get('/slow')
    assert shop.data() == {'n': 5, 'm': 5, 'list': [1], 'a': 1, 'b': 2}


# -- T9: savepoints -----------------------------------------------------------


def nested(request):
    """Return the rollback of a savepoint of the SQLAlchemy session."""
    return request.dbsession.begin_nested().rollback


def savepoint(request):
    """Return the rollback of a savepoint of the transaction."""
    return request.tm.savepoint().rollback


def savepoint_with_rows(request):
    """The same, with the application's database taking part."""
    request.dbsession.scalars(sa.select(Note)).all()
    return request.tm.savepoint().rollback


@pytest.fixture(params=[nested, savepoint, savepoint_with_rows])
def mark(request, database):
    """Begins a savepoint; returns the function that rolls it back."""
    if request.param is savepoint_with_rows and database.name == 'sqlite':
        return nested  # zope.sqlalchemy does not offer it there
    return request.param


def test_a_rolled_back_savepoint_takes_each_change_back(shop, mark):
    """T9: the session has what it had at the savepoint."""

    @shop.view
    def maybe(request):
        session = request.session
        session['before'] = True
        rollback = mark(request)
        change_as_asked(request)
        rollback()
        return dict(session)

    for change in CHANGES:
        browser = start_over(shop)
        response = browser.get(f'/maybe?change={change}')
        assert response.text == str(STORED | {'before': True})
        assert shop.data() == STORED | {'before': True}
        assert 'Set-Cookie' not in response.headers


def test_a_savepoint_before_the_first_look(shop, mark):
    """T9: at the savepoint the session was what is stored."""

    @shop.view
    def maybe(request):
        rollback = mark(request)
        change_as_asked(request)
        rollback()
        return dict(request.session)

    browser = returning(shop)
    before = shop.rows()
    for change in CHANGES:
        assert browser.get(f'/maybe?change={change}').text == str(STORED)
        assert (change, shop.rows()) == (change, before)


def test_a_savepoint_of_a_new_visitor(shop, mark):
    """T9, R1: nothing but what was rolled back: nothing is stored."""

    @shop.view
    def maybe(request):
        rollback = mark(request)
        request.session['n'] = 1
        rollback()

    response = shop.browser().get('/maybe')
    assert shop.rows() == []
    assert 'Set-Cookie' not in response.headers


def test_writing_on_after_the_rollback(shop, mark):
    """T9: what comes after it is stored; nested values work on."""

    @shop.view
    def maybe(request):
        session = request.session
        session['list'].append(2)
        rollback = mark(request)
        session['list'].append(3)
        session['m'] = 1
        rollback()
        session['list'].append(4)
        session.flash('kept')

    returning(shop).get('/maybe')
    assert shop.data() == {'n': 1, 'list': [1, 2, 4], '_f_': ['kept']}


@on_sqlite
def test_one_savepoint_rolled_back_twice(shop, database):
    """T9: a savepoint of the transaction stays usable."""

    @shop.view
    def maybe(request):
        session = request.session
        session['n'] = 2
        point = request.tm.savepoint()
        for _ in range(2):
            session['n'] += 1
            point.rollback()

    returning(shop).get('/maybe')
    assert shop.data() == {'n': 2, 'list': [1]}


@both_managers
def test_nested_savepoints(shop, mark):
    """T9: each of two goes back to where it began, the outer one last."""
    seen = []

    @shop.view
    def maybe(request):
        session = request.session
        session['n'] = 2
        outer = mark(request)
        session['n'] = 3
        inner = mark(request)
        session['n'] = 4
        inner()
        seen.append(session['n'])
        outer()
        seen.append(session['n'])

    returning(shop).get('/maybe')
    assert seen == [3, 2]
    assert shop.data()['n'] == 2


@on_sqlite
@pytest.mark.parametrize('look', ['before', 'between', 'last'])
def test_an_outer_savepoint_after_an_inner_one_was_kept(shop, look):
    """T9: the rollback of the outer one takes the inner one's with it."""

    @shop.view
    def maybe(request):
        if look == 'before':
            len(request.session)
        outer = request.dbsession.begin_nested()
        if look == 'between':
            request.session['m'] = 1
        with request.dbsession.begin_nested():
            request.session['n'] = 2
        request.session['m'] = 2
        outer.rollback()
        return dict(request.session)

    assert returning(shop).get('/maybe').text == str(STORED)
    assert shop.data() == STORED


@on_sqlite
def test_a_savepoint_that_is_kept(shop):
    """T9: a block that ends well keeps session and row."""

    @shop.view
    def keep(request):
        with request.dbsession.begin_nested():
            add_note(request)
            request.session['n'] = 2

    returning(shop).get('/keep')
    assert shop.data()['n'] == 2
    assert shop.notes() == ['a note']


@pytest.mark.parametrize('look', ['before', 'within'])
def test_a_block_that_fails(shop, look):
    """T9: the usual pattern: try an INSERT, go on if it fails."""

    @shop.view
    def attempt(request):
        if look == 'before':
            request.session['tried'] = True
        try:
            with request.dbsession.begin_nested():
                request.session['n'] = 2
                request.session.flash('Saved!')
                flush_fails(request, shop)
        except sa.exc.IntegrityError:
            request.session.flash('That exists already')

    returning(shop).get('/attempt')
    data = shop.data()
    assert data.pop('tried', None) == (True if look == 'before' else None)
    assert data == STORED | {'_f_': ['That exists already']}


def test_a_savepoint_in_the_second_of_two_transactions(shop, mark):
    """T9: it goes back to its own beginning, not to an earlier one."""

    @shop.view
    def second(request):
        request.session['a'] = 1
        request.tm.commit()
        request.tm.begin()
        rollback = mark(request)
        request.session['b'] = 2
        rollback()
        request.session['c'] = 3

    returning(shop).get('/second')
    assert shop.data() == STORED | {'a': 1, 'c': 3}


def test_an_invalidated_session_and_a_savepoint(shop, mark):
    """T9: invalidate before, a new session after: only that is undone."""

    @shop.view
    def end(request):
        session = request.session
        session.invalidate()
        session['a'] = 1
        rollback = mark(request)
        session['b'] = 2
        rollback()

    browser = returning(shop)
    token = shop.token(browser)
    browser.get('/end')
    assert shop.data() == {'a': 1}
    assert shop.token(browser) not in (token, None)
    assert len(shop.rows()) == 1


def test_a_savepoint_in_an_exception_view(make_shop, mark):
    """T3, T9: the error page may use one too."""

    def answer(request):
        request.session['page'] = 1
        rollback = mark(request)
        request.session['page'] = 2
        rollback()

    site = make_shop(configure=answering(answer))

    @site.view
    def fail(request):
        request.session['n'] = 2
        raise Failure

    returning(site).get('/fail')
    assert site.data() == STORED | {'page': 1}


def test_revoking_within_a_savepoint(shop):
    """T9: a store's write is undone with the database's savepoint."""

    @shop.view
    def revoke(request):
        rollback = nested(request)
        request.session_store.revoke_all()
        rollback()
        request.session['n'] = 2

    browser = returning(shop)
    browser.get('/revoke')
    assert browser.get('/show').text == "{'n': 2, 'list': [1]}"


# -- T9: subrequests ----------------------------------------------------------


def with_cookie(request, path):
    """Return a request as of the same browser, with all else of its own."""
    return Request.blank(path, headers={'Cookie': request.headers['Cookie']})


def with_environ(request, path):
    """Return a copy of *request*, with the keys of pyramid_tm."""
    environ = dict(request.environ, PATH_INFO=path)
    return Request(environ)


def with_transaction(request, path):
    """Return one that shares the transaction and the ``dbsession``."""
    subrequest = with_cookie(request, path)
    subrequest.environ['tm.active'] = True
    subrequest.environ['tm.manager'] = request.tm
    subrequest.environ['app.dbsession'] = request.dbsession
    return subrequest


def with_session(request, path):
    """Return one that shares all that has to do with the database."""
    subrequest = with_transaction(request, path)
    subrequest.session = request.session
    return subrequest


KINDS = [with_cookie, with_environ, with_transaction, with_session]


#: How a view runs a subrequest: what it shares, and through tweens or not.
WAYS = [(kind, tweens) for kind in KINDS for tweens in (True, False)]


def errors(caplog):
    """Return the errors in the log: a false alarm is one too."""
    return [
        record.getMessage() for record in caplog.records
        if record.levelname == 'ERROR'
    ]


def run(request, path):
    """Run a subrequest in the way that the test is about."""
    kind, tweens = request.registry.way
    return request.invoke_subrequest(kind(request, path), use_tweens=tweens)


def each_way(site, ways=WAYS):
    """Yield a browser with a stored session, once for each way."""
    for way in ways:
        site.registry.way = way
        yield start_over(site)


@both_managers
def test_a_subrequest_loses_nothing(shop, caplog):
    """T9: what the outer and the inner view put in is stored, all of it."""

    @shop.view
    def inner(request):
        request.session['inner'] = request.session['n'] + 1
        request.session['list'].append('inner')

    @shop.view
    def outer(request):
        request.session['before'] = True
        run(request, '/inner')
        request.session['after'] = True

    for browser in each_way(shop):
        browser.get('/outer')
        assert (shop.registry.way, shop.data()) == (shop.registry.way, {
            'n': 1, 'list': [1, 'inner'], 'inner': 2,
            'before': True, 'after': True,
        })
    assert errors(caplog) == []


@both_managers
def test_a_subrequest_of_a_view_that_does_not_look(shop, caplog):
    """T9: only the inner view changes the session."""

    @shop.view
    def inner(request):
        request.session['inner'] = True
        request.session.flash('Saved!')

    @shop.view
    def outer(request):
        return run(request, '/inner')

    for browser in each_way(shop):
        browser.get('/outer')
        assert (shop.registry.way, shop.data()) == (
            shop.registry.way, STORED | {'inner': True, '_f_': ['Saved!']}
        )
    assert errors(caplog) == []


@both_managers
def test_a_subrequest_that_only_reads(shop):
    """T9: it sees the stored session and changes nothing."""

    @shop.view
    def inner(request):
        return request.session['n']

    @shop.view
    def outer(request):
        request.session['before'] = True
        text = run(request, '/inner').text
        request.session['after'] = True
        return text

    for browser in each_way(shop):
        assert browser.get('/outer').text == '1'
        assert (shop.registry.way, shop.data()) == (
            shop.registry.way, STORED | {'before': True, 'after': True}
        )


SHARED = [(kind, True) for kind in (
    with_environ, with_transaction, with_session
)]


@both_managers
def test_a_subrequest_in_a_doomed_transaction(shop):
    """T2, T9: what shares the transaction shares its end."""

    @shop.view
    def inner(request):
        request.session['inner'] = True

    @shop.view
    def outer(request):
        request.session['before'] = True
        run(request, '/inner')
        request.tm.doom()

    for browser in each_way(shop, SHARED):
        browser.get('/outer')
        assert (shop.registry.way, shop.data()) == (shop.registry.way, STORED)


@both_managers
def test_a_failing_subrequest_that_the_outer_view_handles(shop):
    """T9, T1: the outer words stay, the inner ones with their rows."""

    @shop.view
    def inner(request):
        request.session['inner'] = True
        raise Failure

    @shop.view
    def outer(request):
        request.session['before'] = True
        with pytest.raises(Failure):
            run(request, '/inner')
        request.session['after'] = True

    is_thread_local = shop.registry.settings['tm.manager_hook'] is None
    for browser in each_way(shop):
        browser.get('/outer')
        data = shop.data()
        kind, tweens = shop.registry.way
        # Whose transaction is not its own shares the fate of it.
        shares = kind is not with_cookie or (is_thread_local and not tweens)
        assert (kind, tweens, data.pop('inner', False)) == (
            kind, tweens, shares
        )
        assert data == STORED | {'before': True, 'after': True}


def of_a_stranger(request, path):
    """Return a request without the cookie."""
    return Request.blank(path)


@both_managers
def test_a_subrequest_of_a_stranger(shop):
    """T9: without the cookie it has a session of its own, both are kept."""

    @shop.view
    def inner(request):
        request.session['inner'] = True

    @shop.view
    def outer(request):
        request.session['before'] = True
        run(request, '/inner')
        request.session['after'] = True

    ways = [(of_a_stranger, True), (of_a_stranger, False)]
    for browser in each_way(shop, ways):
        token = shop.token(browser)
        browser.get('/outer')
        stored = [shop.application.codec.read(row['data'])[0]
                  for row in shop.rows()]
        assert sorted(map(len, stored)) == [1, 4]
        assert shop.token(browser) == token


@both_managers
def test_outer_and_inner_request_of_a_new_visitor(shop, caplog):
    """T9: he gets the cookie of the session that the outer view filled."""

    @shop.view
    def inner(request):
        request.session['inner'] = True

    @shop.view
    def outer(request):
        request.headers.setdefault('Cookie', 'other=1')
        request.session['outer'] = True
        run(request, '/inner')

    for _ in each_way(shop, SHARED):
        browser = shop.browser()
        browser.get('/outer')
        assert "'outer': True" in browser.get('/show').text
    assert errors(caplog) == []


@both_managers
def test_a_subrequest_that_rotates(shop):
    """T9: the browser gets the cookie although the response is dropped."""

    @shop.view
    def inner(request):
        request.session.rotate()

    @shop.view
    def outer(request):
        if 'before' in request.params:
            request.session['outer'] = True
        run(request, '/inner')
        request.session['outer'] = True

    for query in ('', '?before=1'):
        for browser in each_way(shop, SHARED):
            token = shop.token(browser)
            browser.get(f'/outer{query}')
            assert shop.token(browser) != token
            assert (shop.registry.way, browser.get('/show').text) == (
                shop.registry.way, str(STORED | {'outer': True})
            )


@both_managers
def test_the_response_of_a_subrequest_as_the_answer(shop):
    """T9, R4: its cookie comes with it, once it is committed."""

    @shop.view
    def inner(request):
        request.session['inner'] = True

    @shop.view
    def outer(request):
        return run(request, '/inner')

    for _ in each_way(shop, [(of_a_stranger, True), (of_a_stranger, False)]):
        browser = shop.browser()
        browser.get('/outer')
        assert browser.get('/show').text == "{'inner': True}"


@both_managers
def test_a_subrequest_that_invalidates(shop):
    """T9, C4: what the outer view says afterwards revives nothing."""

    @shop.view
    def inner(request):
        request.session.invalidate()

    @shop.view
    def outer(request):
        request.session['before'] = True
        run(request, '/inner')

    for browser in each_way(shop):
        browser.get('/outer')
        assert all(
            'n' not in shop.application.codec.read(row['data'])[0]
            for row in shop.rows()
        )
        assert "'n'" not in browser.get('/show').text


@both_managers
def test_subrequests_within_subrequests(shop, caplog):
    """T9: three levels, each with a word of its own."""

    @shop.view
    def deep(request):
        depth = int(request.headers.get('X-Depth', 0))
        request.session[f'd{depth}'] = True
        if depth < 3:
            kind, tweens = request.registry.way
            deeper = kind(request, '/deep')
            deeper.headers['X-Depth'] = str(depth + 1)
            request.invoke_subrequest(deeper, use_tweens=tweens)
            request.session[f'e{depth}'] = True

    for browser in each_way(shop):
        browser.get('/deep')
        assert (shop.registry.way, sorted(shop.data())) == (
            shop.registry.way,
            ['d0', 'd1', 'd2', 'd3', 'e0', 'e1', 'e2', 'list', 'n'],
        )
    assert errors(caplog) == []
