"""The periodic renewal of a token, and requests that meet it: C5."""

import datetime as dt

from pyramid_retry import BeforeRetry
import pytest
from transaction.interfaces import TransientError

from pyramid_sqlasession import SessionInvalidated
from pyramid_sqlasession import SessionTooLarge
from pyramid_sqlasession import SessionWriteDropped
from pyramid_sqlasession import SuspiciousCookie
from pyramid_sqlasession.retired import unpack_retired

from .damaging import damage
from .failing import on_sqlite
from .meeting import csrf
from .meeting import flash
from .meeting import logout
from .meeting import look
from .meeting import put
from .meeting import reasons
from .meeting import rotate
from .meeting import set_cookies
from .meeting import touched
from .services import databases


@pytest.fixture(params=[*databases.NAMES, 'galera'])
def database(request, make_database):
    """An empty database; in the cluster each request has another node."""
    return make_database(request.param)


RENEWAL = {'renewal_interval': '10m', 'renewal_grace': '60s'}


@pytest.fixture
def renewing(make_meeting):
    """A ``Meeting`` with renewal; touches are due within the grace."""
    return make_meeting(**RENEWAL, touch_interval='10s')


def renew(meeting, one, act=look):
    """Make a request that renews the token of *one*; return the old one."""
    old = meeting.site.token(one)
    meeting.site.clock.advance(minutes=10)
    meeting.do(one, act)
    assert meeting.site.token(one) != old
    return old


@pytest.mark.parametrize('act', [look, put(a=1), touched, flash('x')])
def test_a_renewal_hands_out_the_new_token(renewing, act):
    """C5: with a read and with each write; it outlives the grace before it."""
    one = renewing.visitor(n=0)
    old = renewing.site.token(one)
    for _ in range(3):
        renewing.site.clock.advance(minutes=10)
        renewing.do(one, act)
        new = renewing.site.token(one)
        assert new != old
        renewing.site.clock.advance(minutes=2)
        assert renewing.seen(new)['n'] == 0
        assert renewing.seen(old) == {}
        old = new


@pytest.mark.parametrize('act', [look, put(n='y' * 300), touched])
def test_a_renewal_of_a_full_session(make_meeting, act):
    """C5: what it keeps beside the data does not count for max_size."""
    full = len('{"user_id":7,"n":""}') + 300
    meeting = make_meeting(**RENEWAL, touch_interval='10s', max_size=full)
    one = meeting.visitor(n='x' * 300)
    for _ in range(2):
        old = renew(meeting, one, act)
        meeting.site.clock.advance(minutes=2)
        assert meeting.seen(old) == {}
        assert len(meeting.seen(meeting.site.token(one))['n']) == 300


def test_a_renewal_of_a_session_above_a_new_limit(make_meeting):
    """C5: what is stored already stays, and its token is a new one."""
    before = make_meeting(**RENEWAL)
    one = before.visitor(n='x' * 300)
    meeting = make_meeting(**RENEWAL, max_size=100, create=False)
    one = meeting.site.browser(like=one)
    for act in (look, touched, lambda request: request.session.rotate()):
        renew(meeting, one, act)
    with pytest.raises(SessionTooLarge):
        meeting.do(one, put(a=1))
    assert meeting.seen(meeting.site.token(one))['n'] == 'x' * 300


@on_sqlite
def test_a_renewal_extends_no_expiry_that_reading_does_not(make_meeting):
    """C5, E2: with ``disable_touch`` a new token is all that one gets."""
    meeting = make_meeting(**RENEWAL, disable_touch='true')
    one = meeting.visitor(n=0)
    (before,) = meeting.site.rows()
    old = renew(meeting, one)
    (after,) = meeting.site.rows()
    assert [after[name] for name in ('accessed', 'expires', 'sweep')] == [
        before[name] for name in ('accessed', 'expires', 'sweep')
    ]
    assert meeting.seen(old)['n'] == 0


@on_sqlite
def test_a_renewal_moves_no_expiry_backwards(renewing):
    """C3, C5: another machine, whose clock is ahead, has moved it on."""
    one = renewing.visitor(n=0)
    (row,) = renewing.site.rows()
    renewing.site.clock.advance(minutes=10)
    slow = renewing.start(one, look)
    ahead = {
        name: row[name] + dt.timedelta(minutes=11)
        for name in ('accessed', 'expires')
    }
    damage(renewing.site, **ahead)
    assert set_cookies(slow.finish()) != []
    (after,) = renewing.site.rows()
    assert {name: after[name] for name in ahead} == ahead


def test_a_write_in_flight_merges_with_a_renewal(renewing):
    """C5: after a renewal the old token's write is kept, its cookie not."""
    one = renewing.visitor(n=0)
    renewing.site.clock.advance(minutes=9, seconds=59)
    slow = renewing.start(one, put(a=1))
    renewing.site.clock.advance(seconds=1)
    renewing.do(one, look)
    new = renewing.site.token(one)
    with renewing.site.events(SessionWriteDropped) as seen:
        assert set_cookies(slow.finish()) == []
    assert seen == []
    assert renewing.seen(new)['a'] == 1


@pytest.mark.parametrize('act', [look, put(a=1), touched, flash('x')])
def test_the_old_token_is_served_within_the_grace(renewing, act):
    """C5: from the same session; no second renewal, and no old cookie."""
    # Though the expiry is extended.
    one = renewing.visitor(n=0)
    late = renewing.site.browser(like=one)
    renew(renewing, one)
    renewing.site.clock.advance(seconds=30)
    (before,) = renewing.site.rows()
    response = renewing.do(late, act)
    assert set_cookies(response) == []
    (after,) = renewing.site.rows()
    assert after['secret_hash'] == before['secret_hash']
    assert after['expires'] > before['expires']
    if act is look:
        assert "'n': 0" in response.text


def test_the_old_token_renews_nothing_however_slow_its_request(renewing):
    """C5: a renewal that falls due meanwhile is the new token's affair."""
    one = renewing.visitor(n=0)
    late = renewing.site.browser(like=one)
    renew(renewing, one)
    (before,) = renewing.site.rows()
    slow = renewing.start(late, put(a=1))
    renewing.site.clock.advance(minutes=10)
    assert set_cookies(slow.finish()) == []
    (after,) = renewing.site.rows()
    assert after['secret_hash'] == before['secret_hash']
    assert renewing.seen(renewing.site.token(one))['a'] == 1


def test_the_old_token_is_unknown_after_the_grace(renewing):
    """C5: when the grace is over the old token opens nothing."""
    one = renewing.visitor(n=0)
    old = renew(renewing, one)
    renewing.site.clock.advance(seconds=59)
    assert renewing.seen(old)['n'] == 0
    renewing.site.clock.advance(seconds=1)
    assert renewing.seen(old) == {}
    assert renewing.seen(renewing.site.token(one))['n'] == 0


@pytest.mark.parametrize('act', [look, rotate], ids=['renewal', 'rotation'])
def test_the_grace_is_the_old_tokens_alone(renewing, act):
    """C5, R3: who has only the id gets nothing while a grace runs."""
    one = renewing.visitor(n=0)
    old = renewing.site.token(one)
    renewing.site.clock.advance(minutes=10)
    renewing.do(one, act)
    (before,) = renewing.site.rows()
    assert before['retired']
    forged = f'{old[:-4]}AAAA'
    assert forged != old
    with renewing.site.events(SuspiciousCookie) as seen:
        assert renewing.seen(forged) == {}
    assert [event.reason for event in seen] == ['secret']
    assert renewing.site.rows() == [before]


@pytest.mark.parametrize('act', [look, put(a=1)])
@pytest.mark.parametrize('meanwhile', [look, put(b=1)])
def test_two_requests_that_are_due_renew_once(renewing, act, meanwhile):
    """C5: of two requests that find the renewal due, one renews."""
    one = renewing.visitor(n=0)
    renewing.site.clock.advance(minutes=10)
    slow = renewing.start(one, act)
    renewing.do(one, meanwhile)
    (before,) = renewing.site.rows()
    assert set_cookies(slow.finish()) == []
    (after,) = renewing.site.rows()
    assert after['secret_hash'] == before['secret_hash']
    assert renewing.seen(renewing.site.token(one))['n'] == 0


def test_a_logout_with_the_renewed_token_ends_the_session(renewing):
    """C4, C5: a logout in flight is final though the token was renewed."""
    one = renewing.visitor(n=0)
    renewing.site.clock.advance(minutes=10)
    slow = renewing.start(one, logout)
    renewing.do(one, look)
    assert set_cookies(slow.finish()) == ['']
    assert renewing.site.rows() == []


def test_a_login_with_the_renewed_token_kills_both(renewing):
    """C5: after a login neither the renewed token nor its follower lives."""
    one = renewing.visitor(n=0)
    renewing.site.clock.advance(minutes=10)
    slow = renewing.start(one, rotate)
    old = renewing.site.token(one)
    renewing.do(one, look)
    renewed = renewing.site.token(one)
    (new,) = set_cookies(slow.finish())
    assert len({old, renewed, new}) == 3
    assert renewing.seen(old) == renewing.seen(renewed) == {}
    assert renewing.seen(new)['login'] is True


def test_a_login_takes_the_place_of_a_renewal_that_is_due(renewing):
    """C5: one new token, the login's; it is the one that is handed out."""
    one = renewing.visitor(n=0)
    renewing.site.clock.advance(minutes=10)
    (cookie,) = set_cookies(renewing.do(one, rotate))
    assert renewing.seen(cookie)['login'] is True
    (row,) = renewing.site.rows()
    assert len(unpack_retired(row['retired'])) == 1


def test_a_renewal_in_flight_loses_against_a_login(renewing):
    """C5: a rotation meanwhile: no new token, no cookie, nothing written."""
    one = renewing.visitor(n=0)
    renewing.site.clock.advance(minutes=10)
    slow = renewing.start(one, look)
    renewing.do(one, rotate)
    before = renewing.site.rows()
    assert set_cookies(slow.finish()) == []
    assert renewing.site.rows() == before


def test_a_renewal_of_an_aborted_request_counts_all_the_same(renewing):
    """T2, C5: whatever an abort does, the browser's token works after it."""
    one = renewing.visitor(n=0)
    renewing.site.clock.advance(minutes=10)

    def doom(request):
        request.session['a'] = 1
        request.tm.doom()

    renewing.do(one, doom)
    renewing.site.clock.advance(minutes=2)
    seen = renewing.seen(renewing.site.token(one))
    assert seen['n'] == 0
    assert 'a' not in seen


# -- requests that outlast the grace ------------------------------------------


@pytest.fixture(params=['0', '60s'])
def lapsing(request, make_meeting):
    """A ``Meeting`` with renewal, and the next attempt of pyramid_retry."""
    return make_meeting(
        **{**RENEWAL, 'renewal_grace': request.param}, retry=True
    )


def outlast(meeting, one, slow, *, renewals=1, act=look):
    """Have *slow*, a request of *one*, outlast as many renewals, and the
    grace of the last one; return its response.
    """
    for _ in range(renewals):
        renew(meeting, one, act)
    meeting.site.clock.advance(minutes=2)
    return slow.finish()


@pytest.mark.parametrize('act', [look, put(b=2)])
@pytest.mark.parametrize('renewals', [1, 2])
def test_a_write_in_flight_outlasts_the_grace(lapsing, renewals, act):
    """C1, C5: it is merged, as it was good when its request began."""
    one = lapsing.visitor(n=0)
    slow = lapsing.start(one, put(a=1))
    with lapsing.site.events(SessionWriteDropped) as seen:
        response = outlast(lapsing, one, slow, renewals=renewals, act=act)
    assert set_cookies(response) == []
    assert seen == []
    found = lapsing.seen(lapsing.site.token(one))
    assert (found['n'], found['a']) == (0, 1)
    assert ('b' in found) is (act is not look)


@pytest.mark.parametrize('renewals', [1, 2])
def test_a_logout_in_flight_outlasts_the_grace(lapsing, renewals):
    """C4, C5: it ends the session, whoever has its newest token."""
    one = lapsing.visitor(n=0)
    slow = lapsing.start(one, logout)
    with lapsing.site.events(SessionInvalidated) as seen:
        response = outlast(lapsing, one, slow, renewals=renewals)
    assert set_cookies(response) == ['']
    assert len(seen) == 1
    assert lapsing.site.rows() == []


def test_a_login_in_flight_outlasts_the_grace(lapsing):
    """C5: it goes on with the session's data, and the others' token dies."""
    one = lapsing.visitor(n=0)
    slow = lapsing.start(one, rotate)
    (new,) = set_cookies(outlast(lapsing, one, slow))
    assert len(lapsing.site.rows()) == 1
    found = lapsing.seen(new)
    assert (found['n'], found['login']) == (0, True)
    assert lapsing.seen(lapsing.site.token(one)) == {}


@pytest.mark.parametrize('act', [put(a=1), logout, rotate])
def test_a_repeated_attempt_outlasts_the_grace(lapsing, act):
    """C4, C5, T5: the next attempt is the same request still."""
    one = lapsing.visitor(n=0)
    runs = []

    def fail_once(request):
        runs.append(dict(request.session))
        act(request)
        if len(runs) == 1:
            raise TransientError

    slow = lapsing.start(one, fail_once)
    with lapsing.site.events(SessionWriteDropped, SuspiciousCookie) as seen:
        response = outlast(lapsing, one, slow)
    assert [run['n'] for run in runs] == [0, 0]
    assert seen == []
    assert len(set_cookies(response)) == (act in (logout, rotate))
    assert len(lapsing.site.rows()) == (act is not logout)
    if act is not logout:
        assert lapsing.site.data()['n'] == 0


def test_a_repeated_attempt_with_another_old_token(lapsing):
    """C5: the next attempt goes on by what it began with, and no other."""
    one = lapsing.visitor(n=0)
    old = renew(lapsing, one)
    lapsing.site.clock.advance(minutes=2)

    def change_cookie(event):
        event.request.environ['HTTP_COOKIE'] = f'session={old}'

    lapsing.site.registry.registerHandler(change_cookie, [BeforeRetry])
    runs = []

    def fail_once(request):
        runs.append(dict(request.session))
        if len(runs) == 1:
            raise TransientError

    lapsing.do(one, fail_once)
    assert [bool(run) for run in runs] == [True, False]


def test_an_attempt_after_a_renewal_that_was_committed_by_hand(lapsing):
    """T5, C5: it goes on with the new token, whatever the old one is."""
    one = lapsing.visitor(n=0)
    lapsing.site.clock.advance(minutes=11)
    runs = []

    def fail_once(request):
        runs.append(dict(request.session))
        if len(runs) == 1:
            request.session['a'] = 1
            request.tm.commit()
            request.tm.begin()
            lapsing.site.clock.advance(minutes=2)
            raise TransientError

    lapsing.do(one, fail_once)
    assert runs[1] == {**runs[0], 'a': 1}
    assert "'a': 1" in lapsing.do(one, look).text


@pytest.mark.parametrize('act', [put(a=1), logout])
@pytest.mark.parametrize('then', [rotate, look])
def test_a_login_after_a_renewal_ends_what_is_in_flight(lapsing, act, then):
    """C5: the renewed token is dead for it, in its grace and beyond."""
    one = lapsing.visitor(n=0)
    slow = lapsing.start(one, act)
    renew(lapsing, one)
    lapsing.do(one, rotate)
    if then is look:
        renew(lapsing, one)
    before = lapsing.site.rows()
    with lapsing.site.events(SessionWriteDropped) as seen:
        assert set_cookies(slow.finish()) == []
    assert reasons(seen) == ([] if act is logout else ['rotated'])
    assert lapsing.site.rows() == before


@pytest.mark.parametrize('act', [look, put(a=1), logout, rotate])
@pytest.mark.parametrize('renewals', [1, 2])
def test_a_request_that_begins_after_the_grace(lapsing, act, renewals):
    """C5, R3: to it the old token is unknown, though others outlast it."""
    one = lapsing.visitor(n=0)
    late = lapsing.site.browser(like=one)
    for _ in range(renewals):
        renew(lapsing, one)
    lapsing.site.clock.advance(minutes=2)
    before = lapsing.site.rows()
    with lapsing.site.events(SuspiciousCookie) as seen:
        lapsing.do(late, act)
    assert len(seen) == 1
    assert before[0] in lapsing.site.rows()
    assert lapsing.seen(lapsing.site.token(one))['n'] == 0


def test_a_request_that_outlasts_many_renewals(lapsing):
    """C5: the tokens that are kept for it are few; then it is dropped."""
    one = lapsing.visitor(n=0)
    slow = lapsing.start(one, put(a=1))
    with lapsing.site.events(SessionWriteDropped) as seen:
        outlast(lapsing, one, slow, renewals=3)
    assert reasons(seen) == ['rotated']
    (row,) = lapsing.site.rows()
    assert len(unpack_retired(row['retired'])) == 2
    lapsing.do(one, rotate)
    (row,) = lapsing.site.rows()
    assert len(unpack_retired(row['retired'])) <= 1


# -- C6: CSRF -----------------------------------------------------------------


@pytest.mark.parametrize('order', ['old first', 'new first'])
def test_first_csrf_tokens_across_a_renewal_are_the_same(renewing, order):
    """C5, C6: the old token in its grace and the new one show the same one."""
    one = renewing.visitor(n=0)
    late = renewing.site.browser(like=one)
    renew(renewing, one)
    pages = [late, one] if order == 'old first' else [one, late]
    shown = [renewing.do(page, csrf).text for page in pages]
    assert shown[0] == shown[1]


@pytest.mark.parametrize('renews', [csrf, look, put(a=1)])
def test_a_first_csrf_token_in_flight_at_a_renewal(renewing, renews):
    """C5, C6: a page that was rendered before the renewal stays valid."""
    one = renewing.visitor(n=0)
    renewing.site.clock.advance(minutes=10)
    slow = renewing.start(one, csrf)
    shown = renewing.do(one, renews).text
    again = renewing.do(one, csrf).text
    assert slow.finish().text == again
    if renews is csrf:
        assert shown == again


def test_a_renewal_puts_nothing_into_the_session(renewing):
    """C3, R9: a session that nobody put anything into stays empty."""
    one = renewing.visitor(n=0)
    renewing.do(one, lambda r: r.session.clear())
    for _ in range(2):
        renew(renewing, one)
        assert renewing.do(one, look).text == '{}'
    assert renewing.do(one, lambda r: bool(r.session)).text == 'False'


def test_a_first_csrf_token_after_two_renewals(renewing):
    """C5, C6: the oldest page that is still open shows a valid token."""
    one = renewing.visitor(n=0)
    slow = renewing.start(one, csrf)
    renew(renewing, one)
    renew(renewing, one)
    shown = renewing.do(one, csrf).text
    assert slow.finish().text == shown


def test_a_rotation_drops_the_csrf_token_that_a_renewal_kept(renewing):
    """C5, C6: who had the session before the login does not know it."""
    one = renewing.visitor(n=0)
    early = renewing.start(one, csrf)
    renew(renewing, one)
    renewing.do(one, rotate)
    shown = renewing.do(one, csrf).text
    assert early.finish().text != shown
