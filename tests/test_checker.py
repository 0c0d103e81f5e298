"""The randomised checker: it finds nothing here, and it can find something.

``python -m tests.checker --help`` runs it for longer.
"""

from dataclasses import replace

import pytest

from .checker.history import Event
from .checker.model import judge
from .checker.plan import steps
from .checker.run import Config
from .checker.run import run
from .checker.sabotage import GUARDS

RENEWAL = {'sqlasession.renewal_interval': '2'}


def test_a_random_history_holds(database):
    """C1 to C7: nothing is lost, revived or stuck, whatever meets."""
    # No old token works, there is no orphan, no deadlock, no 500.
    verdict = run(Config(
        [database.url], seconds=3, seed='test', slots=2, settings=RENEWAL
    ))
    assert verdict.violations == [], verdict.table() + verdict.details()
    assert {event.operation for event in verdict.events} > {
        'look', 'set', 'count', 'login',
    }


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_a_random_history_holds_at_serializable(database):
    """C7: above READ COMMITTED too, as pyramid_retry is there."""
    verdict = run(Config(
        [database.url], seconds=2, seed='test', isolation='SERIALIZABLE',
        settings=RENEWAL,
    ))
    assert verdict.violations == [], verdict.table() + verdict.details()


#: Guard: the operations that need it most, a rule that notices.
SABOTAGE = {
    'no-version-guard': (['set', 'look', 'count'], 'no lost key'),
    'upsert': (['set', 'look', 'revoke', 'logout'], 'no revival'),
    'old-tokens': (['login', 'look', 'stale'], 'no old token'),
    'logout-of-anyone': (['login', 'logout'], 'no old token'),
    'whole-data': (['set', 'look', 'flash'], 'no lost key'),
    'no-conflicts': (['count', 'look'], 'no lost count'),
}


@pytest.mark.parametrize('database', ['sqlite'], indirect=True)
@pytest.mark.parametrize('guard', [
    guard if guard in ('no-version-guard', 'upsert')
    else pytest.param(guard, marks=pytest.mark.slow)
    for guard in GUARDS
])
def test_the_checker_misses_each_guard(database, guard):
    """Without a guard of the package the checker finds violations."""
    only, rule = SABOTAGE[guard]
    config = Config(
        [database.url], seconds=30, operations=40, threads=6, processes=1,
        slots=1, only=only, pauses=(0, 5, 50), sabotage=guard,
    )
    for seed in range(20):
        verdict = run(replace(config, seed=str(seed)))
        if rule in {violation.rule for violation in verdict.violations}:
            return
    pytest.fail(f'without {guard} nothing was found: {verdict.table()}')


def test_the_plan_is_the_seed():
    """A failure can be replayed: the seed says what each worker does."""

    def first(seed, worker):
        plan = steps(seed, worker, slots=3, nodes=2)
        return [next(plan) for _ in range(50)]

    assert first('1', 'p0t0') == first('1', 'p0t0')
    assert first('1', 'p0t0') != first('2', 'p0t0')
    assert first('1', 'p0t0') != first('1', 'p0t1')


# -- the model, on histories made by hand ------------------------------------


def event(step, operation, begun, ended, **values):
    """An answered request of session ``x`` with its token ``t``."""
    values = {'sent': 't', 'id': 'x', 'status': 200, **values}
    return Event(step, operation, begun, ended, **values)


CREATED = event(
    'a', 'arrive', 0, 1, sent=None, id=None, created=['x'], received='t'
)
LOGIN = event('l', 'login', 2, 3, received='u')
LOGOUT = event('o', 'logout', 2, 3, received='', ended_ids=['x'])
SET = event('k', 'set', 2, 3)
DELETED = event('d', 'delete', 4, 5, seen={'k': 'k'}, target='k', result='k')
WITH = {'k': 'k'}

#: Rule: a history that breaks it, and what the record holds at the end.
BROKEN = {
    'no error': ([event('e', 'look', 2, 3, status=500, error='x')], {}),
    'no silent loss': ([event('e', 'set', 2, 3, sent=None, id=None)], {}),
    'no cookie': (
        [event('e', 'set', 2, 3, dropped=['rotated'], received='v')], {},
    ),
    'no revival': ([LOGOUT, event('e', 'look', 4, 5)], None),
    'no lost session': ([event('e', 'look', 2, 3, id=None)], {}),
    'no old token': ([LOGIN, event('e', 'look', 4, 5)], {}),
    'no old cookie': (
        [event('r', 'look', 2, 3, received='u'),
         event('e', 'look', 4, 5, received='t')], {},
    ),
    'no lost key': ([SET, event('e', 'look', 4, 5)], WITH),
    'no key back': ([SET, DELETED, event('e', 'look', 6, 7, seen=WITH)], {}),
    'no lost count': (
        [event('e', 'count', 2, 3, result=1),
         event('f', 'count', 2, 4, result=1)], {'n': 1},
    ),
    'no lost message': ([event('f', 'flash', 2, 3)], {}),
    'no message twice': (
        [event('f', 'flash', 2, 3), event('p', 'pop', 4, 5, result=['f']),
         event('q', 'pop', 6, 7, result=['f'])], {},
    ),
    'one CSRF token': (
        [event('c', 'csrf', 2, 3, result='1'),
         event('e', 'csrf', 2, 3, result='2')], {},
    ),
}


def found(events, final, bought=(), sold=0):
    """Return the rules that a history breaks."""
    sessions = {} if final is None else {'x': final}
    return {
        violation.rule for violation in judge(
            [CREATED, *events], sessions, set(bought), sold, grace=1
        )
    }


@pytest.mark.parametrize('rule', BROKEN)
def test_the_model_notices(rule):
    """A history that breaks a rule is found, by that rule alone."""
    assert found(*BROKEN[rule]) == {rule}


@pytest.mark.parametrize(
    ('rule', 'arguments'),
    [
        ('no lost session', ([], None)),
        ('no revival', ([LOGOUT], {})),
        ('no lost key', ([SET], {})),
        ('no lost count', ([event('e', 'count', 2, 3, result=1)], {})),
        ('no lost row', ([event('b', 'buy', 2, 3)], {'b': 'b'})),
        ('no lost row', ([event('b', 'buy', 2, 3)], {'b': 'b'}, 'b', 2)),
        ('no row too many', ([], {}, 'b', 1)),
        ('no old token', ([
            LOGIN, event('o', 'logout', 2, 4, received='', ended_ids=['x'])
        ], None)),
    ],
)
def test_the_model_notices_at_the_end(rule, arguments):
    """What the tables hold at the end is judged too."""
    assert found(*arguments) == {rule}


def test_the_model_notices_an_orphan():
    """A record whose cookie nobody was given."""
    (violation,) = judge([], {'x': {}}, set(), 0, grace=1)
    assert violation.rule == 'no orphan'


@pytest.mark.parametrize(
    ('events', 'final'),
    [
        ([], {}),
        ([SET, event('e', 'look', 4, 5, seen=WITH)], WITH),
        # Overlapping requests may have come in either order.
        ([SET, event('e', 'look', 2, 5)], WITH),
        ([SET, DELETED, event('e', 'look', 4, 7, seen=WITH)], {}),
        ([LOGIN, event('e', 'look', 2, 5)], {}),
        ([LOGOUT, event('e', 'look', 2, 5)], None),
        ([event('p', 'pop', 4, 6, result=['f']), event('f', 'flash', 2, 3),
          event('q', 'pop', 5, 7, result=['f'])], {}),
        ([event('e', 'count', 2, 3, result=2),
          event('f', 'count', 2, 4, result=1)], {'n': 2}),
        # A renewal: the old token goes on within its grace.
        ([event('r', 'look', 2, 3, received='u'),
          event('e', 'look', 3.1, 5)], {}),
        ([event('c', 'csrf', 2, 3, result='1'), LOGIN,
          event('e', 'csrf', 4, 5, sent='u', result='2')], {}),
    ],
)
def test_the_model_allows(events, final):
    """What may happen by the promises is no violation."""
    assert found(events, final) == set()
