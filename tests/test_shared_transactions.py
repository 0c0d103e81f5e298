"""What follows the transaction that a request and its subrequests share, and
what fails around them (T9, T3).
"""

import ast

import pytest

from pyramid_sqlasession import SessionError
from pyramid_sqlasession import SessionWriteDropped

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
from .shop import start_over
from .shop import STORED
from .subrequests import anyway
from .subrequests import assert_logged_in
from .subrequests import beside
from .subrequests import call_back
from .subrequests import commit_by_hand
from .subrequests import each_way
from .subrequests import IN_TRANSACTION
from .subrequests import inner
from .subrequests import KINDS
from .subrequests import log_in
from .subrequests import newcomers
from .subrequests import run
from .subrequests import WAYS
from .subrequests import with_cookie
from .subrequests import with_environ
from .subrequests import with_session
from .subrequests import with_transaction


def commit_twice(request, change):
    """The same, and *change* is committed by hand, too."""
    commit_by_hand(request, change)
    commit_by_hand(request, lambda request: None)


def fail_after_commit(request, change):
    """Have an exception view do *change*, after the COMMIT."""
    request.registry.change = change
    add_note(request)
    Mailer(request)


afterwards = pytest.mark.parametrize(
    'then', [commit_by_hand, call_back, fail_after_commit]
)


def answered_by_change(make_shop, **settings):
    """Return a shop whose exception view does what a view has left to it."""
    return make_shop(
        configure=answering(lambda request: request.registry.change(request)),
        **settings,
    )


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
@pytest.mark.parametrize(('change', 'lifetime', 'stored'), [
    (lambda session: session.update(later=1), None, {'later': 1}),
    (lambda session: session.update(later=object()), None, {}),
    (lambda session: session['list'].append(object()), None, {}),
    (lambda session: session.set_expiry(7200), 7200, {}),
])
def test_a_change_while_a_subrequest_that_rotates_is_committed(
    make_shop, change, lifetime, stored, caplog
):
    """T8, T9: it is stored with the response, or the error is its own."""
    shop = make_shop(configure=answering(lambda request: None, SessionError))
    shop.views['inner'] = log_in

    @shop.view
    def outer(request):
        assert request.session['list'] == [1]
        add_note(request)
        run(request, '/inner')
        Voter(request, lambda: change(request.session), '~sqlalchemy!!')

    for browser in each_way(shop, IN_TRANSACTION):
        browser.get('/outer')
        assert shop.data() == {**STORED, 'inner': True, **stored}
        assert shop.rows()[0]['lifetime'] == lifetime
        assert shop.notes() == ['a note']
    assert 'were dropped' not in caplog.text
    # An error of the second phase reaches nobody who could mend it.
    assert 'CRITICAL' not in caplog.text


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


@beside
def test_a_new_visitor_whom_one_of_two_subrequests_logs_out(shop):
    """T9, C4: the other begins anew, and what was begun before has ended."""
    shop.view(inner)

    @shop.view
    def outer(request):
        request.session['before'] = True
        anyway(request, '/logout')
        anyway(request, '/inner')
        request.session['after'] = True

    @shop.view
    def logout(request):
        request.session.invalidate()

    (browser,) = newcomers(shop, [(with_cookie, True)])
    browser.get('/outer')
    assert browser.get('/show').text == "{'inner': True}"
    assert len(shop.rows()) == 1


@beside
def test_a_subrequest_after_a_logout_elsewhere(shop):
    """T9, C4: it begins a new session, whose cookie the visitor gets."""
    shop.view(inner)

    @shop.view
    def outer(request):
        assert request.session['n'] == 1
        shop.execute('DELETE FROM sessions')
        request.invoke_subrequest(with_cookie(request, '/inner'))

    browser = start_over(shop)
    browser.get('/outer')
    assert browser.get('/show').text == "{'inner': True}"


@beside
def test_a_subrequest_after_a_new_session_was_committed_by_hand(shop):
    """T9: what it puts in is put into that, though it came with a cookie."""
    shop.view(inner)

    @shop.view
    def outer(request):
        request.session.invalidate()
        request.session['new'] = True
        request.tm.commit()
        request.tm.begin()
        run(request, '/inner')

    for browser in each_way(shop, [w for w in WAYS if w[0] is with_cookie]):
        browser.get('/outer')
        shown = ast.literal_eval(browser.get('/show').text)
        assert shown == {'new': True, 'inner': True}
        assert len(shop.rows()) == 1


@beside
def test_a_subrequest_of_a_view_that_runs_again_after_a_logout(make_shop):
    """T5, T9: also if the view does not look the second time."""
    shop = make_shop(retry=True)
    shop.view(inner)

    @shop.view
    def outer(request):
        if request.environ['retry.attempt'] == 0:
            assert request.session['n'] == 1
            shop.execute('DELETE FROM sessions')
            raise Passing
        request.invoke_subrequest(with_cookie(request, '/inner'))

    browser = start_over(shop)
    browser.get('/outer')
    assert browser.get('/show').text == "{'inner': True}"


@beside
def test_a_new_visitor_whom_a_subrequest_logs_in_at_last(shop):
    """T9: what it has committed by hand before is his as well."""

    @shop.view
    def inner(request):
        request.session['first'] = True
        commit_by_hand(request, log_in)

    @shop.view
    def outer(request):
        anyway(request, '/inner')

    for browser in newcomers(shop, IN_TRANSACTION):
        browser.get('/outer')
        shop.clock.advance(minutes=2)
        shown = ast.literal_eval(browser.get('/show').text)
        assert shown == {'first': True, 'inner': True}
        assert len(shop.rows()) == 1


@both_managers
def test_a_new_visitor_whom_both_views_log_in(shop):
    """T9: in one transaction all is kept, in one session."""
    shop.views['inner'] = log_in

    @shop.view
    def outer(request):
        request.session['outer'] = True
        anyway(request, '/inner')
        request.session.rotate()

    for browser in newcomers(shop, IN_TRANSACTION):
        browser.get('/outer')
        shop.clock.advance(minutes=2)
        shown = ast.literal_eval(browser.get('/show').text)
        assert shown == {'outer': True, 'inner': True}
        assert len(shop.rows()) == 1


@on_sqlite
@pytest.mark.parametrize('answer', [flash_error, lambda request: 'sorry'])
@pytest.mark.parametrize('writes', [False, True])
@pytest.mark.parametrize('looks', [False, True])
@pytest.mark.parametrize('kind', [with_transaction, with_environ])
@pytest.mark.parametrize('rotates', [False, True])
def test_a_before_commit_hook_that_fails(
    make_shop, rotates, kind, looks, writes, answer
):
    """T2, R4, T3: what a subrequest did is gone as well, with its cookie."""
    shop = make_shop(configure=answering(answer))
    give_up_early(shop.engine)

    def refuse():
        raise Failure

    @shop.view
    def inner(request):
        request.session['inner'] = 1
        if rotates:
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
