"""What one request changed, applied to what others made of the record."""

import copy

from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest

from pyramid_sqlasession.changes import apply_changes
from pyramid_sqlasession.changes import Changes
from pyramid_sqlasession.changes import conflicting_keys
from pyramid_sqlasession.changes import CSRF
from pyramid_sqlasession.changes import find_changes
from pyramid_sqlasession.changes import FLASH
from pyramid_sqlasession.changes import FLOOR
from pyramid_sqlasession.changes import join
from pyramid_sqlasession.changes import split
from pyramid_sqlasession.serializers import JSONSerializer


def encode(values):
    """Return bytes as the package's codec does."""
    return JSONSerializer().dumps(values)


def differ(one, other):
    """Return whether values differ for the package's codec."""
    return encode(one) != encode(other)


class Visit:
    """One request: a copy of what it loaded, and what it did to that."""

    def __init__(self, data, heads=None):
        self.base = copy.deepcopy(data)
        self.heads = dict(heads or {})
        self.data = copy.deepcopy(data)
        self.popped = set()
        self.once = []

    def flash(self, message, queue='', *, once=False):
        messages = self.data.setdefault(FLASH + queue, [])
        if once and message in messages:
            return
        messages.append(message)
        if once:
            self.once.append((FLASH + queue, message))

    def pop(self, queue=''):
        self.popped.add(FLASH + queue)
        return self.data.pop(FLASH + queue, [])

    def changes(self, derived_csrf=None):
        return find_changes(
            self.base, self.heads, self.data,
            touched={*self.base, *self.data, *self.popped},
            popped=self.popped, once=self.once, derived_csrf=derived_csrf,
            differ=differ,
        )


def after(*visits, data=None, heads=None):
    """Return data and heads after saving *visits*, one after the other."""
    data = visits[0].base if data is None else data
    heads = visits[0].heads if heads is None else heads
    for visit in visits:
        data, heads = apply_changes(visit.changes(), data, heads)
    return data, heads


# -- finding ------------------------------------------------------------------

def test_nothing_changed():
    """C3: what was looked at only is no change."""
    visit = Visit({'a': [1], 'b': None, FLASH: ['hi'], CSRF: 'x'})
    assert not visit.changes()
    assert visit.changes().keys == []


@pytest.mark.parametrize(
    ('before', 'later'),
    [
        (1, True), (1, 1.0), (0, False), (0, -0.0), (0.0, -0.0),
        ([1], (1,)), ([1], [True]), ((1,), (1.0,)), (None, 0), ('', b''),
        ({'a': 1}, {'a': 1.0}), ({1}, {True}), ([], {}),
        ({'a': 1, 'b': 2}, {'b': 2, 'a': 1}),
    ],
)
def test_equal_values_of_different_types_are_changes(before, later):
    """R6, R7: what Python takes for equal may be stored differently."""
    visit = Visit({'key': before})
    visit.data['key'] = later
    (stored, _) = after(visit)
    assert encode(stored) == encode({'key': later})
    assert visit.changes().keys == ['key']


def test_nested_changes_are_found():
    """R7: a change inside of a value is one."""
    visit = Visit({'a': [{'b': {1}}], 'c': [1]})
    visit.data['a'][0]['b'].add(2)
    assert visit.changes().assigned == {'a': [{'b': {1, 2}}]}


def test_only_touched_keys_are_looked_at():
    """R7: a key that nobody touched costs nothing."""
    found = find_changes(
        {'a': 1, 'b': 1}, {}, {'a': 2, 'b': 2}, touched=['b'], differ=differ
    )
    assert found.assigned == {'b': 2}


def test_set_and_deleted_again():
    """R1: what was set and deleted again is no change."""
    visit = Visit({})
    visit.data['a'] = 1
    del visit.data['a']
    found = find_changes({}, {}, visit.data, touched=['a'], differ=differ)
    assert not found


def test_keys_names_everything():
    """T8: messages name each key that changed."""
    visit = Visit({'old': 1})
    visit.data['b'] = 1
    del visit.data['old']
    visit.flash('hi', 'q')
    visit.data[CSRF] = 'derived'
    assert visit.changes('derived').keys == sorted(
        ['b', 'old', FLASH + 'q', CSRF]
    )


# -- two requests -------------------------------------------------------------

def test_different_keys_are_kept():
    """C1: A sets a, B sets b: both are kept, in either order."""
    a, b = Visit({'x': 0}), Visit({'x': 0})
    a.data['a'] = 1
    b.data['b'] = 2
    for order in ((a, b), (b, a)):
        assert after(*order)[0] == {'x': 0, 'a': 1, 'b': 2}


def test_delete_beside_set():
    """C1: A deletes one key while B sets another: both happen."""
    a, b = Visit({'x': 0, 'y': 0}), Visit({'x': 0, 'y': 0})
    del a.data['x']
    b.data['y'] = 1
    for order in ((a, b), (b, a)):
        assert after(*order)[0] == {'y': 1}


def test_clear_keeps_what_is_new():
    """C1: clear() deletes what the request saw, and nothing else."""
    a, b = Visit({'x': 0}), Visit({'x': 0})
    a.data.clear()
    b.data['new'] = 1
    for order in ((a, b), (b, a)):
        assert after(*order)[0] == {'new': 1}


def test_same_key_the_later_wins():
    """C2: both change the same key: the later commit wins whole."""
    a, b = Visit({'x': {'n': 0}}), Visit({'x': {'n': 0}})
    a.data['x']['a'] = 1
    b.data['x']['b'] = 1
    assert after(a, b)[0] == {'x': {'n': 0, 'b': 1}}
    assert after(b, a)[0] == {'x': {'n': 0, 'a': 1}}


def test_set_after_delete_of_the_same_key():
    """C2: a deletion and an assignment of one key: the later wins."""
    a, b = Visit({'x': 0}), Visit({'x': 0})
    del a.data['x']
    b.data['x'] = 1
    assert after(a, b)[0] == {'x': 1}
    assert after(b, a)[0] == {}


def test_pop_beside_flash():
    """C6: flashed while another request pops: shown once, later."""
    a, b = Visit({FLASH: ['old']}), Visit({FLASH: ['old']})
    assert a.pop() == ['old']
    b.flash('new')
    for order in ((a, b), (b, a)):
        assert after(*order)[0] == {FLASH: ['new']}


def test_both_pop():
    """C6: two pops at the same moment may both show one; it is gone."""
    a, b = Visit({FLASH: ['old']}), Visit({FLASH: ['old']})
    assert a.pop() == b.pop() == ['old']
    assert after(a, b)[0] == {}


def test_an_equal_message_flashed_again_survives_a_late_pop():
    """C6: a pop takes the messages it showed, not equal later ones."""
    late, first, second = (Visit({FLASH: ['hi']}) for _ in range(3))
    late.pop()
    first.pop()
    data, heads = after(first)
    second = Visit(data, heads)
    second.flash('hi')
    data, heads = after(second)
    assert data == {FLASH: ['hi']}
    assert after(late, data=data, heads=heads)[0] == {FLASH: ['hi']}


def test_flash_without_duplicates_in_both():
    """C6: allow_duplicate=False holds for what another request flashed."""
    a, b = Visit({}), Visit({})
    a.flash('once', once=True)
    b.flash('once', once=True)
    b.flash('twice')
    a.flash('twice')
    queue = after(a, b)[0][FLASH]
    assert queue.count('once') == 1
    assert queue.count('twice') == 2


def test_flash_without_duplicates_after_a_pop():
    """C6: without duplicates in the queue as it is, not as it was."""
    a, b = Visit({FLASH: ['once']}), Visit({FLASH: ['once']})
    a.pop()
    b.pop()
    b.flash('once', once=True)
    for order in ((a, b), (b, a)):
        assert after(*order)[0] == {FLASH: ['once']}


def test_first_csrf_token_of_both():
    """C6: two requests that both need the first token have the same."""
    a, b = Visit({}), Visit({})
    a.data[CSRF] = b.data[CSRF] = 'derived'
    data, heads = apply_changes(a.changes('derived'), {}, {})
    assert apply_changes(b.changes('derived'), data, heads)[0] == {
        CSRF: 'derived'
    }


def test_first_csrf_token_beside_a_new_one():
    """C6: a token that was made new stays, whoever commits later."""
    a, b = Visit({}), Visit({})
    a.data[CSRF] = 'derived'
    b.data[CSRF] = 'random'
    for order in ((a, b), (b, a)):
        data, heads = {}, {}
        for visit in order:
            data, heads = apply_changes(
                visit.changes('derived'), data, heads
            )
        assert data == {CSRF: 'random'}


def test_rotation_drops_the_token():
    """C5: a rotation drops the token of the record, a new one counts."""
    data, _ = apply_changes(
        Changes(csrf='new', drop_csrf=True), {CSRF: 'old', 'a': 1}, {}
    )
    assert data == {CSRF: 'new', 'a': 1}


@pytest.mark.parametrize('value', ['text', {'a': 1}, (1,), None, 7])
def test_a_queue_that_is_no_list(value):
    """R10: what the application keeps under a flash key is its own."""
    a = Visit({FLASH: ['old']})
    a.data[FLASH] = value
    assert after(a)[0] == {FLASH: value}
    b = Visit({FLASH: value})
    b.data[FLASH] = ['new']
    assert after(b)[0] == {FLASH: ['new']}
    c = Visit({FLASH: value})
    del c.data[FLASH]
    assert after(c)[0] == {}


def test_flash_onto_what_is_no_list_any_more():
    """C6: a message is not lost where another request put something else."""
    a, b = Visit({}), Visit({})
    a.data[FLASH] = 'text'
    b.flash('new')
    assert after(a, b)[0] == {FLASH: ['new']}


def test_arguments_are_left_alone():
    """C1: nothing is changed but the result."""
    data, heads = {'a': [1], FLASH: ['x']}, {FLASH: 3}
    visit = Visit(data, heads)
    visit.pop()
    visit.flash('y')
    visit.data['a'].append(2)
    found = visit.changes()
    apply_changes(found, data, heads)
    assert (data, heads) == ({'a': [1], FLASH: ['x']}, {FLASH: 3})
    assert found.flash[FLASH].appended == ('y',)


# -- conflicts ----------------------------------------------------------------

@pytest.mark.parametrize(
    ('mine', 'now', 'keys'),
    [
        ({'x': 1, 'y': 0}, {'x': 0, 'y': 5}, []),
        ({'x': 1, 'y': 0}, {'x': 2, 'y': 0}, ['x']),
        ({'x': 1, 'y': 0}, {'x': 1, 'y': 0}, ['x']),
        ({'x': True, 'y': 0}, {'x': 0.0, 'y': 0}, ['x']),
        ({'x': 1, 'y': 1}, {'x': 2, 'y': 2}, ['x', 'y']),
        ({'x': 1, 'y': 0}, {'y': 0}, ['x']),
        ({'y': 0}, {'x': 2, 'y': 0}, ['x']),
        ({'y': 0}, {'y': 0}, ['x']),
        ({'x': 0, 'y': 0, 'z': 1}, {'x': 0, 'y': 0, 'z': 1}, ['z']),
        ({'x': 0, 'y': 0, 'z': 1}, {'x': 0, 'y': 0}, []),
        ({'x': 0, 'y': 0}, {}, []),
    ],
)
def test_conflicting_keys(mine, now, keys):
    """C2: keys that both changed conflict, also if to the same value."""
    base = {'x': 0, 'y': 0}
    visit = Visit(base)
    visit.data = mine
    assert conflicting_keys(visit.changes(), base, now, differ) == keys


def test_flash_never_conflicts():
    """C6: flash and the derived token merge, they do not conflict."""
    visit = Visit({FLASH: ['old']})
    visit.pop()
    visit.flash('new')
    visit.data[CSRF] = 'derived'
    found = visit.changes('derived')
    assert conflicting_keys(
        found, visit.base, {FLASH: ['other'], CSRF: 'other'}, differ
    ) == []


# -- stored form --------------------------------------------------------------

@pytest.mark.parametrize(
    'heads', [None, 'text', [1], {'_f_': 'x'}, {'_f_': True}, {'_f_': 1.5}]
)
def test_damaged_heads_are_ignored(heads):
    """R8: head counters by anybody's hand cost nothing but themselves."""
    assert split({'a': 1, '_fh_': heads}) == ({'a': 1}, {})


def test_a_damaged_csrf_token_is_ignored():
    """R8: one that a renewal has kept is text."""
    assert split({'_fh_': {CSRF: 7, FLASH: 7}}) == ({}, {FLASH: 7})


@given(
    st.dictionaries(
        st.sampled_from(['a', 'b', FLASH, FLASH + 'q', CSRF, '_fh_']),
        st.integers(0, 3) | st.lists(
            st.integers() | st.just({FLASH: 1}) | st.just({}), max_size=2
        ) | st.just({FLASH: 1}),
        max_size=4,
    ),
    st.fixed_dictionaries({}, optional={
        FLASH: st.integers(0), FLASH + 'q': st.integers(0), CSRF: st.text(),
    }),
)
def test_split_is_the_inverse_of_join(data, heads):
    """R10: what is stored comes back, whatever the keys are."""
    assert split(join(data, heads)) == (data, heads)


# -- properties ---------------------------------------------------------------

_values = st.none() | st.integers(0, 2) | st.lists(
    st.integers(0, 2), max_size=2
) | st.booleans()
_dicts = st.dictionaries(st.sampled_from('abcdef'), _values, max_size=6)


def _worked(base, operations):
    visit = Visit(base)
    for key, value in operations.items():
        if value is ...:
            visit.data.pop(key, None)
        else:
            visit.data[key] = value
    return visit


_operations = st.dictionaries(
    st.sampled_from('abcdef'), _values | st.just(...), max_size=6
)


@given(_dicts, _operations, _operations)
@settings(max_examples=300, deadline=None)
def test_either_order_keeps_both(base, first, second):
    """C1, C2: each key has what was made of it, or the later one's value."""
    a, b = _worked(base, first), _worked(base, second)
    for one, other in ((a, b), (b, a)):
        result, _ = after(one, other)
        changed = other.changes()
        names = {*base, *one.data, *other.data}
        for key in names:
            by_other = key in changed.assigned or key in changed.deleted
            source = other.data if by_other else one.data
            assert (key in result) == (key in source), key
            if key in result:
                assert encode({key: result[key]}) == encode({key: source[key]})
        assert set(result) <= names


@given(_dicts, _operations)
@settings(max_examples=200, deadline=None)
def test_changes_lead_to_what_the_request_had(base, operations):
    """R7: without another request, its own dict is what is stored."""
    visit = _worked(base, operations)
    result, _ = after(visit)
    assert {k: encode({k: v}) for k, v in result.items()} == {
        k: encode({k: v}) for k, v in visit.data.items()
    }
    assert bool(visit.changes()) == (
        {k: encode({k: v}) for k, v in base.items()}
        != {k: encode({k: v}) for k, v in visit.data.items()}
    )


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.lists(
                st.tuples(
                    st.sampled_from(['pop', 'flash']),
                    st.sampled_from(['', 'a', 'b']),
                ),
                max_size=4,
            ),
        ),
        max_size=8,
    )
)
@settings(max_examples=500, deadline=None)
@example([
    (0, [('flash', '')]), (0, [('pop', '')]),
    (1, [('pop', ''), ('flash', '')]), (0, [('pop', '')]),
])
@example([
    # A queue is emptied, and another one's message is popped twice.
    (0, [('flash', ''), ('flash', 'a')]), (0, [('pop', '')]),
    (1, [('pop', 'a')]), (2, [('pop', 'a'), ('flash', 'a')]),
])
def test_each_message_is_there_until_somebody_saw_it(requests):
    """C6: however requests overlap, a message ends by being shown, only."""
    # Each request is loaded from the state of up to three saves ago.
    states = [({}, {})]
    flashed, shown = [], set()
    for lag, operations in requests:
        visit = Visit(*states[max(len(states) - 1 - lag, 0)])
        for operation, queue in operations:
            if operation == 'pop':
                shown.update(visit.pop(queue))
            else:
                flashed.append((queue, len(flashed)))
                visit.flash(flashed[-1], queue)
        data, heads = apply_changes(visit.changes(), *states[-1])
        assert heads.keys() <= {FLOOR, *data}
        states.append((data, heads))
    queues = states[-1][0]
    assert {
        queue: sorted(messages) for queue, messages in queues.items()
    } == {
        queue: left for queue in (FLASH, f'{FLASH}a', f'{FLASH}b')
        if (left := [
            (name, n) for name, n in flashed
            if FLASH + name == queue and (name, n) not in shown
        ])
    }
    # And again nobody loses the rest.
    visit = Visit(*states[-1])
    for queue in list(queues):
        assert visit.pop(queue.removeprefix(FLASH)) == queues[queue]
    assert apply_changes(visit.changes(), *states[-1])[0] == {}


def test_queues_are_stored_in_the_order_of_their_first_message():
    """R6: not in an order that differs from process to process."""
    names = [f'{FLASH}{n}' for n in 'abcdefgh']
    data = {name: ['message'] for name in names}
    changes = find_changes({}, {}, data, touched=set(data), differ=differ)
    stored, _ = apply_changes(changes, {}, {})
    assert list(stored) == names


def test_what_was_taken_is_stored_in_the_order_of_the_queues():
    """R6: not in an order that differs from process to process."""
    names = [f'{FLASH}{n}' for n in 'abcdefgh']
    base = {name: ['message'] for name in names}
    changes = find_changes(
        base, {}, {}, touched=set(names), popped=set(names), differ=differ
    )
    later = {f'{name}{n}': ['message'] for n in range(3) for name in names}
    data, heads = apply_changes(changes, base | later, {})
    assert list(data) == list(later)
    assert list(heads) == [*later, FLOOR]


def test_queues_that_are_empty_leave_one_number():
    """R9, C6: names that are made up at run time do not add up."""
    states = [({'n': 1}, {})]
    for number in range(100):
        visit = Visit(*states[-1])
        visit.flash('done', f'order-{number}')
        states.append(apply_changes(visit.changes(), *states[-1]))
        visit = Visit(*states[-1])
        assert visit.pop(f'order-{number}') == ['done']
        states.append(apply_changes(visit.changes(), *states[-1]))
    assert states[-1] == ({'n': 1}, {FLOOR: 100})
