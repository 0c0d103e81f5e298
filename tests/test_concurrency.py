"""Two requests at once: C1 to C6, one deterministic interleaving each.

``slow`` has loaded the session and stops in its view; what the test does next
comes and goes meanwhile; then ``slow`` goes on.
"""

import logging
import threading

import pytest
import sqlalchemy as sa
from transaction.interfaces import TransientError

from pyramid_sqlasession import SessionConflict
from pyramid_sqlasession import SessionCreated
from pyramid_sqlasession import SessionInvalidated
from pyramid_sqlasession import SessionRotated
from pyramid_sqlasession import SessionWriteDropped
from pyramid_sqlasession import SuspiciousCookie
from pyramid_sqlasession.records import unpack_retired

from .meeting import add_note
from .meeting import add_one
from .meeting import csrf
from .meeting import drop
from .meeting import flash
from .meeting import logout
from .meeting import logout_and_say_so
from .meeting import look
from .meeting import look_only
from .meeting import Meeting
from .meeting import pop
from .meeting import put
from .meeting import reasons
from .meeting import revoke
from .meeting import rotate
from .meeting import set_cookies
from .meeting import USER
from .services import databases
from .site import Note

EVENTS = (
    SessionCreated, SessionInvalidated, SessionRotated, SessionWriteDropped,
)
#: The nodes of a cluster share no locks; they refuse (test_galera.py), also
#: an INSERT into a gap that another one has locked.
ON_ONE_SERVER = pytest.mark.parametrize(
    'database', databases.NAMES, indirect=True
)
FIELDS = {'additional_fields': 'user_id: Integer index'}


@pytest.fixture(params=[*databases.NAMES, 'galera'])
def database(request, make_database):
    """An empty database; in the cluster each request has another node."""
    return make_database(request.param)


@pytest.fixture
def make_meeting(make_site, stage):
    """A function that makes a ``Meeting`` on a site with these settings."""

    def make(**settings):
        return Meeting(make_site(**FIELDS, **settings), stage)

    return make


@pytest.fixture
def meeting(make_meeting):
    """A ``Meeting`` with the default settings."""
    return make_meeting()


def data_of(meeting):
    """The data of the only record, without what each visitor has."""
    data = meeting.site.data()
    data.pop('user_id', None)
    return data


# -- C1, C2: two writes ------------------------------------------------------


def tags(request):
    """Change a value in place."""
    request.session['tags'].append('new')


WRITES = {
    'different keys': (put(a=1), put(b=2), {'n': 0, 'm': 0, 'a': 1, 'b': 2}),
    'set and delete': (put(a=1), drop('m'), {'n': 0, 'a': 1}),
    'delete and set': (drop('m'), put(a=1), {'n': 0, 'a': 1}),
    'two deletes': (drop('m'), drop('n'), {}),
    'same delete twice': (drop('m'), drop('m'), {'n': 0}),
    'same key': (put(n='slow'), put(n='quick'), {'n': 'slow', 'm': 0}),
    'same new key': (put(a='slow'), put(a='quick'),
                     {'n': 0, 'm': 0, 'a': 'slow'}),
    'set what was deleted': (put(m='slow'), drop('m'), {'n': 0, 'm': 'slow'}),
    'delete what was set': (drop('m'), put(m='quick'), {'n': 0}),
    'clear and set': (lambda request: request.session.clear(), put(a=1),
                      {'a': 1}),
    'set and clear': (put(a=1), lambda request: request.session.clear(),
                      {'a': 1}),
    'set back to the same value': (put(n=0), put(n=5), {'n': 5, 'm': 0}),
}


@pytest.mark.parametrize('case', WRITES)
def test_two_writes_merge(meeting, case):
    """C1, C2: what each changed is kept; of one key the later one whole."""
    act, meanwhile, expected = WRITES[case]
    one = meeting.visitor(n=0, m=0)
    slow = meeting.start(one, act)
    meeting.do(one, meanwhile)
    with meeting.site.events(SessionWriteDropped) as seen:
        assert slow.finish().status_code == 200
    assert data_of(meeting) == expected
    assert seen == []


def test_a_value_changed_in_place_merges_with_other_keys(meeting):
    """C1, R7: a list that one appended to does not take other keys back."""
    one = meeting.visitor(n=0, tags=['old'])
    slow = meeting.start(one, tags)
    meeting.do(one, put(n=1))
    slow.finish()
    assert data_of(meeting) == {'n': 1, 'tags': ['old', 'new']}


def test_a_value_only_handed_out_is_not_written_back(meeting):
    """C1: reading a list is no change of it, even if others are saved."""
    one = meeting.visitor(n=0, tags=['old'])

    def read_and_set(request):
        len(request.session['tags'])
        request.session['a'] = 1

    slow = meeting.start(one, read_and_set)
    meeting.do(one, tags)
    slow.finish()
    assert data_of(meeting) == {'n': 0, 'a': 1, 'tags': ['old', 'new']}


def test_three_in_flight_end_in_any_order(meeting):
    """C1: each of three merges with what the ones before it wrote."""
    one = meeting.visitor(n=0)
    starts = [
        meeting.start(one, put(**{key: True})) for key in ('a', 'b', 'c')
    ]
    for slow in (starts[2], starts[0], starts[1]):
        slow.finish()
    assert data_of(meeting) == {'n': 0, 'a': True, 'b': True, 'c': True}


def test_the_fields_follow_the_merged_data(meeting):
    """D3, C1: a write that merges leaves the other's field as it is."""
    one = meeting.visitor(n=0)
    slow = meeting.start(one, put(a=1))
    meeting.do(one, put(user_id=8))
    slow.finish()
    (row,) = meeting.site.rows()
    assert row['user_id'] == 8
    assert meeting.site.data()['user_id'] == 8


def test_the_session_after_a_merge_shows_what_is_stored(meeting):
    """C1: code that runs after the commit sees both requests' changes."""
    one = meeting.visitor(n=0)
    seen = []

    def act(request):
        request.session['a'] = 1
        request.add_response_callback(
            lambda request, response: seen.append(dict(request.session))
        )

    slow = meeting.start(one, act)
    meeting.do(one, put(b=2))
    slow.finish()
    assert seen == [{'user_id': USER, 'n': 0, 'a': 1, 'b': 2}]


def test_only_a_conflict_costs_a_second_look(meeting):
    """C1, D4: a write is one UPDATE; a refused one is a look and another."""
    one = meeting.visitor(n=0)
    slow = meeting.start(one, put(a=1))
    meeting.site.listen()
    meeting.do(one, put(b=2))
    assert meeting.site.statements.verbs == ['SELECT', 'UPDATE']
    meeting.site.listen()
    slow.finish()
    # What is tried without a transaction first is tried again in one.
    *refused, looked, written = meeting.site.statements.verbs
    assert (looked, written) == ('SELECT', 'UPDATE')
    assert refused in (['UPDATE'], ['UPDATE', 'UPDATE'])


def test_a_touch_is_no_conflict_for_a_write(meeting):
    """C3, D4: a write beside a touch needs no second attempt."""
    one = meeting.visitor(n=0)
    meeting.site.clock.advance(minutes=2)
    slow = meeting.start(one, put(a=1))
    meeting.do(one, look_only)
    meeting.site.listen()
    slow.finish()
    assert meeting.site.statements.verbs == ['UPDATE']


# -- C2: conflict = retry ----------------------------------------------------


CONFLICTS = {
    'both set': (put(n=5), put(n=6), {'m': 0, 'n': 5}),
    'both count': (add_one, add_one, {'m': 0, 'n': 2}),
    'both delete': (lambda request: request.session.pop('n', None),
                    drop('n'), {'m': 0}),
    'set and delete': (put(m=5), drop('m'), {'n': 0, 'm': 5}),
    'delete and set': (drop('m'), put(m=5), {'n': 0}),
    'both add': (put(a=1), put(a=2), {'n': 0, 'm': 0, 'a': 1}),
}


@pytest.mark.parametrize('case', CONFLICTS)
def test_retry_repeats_the_later_one(make_meeting, case):
    """C2: with ``retry`` the view runs again, on what is stored now."""
    meeting = make_meeting(conflict='retry', retry=True)
    act, meanwhile, expected = CONFLICTS[case]
    one = meeting.visitor(n=0, m=0)
    runs = []
    slow = meeting.start(one, act, before=runs.append)
    meeting.do(one, meanwhile)
    assert slow.finish().status_code == 200
    assert len(runs) == 2
    assert data_of(meeting) == expected


@pytest.mark.parametrize('case', ['both count', 'set and delete'])
def test_retry_without_pyramid_retry_is_a_clear_error(make_meeting, case):
    """C2: without pyramid_retry the error names the key and the way out."""
    meeting = make_meeting(conflict='retry')
    act, meanwhile, _ = CONFLICTS[case]
    one = meeting.visitor(n=0, m=0)
    slow = meeting.start(one, act)
    meeting.do(one, meanwhile)
    before = meeting.site.rows()
    with pytest.raises(SessionConflict, match='pyramid_retry') as caught:
        slow.finish()
    assert len(caught.value.keys) == 1
    assert caught.value.keys[0] in ('n', 'm', 'a')
    assert meeting.site.rows() == before


def test_retry_takes_the_application_back_too(make_meeting):
    """C2, T1: the application's rows of the conflicting attempt are gone."""
    meeting = make_meeting(conflict='retry')
    one = meeting.visitor(n=0)

    def act(request):
        add_note('never')(request)
        return add_one(request)

    slow = meeting.start(one, act)
    meeting.do(one, add_one)
    with pytest.raises(SessionConflict):
        slow.finish()
    assert meeting.site.notes() == []


@pytest.mark.parametrize(
    ('act', 'meanwhile', 'expected'),
    [
        (put(a=1), put(b=2), {'n': 0, 'a': 1, 'b': 2}),
        (flash('x'), flash('y'), {'n': 0, '_f_': ['y', 'x']}),
        (flash('x'), pop, {'n': 0, '_f_': ['x']}),
        (add_one, look_only, {'n': 1}),
        (look_only, add_one, {'n': 1}),
    ],
)
def test_retry_leaves_what_does_not_conflict(
    make_meeting, act, meanwhile, expected
):
    """C2: different keys, flash and reads merge with ``retry`` too."""
    meeting = make_meeting(conflict='retry')
    one = meeting.visitor(n=0)
    slow = meeting.start(one, act)
    meeting.do(one, meanwhile)
    slow.finish()
    assert data_of(meeting) == expected


def test_a_hundred_increments_give_a_hundred(make_meeting):
    """C2: 100 concurrent ``session['n'] += 1`` give 100."""
    meeting = make_meeting(conflict='retry', retry=200, frozen=False)
    one = meeting.visitor(n=0)
    site = meeting.site
    site.views['count'] = add_one
    together = threading.Barrier(10)

    def visit(browser):
        together.wait(20)
        return [browser.get('/count').text for _ in range(10)]

    visits = [
        meeting.stage.run(visit, site.browser(like=one)) for _ in range(10)
    ]
    counts = [int(text) for one in visits for text in one.result(60)]
    assert sorted(counts) == list(range(1, 101))
    assert data_of(meeting) == {'n': 100}


# -- C3: a request that only reads -------------------------------------------


def test_a_read_does_not_take_a_write_back(meeting):
    """C3: a request that read before a write changes only the expiry."""
    one = meeting.visitor(n=0)
    meeting.site.clock.advance(minutes=2)
    slow = meeting.start(one, look)
    meeting.do(one, put(n=1))
    (before,) = meeting.site.rows()
    meeting.site.clock.advance(minutes=2)
    slow.finish()
    (after,) = meeting.site.rows()
    assert {**after, 'accessed': None, 'expires': None, 'sweep': None} == {
        **before, 'accessed': None, 'expires': None, 'sweep': None
    }
    assert after['expires'] >= before['expires']


@pytest.mark.parametrize('act', [look, put(a=1)], ids=['read', 'write'])
def test_nothing_moves_the_expiry_backwards(meeting, act):
    """C3: neither a slow read nor a slow write takes back an extension."""
    one = meeting.visitor(n=0)
    meeting.site.clock.advance(minutes=2)
    slow = meeting.start(one, act)
    meeting.site.clock.advance(minutes=5)
    meeting.do(one, look)
    extended = meeting.site.rows()[0]['expires']
    # As on another machine, whose clock is late.
    meeting.site.clock.advance(minutes=-4)
    slow.finish()
    assert meeting.site.rows()[0]['expires'] >= extended


def test_a_set_expiry_beats_a_touch_in_flight(meeting):
    """C3: a touch does not undo a shorter expiry that was set meanwhile."""
    one = meeting.visitor(n=0)
    meeting.site.clock.advance(minutes=2)
    slow = meeting.start(one, look)
    meeting.do(one, lambda request: request.session.set_expiry(60))
    (before,) = meeting.site.rows()
    assert set_cookies(slow.finish()) == []
    (after,) = meeting.site.rows()
    assert after['expires'] == before['expires']


# -- C4, C5: writes of a session that has ended ------------------------------


def touched(request):
    """Ask for the touch outright."""
    request.session.touch()


def brief(request):
    """Change how long it lives."""
    request.session.set_expiry(600)


def write_late(request):
    """Write in the view and again after the commit."""
    request.session['a'] = 1
    request.add_response_callback(
        lambda request, response: request.session.update(late=1)
    )


def commit_and_go_on(request):
    """Commit by hand, and write in the next transaction too."""
    request.session['a'] = 1
    request.tm.commit()
    request.tm.begin()
    request.session['b'] = 1


WRITING = [
    put(a=1), drop('n'), flash('x'), csrf, touched, brief, write_late,
    commit_and_go_on,
]
WRITING_NAMES = [
    'set', 'delete', 'flash', 'csrf', 'touch', 'set_expiry', 'late',
    'tm.commit',
]
ENDINGS = {
    'logout': (logout, 'gone'),
    'revoke': (revoke, 'gone'),
    'rotate': (rotate, 'rotated'),
}


def end_session(meeting, one, ending):
    """End the session of *one* in this way; return its record."""
    act, reason = ENDINGS[ending]
    if ending == 'revoke':
        # An administrator has a session of her own.
        meeting.do(meeting.site.browser(), act)
    else:
        meeting.do(one, act)
    return reason


@pytest.mark.parametrize('ending', ENDINGS)
@pytest.mark.parametrize('act', WRITING, ids=WRITING_NAMES)
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
        if statement.startswith('UPDATE'):
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


# -- C5: rotation ------------------------------------------------------------


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


@pytest.mark.parametrize('act', WRITING, ids=WRITING_NAMES)
def test_no_act_of_a_ghost_leaves_a_trace(meeting, act):
    """C5: whatever a ghost does short of a login: no row, no cookie."""
    one = meeting.visitor(n=0)
    ghost = meeting.site.browser(like=one)
    meeting.do(one, rotate)
    before = meeting.site.rows()
    if act is WRITING[1]:
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
    seen = meeting.seen(cookie)
    assert seen in ({'login': True}, {'_f_': ['bye']})
    assert theirs in meeting.site.rows()
    assert len(meeting.site.rows()) == 2
    assert meeting.seen(meeting.site.token(one))['secret'] == 1


def test_two_logins_at_once_have_two_sessions(meeting):
    """C5: the later of two logins in flight gets one of its own."""
    one = meeting.visitor(n=0, secret=1)
    old = meeting.site.token(one)

    def login(request):
        request.session['who'] = 'slow'
        request.session.rotate()

    slow = meeting.start(one, login)
    meeting.do(one, rotate)
    with meeting.site.events(SessionCreated, SessionRotated) as seen:
        (cookie,) = set_cookies(slow.finish())
    assert [type(event) for event in seen] == [SessionCreated, SessionRotated]
    assert meeting.seen(cookie) == {'who': 'slow'}
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
        request.session['name'] = 'late'
        request.tm.commit()
        request.tm.begin()
        left.append(dict(request.session))
        request.session['more'] = 1

    slow = meeting.start(one, log_in)
    meeting.do(one, rotate)
    (cookie,) = set_cookies(slow.finish())
    assert left == [{'name': 'late'}]
    assert meeting.seen(cookie) == {'name': 'late', 'more': 1}


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


def test_an_expiry_set_in_flight_merges(meeting):
    """C1: ``set_expiry`` and another request's key are both kept."""
    one = meeting.visitor(n=0)
    slow = meeting.start(one, brief)
    meeting.do(one, put(a=1))
    slow.finish()
    (row,) = meeting.site.rows()
    assert row['lifetime'] == 600
    assert data_of(meeting) == {'n': 0, 'a': 1}
    slow = meeting.start(one, put(b=1))
    meeting.do(one, lambda request: request.session.set_expiry(300))
    slow.finish()
    (row,) = meeting.site.rows()
    assert row['lifetime'] == 300


# -- T0: a database of their own ---------------------------------------------


@pytest.fixture
def apart(make_meeting, database):
    """A ``Meeting`` whose sessions have an engine of their own."""
    return make_meeting(url=database.url)


@pytest.mark.parametrize(
    'case', ['different keys', 'same key', 'delete and set']
)
def test_sessions_of_their_own_database_merge(apart, case):
    """T0, C1, C2: with ``url`` two writes merge as well."""
    act, meanwhile, expected = WRITES[case]
    one = apart.visitor(n=0, m=0)
    slow = apart.start(one, act)
    apart.do(one, meanwhile)
    slow.finish()
    assert data_of(apart) == expected


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


# -- C5: periodic renewal ----------------------------------------------------

RENEWAL = {'renewal_interval': '10m', 'renewal_grace': '60s'}


@pytest.fixture
def renewing(make_meeting):
    """A ``Meeting`` with renewal; touches are due within the grace."""
    return make_meeting(**RENEWAL, touch_interval='10s')


def renew(meeting, one):
    """Make a request that renews the token of *one*; return the old one."""
    old = meeting.site.token(one)
    meeting.site.clock.advance(minutes=10)
    meeting.do(one, look)
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


# -- C6: flash ---------------------------------------------------------------


FLASHES = {
    'append, append': (
        flash('slow'), flash('quick'), '', '', ['old', 'quick', 'slow'],
    ),
    'append, pop': (flash('slow'), pop, '', 'old', ['slow']),
    'pop, append': (pop, flash('quick'), 'old', '', ['quick']),
    'pop, append of an equal one': (pop, flash('old'), 'old', '', ['old']),
    'pop, pop': (pop, pop, 'old', 'old', None),
    'append once, append once': (
        flash('x', allow_duplicate=False), flash('x', allow_duplicate=False),
        '', '', ['old', 'x'],
    ),
    'append twice, pop': (flash('x', 'y'), pop, '', 'old', ['x', 'y']),
}


@pytest.mark.parametrize('case', FLASHES)
def test_flash_is_append_and_pop(meeting, case):
    """C6: no message is lost, and what is popped is popped."""
    act, meanwhile, shown, shown_meanwhile, left = FLASHES[case]
    one = meeting.visitor(n=0, _f_=['old'])
    slow = meeting.start(one, act)
    assert meeting.do(one, meanwhile).text == shown_meanwhile
    assert slow.finish().text == shown
    assert data_of(meeting).get('_f_') == left
    # R9: later pops show it once.
    assert meeting.do(one, pop).text == ' '.join(left or [])
    assert meeting.do(one, pop).text == ''


def test_a_pop_takes_nothing_that_came_after_its_look(meeting):
    """C6: pop, refill, and pop again meanwhile: the slow pop takes none."""
    one = meeting.visitor(n=0, _f_=['1', '2'])
    slow = meeting.start(one, pop)
    assert meeting.do(one, pop).text == '1 2'
    meeting.do(one, flash('3', '4'))
    assert meeting.do(one, pop).text == '3 4'
    meeting.do(one, flash('5', '6'))
    assert slow.finish().text == '1 2'
    assert meeting.do(one, pop).text == '5 6'


@pytest.mark.parametrize('take', [
    lambda session: session.pop_flash(),
    lambda session: session.pop('_f_'),
    lambda session: session.__delitem__('_f_'),
    lambda session: session.clear(),
], ids=['pop_flash', 'pop', 'del', 'clear'])
def test_a_message_that_is_said_again_is_another_one(meeting, take):
    """C6: a pop meanwhile took the one before, however it was taken here."""
    one = meeting.visitor(n=0, _f_=['old'])

    def take_and_say(request):
        take(request.session)
        request.session.flash('old')

    slow = meeting.start(one, take_and_say)
    assert meeting.do(one, pop).text == 'old'
    slow.finish()
    assert meeting.do(one, pop).text == 'old'


def test_queues_do_not_mix(meeting):
    """C6: a pop of one queue leaves the appends to another."""
    one = meeting.visitor(n=0, _f_=['old'])
    slow = meeting.start(one, flash('x', queue='other'))
    meeting.do(one, pop)
    slow.finish()
    assert data_of(meeting) == {'n': 0, '_f_other': ['x']}


def test_pop_and_flash_in_one_request_merge(meeting):
    """C6: a request that pops and flashes loses no other's message."""
    one = meeting.visitor(n=0, _f_=['old'])

    def turn(request):
        text = pop(request)
        flash('turned')(request)
        return text

    slow = meeting.start(one, turn)
    meeting.do(one, flash('quick'))
    assert slow.finish().text == 'old'
    assert data_of(meeting)['_f_'] == ['quick', 'turned']


def test_clear_pops_only_what_it_saw(meeting):
    """C6: ``clear()`` takes the messages that were there, not later ones."""
    one = meeting.visitor(n=0, _f_=['old'])
    slow = meeting.start(one, lambda request: request.session.clear())
    meeting.do(one, flash('quick'))
    slow.finish()
    assert data_of(meeting) == {'_f_': ['quick']}


# -- C6: CSRF ----------------------------------------------------------------


def test_two_first_csrf_tokens_are_the_same(meeting):
    """C6: two requests that both need the first token render the same."""
    one = meeting.visitor(n=0)
    slow = meeting.start(one, csrf)
    quick = meeting.do(one, csrf).text
    assert slow.finish().text == quick
    assert meeting.do(one, csrf).text == quick
    assert data_of(meeting)['_csrft_'] == quick


def test_a_new_csrf_token_is_not_replaced_by_a_first_one(meeting):
    """C6: what ``new_csrf_token`` set meanwhile stays."""
    one = meeting.visitor(n=0)
    slow = meeting.start(one, csrf)
    new = meeting.do(one, lambda r: r.session.new_csrf_token()).text
    slow.finish()
    assert meeting.do(one, csrf).text == new


def test_the_csrf_token_is_not_in_the_database_before_its_use(meeting):
    """C6: it is derived from the secret, and no hash in the record is it."""
    # The database does not have the secret.
    one = meeting.visitor(n=0)
    token = meeting.site.browser(like=one)
    (row,) = meeting.site.rows()
    text = meeting.do(token, csrf).text
    assert text not in {
        value.hex() for value in row.values() if isinstance(value, bytes)
    }


def test_the_csrf_token_changes_with_a_rotation_in_flight(meeting):
    """C5, C6: a first token of before the login does not outlive it."""
    one = meeting.visitor(n=0)
    slow = meeting.start(one, rotate)
    before = meeting.do(one, csrf).text
    (cookie,) = set_cookies(slow.finish())
    assert '_csrft_' not in meeting.seen(cookie)
    assert meeting.do(slow.browser, csrf).text != before


def only_rotate(request):
    """Log in, and change nothing else."""
    request.session.rotate()


def save_and_rotate(request):
    """Save by hand what somebody still holds, and then log in."""
    held = request.session['list']
    held.append(2)
    request.tm.commit()
    request.tm.begin()
    request.session.rotate()
    return held


@pytest.mark.parametrize('act', [only_rotate, save_and_rotate])
def test_a_csrf_token_in_flight_at_a_rotation_goes(meeting, stage, act):
    """C5, C6: what was set meanwhile is known to the old token: it goes."""
    # Also if the rotation is all that there is to save.
    one = meeting.visitor(n=0, list=[1])

    def stopping(request):
        answer = act(request)
        stage.reach('rotated')
        return answer

    meeting.site.views['stopping'] = stopping
    browser = meeting.site.browser(like=one)
    slow = stage.run(browser.get, '/stopping')
    stage.wait('rotated')
    before = meeting.do(one, csrf).text
    assert '_csrft_' in data_of(meeting)
    stage.let('rotated')
    slow.result()
    assert '_csrft_' not in data_of(meeting)
    assert meeting.do(browser, csrf).text != before


def test_a_ghosts_csrf_token_does_not_reach_the_session(meeting):
    """C5, C6: a slow page of before the login stores no token in it."""
    one = meeting.visitor(n=0)
    slow = meeting.start(one, csrf)
    meeting.do(one, rotate)
    ghost = slow.finish().text
    assert meeting.do(one, csrf).text != ghost


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


# -- T6: no lock while a view runs -------------------------------------------


@ON_ONE_SERVER
def test_a_view_holds_no_lock_on_its_record(meeting, stage):
    """T6: six views changed it and go on; a seventh request comes and goes."""
    one = meeting.visitor(n=0)

    def write_and_stop(number):
        def view(request):
            request.session[f'k{number}'] = True
            if meeting.site.database.name != 'sqlite':
                # Elsewhere the application may write beside the others.
                add_note(f'n{number}')(request)
                request.dbsession.flush()
            stage.reach(f'written-{number}')
        return view

    for number in range(6):
        meeting.site.views[f'w{number}'] = write_and_stop(number)
    starts = [
        stage.run(meeting.site.browser(like=one).get, f'/w{number}')
        for number in range(6)
    ]
    stage.wait(*(f'written-{number}' for number in range(6)))
    meeting.do(one, put(seventh=True))
    stage.let(*(f'written-{number}' for number in range(6)))
    for start in starts:
        start.result()
    assert data_of(meeting) == {
        'n': 0, 'seventh': True, **{f'k{number}': True for number in range(6)}
    }


@pytest.mark.parametrize(
    'database', ['postgresql', 'mariadb'], indirect=True
)
def test_rows_of_the_application_and_the_record_do_not_deadlock(
    meeting, stage
):
    """T6: session first or the application's row first, both come through."""
    one = meeting.visitor(n=0)
    meeting.do(one, add_note('note'))

    def change_note(request):
        request.dbsession.execute(sa.update(Note).values(text='changed'))

    def row_first(request):
        change_note(request)
        stage.reach('row locked')
        request.session['a'] = 1

    def session_first(request):
        request.session['b'] = 1
        stage.let('session written')
        change_note(request)

    slow = meeting.start(one, row_first)
    slow.let()
    stage.wait('row locked')
    other = meeting.start(one, session_first)
    other.let()
    stage.reach('session written')
    stage.let('row locked')
    slow.result()
    other.result()
    assert data_of(meeting) == {'n': 0, 'a': 1, 'b': 1}


# -- limits ------------------------------------------------------------------


def test_parallel_logins_stay_below_the_limit(make_meeting, stage):
    """Section 2: ten parallel logins with a limit of three end with three."""
    # ``max_sessions_per_user``; exactly three records.
    meeting = make_meeting(max_sessions_per_user=3, retry=20)
    site = meeting.site

    def login(request):
        request.session['user_id'] = USER
        request.session.rotate()
        stage.reach(request.GET['stop'])

    site.views['login'] = login
    browsers = [site.browser() for _ in range(10)]
    starts = [
        stage.run(browser.get, f'/login?stop=in-{number}')
        for number, browser in enumerate(browsers)
    ]
    stage.wait(*(f'in-{number}' for number in range(10)))
    stage.let(*(f'in-{number}' for number in range(10)))
    for start in starts:
        start.result()
    assert len(site.rows()) == 3
    alive = [browser for browser in browsers if meeting.seen(
        site.token(browser)
    )]
    assert len(alive) == 3
