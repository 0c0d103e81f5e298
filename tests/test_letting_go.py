"""A request that is over is freed at once, and its session can still be used
(R10, T8).
"""

import copy
import gc
import logging
import pickle
import threading
import weakref

from pyramid.interfaces import ISessionFactory
from pyramid.request import Request
from pyramid.response import Response
from pyramid.scripting import prepare
import pytest
import sqlalchemy as sa
import zope.sqlalchemy

from .failing import on_sqlite
from .given import Given
from .shop import CHANGES
from .shop import with_views
from .site import Note
from .subrequests import with_environ
from .unmanaged import errors
from .unmanaged import is_managed_path
from .unmanaged import returning

# The thread's manager is the next test's too.
pytestmark = pytest.mark.usefixtures('clean_thread')

#: What a view can do to its session without changing it.
LOOKS = {
    'get': lambda session: session.get('n'),
    'items': lambda session: list(session.items()),
    'peek': lambda session: session.peek_flash(),
    'repr': repr,
}
WORK = {**LOOKS, **CHANGES}


def with_plain_dbsession(config):
    """Give requests a ``dbsession`` that does not hold them, as the
    cookiecutter's does by its ``info``.
    """

    def get_dbsession(request):
        dbsession = request.environ.get('app.dbsession')
        if dbsession is None:
            dbsession = request.registry['dbsession_factory']()
            zope.sqlalchemy.register(
                dbsession, transaction_manager=request.tm
            )
        return dbsession

    config.add_request_method(get_dbsession, 'dbsession', reify=True)


class Watched:
    """A site whose requests are watched: who of them is still alive."""

    def __init__(self, site):
        self.site = with_views(site)
        self._references = []

    def view(self, function, *, makes_session=True):
        """Make *function* a view, whose requests are watched, and their
        sessions, which are made by it.
        """

        def watched(request):
            self._references.append(weakref.ref(request))
            if makes_session:
                self._references.append(weakref.ref(request.session))
            return function(request)

        self.site.views[function.__name__] = watched
        return function

    @property
    def alive(self):
        """The requests and sessions that something still holds."""
        found = [reference() for reference in self._references]
        assert found
        return [type(one).__name__ for one in found if one is not None]


@pytest.fixture
def make_watched(make_site):
    """A function that makes a ``Watched`` site; nothing collects garbage."""

    def make(**settings):
        return Watched(make_site(
            with_dbsession=with_plain_dbsession,
            **{'tm.activate_hook': is_managed_path, **settings},
        ))

    gc.disable()
    yield make
    gc.enable()


@pytest.fixture
def watched(make_watched):
    """A ``Watched`` site with the default settings."""
    return make_watched()


@pytest.fixture
def keep(watched):
    """A function that returns the session of a request that is gone."""

    def get(work=lambda request: request.session.get('n')):
        kept = []

        def view(request):
            kept.append(request.session)
            work(request)

        watched.site.views['keep'] = view
        returning(watched.site).get('/keep')
        return kept.pop()

    return get


# -- it is freed --------------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize('work', WORK)
@pytest.mark.parametrize(('path', 'joined'), [
    ('work', False), ('work', True), ('free_work', False),
])
def test_a_request_that_is_over_is_freed(watched, path, work, joined):
    """T8: whatever its view did; nothing waits for the garbage collector."""
    def view(request):
        WORK[work](request.session)
        if joined:
            request.dbsession.add(Note(text='a note'))

    view.__name__ = path
    watched.view(view)
    returning(watched.site).get(f'/{path}')
    assert watched.alive == []


@on_sqlite
@pytest.mark.parametrize('path', ['work', 'free_work'])
def test_a_new_visitors_request_is_freed(watched, path):
    """T8: its session was created, with a cookie."""

    def view(request):
        request.session['n'] = 1

    view.__name__ = path
    watched.view(view)
    watched.site.browser().get(f'/{path}')
    assert watched.alive == []


@on_sqlite
@pytest.mark.parametrize('settings', [
    {'touch_interval': '0'},
    {'additional_fields': 'user_id: Integer'},
    {'secret': 's' * 40, 'conflict': 'retry'},
])
def test_a_request_is_freed_whatever_the_settings(make_watched, settings):
    """T8: nothing that the settings bring in holds it."""
    watched = make_watched(**settings)

    @watched.view
    def work(request):
        request.session.get('n')

    @watched.view
    def change(request):
        request.session['user_id'] = 7

    browser = returning(watched.site)
    watched.site.clock.advance(minutes=5)
    browser.get('/work')
    browser.get('/change')
    assert watched.alive == []


@on_sqlite
@pytest.mark.parametrize('path', ['work', 'free_work'])
def test_a_request_is_freed_that_extends_its_fields(make_watched, path):
    """T8: ``extend_default_fields`` was given it, and is done with it."""
    watched = make_watched(
        additional_fields='user_id: Integer',
        extend_default_fields=lambda defaults, session, request: defaults,
    )

    def view(request):
        request.session['user_id'] = 7

    view.__name__ = path
    watched.view(view)
    returning(watched.site).get(f'/{path}')
    assert watched.alive == []


@on_sqlite
def test_a_request_is_freed_that_ends_its_transaction_itself(watched):
    """T9: commits and aborts by hand, and a savepoint, hold nothing."""

    @watched.view
    def work(request):
        request.session['n'] = 2
        request.tm.commit()
        request.tm.begin()
        request.session['n'] = 3
        request.tm.abort()
        request.tm.begin()
        nested = request.dbsession.begin_nested()
        request.session['n'] = 4
        nested.rollback()

    returning(watched.site).get('/work')
    assert watched.alive == []


@on_sqlite
def test_a_request_is_freed_whose_finished_callback_looks(watched):
    """T8: the callback comes before the session is let go."""

    @watched.view
    def work(request):
        request.session.get('n')
        request.add_finished_callback(
            lambda request: request.session.get('n')
        )

    returning(watched.site).get('/work')
    assert watched.alive == []


@on_sqlite
@pytest.mark.parametrize('work', ['get', 'put'])
def test_a_request_in_a_given_transaction_is_freed(watched, work):
    """T7: it does not last as long as the transaction of the test."""

    @watched.view
    def view(request):
        WORK[work](request.session)

    given = Given(watched.site)
    browser = given.browser()
    browser.get('/fill')
    browser.get('/view')
    alive = watched.alive
    given.abort()
    assert alive == []


@on_sqlite
def test_a_request_is_freed_whose_session_is_replaced(watched):
    """T8: each of its sessions is let go."""

    @watched.view
    def work(request):
        request.session['n'] = 2
        del request.session
        request.session['m'] = 3

    returning(watched.site).get('/work')
    assert watched.alive == []


def use_store(request):
    """The store of the sessions is used."""
    request.session_store.count()


def make_store(request):
    """The same, in passing."""
    request.made = request.session_store is not None


def look_late(request):
    """A finished callback comes when the session was let go."""
    request.session.get('n')
    request.add_finished_callback(
        lambda request: request.add_finished_callback(
            lambda request: request.session.get('n')
        )
    )


def look_in_subrequest(request):
    """A subrequest in the transaction reads its session."""
    request.invoke_subrequest(with_environ(request, '/inner'))


@on_sqlite
@pytest.mark.parametrize('work', [
    use_store, make_store, look_late, look_in_subrequest,
])
@pytest.mark.parametrize('is_new', [False, True])
def test_a_request_is_freed_that_did_something_else(watched, work, is_new):
    """T8: with the store of sessions, in a late callback, a subrequest."""

    @watched.view
    def inner(request):
        request.session.get('n')

    watched.view(work, makes_session=False)
    site = watched.site
    browser = site.browser() if is_new else returning(site)
    browser.get(f'/{work.__name__}')
    assert watched.alive == []


@on_sqlite
def test_a_session_that_is_kept_does_not_hold_its_request(watched):
    """T8: what hangs on the request is freed, though its session lives."""
    kept = []

    @watched.view
    def work(request):
        kept.append(request.session)
        request.session.get('n')

    returning(watched.site).get('/work')
    assert watched.alive == ['SQLASession']


# -- it can still be used -----------------------------------------------------


@on_sqlite
def test_a_session_is_read_when_its_request_is_gone(keep):
    """R10: it is a dict with what it had."""
    session = keep()
    content = {'n': 1, 'list': [1]}
    assert session == content
    assert session['n'] == 1
    assert len(session) == 2
    assert repr(session) == repr(content)
    assert session.copy() == content
    assert copy.copy(session) == content
    assert copy.deepcopy(session) == content
    assert pickle.loads(pickle.dumps(session)) == content  # noqa: S301
    assert session.peek_flash() == []
    assert not session.new
    assert session.id
    assert session.created
    assert session.expires > session.accessed


@on_sqlite
@pytest.mark.parametrize('change', [
    name for name in CHANGES if name not in ('nested', 'replace')
])
def test_a_change_when_the_request_is_gone(keep, watched, caplog, change):
    """T8: it is an error in the log; nothing is stored."""
    session = keep()
    before = watched.site.rows()
    caplog.clear()
    CHANGES[change](session)
    assert len(errors(caplog)) == 1
    assert watched.site.rows() == before


@on_sqlite
def test_the_log_names_the_key_when_the_request_is_gone(keep, caplog):
    """T8: which one was changed too late."""
    session = keep()
    caplog.clear()
    session['too_late'] = 1
    assert ['too_late' in error for error in errors(caplog)] == [True]
    # It is a dict all the same.
    assert session['too_late'] == 1


@on_sqlite
def test_a_session_is_used_while_the_body_is_sent(watched, caplog):
    """R10, T8: by an ``app_iter``, read and changed."""

    @watched.view
    def work(request):
        session = request.session
        session.get('n')

        def body():
            yield str(session['n']).encode()
            session['too_late'] = 2
            yield str(session['too_late']).encode()

        return Response(app_iter=body())

    browser = returning(watched.site)
    caplog.clear()
    assert browser.get('/work').text == '12'
    assert ['too_late' in error for error in errors(caplog)] == [True]


@on_sqlite
def test_a_thread_outlives_the_request(watched, caplog):
    """R10, T8: it reads what was there; what it changes is lost, and said."""
    is_over = threading.Event()
    found = []

    @watched.view
    def work(request):
        session = request.session
        session.get('n')

        def run():
            is_over.wait(10)
            found.append(session['n'])
            session['too_late'] = 2

        request.registry.thread = thread = threading.Thread(target=run)
        thread.start()

    browser = returning(watched.site)
    caplog.clear()
    browser.get('/work')
    is_over.set()
    watched.site.registry.thread.join()
    assert found == [1]
    assert ['too_late' in error for error in errors(caplog)] == [True]


@on_sqlite
def test_a_finished_callback_of_a_finished_callback(watched, caplog):
    """T8: it comes after the session was let go, and is heard."""

    def change(request):
        assert request.session['n'] == 1
        request.session['too_late'] = 1

    @watched.view
    def work(request):
        request.session.get('n')
        request.add_finished_callback(
            lambda request: request.add_finished_callback(
                lambda request: request.add_finished_callback(change)
            )
        )

    browser = returning(watched.site)
    caplog.clear()
    browser.get('/work')
    assert ['too_late' in error for error in errors(caplog)] == [True]


@on_sqlite
def test_a_script_goes_on_with_its_request(watched):
    """T8: after its ``closer`` was called, in a transaction of its own."""
    browser = returning(watched.site)
    with prepare(registry=watched.site.registry) as env:
        request = env['request']
        request.cookies['session'] = watched.site.token(browser)
        assert request.session['n'] == 1
    with request.tm:
        request.session['n'] = 2
    assert watched.site.data()['n'] == 2
    with request.tm:
        request.dbsession.add(Note(text='a note'))
        request.dbsession.flush()
        # Through the same connection: the lock of the other one is held.
        request.session['n'] = 3
    assert watched.site.data()['n'] == 3
    assert watched.site.notes() == ['a note']


@on_sqlite
def test_a_script_drops_the_session_that_it_changed(watched):
    """T8: what takes part in a transaction is there when it commits."""
    browser = returning(watched.site)
    with prepare(registry=watched.site.registry) as env:
        request = env['request']
        request.cookies['session'] = watched.site.token(browser)
        sessions = [request.session]
        assert sessions[0]['n'] == 1
        del request.session
    with request.tm:
        sessions.pop()['n'] = 2
    assert watched.site.data()['n'] == 2


@on_sqlite
def test_a_session_that_could_not_be_loaded(watched):
    """R10: it is loaded later, with the cookie of its request."""
    kept = []

    @watched.view
    def work(request):
        kept.append(request.session)
        with pytest.raises(Exception, match='no such table'):
            request.session.get('n')

    browser = returning(watched.site)
    watched.site.execute('ALTER TABLE sessions RENAME TO hidden')
    browser.get('/work')
    watched.site.execute('ALTER TABLE hidden RENAME TO sessions')
    # The error holds the request.
    gc.collect()
    assert kept[0]['n'] == 1


@on_sqlite
def test_a_subrequest_that_failed_in_a_transaction(watched):
    """T9: what it changed is committed with the outer request, later."""

    @watched.view
    def inner(request):
        request.session['inner'] = 1
        raise LookupError

    @watched.view
    def work(request):
        with pytest.raises(LookupError):
            request.invoke_subrequest(
                with_environ(request, '/inner'), use_tweens=False
            )
        request.session['outer'] = 1

    returning(watched.site).get('/work')
    assert watched.site.data() == {
        'n': 1, 'list': [1], 'inner': 1, 'outer': 1,
    }


class StandIn:
    """A test's own request, to which there are no weak references."""

    __slots__ = ('__dict__',)

    def __init__(self, registry, cookie):
        self.registry = registry
        self.environ = {'HTTP_COOKIE': f'session={cookie}'}
        self.callbacks = []

    def add_response_callback(self, callback):
        pass

    def add_finished_callback(self, callback):
        self.callbacks.append(callback)

    finished_callbacks = ()


@on_sqlite
def test_a_request_without_weak_references(watched):
    """R10: the session of a test's own stand-in works, and later, too."""
    site = watched.site
    request = StandIn(site.registry, site.token(returning(site)))
    with pytest.raises(TypeError):
        weakref.ref(request)
    session = request.session = site.registry.getUtility(ISessionFactory)(
        request
    )
    assert session['n'] == 1
    for callback in request.callbacks:
        callback(request)
    assert session == {'n': 1, 'list': [1]}


# -- what goes on meanwhile ---------------------------------------------------


def hurry(site):
    """Have SQLite say soon that it is locked."""
    site.engine.dispose()
    sa.event.listen(
        site.engine, 'connect',
        lambda connection, record: connection.execute(
            'PRAGMA busy_timeout = 300'
        ),
    )


@on_sqlite
@pytest.mark.parametrize('first', ['fill', 'show'])
def test_a_commit_by_hand_after_another_request(make_site, first):
    """T1, T7, T9: of a given transaction that an earlier request joined."""
    site = with_views(make_site())
    hurry(site)

    @site.view
    def work(request):
        request.dbsession.add(Note(text='a note'))
        request.dbsession.flush()
        request.session['m'] = 2
        request.tm.commit()
        request.tm.begin()

    given = Given(site)
    browser = given.browser()
    try:
        browser.get(f'/{first}')
        browser.get('/work')
    finally:
        given.abort()
    assert site.data()['m'] == 2
    assert site.notes() == ['a note']


@on_sqlite
def test_a_commit_by_hand_after_a_subrequest(make_site):
    """T1, T7, T9: of a given transaction that it has joined."""
    site = with_views(make_site())
    hurry(site)

    @site.view
    def inner(request):
        request.session['inner'] = 1

    @site.view
    def outer(request):
        request.invoke_subrequest(with_environ(request, '/inner'))

    @site.view
    def work(request):
        request.tm.commit()
        request.tm.begin()

    given = Given(site)
    browser = given.browser()
    try:
        browser.get('/fill')
        browser.get('/outer')
        gc.collect()
        browser.get('/work')
    finally:
        given.abort()
    assert site.data()['inner'] == 1


@on_sqlite
def test_a_view_with_a_transaction_of_its_own(make_site):
    """T1: a subrequest has read its session in it, and is over."""
    site = with_views(make_site(**{
        'tm.manager_hook': None, 'tm.activate_hook': is_managed_path,
    }))
    hurry(site)

    @site.view
    def free_inner(request):
        return request.session.get('n')

    @site.view
    def free_work(request):
        with request.tm:
            request.dbsession.add(Note(text='a note'))
            request.dbsession.flush()
            request.invoke_subrequest(Request.blank(
                '/free_inner', headers={'Cookie': request.headers['Cookie']}
            ))
            request.session['n'] = 2

    returning(site).get('/free_work')
    assert site.data()['n'] == 2
    assert site.notes() == ['a note']


@on_sqlite
def test_a_script_with_a_helper(make_site):
    """T1: one that prepares a request of its own, in the same transaction."""
    site = with_views(make_site(**{'tm.manager_hook': None}))
    hurry(site)
    with prepare(registry=site.registry) as env:
        request = env['request']
        with request.tm:
            request.dbsession.add(Note(text='a note'))
            request.dbsession.flush()
            with prepare(registry=site.registry) as inner:
                inner['request'].session.get('n')
            request.session['n'] = 3
    assert site.data() == {'n': 3}
    assert site.notes() == ['a note']


@on_sqlite
@pytest.mark.parametrize('change', [False, True])
def test_finished_callbacks_that_are_called_early(make_site, change):
    """R4, T8: by a helper that prepares the request of the view."""
    site = with_views(make_site(touch_interval='0'))

    @site.view
    def work(request):
        request.session.get('n')
        if change:
            request.session['n'] = 2
        with prepare(registry=request.registry, request=request):
            pass

    browser = returning(site)
    site.clock.advance(minutes=5)
    assert 'Set-Cookie' in browser.get('/work').headers


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_a_savepoint_of_a_view_that_is_over(make_site):
    """T7, T9: the test, whose transaction it is, rolls it back."""
    site = with_views(make_site())
    kept = []

    @site.view
    def work(request):
        request.dbsession.add(Note(text='a note'))
        request.session['n'] = 2
        kept.append(request.tm.savepoint())

    given = Given(site)
    browser = given.browser()
    try:
        browser.get('/fill')
        browser.get('/work')
        kept[0].rollback()
        assert "'n': 1" in browser.get('/show').text
    finally:
        given.abort()


@on_sqlite
def test_a_thread_that_loads_while_the_request_ends(
    make_site, monkeypatch, caplog,
):
    """T8: it meets a wrong secret."""
    site = with_views(make_site())
    is_over, is_loaded, found = threading.Event(), threading.Event(), []

    def wait(record):
        if threading.current_thread() is not threading.main_thread():
            is_loaded.set()
            is_over.wait(10)
        return True

    log = logging.getLogger('pyramid_sqlasession.watching')
    monkeypatch.setattr(log, 'filters', [wait])
    caplog.set_level(logging.DEBUG, log.name)

    @site.view
    def work(request):
        session = request.session

        def run():
            try:
                found.append(session.get('n'))
            except Exception as error:
                found.append(error)

        request.registry.thread = threading.Thread(target=run)
        request.registry.thread.start()
        is_loaded.wait(10)

    token = site.token(returning(site))
    wrong = token[:-4] + ('AAAA' if token[-4:] != 'AAAA' else 'BBBB')
    site.browser().get('/work', headers={'Cookie': f'session={wrong}'})
    is_over.set()
    site.registry.thread.join()
    assert found == [None]
