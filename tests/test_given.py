"""A transaction that outlives the request (T7)."""

import ast
import contextlib
import itertools

from pyramid.request import Request
import pytest
import sqlalchemy as sa

from pyramid_sqlasession import SessionWriteDropped

from .failing import answering
from .failing import Failure
from .failing import on_sqlite
from .given import Given
from .shop import STORED
from .shop import with_views
from .site import Note
from .subrequests import run
from .subrequests import with_environ
from .subrequests import with_transaction


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


def test_a_read_begins_a_given_transaction(make_given):
    """T7: all goes through it, also if a test has only added something."""
    _, given = make_given()
    browser = given.browser()
    browser.get('/fill')
    given.commit()
    begun = []
    given.dbsession.add(Note(text='a note'))
    sa.event.listen(
        given.dbsession, 'after_begin', lambda *args: begun.append(args)
    )
    browser.get('/show')
    assert len(begun) == 1


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


@pytest.mark.parametrize('database', ['sqlite', 'postgresql'], indirect=True)
def test_a_login_in_a_subrequest(make_given, caplog):
    """T7: the limit is held there alone, and waits for no lock."""
    site, given = make_given(
        additional_fields='user_id: Integer', max_sessions_per_user='1'
    )
    for _ in range(2):
        site.browser().get('/fill')
        site.clock.advance(seconds=1)
    site.execute('UPDATE sessions SET user_id = 7')

    @site.view
    def inner(request):
        request.session['user_id'] = 7

    @site.view
    def outer(request):
        return run(request, '/inner').text

    site.registry.way = with_environ, True
    given.browser().get('/outer')
    given.abort()
    assert 'surplus' not in caplog.text
    assert len(site.rows()) == 2


def visit(site, given, *, outer_first, **views):
    """Return a browser for which a view and its subrequest have done what
    *views* say.
    """
    site.registry.way = with_transaction, True
    site.views['inner'] = views['inner']

    @site.view
    def page(request):
        if outer_first:
            views['outer'](request)
        assert run(request, '/inner').status_code == 200
        if not outer_first:
            views['outer'](request)

    browser = given.browser()
    browser.get('/fill')
    # A write extends it, and a cookie is due.
    site.clock.advance(minutes=30)
    with site.events(SessionWriteDropped) as dropped:
        browser.get('/page')
    assert dropped == []
    # The grace of an older token is over.
    site.clock.advance(minutes=2)
    return browser


def put(request):
    """Change the session."""
    request.session['n'] += 1
    request.session['word'] = True


def rotate(request):
    """Change its token."""
    request.session['rotated'] = True
    request.session.rotate()


def end(request):
    """End it."""
    request.session.invalidate()


ALL = {**STORED, 'n': 2, 'word': True, 'rotated': True}


@on_sqlite
@pytest.mark.parametrize('outer_first', [True, False])
@pytest.mark.parametrize(('inner', 'outer', 'expected'), [
    (put, rotate, ALL), (rotate, put, ALL),
    (rotate, rotate, {**STORED, 'rotated': True}),
    (put, put, {**STORED, 'n': 2, 'word': True}),
    (put, end, {}), (end, put, {}),
])
def test_a_view_and_its_subrequest(
    make_given, inner, outer, outer_first, expected
):
    """T7, T9: as in one commit, nothing is dropped, and nothing conflicts."""
    site, given = make_given(conflict='retry')
    browser = visit(
        site, given, outer_first=outer_first, inner=inner, outer=outer
    )
    assert ast.literal_eval(browser.get('/show').text) == expected
    assert bool(site.token(browser)) is bool(expected)


ACTS = {
    'look': lambda request: request.session.get('n'), 'put': put,
    'rotate': rotate, 'end': end,
}


def went(site, browser, commit, acts):
    """Return what becomes of a session with which a view does the second of
    *acts*, between two subrequests that do the others.
    """
    site.views['inner'], act, site.views['later'] = map(ACTS.get, acts)

    @site.view
    def page(request):
        request.session.get('n')
        run(request, '/inner')
        act(request)
        run(request, '/later')

    browser.get('/fill')
    site.clock.advance(minutes=30)
    with site.events(SessionWriteDropped) as dropped:
        browser.get('/page')
    site.clock.advance(minutes=2)
    shown = browser.get('/show').text
    commit()
    rows = site.rows()
    site.execute('DELETE FROM sessions')
    return acts, shown, bool(site.token(browser)), len(rows), len(dropped)


@on_sqlite
def test_a_view_and_two_subrequests(make_given):
    """T7, T9: it goes as in production, whatever each of them does."""
    # Who only reads has a new token, too.
    site, given = make_given(renewal_interval='10m')
    site.registry.way = with_transaction, True
    site.views['fill'] = lambda request: request.session.update(n=1)
    for acts in itertools.product(ACTS, repeat=3):
        expected = went(site, site.browser(), lambda: None, acts)
        assert went(site, given.browser(), given.commit, acts) == expected


@on_sqlite
@pytest.mark.parametrize('kept', [True, False])
def test_a_plain_subrequest_in_a_given_transaction(make_given, kept):
    """T7, T9: what it stores is a part of it, though it says not so."""
    site, given = make_given()

    @site.view
    def outer(request):
        request.session.get('n')
        shared = ('tm.manager', 'app.dbsession')
        inner = Request.blank(
            '/fill', environ={name: request.environ[name] for name in shared}
        )
        request.invoke_subrequest(inner)

    given.browser().get('/outer')
    if kept:
        given.commit()
    else:
        given.abort()
    assert len(site.rows()) == kept


@on_sqlite
@pytest.mark.parametrize('before', [False, True])
@pytest.mark.parametrize('tweens', [False, True])
def test_a_subrequest_of_a_new_visitor(make_given, before, tweens):
    """T7, T9: what it puts in begins one session with the outer view's."""
    site, given = make_given()

    @site.view
    def inner(request):
        request.session['inner'] = request.session.get_csrf_token()

    @site.view
    def outer(request):
        if before:
            request.session['before'] = True
        site.registry.way = with_environ, tweens
        run(request, '/inner')
        request.session['outer'] = request.session.get_csrf_token()

    browser = given.browser()
    browser.get('/outer')
    shown = ast.literal_eval(browser.get('/show').text)
    assert shown['inner'] == shown['outer'] == shown['_csrft_']
    assert ('before' in shown) == before
    given.commit()
    assert len(site.rows()) == 1


@on_sqlite
@pytest.mark.parametrize('handled', [False, True])
def test_a_subrequest_that_fails_in_a_given_transaction(make_given, handled):
    """T7, T3: what its view put in is gone, whoever answers for it."""
    site, given = make_given(configure=answering(lambda request: 'sorry'))

    @site.view
    def inner(request):
        request.session['inner'] = True
        raise Failure

    @site.view
    def outer(request):
        request.session['outer'] = True
        site.registry.way = with_environ, False
        with contextlib.suppress(*[Failure] * handled):
            run(request, '/inner')

    browser = given.browser()
    browser.get('/outer')
    assert browser.get('/show').text == str({'outer': True} if handled else {})


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


@on_sqlite
def test_a_commit_when_an_exception_view_has_answered(make_given):
    """T3, T7: what the view did that failed is not stored with it."""

    def answer(request):
        request.add_finished_callback(lambda request: request.tm.commit())

    site, given = make_given(configure=answering(answer))

    @site.view
    def fail(request):
        request.session['view'] = 'Saved!'
        raise Failure

    browser = given.browser()
    browser.get('/fill')
    given.commit()
    browser.get('/fail')
    given.manager.begin()
    assert site.data() == STORED


@on_sqlite
@pytest.mark.parametrize('kind', [with_transaction, with_environ])
@pytest.mark.parametrize('is_answered', [True, False])
def test_a_subrequest_of_a_view_that_fails(make_given, is_answered, kind):
    """T3, T7: what it did is gone; what the exception view's own did stays."""

    def answer(request):
        run(request, '/late')

    site, given = make_given(
        configure=answering(answer) if is_answered else None
    )
    site.registry.way = kind, True

    @site.view
    def inner(request):
        request.session.flash('Saved!')
        request.session.rotate()

    @site.view
    def late(request):
        request.session['late'] = True

    @site.view
    def outer(request):
        run(request, '/inner')
        raise Failure

    browser = given.browser()
    browser.get('/fill')
    site.clock.advance(minutes=30)
    if is_answered:
        browser.get('/outer')
    else:
        with pytest.raises(Failure):
            browser.get('/outer')
    given.commit()
    expected = {**STORED, 'late': True} if is_answered else STORED
    assert site.data() == expected
    assert browser.get('/show').text == str(expected)
