"""Flash messages (R10, C6)."""

import operator

import pytest


@pytest.mark.parametrize('queue', ['', 'ü'])
def test_flash(visitor, queue):
    """R10: as in Pyramid, per queue, under _f_<queue>."""
    visitor.visit(lambda session: session.flash('one', queue))
    visitor.visit(lambda session: session.flash('two', queue=queue))
    assert visitor.content == {f'_f_{queue}': ['one', 'two']}
    assert visitor.visit(
        lambda session: session.peek_flash(queue)
    ) == ['one', 'two']
    assert visitor.visit(
        lambda session: session.pop_flash(queue)
    ) == ['one', 'two']
    assert visitor.visit(lambda session: session.pop_flash(queue)) == []
    assert visitor.visit(lambda session: session.peek_flash(queue)) == []
    assert visitor.content == {}


def test_flash_without_duplicates(visitor):
    """R10: allow_duplicate=False, in one request and over several."""
    for _ in range(2):
        visitor.visit(lambda session: [
            session.flash('one', allow_duplicate=False) for _ in range(2)
        ])
    visitor.visit(lambda session: session.flash('one'))
    assert visitor.visit(lambda session: session.pop_flash()) == ['one', 'one']


def test_flash_in_one_request(visitor):
    """R10: flashed, popped and flashed again before the save."""
    def work(session):
        session.flash('a')
        assert session.pop_flash() == ['a']
        session.flash('b')
        assert session.peek_flash() == ['b']
        assert session.pop_flash() == ['b']
        assert session.pop_flash() == []
        session.flash('c')

    visitor.visit(lambda session: session.flash('old'))
    visitor.visit(lambda session: session.pop_flash())
    visitor.visit(work)
    assert visitor.visit(lambda session: session.pop_flash()) == ['c']


def test_popping_an_absent_queue_writes_nothing(visitor):
    """R10: it is a look, no change."""
    visitor.store(a=1)
    visitor.site.listen()
    assert visitor.visit(lambda session: session.pop_flash('x')) == []
    assert visitor.site.statements.verbs == ['SELECT']


def test_flash_queues_as_keys(visitor):
    """R10: whoever works on the keys themselves works on the queues."""
    def work(session):
        session['_f_'] = ['a']
        session['_f_'].append('b')
        session.setdefault('_f_q', []).append('c')

    visitor.visit(work)
    assert visitor.visit(lambda session: session.pop_flash()) == ['a', 'b']
    visitor.visit(lambda session: session['_f_q'].insert(0, 'first'))
    assert visitor.visit(lambda session: session.peek_flash('q')) == [
        'first', 'c'
    ]
    visitor.visit(lambda session: session['_f_q'].pop(0))
    assert visitor.content == {'_f_q': ['c']}
    visitor.visit(lambda session: operator.delitem(session, '_f_q'))
    assert visitor.content == {}


def test_popped_and_flashed_again_while_another_pops(visitor, stage):
    """C6: the message that was flashed again is not the one that was shown."""
    visitor.visit(lambda session: session.flash('hi'))

    @visitor.site.view
    def again(request):
        assert request.session.pop_flash() == ['hi']
        request.session.flash('hi')
        stage.reach('flashed')

    other = visitor.site.browser(like=visitor.browser)
    running = stage.run(other.get, '/again')
    stage.wait('flashed')
    assert visitor.visit(lambda session: session.pop_flash()) == ['hi']
    stage.let('flashed')
    running.result()
    assert visitor.visit(lambda session: session.pop_flash()) == ['hi']


def test_a_failed_request_shows_its_flash_messages_again(visitor):
    """T2: what was popped in a request that failed is still there."""
    visitor.visit(lambda session: session.flash('a'))

    def work(session):
        assert session.pop_flash() == ['a']
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        visitor.visit(work)
    assert visitor.visit(lambda session: session.pop_flash()) == ['a']
