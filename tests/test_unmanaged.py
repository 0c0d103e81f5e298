"""Sessions without a transaction, before it and after it (T8, T10)."""

import contextlib
import logging

from pyramid.events import NewRequest
from pyramid.events import NewResponse
from pyramid.httpexceptions import HTTPNotFound
from pyramid.response import Response
from pyramid.scripting import prepare
from pyramid.tweens import EXCVIEW
from pyramid.tweens import INGRESS
import pytest
import sqlalchemy as sa
import transaction
from webtest import TestApp

from pyramid_sqlasession import SessionError
from pyramid_sqlasession import SessionNotSerializable

from .failing import answering
from .failing import Failure
from .failing import on_sqlite
from .given import Given
from .shop import with_views
from .site import Note

STORED = {'n': 1, 'list': [1]}

#: The second kind of manager is not another one on a server.
both_managers = pytest.mark.parametrize(
    ('database', 'manager'),
    [
        ('sqlite', 'pyramid_tm.explicit_manager'),
        ('sqlite', None),
        ('postgresql', 'pyramid_tm.explicit_manager'),
        ('mariadb', 'pyramid_tm.explicit_manager'),
    ],
    indirect=['database'],
)

#: What a view can do to its session, and what is stored then.
CHANGES = {
    'put': (lambda session: session.update(n=2), {'n': 2, 'list': [1]}),
    'nested': (lambda session: session['list'].append(2),
               {'n': 1, 'list': [1, 2]}),
    'flash': (lambda session: session.flash('hello'),
              STORED | {'_f_': ['hello']}),
    'rotate': (lambda session: session.rotate(), STORED),
    'replace': (lambda session: (session.invalidate(), session.update(m=1)),
                {'m': 1}),
}


def is_managed_path(request):
    """Say for which requests pyramid_tm is active."""
    return not request.path.startswith('/free')


@pytest.fixture
def free(make_site):
    """A site where pyramid_tm is inactive for paths that begin ``/free``."""
    return with_views(make_site(
        **{'tm.activate_hook': is_managed_path},
        configure=answering(
            lambda request: request.session.flash('Please log in')
        ),
    ))


@pytest.fixture(autouse=True)
def _clean_thread():
    yield
    transaction.abort()


def returning(site):
    """Return a browser that has a stored session: ``{n: 1, list: [1]}``."""
    site.execute('DELETE FROM sessions')
    browser = site.browser()
    browser.get('/fill')
    return browser


def errors(caplog):
    """Return the errors in the log."""
    return [
        record.getMessage() for record in caplog.records
        if record.levelno >= logging.ERROR
    ]


# -- T8: no transaction -------------------------------------------------------


@both_managers
def test_each_change_without_a_transaction(make_site, manager, caplog):
    """T8: it is stored in a transaction of its own, with its cookie."""
    site = with_views(make_site(**{
        'tm.activate_hook': is_managed_path, 'tm.manager_hook': manager,
    }))

    @site.view
    def free(request):
        CHANGES[request.params['change']][0](request.session)

    for change, (_, expected) in CHANGES.items():
        browser = returning(site)
        token = site.token(browser)
        browser.get(f'/free?change={change}')
        assert (change, site.data()) == (change, expected)
        assert (site.token(browser) != token) == (
            change in ('rotate', 'replace')
        )
        assert browser.get('/show').text == str(expected)
    assert errors(caplog) == []


def test_a_new_visitor_without_a_transaction(free):
    """T8: record, cookie, and the second request reads it."""

    @free.view
    def free_count(request):
        request.session['n'] = request.session.get('n', 0) + 1
        return request.session['n']

    browser = free.browser()
    assert [browser.get('/free_count').text for _ in range(3)] == [
        '1', '2', '3'
    ]
    assert len(free.rows()) == 1


@on_sqlite
def test_statements_without_a_transaction(free):
    """T8, D4: a read is one statement, a change one more."""

    @free.view
    def free_read(request):
        return request.session['n']

    @free.view
    def free_change(request):
        request.session['n'] = 2

    browser = returning(free)
    free.listen()
    browser.get('/free_read')
    assert free.statements.verbs == ['SELECT']
    browser.get('/free_change')
    assert free.statements.verbs == ['SELECT', 'SELECT', 'UPDATE']


def test_invalidate_without_a_transaction(free):
    """T8: the record is deleted and the cookie removed."""

    @free.view
    def free_logout(request):
        request.session.invalidate()

    browser = returning(free)
    browser.get('/free_logout')
    assert free.rows() == []
    assert free.token(browser) is None


@pytest.mark.parametrize('visitor', ['new', 'returning'])
def test_an_exception_view_without_a_transaction(free, visitor):
    """T8, T3: the view's words are gone, the error page's are stored."""

    @free.view
    def free_fail(request):
        request.session['n'] = 2
        request.session.flash('Saved!')
        raise Failure

    browser = free.browser() if visitor == 'new' else returning(free)
    browser.get('/free_fail')
    assert free.data() == (
        {'_f_': ['Please log in']} if visitor == 'new'
        else STORED | {'_f_': ['Please log in']}
    )
    assert 'Please log in' in browser.get('/show').text


@on_sqlite
def test_an_error_that_nobody_answers(free):
    """T8: there is no response; nothing is stored."""

    @free.view
    def free_fail(request):
        request.session['n'] = 2
        raise ZeroDivisionError

    browser = returning(free)
    with pytest.raises(ZeroDivisionError):
        browser.get('/free_fail')
    assert free.data() == STORED


@on_sqlite
def test_a_value_that_cannot_be_stored(free):
    """T8, R6: the error is not silent, and nothing is stored."""

    @free.view
    def free_bad(request):
        request.session['bad'] = object()

    browser = returning(free)
    with pytest.raises(TypeError, match='bad'):
        browser.get('/free_bad')
    assert free.data() == STORED


def test_a_block_of_the_views_own(free):
    """T8, T1: ``with request.tm`` stores session and rows together."""
    seen = []

    @free.view
    def free_block(request):
        with request.tm:
            request.session['n'] = 2
            request.dbsession.add(Note(text='a note'))
        seen.append((free.data()['n'], free.notes()))
        request.session['m'] = 3

    returning(free).get('/free_block')
    assert seen == [(2, ['a note'])]
    assert free.data() == {'n': 2, 'list': [1], 'm': 3}


@on_sqlite
def test_a_block_of_the_views_own_that_fails(free):
    """T8, T2: what the block put in is gone, what was before is not."""

    @free.view
    def free_block(request):
        request.session['before'] = True
        with contextlib.suppress(Failure), request.tm:
            request.session['n'] = 2
            request.dbsession.add(Note(text='a note'))
            raise Failure
        request.session['after'] = True

    returning(free).get('/free_block')
    assert free.data() == STORED | {'before': True, 'after': True}
    assert free.notes() == []


def test_a_transaction_that_nobody_ends(free):
    """T8: a view that forgets to commit its own loses no session."""

    @free.view
    def free_forget(request):
        request.tm.begin()
        request.session['n'] = 2

    browser = returning(free)
    browser.get('/free_forget')
    assert free.data()['n'] == 2
    assert browser.get('/show').text == str(free.data())


def test_the_store_without_a_transaction(free):
    """T8: what it does is committed at once."""
    seen = []

    @free.view
    def free_revoke(request):
        seen.append(request.session_store.revoke_all())
        seen.append(len(free.rows()))

    returning(free)
    free.browser().get('/free_revoke')
    assert seen == [1, 0]


def test_two_requests_without_a_transaction(free, stage):
    """T8, C1: both keys are kept; nobody waits for the other."""

    @free.view
    def free_slow(request):
        request.session[request.params['key']] = True
        stage.reach(request.params['key'])

    one = returning(free)
    two = free.browser(like=one)
    slow = [
        stage.run(browser.get, f'/free_slow?key={key}')
        for browser, key in ((one, 'a'), (two, 'b'))
    ]
    stage.wait('a', 'b')
    stage.let('a', 'b')
    for performance in slow:
        performance.result()
    assert free.data() == STORED | {'a': True, 'b': True}


def test_a_transaction_of_the_wsgi_server(make_site):
    """T8: with repoze.tm around the application it ends the transaction."""
    site = with_views(make_site(**{'tm.manager_hook': None}))

    @site.view
    def work(request):
        request.session['n'] = 2
        request.dbsession.add(Note(text='a note'))

    browser = returning(site)

    def repoze_tm(environ, start_response):
        environ['repoze.tm.active'] = True
        transaction.begin()
        response = site.app(environ, start_response)
        end = environ['QUERY_STRING'] or 'commit'
        getattr(transaction, end)()
        return response

    outer = TestApp(repoze_tm)
    for cookie in browser.cookiejar:
        outer.cookiejar.set_cookie(cookie)
    outer.get('/work?abort')
    assert site.data() == STORED
    assert site.notes() == []
    outer.get('/work')
    assert site.data() == {'n': 2, 'list': [1]}
    assert site.notes() == ['a note']


# -- T8: around pyramid_tm ----------------------------------------------------


def around(handler, registry):
    """A tween above pyramid_tm that does what the test has put there."""

    def tween(request):
        registry.settings['test.before'](request)
        response = handler(request)
        registry.settings['test.after'](request)
        return response

    return tween


@pytest.fixture
def tower(make_site):
    """A function that makes a site with a tween above pyramid_tm."""

    def make(before=lambda request: None, after=lambda request: None,
             **settings):
        def configure(config):
            answering(
                lambda request: request.session.flash('Please log in')
            )(config)
            config.add_tween(
                f'{__name__}.around', over='pyramid_tm.tm_tween_factory',
                under=INGRESS,
            )

        site = with_views(make_site(configure=configure, **{
            'test.before': lambda request: None,
            'test.after': lambda request: None, **settings,
        }))
        browser = returning(site)
        site.registry.settings.update({
            'test.before': before, 'test.after': after,
        })

        @site.view
        def work(request):
            request.session['view'] = True
            if 'fail' in request.params:
                raise Failure

        @site.view
        def nothing(request):
            """Does not look at the session."""

        return site, browser

    return make


@both_managers
@pytest.mark.parametrize('path', ['/work', '/nothing'])
def test_a_tween_that_writes_after_the_commit(tower, path, manager):
    """T8: it is stored, beside what the view did."""
    site, browser = tower(
        after=lambda request: request.session.update(after=True),
        **{'tm.manager_hook': manager},
    )
    browser.get(path)
    expected = STORED | {'after': True}
    assert site.data() == expected | (
        {'view': True} if path == '/work' else {}
    )


@both_managers
@pytest.mark.parametrize('path', ['/work', '/nothing'])
def test_a_tween_that_writes_before_the_transaction(tower, path, manager):
    """T8, T10: what was put in before it is stored with the rest."""
    site, browser = tower(
        before=lambda request: request.session.update(before=True),
        **{'tm.manager_hook': manager},
    )
    browser.get(path)
    expected = STORED | {'before': True}
    assert site.data() == expected | (
        {'view': True} if path == '/work' else {}
    )


@both_managers
def test_a_tween_that_wrote_before_a_transaction_that_failed(tower, manager):
    """T2, T8: only what belonged to the transaction is gone with it."""
    site, browser = tower(
        before=lambda request: request.session.update(before=True),
        **{'tm.manager_hook': manager},
    )
    browser.get('/work?fail=1')
    assert site.data() == STORED | {
        'before': True, '_f_': ['Please log in'],
    }


@both_managers
@pytest.mark.parametrize(
    ('failure', 'words'),
    [(Failure, {'_f_': ['Please log in']}), (HTTPNotFound, {})],
)
def test_a_tween_that_wrote_before_a_view_that_fails_without_a_look(
    tower, manager, failure, words
):
    """T3, T8: what was put in above of pyramid_tm is not the view's."""
    site, browser = tower(
        before=lambda request: request.session.update(before=True),
        **{'tm.manager_hook': manager},
    )

    @site.view
    def fail(request):
        raise failure

    browser.get('/fail', status='*')
    assert site.data() == STORED | words | {'before': True}


@on_sqlite
def test_a_tween_that_wrote_before_a_view_without_a_transaction(tower):
    """T3, T8: of what was put in, the view's is gone, and nothing else."""
    site, browser = tower(
        before=lambda request: request.session.update(before=True),
        **{'tm.activate_hook': lambda request: False},
    )
    browser.get('/work?fail=1')
    assert site.data() == STORED | {
        'before': True, '_f_': ['Please log in'],
    }


@both_managers
def test_a_tween_that_wrote_before_an_exception_view_without_a_look(
    tower, manager
):
    """T3, T8: the view's part goes with its transaction, and nothing else."""
    site, browser = tower(
        before=lambda request: request.session.update(before=True),
        **{'tm.manager_hook': manager},
    )

    @site.view
    def missing(request):
        request.session['view'] = True
        raise HTTPNotFound

    browser.get('/missing', status=404)
    assert site.data() == STORED | {'before': True}


@both_managers
@pytest.mark.parametrize('changes', [True, False])
def test_a_tween_that_wrote_before_a_view_that_aborts_and_fails(
    tower, manager, changes
):
    """T2, T3, T8: an abort by hand takes back the view's part, once."""
    site, browser = tower(
        before=lambda request: request.session.update(before=True),
        **{'tm.manager_hook': manager},
    )

    @site.view
    def fail(request):
        if changes:
            request.session['view'] = True
        request.tm.abort()
        request.tm.begin()
        raise Failure

    browser.get('/fail')
    assert site.data() == STORED | {
        'before': True, '_f_': ['Please log in'],
    }


@both_managers
def test_a_tween_that_reads_before_the_transaction(tower, manager):
    """T10: the view's changes are kept, also in a value it was given."""

    def before(request):
        request.held = request.session['list']

    site, browser = tower(before=before, **{'tm.manager_hook': manager})

    @site.view
    def work(request):
        request.held.append(2)
        request.session['list'].append(3)
        request.session['view'] = True

    site.listen()
    browser.get('/work')
    assert site.data() == {'n': 1, 'list': [1, 2, 3], 'view': True}
    assert site.statements.verbs == ['SELECT', 'UPDATE']


@on_sqlite
def test_a_view_that_aborts_what_a_tween_has_read(tower):
    """T2, T10: the session is what it was before the transaction."""
    seen = []
    site, browser = tower(
        before=lambda request: len(request.session),
        after=lambda request: seen.append(dict(request.session)),
    )

    @site.view
    def work(request):
        request.session['n'] = 2
        request.tm.doom()

    browser.get('/work')
    assert seen == [STORED]
    assert site.data() == STORED


@on_sqlite
def test_a_tween_that_reads_after_the_commit(tower):
    """T8: it sees what was stored, without another statement."""
    seen = []
    site, browser = tower(
        after=lambda request: seen.append(dict(request.session))
    )
    site.listen()
    browser.get('/work')
    assert seen == [STORED | {'view': True}]
    assert site.statements.verbs == ['SELECT', 'UPDATE']


@on_sqlite
def test_a_tween_that_ends_the_session_after_the_commit(tower):
    """T8: the record that was just written is deleted again."""
    site, browser = tower(
        after=lambda request: request.session.invalidate()
    )
    browser.get('/work')
    assert site.rows() == []
    assert site.token(browser) is None


# -- T8: later and later ------------------------------------------------------


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
        free.registry.registerHandler(
            lambda event: getattr(event.request, 'is_marked', False)
            and change(event.request),
            [NewResponse],
        )
        free.registry.has_listeners = True
    browser = returning(free)
    caplog.clear()
    browser.get('/work')
    # A value that changes while the body is sent is seen by nobody.
    if (moment, change) != ('body', change_nested):
        assert any('too_late' in message for message in errors(caplog))
    assert free.data().get('too_late', []) == []


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
        free.registry.registerHandler(
            lambda event: getattr(event.request, 'is_marked', False)
            and change_key(event.request),
            [NewResponse],
        )
        free.registry.has_listeners = True
    browser = returning(free)
    caplog.clear()
    browser.get('/work')
    assert any('too_late' in message for message in errors(caplog))
    assert free.data() == STORED


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
            'tests.test_unmanaged.answering_tween'
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
        free.registry.registerHandler(
            lambda event: getattr(event.request, 'is_marked', False)
            and read(event.request),
            [NewResponse],
        )
        free.registry.has_listeners = True
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


# -- T10 ----------------------------------------------------------------------


class SessionPolicy:
    """A security policy that has the user in the session."""

    def identity(self, request):
        return request.session.get('user')

    def authenticated_userid(self, request):
        return self.identity(request)

    def permits(self, request, context, permission):
        return self.identity(request) is not None


@both_managers
@pytest.mark.parametrize('annotate', ['true', 'false'])
def test_a_policy_that_reads_the_session(make_site, annotate, manager):
    """T10: pyramid_tm asks for the user before the view; all is kept."""
    users = []
    site = with_views(make_site(
        **{'tm.annotate_user': annotate, 'tm.manager_hook': manager},
        configure=lambda config: config.set_security_policy(SessionPolicy()),
    ))

    @site.view
    def login(request):
        users.append(request.authenticated_userid)
        request.session.rotate()
        request.session['user'] = 'ann'
        request.dbsession.add(Note(text='a note'))

    @site.view
    def work(request):
        users.append(request.authenticated_userid)
        request.session['view'] = True

    browser = site.browser()
    browser.get('/login')
    site.listen()
    browser.get('/work')
    assert users == [None, 'ann']
    assert site.data() == {'user': 'ann', 'view': True}
    assert site.notes() == ['a note']
    assert site.statements.verbs == ['SELECT', 'UPDATE']


def test_a_policy_that_loads_the_user_from_the_database(make_site):
    """T10, T1: with rows read first the session is still written."""

    class RowPolicy(SessionPolicy):
        def identity(self, request):
            number = request.session.get('user')
            if number is None:
                return None
            return request.dbsession.get(Note, number)

        def authenticated_userid(self, request):
            row = self.identity(request)
            return None if row is None else row.text

    site = with_views(make_site(
        configure=lambda config: config.set_security_policy(RowPolicy()),
    ))
    site.execute("INSERT INTO notes (id, text) VALUES (1, 'ann')")

    @site.view
    def login(request):
        request.session['user'] = 1

    @site.view
    def work(request):
        request.session['view'] = True
        return request.authenticated_userid

    browser = site.browser()
    browser.get('/login')
    assert browser.get('/work').text == 'ann'
    assert site.data() == {'user': 1, 'view': True}


TWEENS = 'pyramid_tm.tm_tween_factory pyramid.tweens.excview_tween_factory'


@on_sqlite
def test_an_explicit_list_of_tweens(make_site):
    """T10: the package works with the tweens of an ini file."""
    site = with_views(make_site(
        **{'pyramid.tweens': TWEENS},
        configure=answering(
            lambda request: request.session.flash('Please log in')
        ),
    ))

    @site.view
    def fail(request):
        request.session.flash('Saved!')
        raise Failure

    browser = returning(site)
    browser.get('/fail')
    assert site.data() == STORED | {'_f_': ['Please log in']}


@on_sqlite
def test_a_list_without_pyramid_tm(make_site):
    """T10, T8: no transaction at all, and still sessions."""
    site = with_views(make_site(**{'pyramid.tweens': EXCVIEW}))
    browser = returning(site)
    assert browser.get('/show').text == str(STORED)


def test_a_list_with_pyramid_tm_below_the_exception_views(make_site):
    """T10, T3: the error page runs after the abort; its words count."""
    site = with_views(make_site(
        **{'pyramid.tweens': ' '.join(TWEENS.split()[::-1])},
        configure=answering(
            lambda request: request.session.flash('Please log in')
        ),
    ))

    @site.view
    def fail(request):
        request.session['n'] = 2
        request.dbsession.add(Note(text='a note'))
        raise Failure

    browser = returning(site)
    browser.get('/fail')
    assert site.data() == STORED | {'_f_': ['Please log in']}
    assert site.notes() == []


@pytest.fixture
def with_toolbar(make_site):
    """A function that makes a site with the debug toolbar."""

    def make(**settings):
        site = with_views(make_site(
            configure=lambda config: config.include('pyramid_debugtoolbar'),
            **settings,
        ))

        @site.view
        def work(request):
            request.session['n'] = request.session.get('n', 0) + 1
            request.session.setdefault('list', []).append(2)
            request.dbsession.scalars(sa.select(Note)).all()
            if 'fail' in request.params:
                raise ZeroDivisionError
            return Response('<html><body>page</body></html>')

        return site

    return make


@both_managers
@pytest.mark.parametrize('active', ['session', ''])
def test_the_toolbars_session_panel(with_toolbar, active, manager, caplog):
    """T10: it reads before and after the transaction; the view's is kept."""
    site = with_toolbar(**{
        'debugtoolbar.active_panels': active,
        'tm.manager_hook': manager,
        'debugtoolbar.hosts': '127.0.0.1',
    })
    browser = site.browser(REMOTE_ADDR='127.0.0.1')
    page = browser.get('/work')
    assert 'pDebug' in page.text
    assert site.data() == {'n': 1, 'list': [2]}
    site.listen()
    browser.get('/work')
    assert site.data() == {'n': 2, 'list': [2, 2]}
    assert [verb for verb in site.statements.verbs if verb != 'SELECT'] == [
        'UPDATE'
    ]
    assert errors(caplog) == []


@on_sqlite
@pytest.mark.parametrize('active', ['session', ''])
def test_the_toolbar_and_a_request_that_does_not_look(with_toolbar, active):
    """T10: the panel's look changes nothing."""
    site = with_toolbar(**{
        'debugtoolbar.active_panels': active,
        'debugtoolbar.hosts': '127.0.0.1',
    })

    @site.view
    def nothing(request):
        return Response('<html><body>page</body></html>')

    browser = site.browser(REMOTE_ADDR='127.0.0.1')
    browser.get('/nothing')
    assert site.rows() == []
    assert site.token(browser) is None


@on_sqlite
def test_the_panel_and_a_view_that_fails(with_toolbar):
    """T10, T2: with the panel active nothing of a failed view is stored."""
    site = with_toolbar(**{
        'debugtoolbar.active_panels': 'session',
        'debugtoolbar.hosts': '127.0.0.1',
        'debugtoolbar.intercept_exc': 'false',
    })
    browser = site.browser(REMOTE_ADDR='127.0.0.1')
    browser.get('/work')
    with pytest.raises(ZeroDivisionError):
        browser.get('/work?fail=1')
    assert site.data() == {'n': 1, 'list': [2]}


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


# -- T7: a transaction that outlives the request ------------------------------


@pytest.fixture
def make_given(make_site):
    """A function that makes a site, and a ``Given`` transaction of it."""
    ends = []

    def make(**settings):
        site = with_views(make_site(**settings))
        ends.append(Given(site))
        return site, ends[-1]

    yield make
    for given in ends:
        given.abort()


def test_what_is_stored_in_a_given_transaction_is_committed_with_it(
    make_given
):
    """T7, T1: also where the application itself has changed nothing."""
    site, given = make_given()
    browser = given.browser()
    browser.get('/fill')
    assert site.rows() == []
    given.commit()
    assert site.data() == STORED
    site.clock.advance(minutes=30)
    (before,) = site.rows()
    browser.get('/show')
    assert site.rows() == [before]
    given.commit()
    (after,) = site.rows()
    assert after['accessed'] > before['accessed']


def test_surplus_sessions_end_in_a_given_transaction(make_given):
    """T7: ``max_sessions_per_user`` holds there, and ends with it."""
    site, given = make_given(
        additional_fields='user_id: Integer', max_sessions_per_user='1'
    )

    @site.view
    def login(request):
        request.session['user_id'] = 7

    for _ in range(2):
        given.browser().get('/login')
        site.clock.advance(seconds=1)
    given.commit()
    assert len(site.rows()) == 1


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
@pytest.mark.parametrize('what', ['touch', 'surplus'])
def test_a_given_transaction_that_broke_is_not_answered(make_given, what):
    """T7, T1: whoever commits it would store nothing, and not hear of it."""
    site, given = make_given(
        additional_fields='user_id: Integer', max_sessions_per_user='1',
        engine_options={'isolation_level': 'REPEATABLE READ'},
    )

    @site.view
    def login(request):
        request.session['user_id'] = 7

    @site.view
    def work(request):
        request.dbsession.add(Note(text='a note'))
        request.dbsession.flush()
        request.session.get('n')
        # Somebody else, whom the transaction does not see.
        site.execute('UPDATE sessions SET version = version + 1')
        if what == 'surplus':
            login(request)

    visitor = site.browser()
    visitor.get('/login')
    site.clock.advance(minutes=30)
    browser = given.browser()
    if what == 'touch':
        browser.set_cookie('session', site.token(visitor))
    with pytest.raises(sa.exc.OperationalError, match='could not serialize'):
        browser.get('/work')


# -- T8: a load that fails ----------------------------------------------------


def test_a_first_look_that_fails_is_no_empty_session(free):
    """T8: the next look loads; what is put in then belongs to the session."""

    @free.view
    def free_again(request):
        with pytest.raises(SessionError, match='is missing'):
            request.session.get('n')
        free.execute('ALTER TABLE elsewhere RENAME TO sessions')
        request.session['m'] = 1

    browser = returning(free)
    free.execute('ALTER TABLE sessions RENAME TO elsewhere')
    browser.get('/free_again')
    assert free.data() == STORED | {'m': 1}
