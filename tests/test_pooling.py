"""What a statement of its own takes from the engine's pool, and gives back.

Usually it takes the pool's own entry, past the proxy that listeners are told
of; the pool must not notice the difference.
"""

import contextlib
import logging

import pytest
import sqlalchemy as sa

from pyramid_sqlasession import pooling
from pyramid_sqlasession import shortcut

from .failing import TERMINATE

both = pytest.mark.parametrize(
    'database', ['sqlite', 'postgresql'], indirect=True
)
postgresql = pytest.mark.parametrize('database', ['postgresql'], indirect=True)

#: One connection and no other, so that one that is lost is missed at once.
SINGLE = {'pool_size': 1, 'max_overflow': 0, 'pool_timeout': 0.1}


@pytest.fixture
def make_quick(make_site):
    """A function that makes a site whose views read and change."""

    def make(**options):
        site = make_site(engine_options=options)

        @site.view
        def count(request):
            session = request.session
            session['n'] = session.get('n', 0) + 1

        @site.view
        def show(request):
            return str(request.session.get('n'))

        return site

    return make


def proxies(site, monkeypatch):
    """Return a list that gets an item for each proxy that is made."""
    made = []
    connect = site.engine.pool.connect
    monkeypatch.setattr(
        site.engine.pool, 'connect', lambda: made.append(1) or connect()
    )
    return made


@both
def test_nobody_looks_no_proxy(make_quick, monkeypatch):
    """A read, a change and a new session make do without one."""
    site = make_quick(**SINGLE)
    made = proxies(site, monkeypatch)
    browser = site.browser()
    for path in ('/count', '/show', '/count'):
        browser.get(path)
        assert site.engine.pool.checkedout() == 0
        assert site.engine.pool.checkedin() == 1
    assert made == []
    assert site.data() == {'n': 2}


@both
@pytest.mark.parametrize('name', ['checkout', 'checkin', 'reset'])
def test_whoever_listens_to_the_pool_is_told(make_quick, name):
    """T0: of each connection, as of the application's own."""
    site = make_quick(**SINGLE)
    browser = site.browser()
    browser.get('/count')
    told = []
    sa.event.listen(site.engine.pool, name, lambda *_, **__: told.append(1))
    browser.get('/show')
    assert len(told) == 1
    browser.get('/count')
    assert len(told) == 3


@both
def test_whoever_pings_is_asked_to(make_quick, monkeypatch):
    """T0: ``pool_pre_ping`` of the application's engine counts."""
    site = make_quick(pool_pre_ping=True, **SINGLE)
    browser = site.browser()
    browser.get('/count')
    pings = []
    monkeypatch.setattr(
        site.engine.dialect, '_do_ping_w_event',
        lambda connection: pings.append(1) or True,
    )
    browser.get('/show')
    assert pings == [1]


def count_sessions(request):
    """Ask the store, before anything has a connection."""
    return request.session_store.count()


@both
def test_the_store_has_a_connection_asked_once(make_quick, monkeypatch):
    """D1: where the pool asks the server, nobody else does."""
    site = make_quick(pool_pre_ping=True, **SINGLE)
    site.views['count_sessions'] = count_sessions
    site.browser().get('/count')
    pings = []
    monkeypatch.setattr(
        site.engine.dialect, '_do_ping_w_event',
        lambda connection: pings.append(1) or True,
    )
    assert site.browser().get('/count_sessions').text == '1'
    assert pings == [1]


@both
@pytest.mark.parametrize('event', ['connect', 'checkout'])
def test_the_store_takes_one_connection(make_quick, event):
    """T1: and whoever makes or watches them is called once."""
    pool = sa.NullPool if event == 'connect' else sa.QueuePool
    site = make_quick(poolclass=pool)
    site.views['count_sessions'] = count_sessions
    site.browser().get('/count')
    told = []
    sa.event.listen(site.engine.pool, event, lambda *_: told.append(1))
    assert site.browser().get('/count_sessions').text == '1'
    assert told == [1]


@pytest.mark.parametrize('database', ['sqlite'], indirect=True)
def test_the_store_leaves_the_only_connection_to_who_has_it(make_quick):
    """T0: of a database in memory, whose connection all share."""
    site = make_quick(poolclass=sa.pool.SingletonThreadPool)

    @site.view
    def audit(request):
        with site.engine.connect() as connection:
            count = request.session_store.count()
            return connection.scalar(sa.text('SELECT 1')) + count

    assert site.browser().get('/audit').text == '1'


@both
def test_a_log_of_the_pool(make_quick, caplog):
    """T0: ``echo_pool`` shows the session's connections too."""
    site = make_quick(echo_pool='debug', **SINGLE)
    browser = site.browser()
    browser.get('/count')
    with caplog.at_level(logging.DEBUG, 'sqlalchemy.pool'):
        browser.get('/show')
    assert 'checked out from pool' in caplog.text


@both
def test_old_connections_are_replaced(make_quick):
    """T0: ``pool_recycle`` of the application's engine counts."""
    site = make_quick(pool_recycle=0, **SINGLE)
    browser = site.browser()
    browser.get('/count')
    made = []
    sa.event.listen(site.engine.pool, 'connect', lambda *_: made.append(1))
    browser.get('/show')
    assert made == [1]


@both
@pytest.mark.parametrize('pool', [sa.NullPool, sa.pool.AssertionPool])
def test_other_pools(make_quick, pool):
    """T0: a pool of another kind works as it says."""
    site = make_quick(poolclass=pool)
    browser = site.browser()
    browser.get('/count')
    assert browser.get('/show').text == '1'


@both
def test_a_touch_for_which_no_connection_is_left(make_quick, caplog):
    """E2, T0: the page is answered; that its touch was left out is logged."""
    site = make_quick(poolclass=sa.pool.AssertionPool)
    browser = site.browser()
    browser.get('/count')
    (before,) = site.rows()
    held = []

    @site.view
    def export(request):
        number = request.session['n']
        held.append(site.engine.connect())
        return str(number)

    site.clock.advance(hours=1)
    assert browser.get('/export').text == '1'
    held.pop().close()
    assert site.rows() == [before]
    assert 'the expiry was not extended' in caplog.text
    browser.get('/show')
    assert site.rows() != [before]


class Guarded(sa.QueuePool):
    """A pool of the application's own, that has a say in each connection."""

    asked = 0

    def connect(self):
        self.asked += 1
        return super().connect()


@both
def test_a_pool_of_the_applications_own(make_quick):
    """T0: what its class does to a connection is done for sessions, too."""
    site = make_quick(poolclass=Guarded)
    browser = site.browser()
    browser.get('/count')
    pool = site.engine.pool
    before = pool.asked
    assert browser.get('/show').text == '1'
    assert pool.asked == before + 1


@postgresql
def test_a_server_that_is_away_costs_no_place(make_quick, monkeypatch):
    """D1: a place in the pool that could not connect is free again."""
    site = make_quick(**SINGLE)
    browser = site.browser()
    browser.get('/count')
    site.execute(TERMINATE)
    refused = []

    def refuse(*args, **options):
        refused.append(1)
        raise site.engine.dialect.loaded_dbapi.OperationalError('refused')

    with monkeypatch.context() as away:
        # No event: who listens to the engine has the long way taken.
        away.setattr(site.engine.dialect, 'connect', refuse)
        for path in ('/show', '/count', '/show'):
            site.browser(like=browser).get(path, status=503)
    assert refused
    assert browser.get('/show').text == '1'
    assert site.engine.pool.checkedout() == 0


@both
def test_an_engine_that_is_disposed_of_meanwhile(make_quick):
    """T0: ``dispose()`` between a read and a write makes no difference."""
    site = make_quick(**SINGLE)
    browser = site.browser()
    browser.get('/count')

    @site.view
    def dispose(request):
        request.session['n'] += 1
        site.engine.dispose()

    browser.get('/dispose')
    assert browser.get('/show').text == '2'
    assert site.engine.pool.checkedin() == 1


class Boom(Exception):
    """What a listener raises."""


def explode(*args):
    """Fail, whatever is asked."""
    raise Boom


@postgresql
@pytest.mark.parametrize('name', ['invalidate', 'close'])
@pytest.mark.parametrize('path', ['/show', '/count'])
def test_a_listener_that_fails_costs_no_place(make_quick, name, path):
    """D1: an error while a lost connection is let go leaves its place."""
    site = make_quick(**SINGLE)
    browser = site.browser()
    browser.get('/count')
    site.execute(TERMINATE)
    sa.event.listen(site.engine.pool, name, explode)
    with contextlib.suppress(Boom):
        site.browser(like=browser).get(path, expect_errors=True)
    sa.event.remove(site.engine.pool, name, explode)
    assert site.engine.pool.checkedout() == 0
    assert browser.get('/show').text == '1'


@both
def test_a_listener_that_fails_at_a_recycling(make_quick):
    """D1: the same while a connection that is too old is let go."""
    site = make_quick(pool_recycle=0, **SINGLE)
    browser = site.browser()
    browser.get('/count')
    sa.event.listen(site.engine.pool, 'close', explode)
    with contextlib.suppress(Boom):
        site.browser(like=browser).get('/show', expect_errors=True)
    sa.event.remove(site.engine.pool, 'close', explode)
    assert site.engine.pool.checkedout() == 0
    assert browser.get('/show').text == '1'


@both
@pytest.mark.parametrize('pre_ping', [False, True])
def test_what_is_dropped_is_given_back(make_quick, pre_ping):
    """D1: what an exception from outside has dropped leaves no place taken."""
    # A signal's, say, finds a connection that nobody has in hand.
    site = make_quick(pool_pre_ping=pre_ping, **SINGLE)
    for _ in range(2):
        dropped = pooling.lease(site.engine)
        assert site.engine.pool.checkedout() == 1
        del dropped
        assert site.engine.pool.checkedout() == 0


@both
@pytest.mark.parametrize('pre_ping', [False, True])
@pytest.mark.parametrize(
    'back', ['give_back', 'give_back_reset', 'give_back_lost']
)
def test_what_is_given_back_is_in_no_transaction(make_quick, back, pre_ping):
    """T0: in each of the ways; and only once."""
    site = make_quick(pool_pre_ping=pre_ping, **SINGLE)
    site.browser().get('/count')
    lease = pooling.lease(site.engine)
    if back != 'give_back':
        lease.dbapi_connection.execute('DELETE FROM sessions')
    getattr(lease, back)()
    # Whoever is still holding it holds nothing.
    assert site.engine.pool.checkedin() == 1
    del lease
    assert site.engine.pool.checkedin() == 1
    # The next one who commits commits nothing of it.
    with site.engine.begin() as connection:
        connection.execute(sa.text('SELECT 1'))
    assert site.data() == {'n': 1}


@both
def test_a_rollback_that_is_interrupted(make_quick, monkeypatch):
    """D1: what interrupts it goes on, and the place is free."""
    site = make_quick(**SINGLE)
    lease = pooling.lease(site.engine)

    def interrupt(connection):
        raise KeyboardInterrupt

    class Interrupted:
        rollback = interrupt

        def __getattr__(self, name):
            return getattr(connection, name)

    connection = lease._held.dbapi_connection
    lease._held.dbapi_connection = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        lease.give_back_reset()
    assert site.engine.pool.checkedout() == 0
    with site.engine.connect() as fresh:
        assert fresh.scalar(sa.text('SELECT 1')) == 1


@postgresql
def test_a_look_at_a_connection_that_fails(make_quick, monkeypatch):
    """D1: whatever fails before a write, its place is free again."""
    site = make_quick(**SINGLE)
    browser = site.browser()
    browser.get('/count')
    with monkeypatch.context() as odd:
        odd.setattr(shortcut, 'is_closed_by_server', explode)
        with contextlib.suppress(Boom):
            site.browser(like=browser).get('/count', expect_errors=True)
    assert site.engine.pool.checkedout() == 0
    assert browser.get('/show').text == '1'
