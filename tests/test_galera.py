"""A session on several nodes of a Galera cluster, where locks are not shared.

``slow`` has sent all of its statements to its node and stops before its
COMMIT; what comes and goes meanwhile is on another node, which knows of no
lock.  The cluster then refuses ``slow``, with error 1213.
"""

import contextlib

import pytest
import sqlalchemy as sa

from .failing import fill_pool
from .meeting import add_note
from .meeting import drop
from .meeting import logout
from .meeting import look
from .meeting import Meeting
from .meeting import put
from .meeting import revoke
from .meeting import rotate
from .services.databases import connector
from .site import Site

pytestmark = pytest.mark.parametrize('database', ['galera'], indirect=True)


class Brink:
    """Stops the first request that is about to commit a session's UPDATE."""

    def __init__(self, site, stage):
        self._armed = False
        self._stage = stage
        self.refused = 0
        sa.event.listen(site.engine, 'before_cursor_execute', self._note)
        sa.event.listen(site.engine, 'commit', self._stop)
        sa.event.listen(site.engine, 'handle_error', self._count)

    def arm(self):
        """The next one stops."""
        self._armed = True

    def _note(self, connection, cursor, statement, *args):
        if self._armed and any(
            verb in statement
            for verb in ('UPDATE sessions', 'DELETE FROM sessions')
        ):
            connection.info['on the brink'] = True

    def _stop(self, connection):
        if self._armed and connection.info.pop('on the brink', False):
            self._armed = False
            self._stage.reach('before the COMMIT')

    def _count(self, context):
        self.refused += context.original_exception.args[0] == 1213


class TwoNodes:
    """A ``Meeting`` on each of two nodes, of which one goes to the brink."""

    def __init__(self, databases, stage, **settings):
        self._databases = databases
        self.stage = stage
        settings['additional_fields'] = 'user_id: Integer index'
        self.near = Site(databases[0], **settings)
        self.far = Site(databases[1], create=False, **settings)
        self.far.clock = self.far.application.now = self.near.clock
        self._here = Meeting(self.near, stage)
        self._there = Meeting(self.far, stage)
        self.brink = Brink(self.near, stage)

    def visitor(self, **data):
        """Return a browser with a stored session that holds *data*."""
        browser = self._here.visitor(**data)
        self.settle()
        # A touch is due.
        self.near.clock.advance(minutes=11)
        return browser

    def settle(self):
        """Wait until both nodes have what one has committed."""
        for database in self._databases:
            database.settle()

    def meet(self, one, act, meanwhile):
        """Return the response to *act*, at whose brink *meanwhile* was."""
        browser = self.near.browser(like=one)
        self.brink.arm()
        slow = self.stage.run(self._here.do, browser, act)
        self.stage.wait('before the COMMIT')
        self.do(one, meanwhile)
        self.stage.let('before the COMMIT')
        return slow.result()

    def do(self, browser, act):
        """Make a request to the far node."""
        self._there.do(self.far.browser(like=browser), act)
        self.settle()

    def data(self):
        """Return the data of the visitor's session, None if it has ended."""
        read = self.near.application.codec.read
        for row in self.near.rows():
            if row['user_id'] is not None:
                data, *_ = read(row['data'])
                del data['user_id']
                return data

    def close(self):
        """Close all connections."""
        self.near.close()
        self.far.close()


@pytest.fixture
def make_nodes(database, stage):
    """A function that makes a ``TwoNodes`` with these settings."""
    databases = database.nodes()
    with contextlib.ExitStack() as stack:

        def make(**settings):
            nodes = TwoNodes(databases, stage, **settings)
            stack.callback(nodes.close)
            return nodes

        yield make
    for one in databases:
        one.dispose()


def with_note(act):
    """Return *act* with a row of the application's own."""

    def both(request):
        add_note('a note')(request)
        return act(request)

    return both


#: What the slow one does, and the other one meanwhile, and the data that the
#: session has then: None if it has ended.
MEETINGS = {
    'other keys': (put(a=1), put(b=2), {'n': 0, 'a': 1, 'b': 2}),
    'same key': (put(n='slow'), put(n='quick'), {'n': 'slow'}),
    'write, delete': (put(a=1), drop('n'), {'a': 1}),
    # The slow one's token is dead.
    'write, rotate': (put(a=1), rotate, {'n': 0, 'login': True}),
    'write, logout': (put(a=1), logout, None),
    'write, revoke': (put(a=1), revoke, None),
    'rotate, write': (rotate, put(b=2), {'n': 0, 'b': 2, 'login': True}),
    'rotate, logout': (rotate, logout, None),
    'rotate, revoke': (rotate, revoke, None),
    'logout, write': (logout, put(b=2), None),
    'logout, rotate': (logout, rotate, {'n': 0, 'login': True}),
    'logout, logout': (logout, logout, None),
}


#: A revocation is the application's, in its transaction.
WITH_ROWS = {**MEETINGS, 'revoke, write': (revoke, put(b=2), None)}


@pytest.mark.parametrize('case', WITH_ROWS)
def test_a_refused_transaction_is_repeated(make_nodes, case):
    """C1 to C5, T5: with pyramid_retry nothing is lost, doubled or revived."""
    act, meanwhile, expected = WITH_ROWS[case]
    nodes = make_nodes(retry=True)
    one = nodes.visitor(n=0)
    nodes.meet(one, with_note(act), meanwhile)
    assert nodes.brink.refused == 1
    assert nodes.data() == expected
    assert nodes.near.notes() == ['a note']


@pytest.mark.parametrize('case', WITH_ROWS)
def test_a_refused_transaction_leaves_nothing(make_nodes, case):
    """T1, T4: without pyramid_retry neither row nor session is stored."""
    # What the other one did is.
    act, meanwhile, _ = WITH_ROWS[case]
    nodes = make_nodes()
    one = nodes.visitor(n=0)
    with pytest.raises(sa.exc.OperationalError, match='1213'):
        nodes.meet(one, with_note(act), meanwhile)
    left = nodes.data()
    nodes.near.execute('DELETE FROM sessions WHERE user_id IS NOT NULL')
    nodes.settle()
    nodes.do(nodes.visitor(n=0), meanwhile)
    assert left == nodes.data()
    assert nodes.near.notes() == []


@pytest.mark.parametrize('case', MEETINGS)
def test_a_session_alone_needs_no_pyramid_retry(make_nodes, case):
    """C1 to C5, T3: out of the application's transaction it is repeated."""
    act, meanwhile, expected = MEETINGS[case]
    nodes = make_nodes()
    one = nodes.visitor(n=0)
    nodes.meet(one, act, meanwhile)
    assert nodes.brink.refused == 1
    assert nodes.data() == expected


@pytest.mark.parametrize('rows', [False, True])
@pytest.mark.parametrize(('meanwhile', 'expected'), [
    (look, {'n': 0}), (put(b=2), {'n': 0, 'b': 2}), (logout, None),
])
def test_a_refused_touch_is_silent(
    make_nodes, caplog, rows, meanwhile, expected
):
    """E2, T3: the other one has extended the session, or ended it."""
    nodes = make_nodes()
    one = nodes.visitor(n=0)
    caplog.clear()
    act = with_note(look) if rows else look
    assert nodes.meet(one, act, meanwhile).text == "{'n': 0, 'user_id': 7}"
    assert nodes.brink.refused == 1
    assert nodes.data() == expected
    for row in nodes.near.rows():
        assert row['accessed'] == nodes.near.clock()
    assert nodes.near.notes() == ['a note'] * rows
    assert caplog.records == []


@pytest.mark.parametrize('act', [look, put(a=1)])
def test_a_renewal_that_meets_another(make_nodes, act):
    """C5: one token replaces the old one, which is served within its grace."""
    nodes = make_nodes(renewal_interval='10m')
    one = nodes.visitor(n=0)
    response = nodes.meet(one, act, look)
    assert nodes.brink.refused == 1
    assert 'Set-Cookie' not in response.headers
    (row,) = nodes.near.rows()
    assert row['rotated'] == nodes.near.clock()
    nodes.do(one, put(b=2))
    expected = {'n': 0, 'b': 2} if act is look else {'n': 0, 'a': 1, 'b': 2}
    assert nodes.data() == expected


def test_two_cleaners_that_meet(make_nodes, caplog):
    """E3: who was refused goes on where the other one has ended."""
    nodes = make_nodes(check_expiration_interval='1d')
    for _ in range(3):
        nodes.visitor()
    nodes.near.clock.advance(days=2)
    caplog.clear()
    nodes.brink.arm()
    slow = nodes.stage.run(nodes.near.application.cleaner.clean)
    nodes.stage.wait('before the COMMIT')
    assert nodes.far.application.cleaner.clean() == 3
    nodes.settle()
    nodes.stage.let('before the COMMIT')
    assert slow.result() == 0
    assert nodes.brink.refused == 1
    assert nodes.near.rows() == []
    assert caplog.records == []


def test_a_revocation_reaches_a_login_on_another_node(make_nodes):
    """C4: one that was answered before, however short before."""
    # Each at once: nodes that do not wait for each other would miss some.
    nodes = make_nodes()
    # A long one takes longer to the other node.
    nodes.near.views['login'] = put(user_id=7, pad='x' * 60_000)
    nodes.far.views['revoke'] = revoke
    for _ in range(150):
        nodes.near.browser().get('/login')
        assert nodes.far.browser().get('/revoke').text == '1'


# -- a node that is apart ----------------------------------------------------


@pytest.fixture
def apart(database):
    """A function that has so many of the nodes refuse queries (1047)."""
    with contextlib.ExitStack() as stack:
        connections = []
        for node in database.nodes():
            stack.callback(node.dispose)
            connections.append(
                stack.enter_context(node.create_engine().connect())
            )

        def refuse(count):
            for number, connection in enumerate(connections):
                word = 'ALL' if number < count else 'NONE'
                connection.exec_driver_sql(
                    f"SET GLOBAL wsrep_reject_queries = '{word}'"
                )

        yield refuse
        refuse(0)


@pytest.fixture
def make_away(make_site):
    """A function that makes a site with an engine of these options."""

    def make(**options):
        site = make_site(engine_options=options)
        site.views.update(
            put=put(n=1), look=look, without=lambda request: 'ok'
        )
        return site

    return make


@pytest.mark.parametrize('pooled', [1, 4])
@pytest.mark.parametrize('view', ['look', 'put'])
def test_a_node_that_is_apart_costs_no_request(
    make_away, database, apart, view, pooled
):
    """D1: each connection to a node that answers 1047 is replaced."""
    # However many of them are in the pool.
    first, *_, last = database.ports
    ports = iter([*[first] * pooled, *[last] * 20])
    site = make_away(creator=connector(database.url, ports))
    fill_pool(site.engine, pooled)
    browser = site.browser()
    browser.get('/put')
    site.clock.advance(minutes=11)
    database.settle()
    apart(1)
    for _ in range(pooled):
        assert browser.get(f'/{view}').status_code == 200
    apart(0)
    assert site.data() == {'n': 1}


def test_all_nodes_are_apart(make_away, apart):
    """D1, T1: 503 for who needs the session, and it is there afterwards."""
    browser = make_away().browser()
    browser.get('/put')
    apart(3)
    assert browser.get('/without').text == 'ok'
    for view in ('look', 'put'):
        answer = browser.get(f'/{view}', status=503)
        assert 'Set-Cookie' not in answer.headers
    apart(0)
    assert browser.get('/look').text == "{'n': 1}"
