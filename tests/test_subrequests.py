"""Subrequests, with all that they may share (T9)."""

import ast

from pyramid.request import Request
import pytest

from pyramid_sqlasession import SessionWriteDropped
from pyramid_sqlasession import SQLASession

from .failing import answering
from .failing import Failure
from .failing import on_sqlite
from .failing import Passing
from .shop import add_note
from .shop import both_managers
from .shop import flash_error
from .shop import returning
from .shop import start_over
from .shop import STORED
from .subrequests import assert_logged_in
from .subrequests import beside
from .subrequests import each_way
from .subrequests import errors
from .subrequests import inner
from .subrequests import of_a_stranger
from .subrequests import run
from .subrequests import SHARED
from .subrequests import WAYS
from .subrequests import with_cookie
from .subrequests import with_session
from .subrequests import with_transaction


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
@pytest.mark.parametrize('conflict', ['merge', 'retry'])
def test_a_stranger_in_the_transaction_of_both(make_shop, conflict, caplog):
    """T9, C2: whatever is written to his session, theirs is written to."""
    shop = make_shop(conflict=conflict)
    shop.view(inner)

    @shop.view
    def another(request):
        request.session['another'] = True

    browser, stranger = start_over(shop), returning(shop)

    @shop.view
    def outer(request):
        subrequest = with_transaction(request, '/another')
        subrequest.headers['Cookie'] = f'session={shop.token(stranger)}'
        request.invoke_subrequest(subrequest)
        request.invoke_subrequest(with_transaction(request, '/inner'))
        request.session['outer'] = True

    browser.get('/outer')
    shown = ast.literal_eval(browser.get('/show').text)
    assert shown == {**STORED, 'outer': True, 'inner': True}
    shown = ast.literal_eval(stranger.get('/show').text)
    assert shown == {**STORED, 'another': True}
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


#: A subrequest through tweens replaces the transaction of its caller.
replacing = pytest.mark.parametrize(
    ('database', 'make_shop'),
    [('sqlite', 'implicit'), ('postgresql', 'implicit')], indirect=True,
)


@replacing
@pytest.mark.parametrize('then', [
    lambda session: None, lambda session: session.update(later=True),
])
def test_a_view_that_fails_after_a_transaction_was_replaced(make_shop, then):
    """T3, T9: nothing of it shows, though it has not failed by then."""
    shop = make_shop(configure=answering(flash_error))
    shop.views['inner'] = lambda request: None

    @shop.view
    def outer(request):
        request.session.flash('Saved!')
        request.invoke_subrequest(
            with_cookie(request, '/inner'), use_tweens=True
        )
        then(request.session)
        raise Failure

    start_over(shop).get('/outer')
    assert shop.data() == {**STORED, '_f_': ['Please log in']}


@replacing
@pytest.mark.parametrize('writes', [False, True])
@pytest.mark.parametrize('who', ['the view', 'a subrequest'])
def test_an_exception_view_that_replaces_the_transaction(
    make_shop, writes, who
):
    """T3: what its subrequest stores has nothing of the view that failed."""

    def answer(request):
        request.invoke_subrequest(
            with_cookie(request, '/inner'), use_tweens=True
        )

    shop = make_shop(configure=answering(answer))

    def flash(request):
        request.session.flash('Saved!')

    shop.views['flash'] = flash

    @shop.view
    def inner(request):
        if writes:
            request.session['inner'] = True

    @shop.view
    def outer(request):
        # Begun by itself, or by hand.
        request.tm.commit()
        if who == 'the view':
            flash(request)
        else:
            request.invoke_subrequest(with_transaction(request, '/flash'))
        raise Failure

    start_over(shop).get('/outer')
    expected = {**STORED, 'inner': True} if writes else STORED
    assert shop.data() == expected


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
def test_a_new_session_after_a_subrequest_and_a_retry(make_shop):
    """T5, T9: the next attempt goes on with it, not with what it replaced."""
    shop = make_shop(retry=True)

    @shop.view
    def inner(request):
        request.session.rotate()

    @shop.view
    def outer(request):
        if not failures:
            return dict(request.session)
        run(request, '/inner')
        request.session.invalidate()
        request.session['new'] = True
        request.tm.commit()
        request.tm.begin()
        raise failures.pop()

    for browser in each_way(shop, [(with_transaction, True),
                                   (with_transaction, False)]):
        failures = [Passing()]
        shown = [browser.get('/outer').text, browser.get('/show').text]
        assert (shop.registry.way, shown) == (
            shop.registry.way, ["{'new': True}"] * 2
        )


@beside
def test_a_write_beside_a_subrequest_that_logs_in_and_a_retry(make_shop):
    """C5, T5, T9: it is dropped; the next attempt is of who has logged in."""
    shop = make_shop(retry=True)

    @shop.view
    def inner(request):
        request.session['inner'] = True
        request.session.rotate()

    @shop.view
    def outer(request):
        if failures:
            assert request.session['n'] == 1
            run(request, '/inner')
        request.session['outer'] = True
        request.tm.commit()
        request.tm.begin()
        if failures:
            raise failures.pop()

    for browser in each_way(shop, [(with_cookie, True), (with_cookie, False)]):
        failures = [Passing()]
        browser.get('/outer')
        assert_logged_in(shop, browser, inner=True, outer=True)


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
