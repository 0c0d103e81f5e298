"""The session in the transaction of the request (T1, T2, T6)."""

import contextlib

from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response
from pyramid.tweens import EXCVIEW
import pytest
import sqlalchemy as sa
from zope.sqlalchemy import mark_changed
from zope.sqlalchemy import register

from pyramid_sqlasession import SessionCreated
from pyramid_sqlasession import SessionInvalidated
from pyramid_sqlasession import SessionNotSerializable
from pyramid_sqlasession import SessionRotated

from .failing import answered
from .failing import answering
from .failing import each_refusal_alone
from .failing import Failure
from .failing import on_sqlite
from .failing import raiser
from .failing import refuse_commits
from .failing import Voter
from .shop import add_note
from .shop import both_managers
from .shop import change_as_asked
from .shop import CHANGES
from .shop import commit_fails
from .shop import first_vote_fails
from .shop import flush_fails
from .shop import flush_fails_at_commit
from .shop import prepare_deferred
from .shop import returning
from .shop import start_over
from .shop import STORED
from .shop import with_views
from .site import Note

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
    """T1, R7: what it adds to the view's change is in the same COMMIT."""
    # Also if it only has a value of the session.
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
@pytest.mark.parametrize('with_data', [False, True])
def test_a_hook_changes_what_the_view_has_read(shop, with_data):
    """T1, R7: that alone is a change, and in the same COMMIT."""
    seen = []

    @shop.view
    def hook(request):
        held = request.session['list']
        transaction = request.tm.get()
        transaction.addBeforeCommitHook(lambda: held.append(2))
        transaction.addAfterCommitHook(lambda _: seen.append(shop.data()))
        if with_data:
            add_note(request)

    returning(shop).get('/hook')
    assert seen == [{'n': 1, 'list': [1, 2]}]


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
    """T1, T8: nothing that is done during the commit is lost."""
    # Although the view has changed the session too.

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
    """T9: one application calls another one; each session is saved last."""
    # After the hooks of both.
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


def test_a_rollback_by_hand(make_site):
    """T1: ``dbsession.rollback()`` after an error does not lose the flash."""
    site = make_site()

    @site.view
    def add(request):
        session = request.session
        session['tries'] = session.get('tries', 0) + 1
        request.dbsession.add(Note(text='once'))
        try:
            request.dbsession.flush()
        except sa.exc.IntegrityError:
            request.dbsession.rollback()
            session.flash('It exists already')

    browser = site.browser()
    browser.get('/add')
    browser.get('/add')
    assert site.data() == {'tries': 2, '_f_': ['It exists already']}
    assert site.notes() == ['once']


@pytest.mark.parametrize('looks', ['before', 'after', 'never'])
def test_a_flush_that_fails_and_is_caught(make_site, looks):
    """T1: the flash is stored, as after ``dbsession.rollback()``."""
    site = with_views(make_site())
    site.execute("INSERT INTO notes (text) VALUES ('once')")

    @site.view
    def add(request):
        if looks == 'before':
            assert request.session['n'] == 1
        request.dbsession.add(Note(text='once'))
        try:
            request.dbsession.flush()
        except sa.exc.IntegrityError:
            if looks == 'after':
                assert request.session['n'] == 1
            request.session.flash('It exists already')
            return HTTPFound('/work')

    browser = returning(site)
    assert browser.get('/add').status_int == 302
    assert site.data() == STORED | {'_f_': ['It exists already']}
    assert site.notes() == ['once']
    # Nor is a connection lost.
    assert site.engine.pool.checkedout() == 0


@pytest.mark.parametrize('adds', [True, False])
def test_what_was_flushed_before_one_that_fails(make_site, adds):
    """T1: is missed, or marked as changed, and no session tells otherwise."""
    site = with_views(make_site())
    site.execute("INSERT INTO notes (text) VALUES ('once')")

    @site.view
    def add(request):
        if adds:
            request.dbsession.add(Note(text='before'))
            request.dbsession.flush()
        else:
            mark_changed(request.dbsession, request.tm)
        request.dbsession.add(Note(text='once'))
        with contextlib.suppress(sa.exc.IntegrityError):
            request.dbsession.flush()
        request.session['n'] = 2

    browser = returning(site)
    with pytest.raises(sa.exc.PendingRollbackError):
        browser.get('/add')
    assert site.data() == STORED
    assert site.notes() == ['once']


@on_sqlite
def test_a_rollback_by_hand_of_one_of_two(shop):
    """T1: the session is stored, whatever else is in the transaction."""

    engine = sa.create_engine('sqlite://')

    @shop.view
    def work(request):
        other = sa.orm.Session(engine)
        register(other, transaction_manager=request.tm)
        for one in (other, request.dbsession):
            one.execute(sa.text('SELECT 1'))
        request.dbsession.rollback()
        request.session['n'] = 2

    returning(shop).get('/work')
    engine.dispose()
    assert shop.data() == STORED | {'n': 2}


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
        # One statement: no snapshot is older than what it finds.
        request.dbsession.execute(
            sa.update(Note).values(text=request.params['name'])
        )

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


# -- what cannot be stored ----------------------------------------------------


@both_managers
@pytest.mark.parametrize('visitor', ['new', 'returning'])
@pytest.mark.parametrize('key', ['n', 'm'])
def test_what_cannot_be_stored_ends_the_transaction(shop, visitor, key):
    """T1: the application's data go with it, whether the key was there."""

    @shop.view
    def work(request):
        add_note(request)
        request.session[key] = object()

    browser = start_over(shop) if visitor == 'returning' else shop.browser()
    before = shop.rows()
    with pytest.raises(SessionNotSerializable):
        browser.get('/work')
    assert shop.notes() == []
    assert shop.rows() == before


# -- a session alone ----------------------------------------------------------


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
@each_refusal_alone
@pytest.mark.parametrize(
    # psycopg prepares a statement when it was used five times.
    ('change', 'uses'), [('put', 0), ('put', 5), ('put', 8), ('replace', 0)]
)
def test_a_session_that_is_written_alone_meets_a_conflict(
    make_site, change, uses, failures, state, tries
):
    """T3: the write is done again, not the request, and not for ever."""
    # One statement or two; only after a conflict.
    site = with_views(make_site())
    runs = []

    @site.view
    def work(request):
        runs.append(1)
        if change == 'replace':
            request.session.invalidate()
        request.session['m'] = len(runs)

    browser = returning(site)
    for _ in range(uses):
        browser.get('/work')
    before, count = site.data(), len(runs)
    tried = refuse_commits(site, failures, state)
    if failures < tries:
        browser.get('/work')
        stored = {} if change == 'replace' else STORED
        assert site.data() == stored | {'m': count + 1}
    else:
        with answered(state):
            browser.get('/work')
        assert site.data() == before
    assert len(runs) == count + 1
    assert tried() == tries
