"""Sessions without a transaction, before it and after it (T8)."""

import contextlib

from pyramid.httpexceptions import HTTPNotFound
from pyramid.tweens import INGRESS
import pytest
import transaction
from webtest import TestApp

from pyramid_sqlasession import SessionError

from .failing import answering
from .failing import Failure
from .failing import on_sqlite
from .shop import STORED
from .shop import with_views
from .site import Note
from .unmanaged import both_managers
from .unmanaged import errors
from .unmanaged import is_managed_path
from .unmanaged import returning

# The thread's manager is the next test's too.
pytestmark = pytest.mark.usefixtures('clean_thread')

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


# -- no transaction -----------------------------------------------------------


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


# -- around pyramid_tm --------------------------------------------------------


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


# -- a load that fails --------------------------------------------------------


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
