"""Two requests at once: C1 to C3 and C6, one deterministic interleaving each.

``slow`` has loaded the session and stops in its view; what the test does next
comes and goes meanwhile; then ``slow`` goes on.
"""

from decimal import Decimal
import threading

import pytest
import sqlalchemy as sa

from pyramid_sqlasession import SessionConflict
from pyramid_sqlasession import SessionWriteDropped

from .failing import on_sqlite
from .meeting import add_note
from .meeting import add_one
from .meeting import brief
from .meeting import csrf
from .meeting import data_of
from .meeting import drop
from .meeting import flash
from .meeting import logout
from .meeting import look
from .meeting import look_only
from .meeting import ON_ONE_SERVER
from .meeting import pop
from .meeting import put
from .meeting import rotate
from .meeting import set_cookies
from .meeting import USER
from .services import databases
from .site import Note


@pytest.fixture(params=[*databases.NAMES, 'galera'])
def database(request, make_database):
    """An empty database; in the cluster each request has another node."""
    return make_database(request.param)


# -- C1, C2: two writes -------------------------------------------------------


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


def test_a_touch_is_no_conflict_for_a_write(meeting):
    """C3, D4: a write beside a touch needs no second attempt."""
    one = meeting.visitor(n=0)
    meeting.site.clock.advance(minutes=2)
    slow = meeting.start(one, put(a=1))
    meeting.do(one, look_only)
    meeting.site.listen()
    slow.finish()
    assert meeting.site.statements.verbs == ['UPDATE']


# -- C2: conflict = retry -----------------------------------------------------

CONFLICTS = {
    'both set': (put(n=5), put(n=6), {'m': 0, 'n': 5}),
    'both count': (add_one, add_one, {'m': 0, 'n': 2}),
    'both delete': (lambda request: request.session.pop('n', None),
                    drop('n'), {'m': 0}),
    'set and delete': (put(m=5), drop('m'), {'n': 0, 'm': 5}),
    'delete and set': (drop('m'), put(m=5), {'n': 0}),
    'both add': (put(a=1), put(a=2), {'n': 0, 'm': 0, 'a': 1}),
    'set one more': (put(n=5, a=1), put(n=6), {'m': 0, 'n': 5, 'a': 1}),
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
    assert caught.value.keys == ['n' if case == 'both count' else 'm']
    assert meeting.site.rows() == before


@on_sqlite
@pytest.mark.parametrize(('name', 'act'), [
    ('update', put(a=1)), ('delete', logout),
])
def test_a_write_that_always_meets_another(meeting, monkeypatch, name, act):
    """C1, C7: where nothing locks, it ends as a conflict, never unsaid."""
    one = meeting.visitor(n=0)
    before = meeting.site.rows()
    monkeypatch.setattr(
        meeting.site.application.records, name, lambda *args, **kw: False
    )
    with pytest.raises(SessionConflict):
        meeting.do(one, act)
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


# -- C3: a request that only reads --------------------------------------------


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


# -- T0: a database of their own ----------------------------------------------


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


# -- C6: flash ----------------------------------------------------------------

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


# -- C6: CSRF -----------------------------------------------------------------


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


@pytest.mark.parametrize('meets', [False, True])
@pytest.mark.parametrize('when', ['in the view', 'in a callback'])
# What is compared at little cost, and what is not.
@pytest.mark.parametrize('first', ['a', Decimal(1)], ids=['str', 'Decimal'])
def test_a_value_that_is_held_across_a_commit(meeting, meets, when, first):
    """T8, T9: it is the session's still, though others wrote meanwhile."""
    one = meeting.visitor(cart=[first], other=['x'])
    again = []

    def hold(request):
        cart, other = request.session['cart'], request.session['other']
        cart.append('b')
        if meets:
            meeting.do(
                meeting.site.browser(like=one),
                lambda request: request.session['other'].append('y'),
            )
        if when == 'in a callback':
            request.add_response_callback(
                lambda request, response: cart.append('c')
            )
            return
        request.tm.commit()
        request.tm.begin()
        cart.append('c')
        # What another one has changed, it has: this is not the session's.
        other.append('z')
        again.append(request.session['cart'] is cart)

    meeting.do(one, hold)
    assert meeting.do(one, look_at_cart).text == f'{first}bc'
    assert again in ([], [True])


def look_at_cart(request):
    """Show what is in the cart."""
    return ''.join(map(str, request.session['cart']))


def test_a_ghosts_csrf_token_does_not_reach_the_session(meeting):
    """C5, C6: a slow page of before the login stores no token in it."""
    one = meeting.visitor(n=0)
    slow = meeting.start(one, csrf)
    meeting.do(one, rotate)
    ghost = slow.finish().text
    assert meeting.do(one, csrf).text != ghost


# -- T6: no lock while a view runs --------------------------------------------


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


# -- limits -------------------------------------------------------------------


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
