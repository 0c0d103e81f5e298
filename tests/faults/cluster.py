"""A Galera cluster of three nodes that loses some, under two web processes.

Each process has a node of its own in front of its list and goes to another
one when that is gone (docs/examples/galera_engine.py).
"""

import contextlib
import datetime as dt
import tempfile
import time
from types import SimpleNamespace
import uuid

import sqlalchemy as sa

from ..services.galera import TempGalera
from ..services.mariatemp import NO_TLS
from .cases import judge
from .load import Http
from .load import Load
from .load import Spread
from .processes import WAITRESS
from .processes import Web
from .site import Site

EXPIRED = 1500
#: Requests that a process works at, at a time (waitress).
THREADS = 4

#: What the docs advise: a node that hangs is given up (this cluster goes on
#: without it after 2 s, not 6), and a node answers only when it has applied
#: what was committed before.
OPTIONS = (
    '?charset=utf8mb4&connect_timeout=2&read_timeout=5&write_timeout=5'
    f'&init_command=SET+SESSION+wsrep_sync_wait%3D3&{NO_TLS}'
)


class Process(Web):
    """A web process that prefers one of the nodes."""

    def __init__(self, cluster, folder, preferred):
        target = SimpleNamespace(url=f'mysql+pymysql://root@/test{OPTIONS}')
        super().__init__(target, folder, WAITRESS)
        nodes = [*cluster.nodes[preferred:], *cluster.nodes[:preferred]]
        self._environment['FAULTS_NODES'] = ' '.join(
            f'127.0.0.1:{node.port}' for node in nodes
        )


def kill(cluster):
    """A node dies, and joins again."""
    cluster.kill(0)
    time.sleep(2)
    cluster.rejoin(0)
    cluster.wait_for_all()


def split(cluster):
    """A node loses the others, not its clients, and finds them again."""
    cluster.split_off(0)
    time.sleep(2)
    cluster.reunite(0)


def pause(cluster):
    """A node answers nobody, for longer than its clients wait."""
    cluster.pause(0)
    time.sleep(7)
    cluster.resume(0)
    cluster.wait_for_all()


def lose_quorum(cluster):
    """Two of three die; the third is told to go on alone."""
    cluster.kill(1)
    cluster.kill(2)
    time.sleep(3)
    cluster.bootstrap(0)
    cluster.rejoin(1)
    cluster.rejoin(2)
    cluster.wait_for_all()


#: Name: the fault, and whether only the process on node 0 may refuse.
FAULTS = {
    'node killed, rejoined': (kill, True),
    'node split off, reunited': (split, True),
    'node paused 7 s': (pause, True),
    'quorum lost, bootstrapped': (lose_quorum, False),
}


def cases():
    """Yield (name, function that returns a Result)."""
    for word in FAULTS:
        name = f'galera/{word}'
        yield name, lambda word=word, name=name: run(name, *FAULTS[word])


def run(name, fault, is_of_one, *, settle=200):
    """Return the ``Result`` of *fault*, a function of the cluster.

    :param is_of_one: only the process that prefers node 0 may refuse.
    """
    with _cluster() as (cluster, site, folders):
        with (
            Process(cluster, folders[0], 0) as first,
            Process(cluster, folders[1], 1) as second,
        ):
            processes = first, second
            client = Spread([Http(process.url) for process in processes])
            load = Load(client)
            with load:
                load.wait_for(settle)
                add_expired(site, EXPIRED)
                before = load.plain[200]
                fault(cluster)
                during = load.plain[200] - before
                load.wait_for(settle)
            _wait_until_clean(site)
            states = [process.state() for process in processes]
        result = _judge(name, load, cluster, site)
        result.note = f'Galera {_version(cluster)}.'
    refused = [statuses[503] for statuses in client.statuses]
    result.remark = (
        f'refused by the process on that node {refused[0]}, by the other '
        f'one {refused[1]}; {load.logouts} logouts; longest wait '
        f'{load.slowest:.0f} s'
    )
    if is_of_one and (refused[1] or refused[0] > 2 * THREADS):
        result.wrong.append(f'more was refused than was in flight: {refused}')
    if not during:
        result.wrong.append('no view without a session was answered')
    if not all(state['cleaner'] for state in states):
        result.wrong.append(f'a process without a cleaner: {states}')
    result.leaked = sum(state['checked out'] for state in states)
    return result


@contextlib.contextmanager
def _cluster():
    """Give a cluster with the tables, a ``Site`` on it, and two folders."""
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(TempGalera(fast_failover=True))
        folders = [
            stack.enter_context(tempfile.TemporaryDirectory())
            for _ in range(2)
        ]
        site = _site(cluster, 0)
        stack.callback(site.close)
        site.create_tables()
        yield cluster, site, folders


def _site(cluster, number):
    """Return a ``Site`` on one node, to look at what that has."""
    node = cluster.nodes[number]
    return Site(
        f'mysql+pymysql://root@127.0.0.1:{node.port}/test{OPTIONS}',
        check_expiration_interval='0',
        # A node that has come back knows nothing of older connections.
        make_engine=lambda url, **_: sa.create_engine(
            url, poolclass=sa.NullPool
        ),
    )


def _judge(name, load, cluster, site):
    """Judge by the first node; all have to hold the same."""
    held = []
    for number in range(cluster.size):
        one = _site(cluster, number)
        held.append(one.stored())
        one.close()
    result = judge(name, load, *held[0])
    if any(other != held[0] for other in held[1:]):
        result.wrong.append('the nodes hold different rows')
    if left := _count_expired(site):
        result.wrong.append(f'{left} expired records are left')
    return result


def _version(cluster):
    ((_, version),) = cluster.nodes[0].query(
        "SHOW STATUS LIKE 'wsrep_provider_version'"
    )
    return f'26.{version.partition("(")[0]}'


def add_expired(site, count):
    """Put records into the site's table that have expired."""
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=2)
    fixed = {'secret_hash': bytes(32), 'version': 1, 'data': '{}'}
    # All others that have to be there are moments.
    values = {
        column.name: fixed.get(column.name, past)
        for column in site.table.c if not column.nullable
    }
    with site.engine.begin() as connection:
        connection.execute(
            site.table.insert(),
            [{**values, 'id': uuid.uuid4()} for _ in range(count)],
        )


def _count_expired(site):
    expires = site.table.c.expires
    with site.engine.connect() as connection:
        return connection.scalar(
            sa.select(sa.func.count()).select_from(site.table)
            .where(expires < dt.datetime.now(dt.UTC))
        )


def _wait_until_clean(site, timeout=60):
    # A cleaner that met the fault waits up to eight intervals, and one rests
    # ten times as long as a batch takes a cluster that catches up.
    end = time.monotonic() + timeout
    while time.monotonic() < end and _count_expired(site):
        time.sleep(0.1)
