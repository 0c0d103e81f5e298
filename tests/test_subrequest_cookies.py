"""What the browser is told of a session that a subrequest has changed: its
cookie, and ``Vary`` (T9, R4, R5).
"""

from pyramid.httpexceptions import HTTPForbidden
from pyramid.request import Request
from pyramid.response import Response
import pytest

from pyramid_sqlasession import SessionCreated

from .failing import Failure
from .shop import both_managers
from .shop import returning
from .shop import start_over
from .shop import STORED
from .subrequests import assert_logged_in
from .subrequests import beside
from .subrequests import commit_by_hand
from .subrequests import each_way
from .subrequests import inner
from .subrequests import log_in
from .subrequests import of_a_stranger
from .subrequests import run
from .subrequests import SHARED
from .subrequests import WAYS
from .subrequests import with_cookie
from .subrequests import with_environ
from .subrequests import with_transaction


@both_managers
@pytest.mark.parametrize('change', ['rotate', 'invalidate'])
@pytest.mark.parametrize('who', [
    'outer', 'outer first', 'another', 'one that an outer one has written to',
])
def test_the_cookie_of_a_login_beside_a_due_touch(shop, change, who):
    """T9, C5: a request that extends the old one does not undo it."""

    shop.view(inner)

    @shop.view
    def another(request):
        getattr(request.session, change)()

    @shop.view
    def outer(request):
        if who == 'outer first':
            assert request.session['n'] == 1
        if who.startswith('one'):
            request.session['inner'] = True
            run(request, '/another')
            return
        if who == 'another':
            run(request, '/another')
        run(request, '/inner')
        if who != 'another':
            another(request)

    ways = SHARED
    if who.startswith('one') and not shop.registry.settings['tm.manager_hook']:
        # All share the transaction of the thread.
        ways = WAYS
    for browser in each_way(shop, ways):
        shop.clock.advance(minutes=11)
        token = shop.token(browser)
        answer = browser.get('/outer')
        assert len(answer.headers.getall('Set-Cookie')) == 1
        assert shop.token(browser) != token
        shown = browser.get('/show').text
        if change == 'rotate':
            assert (shop.registry.way, shown) == (
                shop.registry.way, str(STORED | {'inner': True})
            )


@both_managers
@pytest.mark.parametrize('change', ['rotate', 'invalidate'])
def test_the_cookie_of_a_subrequest_whose_response_is_dropped(shop, change):
    """T9, R4: the visitor gets it, in whatever transaction it was."""

    @shop.view
    def inner(request):
        getattr(request.session, change)()

    @shop.view
    def outer(request):
        return run(request, '/inner').text

    for browser in each_way(shop):
        token = shop.token(browser)
        browser.get('/outer')
        assert shop.token(browser) != token
        shown = browser.get('/show').text
        assert shown == ('{}' if change == 'invalidate' else str(STORED))


def over_https(site, ways):
    """Yield a browser with a stored session and a due touch, once for each
    way, on https.
    """
    for browser in each_way(site, ways):
        browser.extra_environ['wsgi.url_scheme'] = 'https'
        site.clock.advance(minutes=11)
        yield browser


@both_managers
@pytest.mark.parametrize('change', ['look', 'write', 'rotate', 'invalidate'])
@pytest.mark.parametrize('answers', ['outer', 'inner'])
def test_the_cookie_of_a_subrequest_is_as_secure_as_the_request(
    shop, change, answers
):
    """R4, Section 2: the scheme is that of the browser's own request."""

    # ``Request.blank('/')`` says http.
    @shop.view
    def inner(request):
        if change == 'look':
            return len(request.session)
        if change == 'write':
            request.session['inner'] = True
            return None
        return getattr(request.session, change)()

    @shop.view
    def outer(request):
        response = run(request, '/inner')
        return response if answers == 'inner' else response.text

    for browser in over_https(shop, WAYS):
        response = browser.get('/outer')
        cookies = response.headers.getall('Set-Cookie')
        assert (shop.registry.way, len(cookies)) == (shop.registry.way, 1)
        assert '; Secure' in cookies[0]


@both_managers
@pytest.mark.parametrize('change', ['rotate', 'invalidate'])
def test_the_cookie_of_a_login_on_https_beside_a_due_touch(shop, change):
    """T9, C5: nor does a subrequest that says http undo the login."""
    shop.view(inner)

    @shop.view
    def outer(request):
        assert request.session['n'] == 1
        response = run(request, '/inner')
        getattr(request.session, change)()
        return response

    for browser in over_https(shop, SHARED):
        token = shop.token(browser)
        answer = browser.get('/outer')
        assert len(answer.headers.getall('Set-Cookie')) == 1
        assert shop.token(browser) != token


@beside
@pytest.mark.parametrize('looks', [False, True])
def test_the_cookie_of_a_login_in_another_subrequest(shop, looks):
    """T9, C5: nor is it undone by the response of the one before it."""
    shop.view(inner)
    shop.views['login'] = lambda request: request.session.rotate()

    @shop.view
    def outer(request):
        if looks:
            assert request.session['n'] == 1
        response = run(request, '/inner')
        run(request, '/login')
        return response

    for browser in each_way(shop):
        shop.clock.advance(minutes=11)
        answer = browser.get('/outer')
        assert len(answer.headers.getall('Set-Cookie')) == 1
        assert_logged_in(shop, browser, inner=True)


@both_managers
def test_the_response_of_a_subrequest_as_the_answer(shop):
    """T9, R4: its cookie comes with it, once it is committed."""

    shop.view(inner)

    @shop.view
    def outer(request):
        return run(request, '/inner')

    for _ in each_way(shop, [(of_a_stranger, True), (of_a_stranger, False)]):
        browser = shop.browser()
        answer = browser.get('/outer')
        assert len(answer.headers.getall('Set-Cookie')) == 1
        assert browser.get('/show').text == "{'inner': True}"


@pytest.mark.parametrize('database', ['sqlite'], indirect=True)
def test_a_cookie_of_the_application_beside_it(shop):
    """T9, R4: one of the name, but of another path, is another cookie."""

    @shop.view
    def inner(request):
        request.session['inner'] = True
        response = Response()
        response.set_cookie('session', 'theirs', path='/elsewhere')
        return response

    @shop.view
    def outer(request):
        return run(request, '/inner')

    shop.registry.way = with_transaction, True
    browser = returning(shop)
    token = shop.token(browser)
    shop.clock.advance(minutes=11)
    theirs, ours = browser.get('/outer').headers.getall('Set-Cookie')
    assert theirs == 'session=theirs; Path=/elsewhere'
    assert ours.startswith(f'session={token}; ')


def show_user(request):
    """A view that reads the session and no more."""
    return f'user {request.session.get("user")}'


@both_managers
@pytest.mark.parametrize('change', [
    lambda session: session['n'], lambda session: session.rotate(),
], ids=['read', 'rotate'])
def test_the_cookie_of_a_subrequest_of_one_that_does_not_look(
    make_shop, change
):
    """T9, R4: from whichever depth, the browser gets the new token."""
    shop = make_shop(renewal_interval='10m')

    @shop.view
    def inner(request):
        change(request.session)

    @shop.view
    def middle(request):
        subrequest = with_transaction(request, '/inner')
        request.invoke_subrequest(subrequest)

    @shop.view
    def outer(request):
        return run(request, '/middle').text

    for browser in each_way(shop):
        shop.clock.advance(minutes=11)
        browser.get('/outer')
        assert_logged_in(shop, browser)


@both_managers
def test_a_page_made_of_what_a_subrequest_read_varies(shop):
    """R5: of a stranger too: a cache would show it to who is logged in."""
    shop.view(show_user)

    @shop.view
    def outer(request):
        return run(request, '/show_user').text

    @shop.view
    def log_in(request):
        request.session['user'] = 'Ada'

    for kind in (with_cookie, with_environ, with_transaction):
        for tweens in (True, False):
            shop.registry.way = kind, tweens
            browser = shop.browser(HTTP_COOKIE='other=1')
            answer = browser.get('/outer')
            assert answer.text == 'user None'
            assert answer.headers.get('Vary') == 'Cookie', shop.registry.way
            browser = shop.browser()
            browser.get('/log_in')
            answer = browser.get('/outer')
            assert answer.text == 'user Ada'
            assert answer.headers.get('Vary') == 'Cookie', shop.registry.way


@both_managers
def test_a_page_about_a_subrequest_that_failed_varies(shop):
    """R5: "please log in" is not for who is logged in."""

    @shop.view
    def inner(request):
        if 'n' in request.session:
            raise HTTPForbidden

    @shop.view
    def outer(request):
        try:
            run(request, '/inner')
        except HTTPForbidden:
            return 'forbidden'

    for browser in each_way(shop, [
        (kind, False) for kind in (with_cookie, with_environ, with_transaction)
    ]):
        answer = browser.get('/outer')
        assert answer.text == 'forbidden', shop.registry.way
        assert answer.headers.get('Vary') == 'Cookie', shop.registry.way


@both_managers
def test_a_page_made_of_what_everybody_sees_does_not_vary(shop):
    """R4, R5: a subrequest without the cookie says nothing of the visitor."""
    shop.view(show_user)

    @shop.view
    def outer(request):
        blank = Request.blank('/show_user')
        return request.invoke_subrequest(blank, use_tweens=True).text

    answer = start_over(shop).get('/outer')
    assert answer.text == 'user None'
    assert 'Vary' not in answer.headers


def assert_has_its_cookie(shop, visitor):
    """Assert that the browser of a visitor gets the cookie of what was put in
    below ``/outer``, which is one session.
    """
    browser = start_over(shop)
    if visitor == 'new':
        shop.execute('DELETE FROM sessions')
        browser = shop.browser()
    with shop.events(SessionCreated) as created:
        browser.get('/outer')
    shop.clock.advance(minutes=2)
    assert "'inner': True" in browser.get('/show').text
    assert len(shop.rows()) == 1
    assert len(created) == (visitor == 'new')


@both_managers
@pytest.mark.parametrize('visitor', ['new', 'returning'])
@pytest.mark.parametrize('looks', [False, True])
def test_the_cookie_of_a_subrequest_that_failed(shop, visitor, looks):
    """T9, R4: what the outer view has committed all the same, it sends."""

    @shop.view
    def inner(request):
        request.session['inner'] = True
        request.session.rotate()
        raise Failure

    @shop.view
    def outer(request):
        request.headers.setdefault('Cookie', 'other=1')
        if looks:
            request.session['outer'] = True
        with pytest.raises(Failure):
            request.invoke_subrequest(with_transaction(request, '/inner'))

    assert_has_its_cookie(shop, visitor)


@both_managers
@pytest.mark.parametrize('looks', [False, True])
def test_a_logout_after_a_subrequest_that_rotates(shop, looks):
    """C4, T9: in the same transaction it ends the session."""

    @shop.view
    def inner(request):
        request.session.rotate()

    @shop.view
    def outer(request):
        if looks:
            request.session.get('n')
        request.invoke_subrequest(with_transaction(request, '/inner'))
        request.session.invalidate()

    browser = start_over(shop)
    browser.get('/outer')
    assert shop.rows() == []
    assert browser.get('/show').text == '{}'

@both_managers
@pytest.mark.parametrize('visitor', ['new', 'returning'])
@pytest.mark.parametrize('looks', [False, True])
@pytest.mark.parametrize('how', ['by hand', 'by another one'])
def test_what_a_subrequest_that_failed_has_committed(
    shop, visitor, looks, how
):
    """T9, R4: the response to the outer request has its cookie."""
    shop.views['deep'] = log_in

    @shop.view
    def inner(request):
        if how == 'by hand':
            log_in(request)
            commit_by_hand(request, lambda request: None)
        else:
            run(request, '/deep')
        raise Failure

    @shop.view
    def outer(request):
        request.headers.setdefault('Cookie', 'other=1')
        if looks:
            request.session.get('n')
        with pytest.raises(Failure):
            run(request, '/inner')

    shop.registry.way = (with_cookie, True)
    assert_has_its_cookie(shop, visitor)
