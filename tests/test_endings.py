"""Two requests at once, of which one ends the session: C4 and C5.

``slow`` has loaded the session and stops in its view; what the test does next
comes and goes meanwhile; then ``slow`` goes on.
"""

import logging

import pytest
import sqlalchemy as sa
from transaction.interfaces import TransientError

from pyramid_sqlasession import SessionCreated
from pyramid_sqlasession import SessionInvalidated
from pyramid_sqlasession import SessionRotated
from pyramid_sqlasession import SessionWriteDropped

from .failing import on_sqlite
from .meeting import add_note
from .meeting import brief
from .meeting import data_of
from .meeting import EVENTS
from .meeting import logout
from .meeting import logout_and_say_so
from .meeting import look
from .meeting import ON_ONE_SERVER
from .meeting import put
from .meeting import reasons
from .meeting import revoke
from .meeting import rotate
from .meeting import set_cookies
from .meeting import touched
from .meeting import USER
from .meeting import write_late
from .meeting import WRITING
from .services import databases


@pytest.fixture(params=[*databases.NAMES, 'galera'])
def database(request, make_database):
    """An empty database; in the cluster each request has another node."""
    return make_database(request.param)


# -- C4, C5: writes of a session that has ended -------------------------------

ENDINGS = {
    'logout': (logout, 'gone'),
    'revoke': (revoke, 'gone'),
    'rotate': (rotate, 'rotated'),
}


def end_session(meeting, one, ending):
    """End the session of *one* in this way; return the reason of a drop."""
    act, reason = ENDINGS[ending]
    if ending == 'revoke':
        # An administrator has a session of her own.
        meeting.do(meeting.site.browser(), act)
    else:
        meeting.do(one, act)
    return reason


@pytest.mark.parametrize('ending', ENDINGS)
@pytest.mark.parametrize('act', WRITING.values(), ids=WRITING)
def test_a_write_in_flight_is_dropped(meeting, caplog, act, ending):
    """C4, C5: no row, no cookie; event and log say why; the page succeeds."""
    one = meeting.visitor(n=0)
    (record,) = meeting.site.rows()
    slow = meeting.start(one, act)
    reason = end_session(meeting, one, ending)
    before = meeting.site.rows()
    with meeting.site.events() as seen, caplog.at_level(logging.WARNING):
        response = slow.finish()
    assert response.status_code == 200
    assert set_cookies(response) == []
    assert meeting.site.rows() == before
    assert len(before) == (ending == 'rotate')
    dropped = [e for e in seen if isinstance(e, SessionWriteDropped)]
    assert {(e.session_id, e.reason) for e in dropped} == {
        (str(record['id']), reason)
    }
    assert not [e for e in seen if isinstance(e, SessionCreated)]
    assert any(
        str(record['id']) in message and reason in message
        for message in caplog.messages
    )


@pytest.mark.parametrize('ending', ENDINGS)
def test_a_touch_in_flight_is_silent(meeting, caplog, ending):
    """C4, E2: a touch that finds no row does nothing and says nothing."""
    one = meeting.visitor(n=0)
    meeting.site.clock.advance(minutes=2)
    slow = meeting.start(one, look)
    end_session(meeting, one, ending)
    before = meeting.site.rows()
    with meeting.site.events(*EVENTS) as seen:
        with caplog.at_level(logging.WARNING):
            response = slow.finish()
    assert response.status_code == 200
    assert set_cookies(response) == []
    assert meeting.site.rows() == before
    assert seen == []
    assert caplog.messages == []


@pytest.mark.parametrize('ending', ENDINGS)
def test_the_application_commits_although_its_write_is_dropped(
    meeting, ending
):
    """C4, T1: the application's rows of such a request are stored."""
    one = meeting.visitor(n=0)

    def act(request):
        add_note('kept')(request)
        request.session['a'] = 1

    slow = meeting.start(one, act)
    end_session(meeting, one, ending)
    slow.finish()
    assert meeting.site.notes() == ['kept']


@pytest.mark.parametrize('ending', ENDINGS)
def test_an_exception_views_words_are_dropped_too(make_meeting, ending):
    """C4, C5, T3: what an exception view stores does not revive it either."""

    def excuse(context, request):
        request.session.flash('sorry')
        request.response.status = 409
        return request.response

    meeting = make_meeting(
        configure=lambda config: config.add_exception_view(
            excuse, context=ZeroDivisionError
        )
    )
    one = meeting.visitor(n=0)
    meeting.site.views['fail'] = fail = Failing(meeting.stage)
    copy = meeting.site.browser(like=one)
    slow = meeting.stage.run(copy.get, '/fail', status=409)
    meeting.stage.wait('failing')
    end_session(meeting, one, ending)
    before = meeting.site.rows()
    meeting.stage.let('failing')
    assert set_cookies(slow.result()) == []
    assert fail.runs == 1
    assert meeting.site.rows() == before


class Failing:
    """A view that loads the session, stops, and fails."""

    def __init__(self, stage):
        self.stage = stage
        self.runs = 0

    def __call__(self, request):
        self.runs += 1
        request.session['a'] = 1
        self.stage.reach('failing')
        raise ZeroDivisionError


def test_the_response_after_a_drop_sees_an_empty_session(meeting):
    """C4: nothing of the ended session shows after the commit."""
    one = meeting.visitor(n=0)
    seen = []

    def act(request):
        request.session['a'] = 1
        request.add_response_callback(
            lambda request, response: seen.append(dict(request.session))
        )

    slow = meeting.start(one, act)
    meeting.do(one, logout)
    slow.finish()
    assert seen == [{}]


@pytest.mark.parametrize('act', [rotate, put(user_id=USER)])
def test_a_new_token_of_a_session_that_is_ended_meanwhile(meeting, act):
    """C4: a request sends no cookie that opens nothing."""
    one = meeting.visitor(n=0) if act is rotate else meeting.site.browser()

    def begin(request):
        act(request)
        request.tm.commit()
        request.tm.begin()

    slow = meeting.start(one, put(a=1), before=begin)
    end_session(meeting, one, 'revoke')
    assert set_cookies(slow.finish()) == []
    assert meeting.site.rows() == []


def test_all_requests_in_flight_lose_against_a_revocation(meeting):
    """C4: three in flight at ``revoke_where``: no row of the user after."""
    visitors = [meeting.visitor(n=0) for _ in range(3)]
    starts = [meeting.start(one, put(a=1)) for one in visitors]
    response = meeting.do(meeting.site.browser(), revoke)
    assert response.text == '3'
    for slow in starts:
        assert set_cookies(slow.finish()) == []
    assert meeting.site.rows() == []


@ON_ONE_SERVER
def test_a_revocation_that_is_not_committed_holds_a_write_up(
    meeting, stage
):
    """C4: a write that meets the uncommitted DELETE waits and is dropped."""
    one = meeting.visitor(n=0)
    slow = meeting.start(one, put(a=1))

    def revoke_slowly(request):
        revoke(request)
        stage.reach('deleted')

    meeting.site.views['revoke'] = revoke_slowly
    admin = stage.run(meeting.site.browser().get, '/revoke')
    stage.wait('deleted')
    _note_updates(meeting, stage)
    with meeting.site.events(SessionWriteDropped) as seen:
        slow.let()
        stage.wait('updating')
        stage.let('deleted')
        admin.result()
        assert set_cookies(slow.result()) == []
    assert meeting.site.rows() == []
    assert reasons(seen) == ['gone']


def _note_updates(meeting, stage):
    """Have the stage know when the next UPDATE is sent."""

    def note(connection, cursor, statement, *rest):
        if 'UPDATE sessions' in statement:
            stage.let('updating')
            stage.reach('updating')

    sa.event.listen(meeting.site.engine, 'before_cursor_execute', note)


def test_a_revocation_taken_back_drops_nothing(meeting, stage):
    """T2, C4: if the revoking transaction aborts, the write is kept."""
    one = meeting.visitor(n=0)
    slow = meeting.start(one, put(a=1))

    def revoke_in_vain(request):
        revoke(request)
        stage.reach('deleted')
        request.tm.doom()

    meeting.site.views['revoke'] = revoke_in_vain
    admin = stage.run(meeting.site.browser().get, '/revoke')
    stage.wait('deleted')
    slow.let()
    stage.let('deleted')
    admin.result()
    slow.result()
    assert data_of(meeting) == {'n': 0, 'a': 1}


@pytest.mark.parametrize('ending', ENDINGS)
def test_sessions_of_their_own_database_are_not_revived(apart, ending):
    """T0, C4, C5: with ``url`` a write in flight is dropped as well."""
    one = apart.visitor(n=0)
    slow = apart.start(one, write_late)
    reason = end_session(apart, one, ending)
    before = apart.site.rows()
    with apart.site.events(SessionWriteDropped) as seen:
        assert set_cookies(slow.finish()) == []
    assert set(reasons(seen)) == {reason}
    assert apart.site.rows() == before


# -- C5: rotation -------------------------------------------------------------


def test_the_old_token_is_dead_and_the_new_one_is_untouched(meeting):
    """C5: after a rotation only the new token opens the session."""
    one = meeting.visitor(n=0)
    old = meeting.site.token(one)
    slow = meeting.start(one, put(a=1, login='stolen', user_id=8))
    meeting.do(one, rotate)
    slow.finish()
    new = meeting.site.token(one)
    assert new != old
    assert meeting.seen(old) == {}
    assert meeting.seen(new) == {'n': 0, 'login': True, 'user_id': USER}
    assert meeting.site.rows()[0]['user_id'] == USER


def test_a_rotation_keeps_what_another_wrote_meanwhile(meeting):
    """C1, C5: a login in flight merges with a write of its own session."""
    one = meeting.visitor(n=0)
    old = meeting.site.token(one)
    slow = meeting.start(one, rotate)
    meeting.do(one, put(n=1))
    (new,) = set_cookies(slow.finish())
    assert meeting.seen(old) == {}
    assert meeting.seen(new) == {'n': 1, 'login': True, 'user_id': USER}


@pytest.mark.parametrize('grace', ['0', '60s'])
def test_a_ghost_reads_nothing_and_writes_nothing(make_meeting, grace):
    """C5: within the grace it is empty, writes are dropped; then unknown."""
    # It is answered without a cookie.
    meeting = make_meeting(renewal_grace=grace)
    one = meeting.visitor(n=0)
    ghost = meeting.site.browser(like=one)
    meeting.do(one, rotate)
    before = meeting.site.rows()
    with meeting.site.events(SessionWriteDropped) as seen:
        response = meeting.do(ghost, look)
        assert response.text == '{}'
        assert set_cookies(response) == []
        response = meeting.do(ghost, put(a=1))
    if grace == '0':
        # Unknown (R3): what is stored is a new session.
        assert len(meeting.site.rows()) == 2
        return
    assert set_cookies(response) == []
    assert reasons(seen) == ['rotated']
    assert meeting.site.rows() == before


def test_a_ghost_is_unknown_after_the_grace(make_meeting):
    """C5, R3: after the grace the old token is as any unknown one."""
    meeting = make_meeting(renewal_grace='60s')
    one = meeting.visitor(n=0)
    ghost = meeting.site.browser(like=one)
    meeting.do(one, rotate)
    meeting.site.clock.advance(seconds=59)
    assert set_cookies(meeting.do(ghost, put(a=1))) == []
    meeting.site.clock.advance(seconds=1)
    (cookie,) = set_cookies(meeting.do(ghost, put(a=1)))
    assert meeting.seen(cookie) == {'a': 1}
    assert meeting.seen(meeting.site.token(one))['login']


@pytest.mark.parametrize('act', WRITING.values(), ids=WRITING)
def test_no_act_of_a_ghost_leaves_a_trace(meeting, act):
    """C5: whatever a ghost does short of a login: no row, no cookie."""
    one = meeting.visitor(n=0)
    ghost = meeting.site.browser(like=one)
    meeting.do(one, rotate)
    before = meeting.site.rows()
    if act is WRITING['delete']:
        act = put(n=1)
    response = meeting.do(ghost, act)
    assert response.status_code == 200
    assert set_cookies(response) == []
    assert meeting.site.rows() == before


def test_a_ghost_that_changes_nothing_has_nothing_dropped(meeting):
    """C5: no event tells of what was no change of the data."""
    one = meeting.visitor(n=0)
    ghost = meeting.site.browser(like=one)
    meeting.do(one, rotate)
    with meeting.site.events(SessionWriteDropped) as seen:
        meeting.do(ghost, brief)
        meeting.do(ghost, touched)
    assert seen == []


def test_a_ghost_does_not_keep_the_session_alive(meeting):
    """C5, C3: the dead token extends nothing."""
    one = meeting.visitor(n=0)
    ghost = meeting.site.browser(like=one)
    meeting.do(one, rotate)
    (before,) = meeting.site.rows()
    meeting.site.clock.advance(seconds=59)
    meeting.do(ghost, look)
    assert meeting.site.rows() == [before]


@pytest.mark.parametrize('first', [rotate, logout_and_say_so])
def test_a_ghost_that_logs_in_gets_a_session_of_its_own(meeting, first):
    """C5: a login with a dead token: a new session, and its cookie."""
    # With nothing of the other one in it.
    one = meeting.visitor(n=0, secret=1)
    ghost = meeting.site.browser(like=one)
    meeting.do(one, rotate)
    (theirs,) = meeting.site.rows()
    (cookie,) = set_cookies(meeting.do(ghost, first))
    assert meeting.seen(cookie) == (
        {'login': True} if first is rotate else {'_f_': ['bye']}
    )
    assert theirs in meeting.site.rows()
    assert len(meeting.site.rows()) == 2
    assert meeting.seen(meeting.site.token(one))['secret'] == 1


def test_two_logins_at_once_have_two_sessions(meeting):
    """C5: the later of two logins in flight gets one of its own."""
    one = meeting.visitor(n=0, secret=1)
    old = meeting.site.token(one)

    def login(request):
        request.session['user_id'] = 2
        request.session.rotate()

    slow = meeting.start(one, login)
    meeting.do(one, rotate)
    with meeting.site.events(SessionCreated, SessionRotated) as seen:
        (cookie,) = set_cookies(slow.finish())
    assert [type(event) for event in seen] == [SessionCreated, SessionRotated]
    assert meeting.seen(cookie) == {'user_id': 2}
    assert meeting.seen(meeting.site.token(one))['secret'] == 1
    assert meeting.seen(old) == {}
    assert len(meeting.site.rows()) == 2


def test_the_later_of_two_logins_goes_on_with_its_own(meeting):
    """C5, T9: nothing of the other session is seen, or stored, after it."""
    one = meeting.visitor(cart=['tea'])
    left = []

    def log_in(request):
        request.session['cart']
        request.session.rotate()
        request.session['user_id'] = 2
        request.tm.commit()
        request.tm.begin()
        left.append(dict(request.session))
        request.session['more'] = 1

    slow = meeting.start(one, log_in)
    meeting.do(one, rotate)
    (cookie,) = set_cookies(slow.finish())
    assert left == [{'user_id': 2}]
    assert meeting.seen(cookie) == {'user_id': 2, 'more': 1}


def test_a_second_factor_that_is_sent_twice(meeting):
    """C5: not in a session of its own: the next user there has passed none."""
    one = meeting.visitor()
    user_id = meeting.seen(meeting.site.token(one))['user_id']

    def pass_it(request):
        assert request.session['user_id'] == user_id
        request.session['assurance'] = 2
        request.session.rotate()

    slow = meeting.start(one, pass_it)
    meeting.do(one, pass_it)
    with meeting.site.events() as seen:
        assert set_cookies(slow.finish()) == []
    assert reasons(seen) == ['rotated']
    assert len(meeting.site.rows()) == 1
    assert meeting.seen(meeting.site.token(one)) == {
        'user_id': user_id, 'assurance': 2,
    }


def test_a_login_in_flight_loses_against_a_logout(meeting):
    """C4: a rotation of a session that is gone is dropped as a write is."""
    one = meeting.visitor(n=0)
    slow = meeting.start(one, rotate)
    meeting.do(one, logout)
    with meeting.site.events() as seen:
        assert set_cookies(slow.finish()) == []
    assert reasons(seen) == ['gone']
    assert not [e for e in seen if isinstance(e, SessionRotated)]
    assert meeting.site.rows() == []


def test_a_login_in_flight_that_begins_anew_outlives_a_logout(meeting):
    """C4: after invalidate() it is a session of its own."""

    def log_in_anew(request):
        request.session.invalidate()
        request.session['user_id'] = USER

    one = meeting.visitor(n=0)
    slow = meeting.start(one, log_in_anew)
    meeting.do(one, logout)
    (cookie,) = set_cookies(slow.finish())
    assert meeting.seen(cookie) == {'user_id': USER}
    assert len(meeting.site.rows()) == 1


def test_a_logout_in_flight_does_not_end_the_new_login(meeting):
    """C5: a dead credential ends neither the login nor its cookie."""
    one = meeting.visitor(n=0)
    slow = meeting.start(one, logout)
    meeting.do(one, rotate)
    with meeting.site.events(SessionInvalidated) as seen:
        assert set_cookies(slow.finish()) == []
    assert seen == []
    assert meeting.seen(meeting.site.token(one))['login']


def test_a_logout_wins_over_a_write(meeting):
    """C4: a logout in flight ends the session with all later writes."""
    one = meeting.visitor(n=0)
    slow = meeting.start(one, logout)
    meeting.do(one, put(a=1))
    assert set_cookies(slow.finish()) == ['']
    assert meeting.site.rows() == []


def test_a_second_logout_finds_nothing(meeting):
    """C4: one of two logouts ends the session, the other does nothing."""
    one = meeting.visitor(n=0)
    slow = meeting.start(one, logout)
    meeting.do(one, logout)
    with meeting.site.events(*EVENTS) as seen:
        response = slow.finish()
    assert response.status_code == 200
    assert set_cookies(response) == []
    assert seen == []
    assert meeting.site.rows() == []


def test_a_second_logout_does_not_take_the_firsts_goodbye(meeting):
    """C4: what the first logout said in its new session stays to be seen."""
    one = meeting.visitor(n=0)
    slow = meeting.start(one, logout)
    meeting.do(one, logout_and_say_so)
    assert set_cookies(slow.finish()) == []
    assert meeting.seen(meeting.site.token(one)) == {'_f_': ['bye']}


@ON_ONE_SERVER
def test_logouts_that_flash_do_not_deadlock(make_meeting, stage):
    """C4, T6: many may end a gone session and begin another, all at once."""

    def stop(defaults, session, request):
        # Called between the DELETE and the INSERT, or before both.
        stage.reach(request.GET.get('stop'))
        return defaults

    meeting = make_meeting(extend_default_fields=stop)
    site = meeting.site
    one = meeting.visitor(n=0)
    site.views['out'] = logout_slowly = Logout(stage)
    starts = []
    for name in ('a', 'b'):
        url = f'/out?load=load-{name}&stop=save-{name}'
        starts.append(stage.run(site.browser(like=one).get, url))
        stage.wait(f'load-{name}')
    meeting.do(one, logout)
    stage.let('load-a', 'load-b')
    if site.database.name == 'sqlite':
        # One writer at a time: the second one waits for the first.
        stage.let('save-a', 'save-b')
    else:
        stage.wait('save-a', 'save-b')
        stage.let('save-a', 'save-b')
    cookies = [set_cookies(start.result()) for start in starts]
    assert logout_slowly.runs == 2
    assert [meeting.seen(*cookie) for cookie in cookies] == [
        {'_f_': ['bye']}, {'_f_': ['bye']}
    ]


class Logout:
    """A view that loads the session, stops, and logs out.

    With a row of the application: a save alone could simply be repeated.
    """

    def __init__(self, stage):
        self.stage = stage
        self.runs = 0

    def __call__(self, request):
        self.runs += 1
        request.session.get('n')
        self.stage.reach(request.GET['load'])
        add_note(request.GET['load'])(request)
        logout_and_say_so(request)


def test_a_user_without_a_rotation_is_no_login(meeting):
    """C5: whoever only puts the id of a user in writes with a dead token."""
    one = meeting.visitor(n=0)
    slow = meeting.start(one, put(user_id=USER + 1))
    meeting.do(one, rotate)
    with meeting.site.events() as seen:
        assert set_cookies(slow.finish()) == []
    assert reasons(seen) == ['rotated']
    assert len(meeting.site.rows()) == 1
    assert meeting.seen(meeting.site.token(one))['user_id'] == USER


@pytest.mark.parametrize('rotations', [1, 2, 3])
def test_a_ghost_of_several_logins_is_a_ghost(meeting, rotations):
    """C5: each token that was rotated out within the grace is one."""
    one = meeting.visitor(n=0)
    ghost = meeting.site.browser(like=one)
    for _ in range(rotations):
        meeting.do(one, rotate)
        meeting.site.clock.advance(seconds=10)
    before = meeting.site.rows()
    assert set_cookies(meeting.do(ghost, put(a=1))) == []
    assert meeting.site.rows() == before


@ON_ONE_SERVER
def test_a_ghost_of_the_last_of_many_logins(make_meeting):
    """C5: of the dead tokens the newest are kept, those that find room."""
    meeting = make_meeting(renewal_grace='1h')
    one = meeting.visitor(n=0)
    for _ in range(30):
        ghost = meeting.site.browser(like=one)
        meeting.do(one, rotate)
    before = meeting.site.rows()
    assert len(before[0]['retired']) <= 1024
    assert set_cookies(meeting.do(ghost, put(a=1))) == []
    assert meeting.site.rows() == before


@on_sqlite
def test_a_write_in_flight_that_outlasts_its_session(make_meeting):
    """E1, C4: it is dropped, as what was ended meanwhile, to the moment."""
    meeting = make_meeting(expiration='1h')
    one = meeting.visitor(n=0)
    slow = meeting.start(one, put(a=1))
    before = meeting.site.rows()
    meeting.site.clock.advance(hours=1)
    with meeting.site.events(SessionWriteDropped) as seen:
        assert set_cookies(slow.finish()) == []
    assert reasons(seen) == ['expired']
    assert meeting.site.rows() == before


def test_a_write_in_flight_is_dropped_without_a_grace(make_meeting):
    """C5: the grace is for the cookie; a write in flight never counts."""
    meeting = make_meeting(renewal_grace='0')
    one = meeting.visitor(n=0)
    slow = meeting.start(one, put(a=1))
    meeting.do(one, rotate)
    before = meeting.site.rows()
    with meeting.site.events(SessionWriteDropped) as seen:
        assert set_cookies(slow.finish()) == []
    assert reasons(seen) == ['rotated']
    assert meeting.site.rows() == before


def test_a_repeated_attempt_with_a_dead_token_is_a_ghost(make_meeting):
    """C5, T5: pyramid_retry's next attempt finds the token rotated out."""
    meeting = make_meeting(retry=True)
    one = meeting.visitor(n=0)
    runs = []

    def fail_once(request):
        runs.append(dict(request.session))
        request.session['a'] = 1
        if len(runs) == 1:
            raise TransientError

    slow = meeting.start(one, fail_once)
    meeting.do(one, rotate)
    before = meeting.site.rows()
    with meeting.site.events(SessionWriteDropped) as seen:
        assert set_cookies(slow.finish()) == []
    assert runs[1] == {}
    assert reasons(seen) == ['rotated']
    assert meeting.site.rows() == before
