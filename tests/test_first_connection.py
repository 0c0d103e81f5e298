"""The first connection of an engine, which the cleaner may make (D1, E3).

SQLAlchemy learns about the server with it; whoever works meanwhile, in this
process or in a child of it, has to wait for that.
"""

import threading

import pytest
import sqlalchemy as sa

from pyramid_sqlasession.cleaner import Cleaner

from .forking import Child
from .site import Base

servers = pytest.mark.parametrize(
    'database', ['postgresql', 'mariadb'], indirect=True
)


class SlowToLearn:
    """An engine whose first connection stops where it asks the server."""

    def __init__(self, engine):
        self.is_asking = threading.Event()
        self.may_ask = threading.Event()
        self._initialize = engine.dialect.initialize
        engine.dialect.initialize = self._stop

    def _stop(self, connection):
        self.is_asking.set()
        assert self.may_ask.wait(20)
        self._initialize(connection)


@pytest.fixture
def new(make_site):
    """A site that has not connected yet, and a visitor of it."""
    other = make_site()

    @other.view
    def put(request):
        request.session['n'] = 1

    visitor = other.browser()
    visitor.get('/put')
    site = make_site(create=False)
    Base.metadata.create_all(site.outside)
    site.visitor = site.browser(like=visitor)
    return site


def in_thread(work, *args):
    """Start ``work(*args)``; return the thread, and a list for its result."""
    results = []

    def run():
        try:
            results.append(work(*args))
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


@servers
def test_requests_wait_for_the_cleaners_first_connection(new):
    """D1: one that comes at that moment is served, not a 500."""

    @new.view
    def anew(request):
        # Two statements, in a transaction that sets its isolation level.
        request.session.invalidate()
        request.session['n'] = 2

    slow = SlowToLearn(new.engine)
    cleaner, cleaned = in_thread(Cleaner(new.application).clean)
    assert slow.is_asking.wait(20)
    request, answers = in_thread(new.visitor.get, '/anew')
    # It has to wait; that it does not would take no longer than this.
    request.join(0.3)
    assert answers == []
    slow.may_ask.set()
    request.join(20)
    cleaner.join(20)
    assert [answer.status_int for answer in answers] == [200]
    assert cleaned == [0]
    assert new.data() == {'n': 2}


@servers
def test_a_fork_waits_for_the_cleaners_first_connection(new):
    """E3: a worker that is forked meanwhile can use its engine."""
    slow = SlowToLearn(new.engine)
    cleaner, cleaned = in_thread(Cleaner(new.application).clean)
    assert slow.is_asking.wait(20)
    threading.Timer(0.3, slow.may_ask.set).start()

    def connect():
        with new.engine.connect() as connection:
            connection.execution_options(isolation_level='READ COMMITTED')
            found = connection.scalar(sa.text('SELECT 1'))
        new.engine.dispose()
        return found == 1

    child = Child(connect)
    cleaner.join(20)
    assert child.is_fine()
    assert cleaned == [0]


@servers
def test_the_cleaner_leaves_no_connection_in_the_pool(new):
    """E3: what is in the pool would be shared by processes after a fork."""
    opened, closed = [], []
    sa.event.listen(new.engine.pool, 'connect', lambda *_: opened.append(1))
    sa.event.listen(new.engine.pool, 'close', lambda *_: closed.append(1))
    for _ in range(2):
        assert Cleaner(new.application).clean() == 0
        assert opened == closed != []
        assert new.engine.pool.checkedout() == 0
    # One to learn about the server, and one for each clean.
    assert len(opened) == 3
