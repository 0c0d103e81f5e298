"""Subrequests, with all that they may share (T9)."""

import ast
from functools import partial

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPForbidden
from pyramid.request import Request
from pyramid.response import Response
from pyramid.scripting import prepare
from pyramid.wsgi import wsgiapp2
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from webtest import TestApp
import zope.sqlalchemy

from pyramid_sqlasession import SessionCreated
from pyramid_sqlasession import SessionError
from pyramid_sqlasession import SessionWriteDropped
from pyramid_sqlasession import SQLASession
from pyramid_sqlasession import SuspiciousCookie

from .failing import answering
from .failing import Failure
from .failing import give_up_early
from .failing import Mailer
from .failing import on_sqlite
from .failing import Passing
from .failing import Voter
from .shop import add_note
from .shop import both_managers
from .shop import flash_error
from .shop import flush_fails
from .shop import MANAGERS
from .shop import returning
from .shop import start_over
from .shop import STORED
from .shop import with_views
from .site import Note
from .subrequests import run
from .subrequests import with_cookie
from .subrequests import with_environ
from .subrequests import with_transaction

# -- T9: subrequests ----------------------------------------------------------


def with_session(request, path):
    """Return one that shares all that has to do with the database."""
    subrequest = with_transaction(request, path)
    subrequest.session = request.session
    return subrequest


KINDS = [with_cookie, with_environ, with_transaction, with_session]

#: How a view runs a subrequest: what it shares, and through tweens or not.
WAYS = [(kind, tweens) for kind in KINDS for tweens in (True, False)]


#: A request in the same thread, beside the one that is running.
beside = pytest.mark.parametrize(
    ('database', 'make_shop'),
    [(name, 'explicit') for name in ('sqlite', 'postgresql', 'mariadb')],
    indirect=True,
)


def inner(request):
    """The view of most subrequests here."""
    request.session['inner'] = True


def errors(caplog):
    """Return the errors in the log: a false alarm is one too."""
    return [
        record.getMessage() for record in caplog.records
        if record.levelname == 'ERROR'
    ]


def assert_logged_in(site, browser, **more):
    """Assert that *browser* has the newest token: the grace of an older one
    is over.  The session has *more* than at the start.
    """
    site.clock.advance(minutes=2)
    seen = ast.literal_eval(browser.get('/show').text)
    assert (site.registry.way, seen) == (
        site.registry.way, {**STORED, **more}
    )


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


@pytest.mark.parametrize('when', ['before', 'after', 'both'])
@both_managers
def test_a_subrequest_that_rotates_as_well(shop, when, caplog):
    """T9: in one transaction nothing is lost, and the last token counts."""

    @shop.view
    def inner(request):
        request.session['inner'] = True
        request.session.rotate()

    @shop.view
    def outer(request):
        if when != 'after':
            request.session['before'] = True
            request.session.rotate()
        run(request, '/inner')
        if when != 'before':
            request.session['after'] = True
            request.session.rotate()

    expected = {'n': 1, 'list': [1], 'inner': True}
    if when != 'after':
        expected['before'] = True
    if when != 'before':
        expected['after'] = True
    ways = [
        (kind, tweens) for kind, tweens in WAYS if kind is not with_cookie
    ]
    for browser in each_way(shop, ways):
        browser.get('/outer')
        shop.clock.advance(minutes=2)
        seen = ast.literal_eval(browser.get('/show').text)
        assert (shop.registry.way, seen) == (shop.registry.way, expected)
        assert len(shop.rows()) == 1
    assert errors(caplog) == []


@pytest.mark.parametrize('when', ['before', 'after', 'both'])
@both_managers
def test_a_subrequest_that_sets_the_same_key(make_shop, when, caplog):
    """T9, C2: in one transaction they are no conflict of two requests."""
    shop = make_shop(conflict='retry', retry=True)
    attempts = []

    @shop.view
    def inner(request):
        request.session['n'] = 2

    @shop.view
    def outer(request):
        attempts.append(when)
        if when != 'after':
            request.session['n'] = 3
        run(request, '/inner')
        if when != 'before':
            request.session['n'] = 4

    ways = [
        (kind, tweens) for kind, tweens in WAYS if kind is not with_cookie
    ]
    for browser in each_way(shop, ways):
        browser.get('/outer')
        # Of both, that depends on what the two share.
        assert shop.data()['n'] in {
            'before': (2,), 'after': (4,), 'both': (2, 4),
        }[when]
    assert len(attempts) == len(ways)
    assert errors(caplog) == []


@both_managers
@pytest.mark.parametrize('is_set_outside', [False, True])
def test_subrequests_that_set_the_same_key(make_shop, is_set_outside, caplog):
    """T9, C2: however many share a transaction, they are no conflict."""
    shop = make_shop(conflict='retry', retry=True)
    attempts = []

    @shop.view
    def inner(request):
        request.session['n'] = int(request.headers['X-Number'])

    @shop.view
    def outer(request):
        attempts.append(1)
        if is_set_outside:
            request.session['outer'] = True
        for number in (2, 3, 4):
            subrequest = with_transaction(request, '/inner')
            subrequest.headers['X-Number'] = str(number)
            request.invoke_subrequest(subrequest)

    start_over(shop).get('/outer')
    assert shop.data()['n'] == 4
    assert len(attempts) == 1
    assert errors(caplog) == []


@beside
@pytest.mark.parametrize('rotates', [False, True])
@pytest.mark.parametrize('key', ['n', 'm'])
def test_another_request_beside_one_with_a_subrequest(
    make_shop, key, rotates, caplog
):
    """C2, T9: only what others have changed is a conflict, and all of it."""
    shop = make_shop(conflict='retry', retry=True)
    attempts = []

    @shop.view
    def another(request):
        request.session[key] = 5

    @shop.view
    def inner(request):
        request.session['list'].append(2)

    @shop.view
    def outer(request):
        n = request.session['n']
        attempts.append(n)
        if len(attempts) == 1:
            other.get('/another')
        request.invoke_subrequest(with_transaction(request, '/inner'))
        request.session['n'] = n + 1
        request.session['list'].append(3)
        if rotates:
            request.session.rotate()

    browser = start_over(shop)
    other = shop.browser(like=browser)
    browser.get('/outer')
    assert attempts == {'n': [1, 5], 'm': [1]}[key]
    assert shop.data()['n'] == attempts[-1] + 1
    # Whoever has written last.
    assert shop.data()['list'] in ([1, 2], [1, 3])
    assert errors(caplog) == []


@beside
def test_another_request_beside_a_subrequest_that_rotates_as_well(
    make_shop, caplog
):
    """T9: that one of them has merged it does not make the other too late."""
    shop = make_shop()

    @shop.view
    def another(request):
        request.session['m'] = 5

    @shop.view
    def inner(request):
        request.session['inner'] = True
        request.session.rotate()

    @shop.view
    def outer(request):
        request.session['outer'] = True
        request.session.rotate()
        request.invoke_subrequest(with_transaction(request, '/inner'))
        other.get('/another')

    browser = start_over(shop)
    other = shop.browser(like=browser)
    browser.get('/outer')
    expected = {**STORED, 'm': 5, 'inner': True, 'outer': True}
    assert shop.data() == expected
    shop.clock.advance(minutes=2)
    assert ast.literal_eval(browser.get('/show').text) == expected
    assert 'were dropped' not in caplog.text


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

    shop.view(inner)

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

    shop.view(inner)

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
def test_a_subrequest_fills_the_session_of_a_new_visitor(shop):
    """T9: he gets its cookie, though the outer view has seen no session."""

    shop.view(inner)

    @shop.view
    def outer(request):
        request.headers.setdefault('Cookie', 'other=1')
        assert 'inner' not in request.session
        run(request, '/inner')

    for _ in each_way(shop):
        browser = shop.browser()
        browser.get('/outer')
        assert (shop.registry.way, browser.get('/show').text) == (
            shop.registry.way, "{'inner': True}"
        )


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
@pytest.mark.parametrize('look', ['never', 'before', 'after', 'write'])
def test_a_subrequest_that_renews_the_token(make_shop, look):
    """T9, R4: the visitor gets it, whatever becomes of the response."""
    shop = make_shop(renewal_interval='10m')

    @shop.view
    def inner(request):
        return request.session['n']

    @shop.view
    def outer(request):
        if look in ('before', 'write'):
            assert request.session['n'] == 1
        text = run(request, '/inner').text
        if look == 'after':
            assert request.session['n'] == 1
        if look == 'write':
            request.session['outer'] = True
        return text

    for browser in each_way(shop):
        token = shop.token(browser)
        shop.clock.advance(minutes=11)
        assert browser.get('/outer').text == '1'
        assert (shop.registry.way, shop.token(browser)) != (
            shop.registry.way, token
        )
        shop.clock.advance(minutes=2)
        assert "'n': 1" in browser.get('/show').text
        assert len(shop.rows()) == 1


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


def write_after_a_rotation(shop):
    """Make a view that writes after a subrequest that rotates."""

    @shop.view
    def inner(request):
        request.session.rotate()

    @shop.view
    def outer(request):
        assert request.session['n'] == 1
        run(request, '/inner')
        request.session['outer'] = True


@both_managers
def test_the_outer_request_writes_after_a_rotation(shop):
    """T9, C5: its write may be dropped; the visitor keeps the new token."""
    write_after_a_rotation(shop)
    for browser in each_way(shop):
        token = shop.token(browser)
        browser.get('/outer')
        assert shop.token(browser) != token
        assert "'n': 1" in browser.get('/show').text


@pytest.mark.parametrize(
    ('database', 'make_shop'),
    [(name, 'explicit') for name in ('sqlite', 'postgresql', 'mariadb')],
    indirect=True,
)
def test_the_outer_request_after_a_login_beside_it(shop, caplog):
    """T9, C5: the log tells that it is dropped; what is shared is not."""
    write_after_a_rotation(shop)
    for browser in each_way(shop, [(with_cookie, True), (with_cookie, False)]):
        caplog.clear()
        browser.get('/outer')
        assert browser.get('/show').text == str(STORED)
        assert 'another request logged in' in caplog.text
    for browser in each_way(shop, [(with_transaction, True)]):
        caplog.clear()
        browser.get('/outer')
        assert browser.get('/show').text == str({**STORED, 'outer': True})
        assert 'another request logged in' not in caplog.text


@both_managers
@pytest.mark.parametrize(('change', 'looks', 'answers'), [
    ('renew', 'before', 'outer'), ('renew', 'before', 'inner'),
    ('renew', 'after', 'outer'), ('extend', 'before', 'inner'),
])
def test_a_login_elsewhere_after_a_subrequest(
    make_shop, change, looks, answers
):
    """C5, T9: the subrequest's cookie is dead, and overwrites no other."""
    shop = make_shop(renewal_interval='10m' if change == 'renew' else '1h')
    shop.view(inner)
    shop.views['login'] = lambda request: request.session.rotate()

    @shop.view
    def outer(request):
        if looks == 'before':
            assert request.session['n'] == 1
        response = run(request, '/inner')
        # One that shares the transaction is stored now.
        request.tm.commit()
        request.tm.begin()
        other.get('/login')
        if looks == 'before':
            request.session['outer'] = True
        else:
            assert dict(request.session) == {}
        return response if answers == 'inner' else None

    # A session that is shared was looked at already.
    ways = [way for way in WAYS if looks == 'before' or way[0] != with_session]
    for browser in each_way(shop, ways):
        other = shop.browser(like=browser)
        shop.clock.advance(minutes=11)
        response = browser.get('/outer')
        assert (shop.registry.way, response.headers.getall('Set-Cookie')) == (
            shop.registry.way, []
        )
        assert other.get('/show').text == str(STORED | {'inner': True})


@on_sqlite
def test_a_revocation_after_a_subrequest_that_rotates(shop):
    """C4, T9: of a session that is gone no token is sent."""

    @shop.view
    def inner(request):
        request.session.rotate()

    @shop.view
    def outer(request):
        assert request.session['n'] == 1
        response = run(request, '/inner')
        shop.execute('DELETE FROM sessions')
        request.session['outer'] = True
        return response

    for browser in each_way(shop, [(with_cookie, True)]):
        response = browser.get('/outer')
        assert response.headers.getall('Set-Cookie') == []


@both_managers
@pytest.mark.parametrize('look', [True, False])
def test_a_subrequest_that_renews_the_token_and_a_retry(make_shop, look):
    """T5, T9: the visitor gets what the first attempt has committed."""
    shop = make_shop(renewal_interval='10m', retry=True)

    @shop.view
    def inner(request):
        return request.session['n']

    @shop.view
    def outer(request):
        if look:
            assert request.session['n'] == 1
        text = run(request, '/inner').text
        if failures:
            raise failures.pop()
        return text

    for browser in each_way(shop):
        failures = [Passing()]
        shop.clock.advance(minutes=11)
        browser.get('/outer')
        assert_logged_in(shop, browser)


@both_managers
@pytest.mark.parametrize(
    'then', ['the same', lambda session: session['n'], SQLASession.rotate],
    ids=['the same', 'look', 'rotate'],
)
def test_a_renewal_two_levels_below_a_view_that_runs_again(make_shop, then):
    """T5, T9: the visitor gets it, if the outer view never looks, too."""
    shop = make_shop(renewal_interval='10m', retry=True)

    @shop.view
    def inner(request):
        return request.session['n']

    @shop.view
    def middle(request):
        if failures or then == 'the same':
            run(request, '/inner')
        if then != 'the same':
            then(request.session)

    @shop.view
    def outer(request):
        subrequest = with_transaction(request, '/middle')
        request.invoke_subrequest(subrequest)
        if failures:
            raise failures.pop()

    for browser in each_way(shop):
        failures = [Passing()]
        shop.clock.advance(minutes=11)
        browser.get('/outer')
        assert_logged_in(shop, browser)


@both_managers
def test_a_rotation_beside_a_subrequest_in_a_view_that_runs_again(make_shop):
    """T5, T9: the browser gets the newest token, whoever has which."""
    shop = make_shop(retry=True)

    @shop.view
    def inner(request):
        request.session['m'] = 1

    @shop.view
    def outer(request):
        request.session['x'] = 1
        run(request, '/inner')
        request.session.rotate()
        request.tm.commit()
        request.tm.begin()
        if failures:
            raise failures.pop()

    for browser in each_way(shop):
        failures = [Passing()]
        browser.get('/outer')
        shown = browser.get('/show').text
        assert (shop.registry.way, 'x' in shown) == (shop.registry.way, True)


#: What a subrequest can do that makes a new token, and what is stored then.
NEW_TOKENS = {
    'renew': (lambda session: session.update(m=1), {**STORED, 'm': 1}),
    'rotate': (lambda session: session.rotate(), STORED),
    'replace': (
        lambda session: (session.invalidate(), session.update(m=1)), {'m': 1}
    ),
}


@both_managers
@pytest.mark.parametrize('is_answered', [False, True])
@pytest.mark.parametrize(
    ('change', 'stored'), NEW_TOKENS.values(), ids=NEW_TOKENS
)
def test_a_subrequest_that_is_committed_by_hand_and_a_retry(
    make_shop, change, stored, is_answered
):
    """T5, T9: its cookie outlives the attempt, whoever has committed it."""
    answer = {'configure': answering(lambda request: 'Sorry!', Passing)}
    shop = make_shop(
        renewal_interval='10m', retry=True, **answer if is_answered else {}
    )

    @shop.view
    def inner(request):
        change(request.session)

    @shop.view
    def outer(request):
        if failures:
            run(request, '/inner')
            request.tm.commit()
            request.tm.begin()
            raise failures.pop()
        return dict(request.session)

    for browser in each_way(shop):
        failures = [Passing()]
        shop.clock.advance(minutes=11)
        shown = [browser.get('/outer').text]
        shop.clock.advance(minutes=2)
        shown.append(browser.get('/show').text)
        assert (shop.registry.way, shown) == (
            shop.registry.way, [str(stored)] * 2
        )
        assert len(shop.rows()) == 1


@both_managers
def test_a_subrequest_that_rotates_after_a_commit_by_hand_and_a_retry(
    make_shop
):
    """T5, T9: the next attempt goes on from the token that came last."""
    shop = make_shop(retry=True)

    @shop.view
    def inner(request):
        request.session.rotate()

    @shop.view
    def outer(request):
        if not failures:
            return dict(request.session)
        request.session['x'] = 1
        request.tm.commit()
        request.tm.begin()
        run(request, '/inner')
        request.tm.commit()
        request.tm.begin()
        raise failures.pop()

    for browser in each_way(shop):
        failures = [Passing()]
        shown = [browser.get('/outer').text, browser.get('/show').text]
        assert (shop.registry.way, shown) == (
            shop.registry.way, [str({**STORED, 'x': 1})] * 2
        )


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
def test_an_outer_view_that_invalidates(shop):
    """T9, C4: what a subrequest said before is no write that came too late."""
    # Whoever joined the transaction first.

    shop.view(inner)

    @shop.view
    def outer(request):
        request.session['outer'] = True
        run(request, '/inner')
        request.session.invalidate()

    for browser in each_way(shop, SHARED):
        with shop.events(SessionWriteDropped) as dropped:
            browser.get('/outer')
        assert (shop.registry.way, dropped, shop.rows()) == (
            shop.registry.way, [], []
        )
        assert shop.token(browser) is None


@both_managers
def test_a_savepoint_around_a_subrequest(shop):
    """T2, T9: what the inner view said goes with its rows."""
    # If its session joined the transaction after the savepoint, too.

    @shop.view
    def inner(request):
        request.session['inner'] = True
        add_note(request, 'inner')
        request.dbsession.flush()

    @shop.view
    def outer(request):
        request.session['outer'] = True
        add_note(request, 'outer')
        savepoint = request.tm.savepoint()
        run(request, '/inner')
        savepoint.rollback()

    ways = [(with_transaction, False), (with_session, False)]
    for browser in each_way(shop, ways):
        browser.get('/outer')
        assert (shop.registry.way, shop.data(), shop.notes()) == (
            shop.registry.way, STORED | {'outer': True}, ['outer']
        )


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



@both_managers
def test_a_subrequest_of_a_stranger_with_a_connection_of_its_own(shop):
    """T1: the session is written with the connection that is open."""

    @shop.view
    def inner(request):
        add_note(request)
        assert request.session.get('user') is None

    @shop.view
    def outer(request):
        subrequest = Request.blank('/inner')
        subrequest.environ['tm.active'] = True
        subrequest.environ['tm.manager'] = request.tm
        request.invoke_subrequest(subrequest)
        request.session['n'] = 1

    shop.browser().get('/outer')
    assert shop.data() == {'n': 1}
    assert shop.notes() == ['a note']


@both_managers
def test_a_shared_session_takes_part_once(shop):
    """T9: not once for each request that shares it."""

    def sub(request, path, kind):
        return request.invoke_subrequest(kind(request, path))

    @shop.view
    def deep(request):
        request.session['deep'] = True

    @shop.view
    def middle(request):
        sub(request, '/deep', with_transaction)

    @shop.view
    def outer(request):
        assert request.session.get('x') is None
        sub(request, '/middle', with_session)
        request.session.flash('Once')

    browser = start_over(shop)
    browser.get('/outer')
    assert shop.data() == STORED | {'deep': True, '_f_': ['Once']}


@on_sqlite
@pytest.mark.parametrize('make_shop', ['implicit'], indirect=True)
def test_a_plain_subrequest_that_aborts_by_hand(shop):
    """T2, T9: it takes back what the view around it has changed."""
    shop.views['inner'] = lambda request: request.tm.abort()

    @shop.view
    def outer(request):
        request.session['n'] = 2
        request.invoke_subrequest(Request.blank('/inner'))
        return request.session['n']

    browser = returning(shop)
    assert browser.get('/outer').text == '1'
    assert shop.data() == STORED


# -- R4: an application within another one ------------------------------------


def mounting(view):
    """Return what makes *view* the one of all below ``/mounted/``."""
    def configure(config):
        config.add_route('mounted', '/mounted/*subpath')
        config.add_view(view, route_name='mounted')

    return configure


@pytest.fixture
def make_inner(make_site, tmp_path):
    """A function that makes the application to be mounted: it has a database
    and a cookie of its own.
    """
    return partial(
        make_site, cookie_name='inner', with_dbsession=False,
        url=f'sqlite:///{tmp_path}/inner.sqlite',
    )


@on_sqlite
@pytest.mark.parametrize('manager', MANAGERS.values(), ids=MANAGERS)
@pytest.mark.parametrize('visitor', ['new', 'returning'])
def test_the_cookie_of_a_mounted_application(
    make_site, make_inner, manager, visitor
):
    """R4: an application within another one sends its cookie, too."""
    inner = make_inner(**{'tm.manager_hook': manager})

    def add(request):
        n = request.session['n'] = request.session.get('n', 0) + 1
        return n

    def mounted(context, request):
        if visitor == 'new':
            add(request)
        assert request.session['n'] > 0
        return wsgiapp2(inner.app)(context, request)

    outer = make_site(
        configure=mounting(mounted), **{'tm.manager_hook': manager}
    )
    outer.view(add)
    inner.view(add)
    browser = outer.browser()
    if visitor == 'returning':
        browser.get('/add')
    assert browser.get('/mounted/add').text == '1'
    assert set(browser.cookies) == {'inner', 'session'}
    assert browser.get('/mounted/add').text == '2'


@on_sqlite
@pytest.mark.parametrize('manager', MANAGERS.values(), ids=MANAGERS)
def test_an_application_mounted_in_one_without_transactions(
    make_site, manager
):
    """R4, T2: it works there as it does alone; no pyramid_tm is outside."""
    inner = with_views(make_site(
        configure=answering(flash_error), **{'tm.manager_hook': manager}
    ))

    @inner.view
    def fail(request):
        request.session['n'] = 2
        raise Failure

    config = Configurator()
    mounting(wsgiapp2(inner.app))(config)
    browser = TestApp(config.make_wsgi_app())
    browser.get('/mounted/fill')
    browser.get('/mounted/fail')
    assert set(browser.cookies) == {'session'}
    assert inner.data() == STORED | {'_f_': ['Please log in']}


@on_sqlite
def test_a_mounted_application_in_a_request_that_runs_again(
    make_site, make_inner
):
    """R4, T5: what an attempt left is the outer application's alone."""
    inner = make_inner()

    def mounted(context, request):
        if request.environ['retry.attempt'] == 0:
            request.session['n'] = 1
            request.tm.commit()
            request.tm.begin()
            raise Passing
        response = wsgiapp2(inner.app)(context, request)
        response.text = repr(dict(request.session))
        return response

    outer = make_site(configure=mounting(mounted), retry=True)
    inner.views['look'] = lambda request: request.session.update(m=1)
    browser = outer.browser()
    assert browser.get('/mounted/look').text == "{'n': 1}"
    assert set(browser.cookies) == {'inner', 'session'}
    assert browser.cookies['inner'] != browser.cookies['session']
    assert outer.data() == {'n': 1}


@on_sqlite
def test_suspicious_cookies_of_a_mounted_application(make_site, make_inner):
    """R3: each application hears of the one that is meant for it."""
    inner = make_inner(secret='i' * 32)

    def mounted(context, request):
        assert not request.session
        return wsgiapp2(inner.app)(context, request)

    outer = make_site(configure=mounting(mounted), secret='o' * 32)
    inner.views['look'] = lambda request: dict(request.session)
    forged = 'A' * 64
    with (
        outer.events(SuspiciousCookie) as heard_outside,
        inner.events(SuspiciousCookie) as heard_inside,
    ):
        outer.browser().get(
            '/mounted/look',
            headers={'Cookie': f'session={forged}; inner={forged}'},
        )
    for heard in (heard_outside, heard_inside):
        assert [event.reason for event in heard] == ['signature']


@on_sqlite
def test_a_mounted_application_that_is_committed_by_hand_and_a_retry(
    make_site, make_inner
):
    """R4, T5: its next attempt goes on from there, and sends the cookie."""
    inner = make_inner()

    def mounted(context, request):
        response = wsgiapp2(inner.app)(context, request)
        if request.environ['retry.attempt'] == 0:
            request.tm.commit()
            request.tm.begin()
            raise Passing
        return response

    outer = make_site(configure=mounting(mounted), retry=True)

    @inner.view
    def add(request):
        n = request.session['n'] = request.session.get('n', 0) + 1
        return n

    browser = outer.browser()
    with inner.events(SessionCreated) as created:
        assert browser.get('/mounted/add').text == '2'
    assert len(created) == 1
    assert set(browser.cookies) == {'inner'}
    assert browser.get('/mounted/add').text == '4'


@on_sqlite
@pytest.mark.parametrize('how', ['create', 'rotate'])
def test_a_subrequest_that_commits_by_hand_and_goes_on(make_site, how):
    """T9, R4: the browser hears of the token that was committed first."""
    site = with_views(make_site())

    @site.view
    def inner(request):
        if how == 'rotate':
            request.session.rotate()
        request.session['inner'] = 1
        request.tm.commit()
        request.tm.begin()
        request.session['more'] = 1

    @site.view
    def work(request):
        request.invoke_subrequest(with_environ(request, '/inner'))

    browser = site.browser() if how == 'create' else returning(site)
    browser.get('/work')
    assert "'inner': 1, 'more': 1" in browser.get('/show').text


@both_managers
def test_the_response_of_a_subrequest_of_a_new_visitor(shop):
    """R4, T9: returned by the outer view it has one cookie, the outer's."""

    @shop.view
    def inner(request):
        request.session['inner'] = True

    @shop.view
    def outer(request):
        request.session['outer'] = True
        return request.invoke_subrequest(
            Request.blank('/inner'), use_tweens='tweens' in request.params
        )

    for query in ('?tweens=1', ''):
        browser = shop.browser()
        assert len(
            browser.get(f'/outer{query}').headers.getall('Set-Cookie')
        ) == 1
        shown = ast.literal_eval(browser.get('/show').text)
        assert shown == {'inner': True, 'outer': True}


# -- T9: a new visitor, who has no session yet --------------------------------

#: What a view has done to the session before its subrequest.
LOOKS = {
    'nothing': lambda session: None,
    'a look': lambda session: dict(session),
    'a change': lambda session: session.update(before=True),
    'a logout': lambda session: session.invalidate(),
}


def newcomers(shop, ways=WAYS):
    """Yield a browser without a session, once for each way."""
    for _ in each_way(shop, ways):
        shop.execute('DELETE FROM sessions')
        yield shop.browser()


@pytest.fixture
def apart(shop):
    """A function that has two new visitors come, and checks that neither has
    anything of the other's.
    """

    @shop.view
    def one(request):
        request.session['one'] = 1
        request.session.get_csrf_token()

    @shop.view
    def two(request):
        request.session.rotate()
        request.session['two'] = 2
        request.session.get_csrf_token()

    def check():
        browsers = {'one': shop.browser(), 'two': shop.browser()}
        for name in ('one', 'two', 'one'):
            browsers[name].get(f'/{name}')
        tokens = set()
        for name, browser in browsers.items():
            shown = ast.literal_eval(browser.get('/show').text)
            tokens.add(shown.pop('_csrft_'))
            assert list(shown) == [name]
        assert (len(tokens), len(shop.rows())) == (2, 2)

    return check


@both_managers
def test_new_visitors_above_a_request_of_a_script(shop, apart):
    """C1, C5: what ``bootstrap()`` has left open is none that they come by."""
    with prepare(registry=shop.registry) as script:
        apart()
        assert script['request'].session.get('one') is None
        shop.execute('DELETE FROM sessions')
        apart()


@pytest.mark.parametrize(
    ('database', 'make_shop'), [('sqlite', 'explicit')], indirect=True
)
@pytest.mark.parametrize('looks', [False, True])
def test_new_visitors_that_a_view_calls_the_application_for(
    shop, apart, looks
):
    """C1, C5: nor is its request theirs; it asks as browsers would."""

    @shop.view
    def outer(request):
        if looks:
            assert 'one' not in request.session
        apart()

    shop.browser().get('/outer')


def anyway(request, path):
    """Run a subrequest of a browser that may have no cookie at all."""
    request.headers.setdefault('Cookie', 'other=1')
    return run(request, path)


@both_managers
@pytest.mark.parametrize('before', LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize('after', [False, True])
def test_outer_and_inner_request_of_a_new_visitor(
    shop, before, after, caplog
):
    """T9: what both put in begins one session, of which he has the cookie."""

    @shop.view
    def inner(request):
        request.session['inner'] = True
        request.session.flash('inner')

    @shop.view
    def outer(request):
        before(request.session)
        anyway(request, '/inner')
        if after:
            request.session['after'] = True
            request.session.flash('outer')

    expected = {'inner': True}
    if before is LOOKS['a change']:
        expected['before'] = True
    if after:
        expected['after'] = True
    with shop.events(SessionCreated) as created:
        for browser in newcomers(shop):
            created.clear()
            browser.get('/outer')
            shown = ast.literal_eval(browser.get('/show').text)
            flashed = shown.pop('_f_')
            assert (shop.registry.way, shown) == (shop.registry.way, expected)
            assert sorted(flashed) == ['inner', 'outer'][:1 + after]
            assert (len(shop.rows()), len(created)) == (1, 1)
    assert errors(caplog) == []


@both_managers
@pytest.mark.parametrize('first', ['outer', 'inner'])
@pytest.mark.parametrize('before', ['nothing', 'a look', 'a change'])
def test_the_csrf_token_of_a_new_visitor(shop, before, first):
    """T9, C6: a form of the outer view and one of a box have the same."""
    tokens = {}

    @shop.view
    def inner(request):
        tokens['inner'] = request.session.get_csrf_token()

    @shop.view
    def outer(request):
        LOOKS[before](request.session)
        if first == 'outer':
            tokens['outer'] = request.session.get_csrf_token()
        anyway(request, '/inner')
        if first == 'inner':
            tokens['outer'] = request.session.get_csrf_token()

    @shop.view
    def ask(request):
        return request.session.get_csrf_token()

    for browser in newcomers(shop):
        browser.get('/outer')
        stored = browser.get('/ask').text
        assert (shop.registry.way, tokens) == (
            shop.registry.way, {'outer': stored, 'inner': stored}
        )


@both_managers
def test_boxes_of_a_page_of_a_new_visitor(shop):
    """T9: those of two subrequests side by side, and one in the other."""

    @shop.view
    def second(request):
        request.session['second'] = True

    @shop.view
    def first(request):
        request.session['first'] = True
        anyway(request, '/second')

    @shop.view
    def third(request):
        request.session['third'] = True

    @shop.view
    def outer(request):
        anyway(request, '/first')
        anyway(request, '/third')

    for browser in newcomers(shop):
        browser.get('/outer')
        shown = ast.literal_eval(browser.get('/show').text)
        assert (shop.registry.way, sorted(shown)) == (
            shop.registry.way, ['first', 'second', 'third']
        )
        assert len(shop.rows()) == 1


@both_managers
@pytest.mark.parametrize('before', ['a look', 'a change'])
def test_a_new_visitor_whom_a_subrequest_logs_in(shop, before, caplog):
    """T9, C5: what the outer view does beside a login is dropped."""
    # As it is of a visitor who has a session; nothing in one transaction.
    tokens = []

    @shop.view
    def inner(request):
        request.session.rotate(login=True)
        request.session['user_id'] = 7
        tokens.append(request.session.get_csrf_token())

    @shop.view
    def outer(request):
        LOOKS[before](request.session)
        request.session.get_csrf_token()
        anyway(request, '/inner')
        request.session['after'] = True

    is_thread_local = shop.registry.settings['tm.manager_hook'] is None
    # (Of one session that is shared nothing can be dropped.)
    for browser in newcomers(shop, [way for way in WAYS
                                    if way[0] is not with_session]):
        caplog.clear()
        kind, tweens = shop.registry.way
        with shop.events(SessionWriteDropped) as dropped:
            browser.get('/outer')
        shop.clock.advance(minutes=2)
        shown = ast.literal_eval(browser.get('/show').text)
        assert (kind, tweens, shown['user_id']) == (kind, tweens, 7)
        assert shown['_csrft_'] == tokens[-1]
        shares = kind is not with_cookie or (is_thread_local and not tweens)
        assert (kind, tweens, 'after' in shown) == (kind, tweens, shares)
        assert len(dropped) == ('another request logged in' in caplog.text)
        assert len(dropped) == (not shares)
        assert len(shop.rows()) == 1


@both_managers
def test_two_logins_of_a_new_visitor(shop):
    """T9, C5: he has that of the outer view, which comes after the other."""

    @shop.view
    def inner(request):
        request.session.rotate(login=True)
        request.session.update(user_id=7, inner=True)

    @shop.view
    def outer(request):
        request.session.get('n')
        anyway(request, '/inner')
        request.session.rotate(login=True)
        request.session['user_id'] = 8

    for browser in newcomers(shop, [(with_cookie, True)]):
        browser.get('/outer')
        assert browser.get('/show').text == "{'user_id': 8}"


@both_managers
def test_a_new_visitor_who_is_logged_out_after_a_subrequest(shop):
    """T9, C4: what the subrequest has begun ends with it."""
    shop.view(inner)

    @shop.view
    def outer(request):
        request.session.get('n')
        anyway(request, '/inner')
        request.session.invalidate()

    for browser in newcomers(shop):
        browser.get('/outer')
        assert (shop.registry.way, browser.get('/show').text) == (
            shop.registry.way, '{}'
        )
        assert shop.rows() == []


@both_managers
@pytest.mark.parametrize('before', [False, True])
@pytest.mark.parametrize('after', [False, True])
def test_a_subrequest_that_replaces_what_a_new_visitor_begins(
    shop, before, after
):
    """T9, C4: he gets its session, and what is put in later is dropped."""

    @shop.view
    def inner(request):
        request.session.invalidate()
        request.session['inner'] = True

    @shop.view
    def outer(request):
        if before:
            request.session['before'] = True
        anyway(request, '/inner')
        if after:
            request.session['after'] = True

    for browser in newcomers(shop, [way for way in WAYS
                                    if way[0] is not with_session]):
        browser.get('/outer')
        shown = ast.literal_eval(browser.get('/show').text)
        if not before:
            # Not by one that finds the session that is stored by then.
            shown.pop('after', None)
        assert (shop.registry.way, shown) == (
            shop.registry.way, {'inner': True}
        )
        assert len(shop.rows()) == 1


@both_managers
@pytest.mark.parametrize('change', ['set', 'rotate', 'replace'])
def test_a_subrequest_after_a_commit_by_hand_of_a_new_visitor(shop, change):
    """T9: it goes on with the session that is stored already."""

    @shop.view
    def inner(request):
        if change == 'rotate':
            request.session.rotate()
        if change == 'replace':
            request.session.invalidate()
        request.session['inner'] = True

    @shop.view
    def outer(request):
        request.session['outer'] = True
        request.tm.commit()
        request.tm.begin()
        anyway(request, '/inner')

    expected = {'inner': True}
    if change != 'replace':
        expected['outer'] = True
    for browser in newcomers(shop, [way for way in WAYS
                                    if way[0] is not with_session]):
        browser.get('/outer')
        shop.clock.advance(minutes=2)
        shown = ast.literal_eval(browser.get('/show').text)
        assert (shop.registry.way, shown) == (shop.registry.way, expected)
        assert len(shop.rows()) == 1


@on_sqlite
@pytest.mark.parametrize('manager', MANAGERS.values(), ids=MANAGERS)
def test_a_new_visitor_sees_what_a_commit_by_hand_has_merged(
    make_site, manager
):
    """T9: what the subrequest put in, and an end of both is one."""
    site = with_views(make_site(**{'tm.manager_hook': manager}))

    site.view(inner)

    @site.view
    def rotate(request):
        request.session.rotate()
        request.session['rotated'] = True

    @site.view
    def outer(request):
        request.invoke_subrequest(with_environ(request, '/inner'))
        request.session['outer'] = True
        request.tm.commit()
        request.tm.begin()
        seen = dict(request.session)
        if 'replace' in request.params:
            request.invoke_subrequest(with_environ(request, '/rotate'))
            request.session.invalidate()
            if request.params['replace'] == 'later':
                request.tm.commit()
                request.tm.begin()
            request.session['new'] = True
        return seen

    for query, expected in (
        ('', {'outer': True, 'inner': True}), ('?replace=now', {'new': True}),
        ('?replace=later', {'new': True}),
    ):
        browser = site.browser()
        seen = browser.get(f'/outer{query}').text
        assert ast.literal_eval(seen) == {'outer': True, 'inner': True}
        site.clock.advance(minutes=2)
        shown = ast.literal_eval(browser.get('/show').text)
        assert shown == expected


@both_managers
def test_savepoints_around_a_subrequest_of_a_new_visitor(shop):
    """T2, T9: what is left is stored, whoever has said it first."""
    shop.view(inner)

    @shop.view
    def outer(request):
        if 'before' in request.params:
            request.session['outer'] = True
        savepoint = request.tm.savepoint()
        anyway(request, '/inner')
        savepoint.rollback()
        if 'after' in request.params:
            request.session['outer'] = True

    for query in ('before', 'after'):
        for browser in newcomers(shop, [(with_transaction, False)]):
            browser.get(f'/outer?{query}=1')
            assert browser.get('/show').text == "{'outer': True}"
            assert len(shop.rows()) == 1


@both_managers
def test_a_view_of_a_new_visitor_that_fails_after_a_subrequest(make_shop):
    """T3, T9: an exception view's words are put beside what is stored."""
    shop = make_shop(configure=answering(flash_error))
    shop.view(inner)

    @shop.view
    def outer(request):
        request.session['outer'] = True
        request.session.get_csrf_token()
        anyway(request, '/inner')
        raise Failure

    ways, is_apart = WAYS, True
    if shop.registry.settings['tm.manager_hook'] is None:
        # Through tweens, one without the keys ends the outer transaction.
        ways, is_apart = [w for w in WAYS if w != (with_cookie, True)], False
    for browser in newcomers(shop, ways):
        browser.get('/outer')
        kind, tweens = shop.registry.way
        expected = {'_f_': ['Please log in']}
        if kind is with_cookie and is_apart:
            expected['inner'] = True
        shown = ast.literal_eval(browser.get('/show').text)
        assert (kind, tweens, shown) == (kind, tweens, expected)
        assert len(shop.rows()) == 1


@both_managers
@pytest.mark.parametrize('before', ['nothing', 'a look', 'a change'])
def test_a_view_of_a_new_visitor_that_runs_again(make_shop, before):
    """T5, T9: one record comes out of all attempts."""
    shop = make_shop(retry=True)

    @shop.view
    def inner(request):
        request.session['inner'] = True

    @shop.view
    def outer(request):
        LOOKS[before](request.session)
        anyway(request, '/inner')
        request.session['after'] = True
        if request.environ['retry.attempt'] == 0:
            raise Passing

    expected = {'inner': True, 'after': True}
    if before == 'a change':
        expected['before'] = True
    for browser in newcomers(shop):
        browser.get('/outer')
        shown = ast.literal_eval(browser.get('/show').text)
        assert (shop.registry.way, shown) == (shop.registry.way, expected)
        assert len(shop.rows()) == 1


@both_managers
def test_the_fields_of_what_a_new_visitor_begins(make_shop):
    """D3, T9: they follow from what both have put in."""
    shop = make_shop(
        additional_fields='user_id: Integer index\nlanguage: String(2)',
        max_sessions_per_user=1,
    )

    @shop.view
    def inner(request):
        request.session['user_id'] = 7

    @shop.view
    def outer(request):
        request.session['language'] = 'de'
        anyway(request, '/inner')

    others = shop.browser()
    for browser in newcomers(shop):
        shop.registry.way = with_transaction, True
        others.get('/outer')
        browser.get('/outer')
        assert [
            (row['user_id'], row['language']) for row in shop.rows()
        ] == [(7, 'de')]
        assert 'user_id' in browser.get('/show').text


@both_managers
def test_a_stranger_within_the_page_of_a_new_visitor(shop):
    """T9: what a subrequest of another browser runs is not the visitor's."""
    shop.view(inner)

    @shop.view
    def another(request):
        request.session['another'] = True
        request.invoke_subrequest(Request.blank('/inner'), use_tweens=True)

    returning_one = start_over(shop)
    cookie = '; '.join(f'{k}={v}' for k, v in returning_one.cookies.items())

    @shop.view
    def page(request):
        request.session['page'] = True
        request.invoke_subrequest(
            Request.blank('/another', headers={'Cookie': cookie}),
            use_tweens=True,
        )

    browser = shop.browser()
    browser.get('/page')
    assert browser.get('/show').text == "{'page': True}"
    assert 'another' in returning_one.get('/show').text
    assert 'inner' not in returning_one.get('/show').text


# -- what follows the transaction that they share -----------------------------


def commit_by_hand(request, change):
    """Commit what was done; do *change* in the next transaction."""
    request.tm.commit()
    request.tm.begin()
    change(request)


def commit_twice(request, change):
    """The same, and *change* is committed by hand, too."""
    commit_by_hand(request, change)
    commit_by_hand(request, lambda request: None)


def call_back(request, change):
    """Do *change* when the response is there."""
    request.add_response_callback(lambda request, response: change(request))


def fail_after_commit(request, change):
    """Have an exception view do *change*, after the COMMIT."""
    request.registry.change = change
    add_note(request)
    Mailer(request)


def log_in(request):
    """The view of a subrequest that rotates."""
    request.session['inner'] = True
    request.session.rotate()


afterwards = pytest.mark.parametrize(
    'then', [commit_by_hand, call_back, fail_after_commit]
)


def answered_by_change(make_shop, **settings):
    """Return a shop whose exception view does what a view has left to it."""
    return make_shop(
        configure=answering(lambda request: request.registry.change(request)),
        **settings,
    )


#: Those that are saved with the outer request, each with its own session.
IN_TRANSACTION = [(with_transaction, True), (with_transaction, False)]


@both_managers
@afterwards
@pytest.mark.parametrize(('change', 'look'), [
    ('put', 'never'), ('put', 'read'), ('put', 'write'),
    ('rotate', 'never'), ('rotate', 'read'),
])
def test_a_change_after_a_subrequest_that_rotates(
    make_shop, change, look, then, caplog
):
    """T9: nothing is lost, the browser has the newest token, and no other."""
    shop = answered_by_change(make_shop)
    shop.views['inner'] = log_in

    def later(request):
        assert look == 'never' or request.session['inner']
        request.session['later'] = True
        if change == 'rotate':
            request.session.rotate()

    @shop.view
    def outer(request):
        if look != 'never':
            assert request.session['n'] == 1
        if look == 'write':
            request.session['before'] = True
        run(request, '/inner')
        then(request, later)

    before = {'before': True} if look == 'write' else {}
    for browser in each_way(shop, IN_TRANSACTION):
        answer = browser.get('/outer')
        assert len(answer.headers.getall('Set-Cookie')) == 1
        assert_logged_in(shop, browser, inner=True, later=True, **before)
        assert len(shop.rows()) == 1
    assert 'were dropped' not in caplog.text


@both_managers
@pytest.mark.parametrize('looks', [False, True])
@pytest.mark.parametrize('then', [
    lambda request, change: change(request), commit_by_hand, call_back,
], ids=['at once', 'commit_by_hand', 'call_back'])
def test_a_logout_after_a_subrequest_that_logs_in(shop, then, looks):
    """C4, R4, T9: it ends the session, and the cookie goes with it."""
    shop.views['inner'] = log_in

    @shop.view
    def outer(request):
        if looks:
            assert request.session['n'] == 1
        run(request, '/inner')
        then(request, lambda request: request.session.invalidate())

    for browser in each_way(shop, IN_TRANSACTION):
        answer = browser.get('/outer')
        assert len(answer.headers.getall('Set-Cookie')) == 1
        assert shop.token(browser) is None
        assert shop.rows() == []


@both_managers
@pytest.mark.parametrize('looks', [False, True])
@pytest.mark.parametrize('rotates', [False, True])
def test_a_change_two_levels_above_one_that_rotates(shop, rotates, looks):
    """T9: whoever shares the transaction goes on, at whichever depth."""
    shop.views['inner'] = log_in

    def later(request):
        request.session['later'] = True
        if rotates:
            request.session.rotate()

    @shop.view
    def middle(request):
        if looks:
            assert request.session['n'] == 1
        request.invoke_subrequest(with_transaction(request, '/inner'))
        commit_by_hand(request, later)

    @shop.view
    def outer(request):
        return run(request, '/middle').text

    ways = [(kind, True) for kind in KINDS if kind is not with_session]
    for browser in each_way(shop, ways):
        answer = browser.get('/outer')
        assert len(answer.headers.getall('Set-Cookie')) == 1
        assert_logged_in(shop, browser, inner=True, later=True)


@both_managers
@pytest.mark.parametrize('looks', [False, True])
def test_a_change_after_a_subrequest_that_has_committed_by_hand(shop, looks):
    """T9: also if nobody has looked outside before it."""

    @shop.view
    def inner(request):
        log_in(request)
        commit_by_hand(request, lambda request: None)
        request.session['more'] = True

    @shop.view
    def outer(request):
        if looks:
            assert request.session['n'] == 1
        run(request, '/inner')
        request.session['outer'] = True

    for browser in each_way(shop, IN_TRANSACTION):
        answer = browser.get('/outer')
        assert len(answer.headers.getall('Set-Cookie')) == 1
        assert_logged_in(shop, browser, inner=True, more=True, outer=True)


@both_managers
def test_a_renewal_beside_a_subrequest_that_writes_later(make_shop):
    """R4, T9: who has the newest token keeps it, with its longer life."""
    shop = make_shop(renewal_interval='10m')
    shop.view(inner)

    @shop.view
    def outer(request):
        request.session['outer'] = True
        run(request, '/inner')
        commit_by_hand(
            request, lambda request: request.session.set_expiry(604_800)
        )

    for browser in each_way(shop, IN_TRANSACTION):
        shop.clock.advance(minutes=11)
        (cookie,) = browser.get('/outer').headers.getall('Set-Cookie')
        assert '; Max-Age=604800;' in cookie
        assert_logged_in(shop, browser, outer=True, inner=True)


@both_managers
def test_a_form_after_a_subrequest_that_rotates(shop):
    """C6, T9: its CSRF token is that of the session as it is now."""
    shop.views['inner'] = log_in
    shop.views['form'] = lambda request: request.session.get_csrf_token()

    @shop.view
    def outer(request):
        request.session.get_csrf_token()
        run(request, '/inner')
        request.tm.commit()
        request.tm.begin()
        return request.session.get_csrf_token()

    for browser in each_way(shop, IN_TRANSACTION):
        shown = browser.get('/outer').text
        assert browser.get('/form').text == shown


@both_managers
@pytest.mark.parametrize('who', ['inner', 'outer', 'both', 'later', 'all'])
def test_tokens_of_a_view_that_runs_again(make_shop, who):
    """T5, T9: the next attempt goes on from the newest one."""
    shop = make_shop(retry=True)

    @shop.view
    def inner(request):
        request.session['inner'] = True
        if who in ('inner', 'both', 'later', 'all'):
            request.session.rotate()

    @shop.view
    def outer(request):
        if not failures:
            return dict(request.session)
        request.session['outer'] = True
        if who in ('outer', 'both', 'all'):
            request.session.rotate()
        run(request, '/inner')
        commit_by_hand(request, lambda request: None)
        request.session['later'] = True
        if who in ('later', 'all'):
            request.session.rotate()
        commit_by_hand(request, lambda request: None)
        raise failures.pop()

    expected = {**STORED, 'inner': True, 'outer': True, 'later': True}
    for browser in each_way(shop, IN_TRANSACTION):
        failures = [Passing()]
        answer = browser.get('/outer')
        assert ast.literal_eval(answer.text) == expected
        assert len(answer.headers.getall('Set-Cookie')) == 1
        shop.clock.advance(minutes=2)
        assert ast.literal_eval(browser.get('/show').text) == expected


@both_managers
def test_a_count_after_that_of_a_subrequest(make_shop):
    """C2, T9: what a subrequest has committed with it is no conflict."""
    shop = make_shop(conflict='retry', retry=True)
    attempts = []

    @shop.view
    def inner(request):
        request.session['n'] += 1

    @shop.view
    def outer(request):
        attempts.append(request.session['n'])
        run(request, '/inner')
        commit_by_hand(request, inner)

    for browser in each_way(shop, IN_TRANSACTION):
        browser.get('/outer')
        assert shop.data()['n'] == 3
    assert attempts == [1, 1]


@both_managers
@pytest.mark.parametrize('writes', [False, True])
def test_a_list_that_a_view_holds_after_that(shop, writes):
    """T9, R7: it is still the session's."""
    shop.views['inner'] = log_in

    @shop.view
    def outer(request):
        held = request.session['list']
        if writes:
            held.append(2)
        run(request, '/inner')
        commit_by_hand(request, lambda request: held.append(3))

    for browser in each_way(shop, IN_TRANSACTION):
        browser.get('/outer')
        assert shop.data()['list'] == ([1, 2, 3] if writes else [1, 3])


@both_managers
@pytest.mark.parametrize('value', [1, object()])
def test_a_change_while_a_subrequest_that_rotates_is_committed(
    make_shop, value, caplog
):
    """T8, T9: it is stored with the response, or the error is its own."""
    shop = make_shop(configure=answering(lambda request: None, SessionError))
    shop.views['inner'] = log_in

    @shop.view
    def outer(request):
        assert request.session['n'] == 1
        add_note(request)
        run(request, '/inner')
        Voter(
            request, lambda: request.session.update(later=value),
            '~sqlalchemy!!',
        )

    for browser in each_way(shop, IN_TRANSACTION):
        browser.get('/outer')
        stored = {'later': 1} if value == 1 else {}
        assert shop.data() == {**STORED, 'inner': True, **stored}
        assert shop.notes() == ['a note']
    assert 'were dropped' not in caplog.text


@beside
def test_a_login_elsewhere_before_a_subrequest(shop):
    """C5, T9: one that has the new cookie opens it to nobody else."""
    shop.views['login'] = log_in

    @shop.view
    def put(request):
        request.session['put'] = True

    @shop.view
    def outer(request):
        assert request.session['n'] == 1
        other.get('/login')
        subrequest = with_transaction(request, '/put')
        subrequest.headers['Cookie'] = f'session={shop.token(other)}'
        request.invoke_subrequest(subrequest)
        commit_by_hand(request, lambda request: None)
        request.session['later'] = True

    browser = start_over(shop)
    other = shop.browser(like=browser)
    with shop.events(SessionWriteDropped) as dropped:
        browser.get('/outer')
    assert [event.reason for event in dropped] == ['rotated']
    assert shop.data() == {**STORED, 'inner': True, 'put': True}


# -- what fails around them ---------------------------------------------------

@on_sqlite
@pytest.mark.parametrize('answer', [flash_error, lambda request: 'sorry'])
@pytest.mark.parametrize('writes', [False, True])
@pytest.mark.parametrize('looks', [False, True])
@pytest.mark.parametrize('kind', [with_transaction, with_environ])
def test_a_before_commit_hook_that_fails(
    make_shop, kind, looks, writes, answer
):
    """T2, R4, T3: what a subrequest did is gone as well, with its cookie."""
    shop = make_shop(configure=answering(answer))
    give_up_early(shop.engine)

    def refuse():
        raise Failure

    @shop.view
    def inner(request):
        request.session['inner'] = 1
        request.session.rotate()

    @shop.view
    def outer(request):
        if looks:
            request.session['outer'] = 1
        request.invoke_subrequest(kind(request, '/inner'))
        if writes:
            add_note(request)
            request.dbsession.flush()
        request.tm.get().addBeforeCommitHook(refuse)

    browser = start_over(shop)
    response = browser.get('/outer')
    assert shop.notes() == []
    expected = dict(STORED)
    if answer is flash_error:
        expected['_f_'] = ['Please log in']
    assert shop.data() == expected
    assert response.headers.getall('Set-Cookie') == []


@both_managers
@pytest.mark.parametrize('looks', [False, True])
def test_an_error_after_the_commit(make_shop, looks):
    """T1, R4: what a subrequest did is stored, and its cookie is sent."""
    shop = make_shop(configure=answering(lambda request: 'sorry'))

    @shop.view
    def inner(request):
        request.session['n'] = 2
        request.session.rotate()

    @shop.view
    def outer(request):
        if looks:
            request.session.get('n')
        request.invoke_subrequest(with_transaction(request, '/inner'))
        add_note(request)
        Mailer(request)

    browser = start_over(shop)
    browser.get('/outer')
    shop.clock.advance(minutes=2)
    assert browser.get('/show').text == str({**STORED, 'n': 2})


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
def test_a_subrequest_that_fails_in_a_transaction_by_hand(make_shop):
    """T9: its exception view's words abort no transaction of its caller's."""
    shop = make_shop(
        configure=answering(flash_error),
        **{'tm.activate_hook': lambda request: False},
    )
    give_up_early(shop.engine)

    @shop.view
    def inner(request):
        raise Failure

    @shop.view
    def outer(request):
        with request.tm:
            add_note(request, 'first')
            subrequest = with_cookie(request, '/inner')
            subrequest.tm = request.tm
            request.invoke_subrequest(subrequest, use_tweens=True)
            add_note(request, 'second')

    start_over(shop).get('/outer')
    assert shop.notes() == ['first', 'second']


# -- rows of a request that does not look at its session ----------------------


def with_one_of_its_own(site):
    """Return the ways in which a subrequest runs in the outer transaction
    with a ``dbsession`` of its own.
    """
    ways = [(with_environ, True), (with_environ, False)]
    if site.registry.settings['tm.manager_hook'] is None:
        ways.append((with_cookie, False))
    return ways


def add_unflushed(request):
    add_note(request)


def add_flushed(request):
    add_note(request)
    request.dbsession.flush()


def add_unmarked(request):
    """Store a row in a way that zope.sqlalchemy does not see."""
    request.dbsession.connection().execute(
        sa.insert(Note.__table__).values(text='a note')
    )


@pytest.mark.parametrize('add', [add_unflushed, add_flushed, add_unmarked])
@both_managers
def test_a_subrequest_of_a_view_with_rows_that_does_not_look(shop, add):
    """T1, T9: one connection and one COMMIT have the rows and the session."""
    give_up_early(shop.engine)
    shop.view(inner)

    @shop.view
    def outer(request):
        add(request)
        run(request, '/inner')

    commits = []
    sa.event.listen(shop.engine, 'commit', commits.append)
    for browser in each_way(shop, with_one_of_its_own(shop)):
        commits.clear()
        browser.get('/outer')
        assert (shop.registry.way, len(commits)) == (shop.registry.way, 1)
        assert shop.data() == STORED | {'inner': True}
        assert shop.notes() == ['a note']


@pytest.mark.parametrize('add', [add_unflushed, add_flushed, add_unmarked])
@both_managers
def test_a_subrequest_that_queries_beside_such_rows(shop, add):
    """T1, T9: SQLite has one writer: who writes the rows."""
    give_up_early(shop.engine)

    @shop.view
    def inner(request):
        request.dbsession.scalars(sa.select(Note)).all()
        request.session['inner'] = True

    @shop.view
    def outer(request):
        add(request)
        run(request, '/inner')

    for browser in each_way(shop, with_one_of_its_own(shop)):
        browser.get('/outer')
        assert shop.data() == STORED | {'inner': True}
        assert shop.notes() == ['a note']


@pytest.mark.parametrize('looks', [False, True])
@both_managers
def test_a_subrequest_with_rows_that_does_not_look(shop, looks):
    """T1, T9: nor does the outer view wait for what they have locked."""
    give_up_early(shop.engine)
    shop.view(add_unflushed)

    @shop.view
    def outer(request):
        if looks:
            request.session.get('n')
        run(request, '/add_unflushed')
        request.session['outer'] = True

    for browser in each_way(shop, with_one_of_its_own(shop)):
        browser.get('/outer')
        assert shop.data() == STORED | {'outer': True}
        assert shop.notes() == ['a note']


@on_sqlite
def test_a_subrequest_with_rows_beside_one_that_shares(shop):
    """T1, T9: neither do two requests that share a dbsession."""
    give_up_early(shop.engine)
    shop.view(add_unflushed)

    @shop.view
    def inner(request):
        request.session['inner'] = True
        request.dbsession.scalars(sa.select(Note)).all()

    @shop.view
    def outer(request):
        run(request, '/add_unflushed')
        request.session['outer'] = True
        request.invoke_subrequest(with_transaction(request, '/inner'))

    for browser in each_way(shop, with_one_of_its_own(shop)):
        browser.get('/outer')
        assert shop.data() == STORED | {'outer': True, 'inner': True}
        assert shop.notes() == ['a note']


@both_managers
def test_a_subrequest_of_a_view_that_has_ended_the_session(shop):
    """C4, T9: it waits for no lock of its own transaction."""
    give_up_early(shop.engine)
    shop.view(inner)

    @shop.view
    def outer(request):
        assert request.session_store.revoke_all() == 1
        run(request, '/inner')

    for browser in each_way(shop, with_one_of_its_own(shop)):
        browser.get('/outer')
        assert shop.rows() == []


def roll_back(request, shop):
    """What the transaction does not commit any more is no way to it."""
    request.dbsession.scalars(sa.select(Note)).all()
    request.dbsession.rollback()


def fail_to_flush(request, shop):
    """A view that goes on all the same has lost its rows alone."""
    with pytest.raises(sa.exc.IntegrityError):
        flush_fails(request, shop)


def only_read(request, shop):
    """With what was registered for that nothing is written."""
    dbsession = Session(shop.engine)
    zope.sqlalchemy.register(
        dbsession, 'readonly', transaction_manager=request.tm
    )
    dbsession.scalars(sa.select(Note)).all()


@both_managers
@pytest.mark.parametrize('work', [roll_back, fail_to_flush, only_read])
def test_a_subrequest_of_a_view_with_no_way_to_the_commit(shop, work):
    """T9: what it changes is stored, by its own."""
    shop.view(inner)

    @shop.view
    def outer(request):
        work(request, shop)
        run(request, '/inner')

    for browser in each_way(shop, with_one_of_its_own(shop)):
        browser.get('/outer')
        assert shop.data() == STORED | {'inner': True}


def bound_to_another(engine):
    return Session(engine)


def bound_for_rows_to_another(engine):
    return Session(binds={Note: engine})


@pytest.mark.parametrize('make', [bound_to_another, bound_for_rows_to_another])
@on_sqlite
def test_a_subrequest_of_a_view_with_rows_elsewhere(shop, tmp_path, make):
    """T1, T9: sessions are not written to another database."""
    shop.view(inner)
    engine = sa.create_engine(f'sqlite:///{tmp_path}/other.sqlite')
    Note.metadata.create_all(engine)

    @shop.view
    def outer(request):
        dbsession = make(engine)
        zope.sqlalchemy.register(dbsession, transaction_manager=request.tm)
        dbsession.add(Note(text='elsewhere'))
        run(request, '/inner')

    for browser in each_way(shop, with_one_of_its_own(shop)):
        browser.get('/outer')
        assert shop.data() == STORED | {'inner': True}
        with engine.begin() as connection:
            notes = connection.execute(sa.delete(Note)).rowcount
        assert notes == 1
    engine.dispose()


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_a_connection_of_the_request_that_cannot_write(shop):
    """T1: without a subrequest it is request.dbsession alone that writes."""

    @shop.view
    def outer(request):
        dbsession = Session(shop.engine)
        zope.sqlalchemy.register(dbsession, transaction_manager=request.tm)
        dbsession.execute(sa.text('SET TRANSACTION READ ONLY'))
        request.session['outer'] = True

    returning(shop).get('/outer')
    assert shop.data() == STORED | {'outer': True}
