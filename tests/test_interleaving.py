"""The stage stops and releases calls in the order a test asks for."""

import pytest

from .interleaving import Stage
from .interleaving import StuckError


def test_call_stops_until_let(stage):
    """A call goes on only after the test has let it."""
    order = []

    def call():
        order.append('before')
        stage.reach('middle')
        order.append('after')
        return 'result'

    running = stage.run(call)
    stage.wait('middle')
    assert stage.is_waiting('middle')
    order.append('test')
    stage.let('middle')
    assert running.result() == 'result'
    assert order == ['before', 'test', 'after']


def test_two_calls_meet(stage):
    """Two calls can stand at two places at once and leave in any order."""
    order = []

    def call(name):
        stage.reach(name)
        order.append(name)

    one, two = stage.run(call, 'one'), stage.run(call, 'two')
    stage.wait('one', 'two')
    stage.let('two')
    two.result()
    stage.let('one')
    one.result()
    assert order == ['two', 'one']


def test_place_let_go_before_does_not_stop(stage):
    """A place that is let go first stops nobody, nor does no place at all."""
    stage.let('early')
    stage.reach('early')
    stage.reach(None)


def test_error_of_a_call_is_raised_by_result(stage):
    """result() raises what the call raised."""
    running = stage.run(int, 'x')
    with pytest.raises(ValueError, match='invalid literal'):
        running.result()


def test_waiting_for_a_call_that_failed_tells_its_error(stage):
    """wait() does not sit out its timeout when nobody can come any more."""
    running = stage.run(int, 'x')
    with pytest.raises(StuckError, match='none reached') as info:
        stage.wait('never')
    assert isinstance(info.value.__cause__, ValueError)
    with pytest.raises(ValueError, match='invalid literal'):
        running.result()


def test_stuck_call_is_described():
    """An error after the timeout says where the calls stand."""
    stage = Stage()
    stage.run(stage.reach, 'here')
    stage.wait('here')
    with pytest.raises(StuckError) as info:
        stage.wait('there', timeout=0)
    assert "place 'here': reached, closed" in str(info.value)
    assert 'in reach' in str(info.value)
    stage.close()


def test_unseen_error_fails_the_test():
    """close() raises the error of a call whose result nobody asked for."""
    stage = Stage()
    stage.run(int, 'x')
    with pytest.raises(ValueError, match='invalid literal'):
        stage.close()
