"""Changes when the response is on its way, and later (T8)."""

import logging

from pyramid.events import NewRequest
from pyramid.events import NewResponse
from pyramid.response import Response
from pyramid.scripting import prepare
import pytest
import sqlalchemy as sa

from pyramid_sqlasession import SessionError
from pyramid_sqlasession import SessionNotSerializable

from .failing import answering
from .failing import on_sqlite
from .failing import Passing
from .shop import STORED
from .shop import with_views
from .site import Note
from .unmanaged import both_managers
from .unmanaged import errors
from .unmanaged import is_managed_path
from .unmanaged import returning

# The thread's manager is the next test's too.
pytestmark = pytest.mark.usefixtures('clean_thread')


@both_managers
@pytest.mark.parametrize('look', [True, False])
def test_response_callbacks(make_site, look, manager):
    """T8: their changes are stored, in whichever order they were added."""
    site = with_views(make_site(**{'tm.manager_hook': manager}))

    @site.view
    def work(request):
        def first(request, response):
            request.session['first'] = True
            request.add_response_callback(last)

        def second(request, response):
            request.session['list'].append(2)

        def last(request, response):
            request.session['last'] = True

        request.add_response_callback(first)
        if look:
            request.session['view'] = True
        request.add_response_callback(second)

    browser = returning(site)
    browser.get('/work')
    assert site.data() == {
        'n': 1, 'list': [1, 2], 'first': True, 'last': True,
    } | ({'view': True} if look else {})


@on_sqlite
def test_a_response_callback_of_a_new_visitor(free):
    """T8: its session has a record and a cookie."""

    @free.view
    def work(request):
        request.add_response_callback(
            lambda request, response: request.session.update(late=True)
        )

    browser = free.browser()
    browser.get('/work')
    assert browser.get('/show').text == "{'late': True}"


@on_sqlite
@pytest.mark.parametrize('look', [True, False])
def test_a_response_callback_of_a_response_callback(free, look, caplog):
    """T8: what each of a chain of them puts in is stored."""

    def add(request, left):
        def call_back(request, response):
            request.session[f'left{left}'] = True
            if left:
                add(request, left - 1)

        request.add_response_callback(call_back)

    @free.view
    def work(request):
        if look:
            request.session['view'] = True
        add(request, 3)

    browser = returning(free)
    caplog.clear()
    browser.get('/work')
    assert free.data() == STORED | {
        f'left{left}': True for left in range(4)
    } | ({'view': True} if look else {})
    assert errors(caplog) == []


@on_sqlite
def test_a_response_callback_that_is_always_the_last(free):
    """T8: with one that adds itself until nobody is left, both end."""
    calls = []

    def call_back(request, response):
        calls.append(len(request.response_callbacks))
        if request.response_callbacks:
            request.add_response_callback(call_back)

    @free.view
    def work(request):
        request.add_response_callback(call_back)
        request.session['view'] = True

    returning(free).get('/work')
    assert calls
    assert calls[-1] == 0
    assert free.data() == STORED | {'view': True}


@on_sqlite
def test_a_response_callback_from_the_beginning(make_site):
    """T8: one that NewRequest has added runs first and is heard."""

    def configure(config):
        config.add_subscriber(
            lambda event: event.request.add_response_callback(
                lambda request, response: request.session.update(late=True)
            ),
            NewRequest,
        )

    site = make_site(configure=configure)

    @site.view
    def work(request):
        request.session['n'] = 1

    site.browser().get('/work')
    assert site.data() == {'n': 1, 'late': True}


def at_new_response(site, act):
    """Have *act* called with a request that is marked, once it has a
    response.
    """
    site.registry.registerHandler(
        lambda event: getattr(event.request, 'is_marked', False)
        and act(event.request),
        [NewResponse],
    )
    site.registry.has_listeners = True


def change_key(request):
    """Set a key."""
    request.session['too_late'] = True


def change_nested(request):
    """Change a value that the session gave away before."""
    request.held.append(1)


@on_sqlite
@pytest.mark.parametrize('change', [change_key, change_nested])
@pytest.mark.parametrize('moment', ['NewResponse', 'finished', 'body'])
def test_a_change_after_the_response(free, caplog, moment, change):
    """T8: an error in the log that names the key, nothing is stored."""

    def body(request):
        change(request)
        yield b'text'

    @free.view
    def work(request):
        request.held = request.session.setdefault('too_late', [])
        if change is change_key:
            del request.session['too_late']
        if moment == 'finished':
            request.add_finished_callback(change)
        if moment == 'body':
            return Response(app_iter=body(request))
        request.is_marked = True

    if moment == 'NewResponse':
        at_new_response(free, change)
    browser = returning(free)
    caplog.clear()
    browser.get('/work')
    # A value that changes while the body is sent is seen by nobody.
    if (moment, change) != ('body', change_nested):
        assert any('too_late' in message for message in errors(caplog))
    assert free.data().get('too_late', []) == []


@on_sqlite
@pytest.mark.parametrize('name', ['invalidate', 'rotate', 'touch'])
def test_a_method_that_is_called_too_late(free, caplog, name):
    """T8: the error in the log names a method that changes no key."""

    @free.view
    def work(request):
        request.session.get('n')
        request.add_finished_callback(
            lambda request: getattr(request.session, name)()
        )

    browser = returning(free)
    caplog.clear()
    browser.get('/work')
    (message,) = errors(caplog)
    assert f'({name}())' in message
    assert free.data() == STORED


@on_sqlite
@pytest.mark.parametrize('moment', ['NewResponse', 'finished', 'body'])
def test_a_first_look_that_is_too_late(free, caplog, moment):
    """T8: the same if nobody looked at the session before."""

    def body(request):
        change_key(request)
        yield b'text'

    @free.view
    def work(request):
        if moment == 'finished':
            request.add_finished_callback(change_key)
        if moment == 'body':
            return Response(app_iter=body(request))
        request.is_marked = True

    if moment == 'NewResponse':
        at_new_response(free, change_key)
    browser = returning(free)
    caplog.clear()
    browser.get('/work')
    assert any('too_late' in message for message in errors(caplog))
    assert free.data() == STORED


@on_sqlite
@pytest.mark.parametrize(
    ('key', 'name'), [
        (5, '(5)'), (10**5000, '(something of type int)'),
        # It would begin a line of the log that says something else.
        ('a\nERROR x', r"('a\nERROR x')"), ('\x1b[2J', r"('\x1b[2J')"),
        ('k' * 1000, "('kkk"), ('Grüße', '(Grüße)'),
    ],
    ids=['int', 'huge', 'lines', 'escape', 'long', 'not ASCII'],
)
def test_a_late_key_of_any_kind(free, caplog, key, name):
    """T8: it is named as well, in one line, and the response goes out."""

    @free.view
    def work(request):
        len(request.session)
        request.add_finished_callback(
            lambda request: request.session.__setitem__(key, 1)
        )

    browser = returning(free)
    caplog.clear()
    browser.get('/work')
    assert any(name in message for message in errors(caplog))
    assert all(len(message) < 300 for message in errors(caplog))
    assert free.data() == STORED


@on_sqlite
def test_a_late_value_that_cannot_be_stored(free, caplog):
    """T8: the error in the log names it as well, and is not the view's."""

    @free.view
    def work(request):
        found = request.session['list']
        request.add_finished_callback(lambda request: found.append(free))

    browser = returning(free)
    caplog.clear()
    browser.get('/work')
    (message,) = errors(caplog)
    assert 'after the response' in message
    assert "'list'" in message
    assert free.data() == STORED


@on_sqlite
def test_a_late_change_of_a_request_that_runs_again(make_site, caplog):
    """T5, T8: the next attempt has nothing of it, and nobody is told."""
    site = with_views(make_site(
        configure=answering(lambda request: 'sorry', Passing), retry=True
    ))

    @site.view
    def work(request):
        request.session.get('n')
        if request.environ['retry.attempt'] == 0:
            request.add_finished_callback(change_key)
            raise Passing

    browser = returning(site)
    caplog.clear()
    browser.get('/work')
    assert errors(caplog) == []
    assert site.data() == STORED


@on_sqlite
def test_a_late_change_of_a_session_that_has_ended(make_site, caplog):
    """C5, T8: it would be dropped at any time, so that nobody is told."""
    site = with_views(make_site())

    @site.view
    def work(request):
        request.session.get('n')
        request.add_finished_callback(change_key)

    browser = returning(site)
    old = site.browser(like=browser)
    site.views['log_in'] = lambda request: request.session.rotate()
    browser.get('/log_in')
    caplog.clear()
    old.get('/work')
    assert errors(caplog) == []
    assert site.data() == STORED


def answering_tween(handler, registry):
    """Answer in place of the views, and change the session too late."""

    def tween(request):
        if request.path != '/short':
            return handler(request)
        request.add_finished_callback(change_key)
        return Response('no view')

    return tween


@on_sqlite
def test_a_first_look_that_is_too_late_for_a_tween(make_site, caplog):
    """T8: the same if a tween answers, and no view is called."""
    site = with_views(make_site(
        configure=lambda config: config.add_tween(
            f'{__name__}.answering_tween'
        )
    ))
    returning(site).get('/short')
    assert any('too_late' in message for message in errors(caplog))


@on_sqlite
def test_a_change_that_a_script_leaves_behind(make_site, caplog):
    """T8: nobody is answered by it, so nothing is too late."""
    site = with_views(make_site())
    with prepare(registry=site.registry) as script:
        change_key(script['request'])
    assert errors(caplog) == []


@on_sqlite
def test_a_transaction_after_the_response(free, caplog):
    """T8, T1: a body that looks first and commits itself loses nothing."""

    def body(request):
        with request.tm:
            request.session['late'] = True
            request.dbsession.add(Note(text='a note'))
        yield b'text'

    @free.view
    def work(request):
        return Response(app_iter=body(request))

    browser = returning(free)
    caplog.clear()
    browser.get('/work')
    assert free.data() == STORED | {'late': True}
    assert free.notes() == ['a note']
    assert errors(caplog) == []


@on_sqlite
@pytest.mark.parametrize('moment', ['NewResponse', 'finished', 'body'])
@pytest.mark.parametrize('look', [True, False])
def test_reading_after_the_response(free, caplog, moment, look):
    """T8: it works and is no reason to complain."""
    seen = []

    def read(request):
        seen.append(dict(request.session))

    def body(request):
        read(request)
        yield b'text'

    @free.view
    def work(request):
        if look:
            request.session['view'] = True
        if moment == 'finished':
            request.add_finished_callback(read)
        if moment == 'body':
            return Response(app_iter=body(request))
        request.is_marked = True

    if moment == 'NewResponse':
        at_new_response(free, read)
    browser = returning(free)
    caplog.clear()
    browser.get('/work')
    assert seen == [STORED | ({'view': True} if look else {})]
    assert errors(caplog) == []


@on_sqlite
def test_a_finished_callback_after_an_error(free, caplog):
    """T8: it reads what is stored, the failed view's words are no error."""
    seen = []

    @free.view
    def work(request):
        request.session['n'] = 2
        request.add_finished_callback(
            lambda request: seen.append(request.session['n'])
        )
        raise ZeroDivisionError

    browser = returning(free)
    with pytest.raises(ZeroDivisionError):
        browser.get('/work')
    assert seen == [1]
    assert errors(caplog) == []


def test_no_connection_is_left_behind(free):
    """T8: late reads and writes give their connections back."""

    @free.view
    def work(request):
        request.session['n'] = 2
        request.add_response_callback(
            lambda request, response: request.session.update(late=True)
        )
        request.add_finished_callback(lambda request: request.session['n'])

    @free.view
    def free_work(request):
        request.session['m'] = 2

    browser = returning(free)
    for path in ('/work', '/free_work', '/show'):
        browser.get(path)
        assert free.engine.pool.checkedout() == 0


def unsound(request):
    """Change the session into what cannot be stored."""
    request.session['n'] = object()


def unsound_late(request):
    """The same, when the response is on its way."""
    request.add_response_callback(lambda request, response: unsound(request))
    # Before the package's own callback, which comes last.
    return request.session['n']


@pytest.mark.parametrize('work', [unsound, unsound_late])
@pytest.mark.parametrize('path', ['/free_work', '/work'])
def test_a_late_error_is_answered_by_an_exception_view(
    make_site, caplog, work, path
):
    """T8: its page comes in the place of the other; the log has the error."""

    def sorry(request):
        request.response.status_int = 409
        request.response.headers['X-Sorry'] = 'yes'
        request.response.text = 'sorry'
        return request.response

    site = with_views(make_site(
        **{'tm.activate_hook': is_managed_path},
        configure=answering(sorry, SessionNotSerializable),
    ))

    @site.view
    def free_work(request):
        return Response(f'fine {work(request)}', headers={'X-Page': 'yes'})

    site.views['work'] = free_work
    browser = returning(site)
    answer = browser.get(path, status=409)
    assert answer.text == 'sorry'
    assert answer.headers['X-Sorry'] == 'yes'
    assert 'X-Page' not in answer.headers
    assert answer.headers['Vary'] == 'Cookie'
    assert site.data() == STORED
    is_logged = path == '/free_work' or work is unsound_late
    assert [
        record.exc_info[0] for record in caplog.records
        if record.levelno >= logging.ERROR
    ] == [SessionNotSerializable] * is_logged


@pytest.mark.parametrize('work', [unsound, unsound_late])
@pytest.mark.parametrize('path', ['/free_work', '/work'])
def test_what_a_late_exception_view_says(make_site, caplog, work, path):
    """T3, T8: it is stored, and the log speaks of no late change."""

    def sorry(request):
        request.session.flash('Sorry!')

    site = with_views(make_site(
        **{'tm.activate_hook': is_managed_path},
        configure=answering(sorry, SessionNotSerializable),
    ))
    site.views['free_work'] = site.views['work'] = work
    browser = returning(site)
    caplog.clear()
    browser.get(path)
    assert site.data() == STORED | {'_f_': ['Sorry!']}
    assert not any('after the response' in said for said in errors(caplog))


@on_sqlite
def test_an_exception_view_whose_words_cannot_be_stored(make_site, caplog):
    """T8: the visitor gets its page, and the log has both errors."""
    site = make_site(
        **{'tm.activate_hook': is_managed_path},
        configure=answering(unsound, SessionNotSerializable),
    )
    site.views['free_work'] = unsound
    assert site.browser().get('/free_work').status_int == 200
    said = errors(caplog)
    assert len(said) == 2
    assert not any('after the response' in message for message in said)
    assert site.rows() == []


@pytest.mark.parametrize('failure', [SessionError, sa.exc.SQLAlchemyError])
def test_an_exception_view_that_fails_late(make_site, failure):
    """T8: then it is the first error that is raised."""

    def sorry(request):
        raise failure('another one')

    site = with_views(make_site(
        **{'tm.activate_hook': is_managed_path},
        configure=answering(sorry, SessionNotSerializable),
    ))

    @site.view
    def free_work(request):
        unsound(request)

    browser = returning(site)
    with pytest.raises(SessionNotSerializable):
        browser.get('/free_work')
    assert site.data() == STORED
