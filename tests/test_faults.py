"""Databases and processes that go away, the cheap cases (D1).

``make faults`` runs them all, and ``make soak`` for an hour.
"""

import os
import subprocess
import sys

import pytest

from .faults import cases
from .faults import cluster
from .faults import failover
from .faults import processes
from .faults import sabotage
from .faults import servers
from .faults.load import Wsgi
from .faults.site import POOL_SIZE
from .faults.site import Site
from .services import pgrepl
from .services.common import ServerMissing

pytestmark = pytest.mark.slow


def _made(kind):
    try:
        return kind()
    except ServerMissing as error:
        if os.environ.get('REQUIRE') == 'all':
            pytest.fail(f'{error} (REQUIRE=all)', pytrace=False)
        pytest.skip(str(error))


def test_every_guard_can_be_removed():
    """A guard that got another name would be removed in vain."""
    done = subprocess.run(
        [sys.executable, '-c',
         'from tests.faults.sabotage import GUARDS\n'
         'for remove in GUARDS.values(): remove()'],
        capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope='module', params=(servers.PostgreSQL, servers.MariaDB))
def server(request):
    """A server of these tests alone: that of the others is not restarted."""
    with _made(request.param) as server:
        yield server


@pytest.fixture
def site(server):
    """The application, with a pool that is full of connections."""
    site = Site(server.url)
    site.create_tables()
    connections = [site.engine.connect() for _ in range(POOL_SIZE)]
    for connection in connections:
        connection.close()
    yield site
    site.close()


@pytest.fixture
def browser(site):
    """``browser('/look')`` is the status; it has a session."""
    client = Wsgi(site.app)
    status, cookie = client.get('/note?key=first', None)
    assert (status, bool(cookie)) == (200, True)
    return lambda path: client.get(path, cookie)[0]


@pytest.mark.parametrize('word', ['look', 'note', 'buy'])
def test_lost_connections_of_the_pool_cost_no_request(
    server, site, browser, word
):
    """D1: stale pooled connections are replaced on read without an error."""
    server.cut()

    statuses = [
        browser(f'/{word}?key={word}{n}') for n in range(POOL_SIZE + 1)
    ]

    assert statuses == [200] * (POOL_SIZE + 1)


def test_database_down_is_503_only_for_those_who_need_the_session(
    server, site, browser
):
    """D1: down, a view without the session answers 200, others 503."""
    server.halt()
    try:
        down = [
            browser(f'/{word}?key=down')
            for word in ('plain', 'look', 'note', 'buy')
        ]
    finally:
        server.launch()

    assert down == [200, 503, 503, 503]
    up = [browser(f'/{word}?key={word}') for word in ('look', 'note', 'buy')]
    assert up == [200, 200, 200]
    noted, bought = site.stored()
    assert 'down' not in noted | bought
    assert noted >= {'note', 'buy'}
    assert 'buy' in bought


def test_connections_killed_under_load_lose_nothing(server):
    """D1, T1: what was acknowledged is there, nothing by half, no leak."""
    result = cases.run(
        server, lambda server: servers.cut(server, times=2), settle=40
    )

    assert result.is_good, result
    assert result.answered >= 80


@pytest.mark.parametrize('server', [servers.PostgreSQL], indirect=True)
def test_sigterm_in_a_batch_of_the_cleaner_ends_the_process(server):
    """E3: it ends within two seconds, and leaves no half of a batch."""
    result = processes.sigterm('waitress', processes.WAITRESS)

    assert result.is_good, result


# -- beyond one machine -------------------------------------------------------


def lose_primary():
    """Return the ``Result`` of a failover under load, on a new pair."""
    with _made(failover.Pair) as pair:
        return cases.run(pair, failover.fail_over, settle=100)


def lose_node():
    """Return the ``Result`` of a node that is killed, on a new cluster."""
    _made(cluster.TempGalera)
    return cluster.run('killed', cluster.kill, True, settle=100)


def test_a_failover_loses_nothing():
    """T1, C4: the standby has all that was acknowledged, nothing by half."""
    # Who has logged out is logged out there.
    result = lose_primary()

    assert result.is_good, result
    assert result.refused, 'nothing met the failover'


def test_a_failover_that_loses_is_noticed(monkeypatch):
    """The case above fails where COMMIT does not wait for the standby."""
    monkeypatch.setitem(pgrepl.SETTINGS, 'synchronous_commit', 'local')

    assert lose_primary().lost


def test_a_node_of_a_cluster_that_dies_costs_what_it_was_at():
    """C7, D1, E3: nothing is lost, halved or revived; the cleaner goes on."""
    # Two processes on three nodes; that on another node refuses nothing.
    result = lose_node()

    assert result.is_good, result


def test_a_cluster_without_the_guard_is_noticed(monkeypatch):
    """C1: the case above fails where a write does not ask for the version."""
    monkeypatch.setenv(sabotage.VARIABLE, 'no-version-guard')

    assert lose_node().lost
