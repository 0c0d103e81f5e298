"""A throw-away MariaDB Galera cluster on 127.0.0.1, as root or not.

    with TempGalera(fast_failover=True) as cluster:
        engines = [create_engine(url) for url in cluster.urls]
        cluster.kill(2)
        cluster.rejoin(2)

Nodes are counted from 0, as ``urls`` is.  ``python -m tests.services.galera
60`` runs one for a minute.
"""

import contextlib
import os
from pathlib import Path
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import uuid

from .common import find_program
from .common import free_ports
from .common import give_to
from .common import PATH
from .common import run
from .common import ServerFailed
from .common import ServerMissing
from .common import spawn
from .common import stop_process
from .common import tail
from .common import Temporary
from .common import unprivileged
from .mariatemp import NO_TLS

PROVIDERS = [
    '/usr/lib/galera/libgalera_smm.so',
    '/usr/lib/galera/libgalera_enterprise_smm.so',
    '/usr/lib64/galera-4/libgalera_smm.so',
    '/usr/lib/libgalera_smm.so',
]

# A dead node is noticed after suspect_timeout, 5 s by default; these make it
# about two seconds on loopback.  With one second, or with a shorter
# evs.join_retrans_period or evs.install_timeout, a node that had been paused
# and came back sometimes left the whole cluster without a primary component
# for a moment, and a busy machine did so, too.
FAST_FAILOVER = {
    'evs.keepalive_period': 'PT0.2S',
    'evs.inactive_check_period': 'PT0.2S',
    'evs.suspect_timeout': 'PT2S',
}

# A machine may stand still for some seconds.  Where no node is to die, none is
# to be taken for dead: its clients would be refused (1047).
PATIENT = {
    **FAST_FAILOVER,
    'evs.suspect_timeout': 'PT30S',
    'evs.inactive_timeout': 'PT60S',
    'gmcast.peer_timeout': 'PT30S',
}

# wsrep_ready is ON before the node is Synced, and a node that lost its
# quorum may be Synced: all of them count.
STATUS = (
    "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_local_state_comment',"
    "'wsrep_cluster_size','wsrep_cluster_status','wsrep_ready',"
    "'wsrep_last_committed')"
)


def find_binaries():
    """Return the programs of a node and the provider, or None."""
    server = find_program('mariadbd')
    install = find_program('mariadb-install-db')
    provider = next((p for p in PROVIDERS if Path(p).exists()), None)
    rsync = find_program('rsync')
    if server and install and provider and rsync:
        return server, install, provider
    return None


class Node:
    """One member: its folder, its four ports and its process."""

    def __init__(self, number, folder, ports, identity):
        self.number = number
        self.folder = Path(folder, f'n{number}')
        # SQL, group communication, incremental and full state transfer.
        self.port, self.group_port, self.ist_port, self.sst_port = ports
        self.process = None
        self.temporary = self.folder / 'tmp'
        for path in (self.folder, self.temporary):
            path.mkdir()
            give_to(path, identity)

    @property
    def data(self):
        return self.folder / 'data'

    @property
    def log(self):
        return self.folder / 'log.err'

    @property
    def alive(self):
        return self.process is not None and self.process.poll() is None

    def query(self, statement):
        """Run one statement as root; return its rows."""
        import pymysql

        connection = pymysql.connect(
            host='127.0.0.1',
            port=self.port,
            user='root',
            autocommit=True,
            connect_timeout=2,
            read_timeout=20,
            ssl_disabled=True,
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()


class TempGalera(Temporary):
    """A cluster with an empty database ``test`` on every node.

    Without *fast_failover* no node is given up for half a minute.
    """

    def __init__(self, size=3, fast_failover=False):
        binaries = find_binaries()
        if not binaries:
            raise ServerMissing(
                'no Galera (Debian: apt install mariadb-server galera-4 rsync)'
            )
        self.server, self.install, self.provider = binaries
        self.size = size
        self.failover = FAST_FAILOVER if fast_failover else PATIENT
        # As root too: the receiving rsync of a state transfer drops root by
        # itself and could then not write into root's data folder.
        self.identity = unprivileged('mysql')
        self.folder = None
        self.nodes = []

    @property
    def url(self):
        """The first node's."""
        return self.urls[0]

    @property
    def urls(self):
        return [
            f'mysql+pymysql://root@127.0.0.1:{node.port}/test'
            f'?charset=utf8mb4&{NO_TLS}'
            for node in self.nodes
        ]

    # ------------------------------------------------------------- start, stop

    def start(self):
        """Start all nodes at once, on copies of one data folder.

        A new node would need a full state transfer (10 s for three).
        Instead the copies claim to be a cluster that lost power: each gets
        the same last view (gvwstate.dat), ``pc.recovery`` re-forms it, and
        as all hold the same position nobody has to transfer anything.
        """
        self.folder = tempfile.mkdtemp(prefix='galera-')
        give_to(self.folder, self.identity)
        ports = free_ports(4 * self.size)
        self.nodes = [
            Node(n, self.folder, ports[4 * n : 4 * n + 4], self.identity)
            for n in range(self.size)
        ]
        for node in self.nodes:
            self._configure(node)
        first = self.nodes[0]
        run(
            [
                self.install,
                '--no-defaults',
                f'--datadir={first.data}',
                # A server that starts deletes all temporary tables there.
                f'--tmpdir={first.temporary}',
                '--auth-root-authentication-method=normal',
                '--skip-test-db',
                '--skip-name-resolve',
                '--innodb-flush-method=nosync',
                '--innodb-log-file-size=8M',
            ],
            **self.identity,
        )
        self._launch(first, '--wsrep-new-cluster')
        self._wait(first)
        first.query('CREATE DATABASE test CHARACTER SET utf8mb4')
        # Orderly, so that grastate.dat and InnoDB hold the position.
        stop_process(first.process, signal.SIGTERM, timeout=30)
        for node in self.nodes[1:]:
            run(['cp', '-a', first.data, node.data])
        members = sorted(
            str(uuid.uuid1(node=random.getrandbits(47), clock_seq=n))
            for n in range(self.size)
        )
        for node, member in zip(self.nodes, members, strict=True):
            view = node.data / 'gvwstate.dat'
            view.write_text(
                f'my_uuid: {member}\n#vwbeg\n'
                f'view_id: 3 {members[0]} {self.size}\nbootstrap: 0\n'
                + ''.join(f'member: {m} 0\n' for m in members)
                + '#vwend\n'
            )
            give_to(view, self.identity)
            self._launch(node)
        self.wait_for_all()
        return self

    def stop(self):
        """End all nodes and remove everything."""
        for node in self.nodes:
            stop_process(node.process)
        for node in self.nodes:
            self._kill_state_transfer(node)
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------------ faults

    def kill(self, number):
        """End a node as a crash would."""
        stop_process(self.nodes[number].process)

    def pause(self, number):
        """Stop a node's process: to the others a network partition."""
        self.nodes[number].process.send_signal(signal.SIGSTOP)

    def resume(self, number):
        self.nodes[number].process.send_signal(signal.SIGCONT)

    def split_off(self, number, timeout=20):
        """Cut a node from the others, not from its clients; wait until it
        knows that it is alone.
        """
        self._isolate(number, 1)
        end = time.monotonic() + timeout
        while self.status(number)['ready'] == 'ON':
            if time.monotonic() > end:
                raise ServerFailed(f'node {number} is not alone')
            time.sleep(0.05)

    def reunite(self, number):
        """Let a node that was split off join again, and catch up."""
        self._isolate(number, 0)
        self.wait_for_all()

    def _isolate(self, number, value):
        self.nodes[number].query(
            f"SET GLOBAL wsrep_provider_options='gmcast.isolate={value}'"
        )

    def wait_for_all(self):
        """Wait until all nodes are one cluster, and up to date."""
        for node in self.nodes:
            self._wait(node, self.size)

    def rejoin(self, number, timeout=60):
        """Start a killed node again and wait until it has caught up."""
        node = self.nodes[number]
        if node.alive:
            raise ServerFailed(f'node {number} is running')
        self._wait_until_noticed()
        self._kill_state_transfer(node)
        # With InnoDB's position the node gets what it missed; without, a
        # copy of everything, as a crash leaves none in grastate.dat.
        position = self._recover_position(node)
        self._launch(
            node, *([f'--wsrep-start-position={position}'] * bool(position))
        )
        self._wait(node, timeout=timeout)

    def bootstrap(self, number):
        """Let a survivor without quorum go on alone; then rejoin others."""
        node = self.nodes[number]
        node.query("SET GLOBAL wsrep_provider_options='pc.bootstrap=YES'")
        self._wait(node)

    def status(self, number):
        """Return the node's ``wsrep_`` variables, without that prefix."""
        return {
            name.removeprefix('wsrep_'): value
            for name, value in self.nodes[number].query(STATUS)
        }

    # ---------------------------------------------------------------- internal

    def _configure(self, node):
        options = {
            'base_host': '127.0.0.1',
            'base_port': node.group_port,
            'gmcast.listen_addr': f'tcp://127.0.0.1:{node.group_port}',
            'ist.recv_addr': f'127.0.0.1:{node.ist_port}',
            'gcache.size': '16M',
            'gcache.dir': node.data,
            'pc.recovery': 'true',
            **self.failover,
        }
        provider_options = ';'.join(f'{k}={v}' for k, v in options.items())
        peers = ','.join(f'127.0.0.1:{n.group_port}' for n in self.nodes)
        settings = {
            'datadir': node.data,
            'socket': node.folder / 's',
            'pid-file': node.folder / 'pid',
            'log-error': node.log,
            'tmpdir': node.temporary,
            'port': node.port,
            'bind-address': '127.0.0.1',
            'skip-name-resolve': 1,
            'character-set-server': 'utf8mb4',
            'max-connections': 200,
            # Galera requires these four.
            'binlog-format': 'ROW',
            'default-storage-engine': 'InnoDB',
            'innodb-autoinc-lock-mode': 2,
            'wsrep-on': 'ON',
            # Nothing has to survive a power failure.
            'innodb-flush-log-at-trx-commit': 0,
            'innodb-flush-method': 'nosync',
            'innodb-log-file-size': '8M',
            'innodb-buffer-pool-size': '32M',
            'innodb-fast-shutdown': 3,
            'innodb-lock-wait-timeout': 5,
            'wsrep-provider': self.provider,
            'wsrep-cluster-name': f't{self.nodes[0].group_port}',
            'wsrep-cluster-address': f'gcomm://{peers}',
            'wsrep-node-name': f'n{node.number}',
            'wsrep-node-address': f'127.0.0.1:{node.group_port}',
            'wsrep-sst-method': 'rsync',
            'wsrep-sst-receive-address': f'127.0.0.1:{node.sst_port}',
            'wsrep-slave-threads': 2,
            'wsrep-provider-options': f'"{provider_options}"',
        }
        node.folder.joinpath('my.cnf').write_text(
            '[mariadbd]\n'
            + ''.join(f'{name}={value}\n' for name, value in settings.items())
        )

    def _command(self, node, *options):
        # The first option has to be the first.
        return [
            self.server,
            f'--defaults-file={node.folder}/my.cnf',
            *options,
        ]

    def _launch(self, node, *options):
        node.process = spawn(
            self._command(node, *options),
            node.folder / 'out',
            death_signal=signal.SIGKILL,
            # The state transfer's script finds its tools by PATH.
            env={'PATH': PATH, 'LC_ALL': 'C', 'HOME': '/nonexistent'},
            **self.identity,
        )

    def _wait(self, node, size=1, timeout=60):
        import pymysql

        end = time.monotonic() + timeout
        status = {}
        while time.monotonic() < end:
            if not node.alive:
                raise ServerFailed(
                    f'Galera node {node.number} died:\n{tail(node.log)}'
                )
            # An open port is not a ready node: it may refuse (1047).
            with contextlib.suppress(pymysql.MySQLError, OSError):
                status = self.status(node.number)
                if (
                    status['local_state_comment'] == 'Synced'
                    and status['cluster_status'] == 'Primary'
                    and status['ready'] == 'ON'
                    and int(status['cluster_size']) >= size
                ):
                    return
            time.sleep(0.05)
        raise ServerFailed(
            f'Galera node {node.number} is not ready: {status}\n'
            + tail(node.log)
        )

    def _wait_until_noticed(self, timeout=20):
        """Wait until those who live know who does not.

        One that comes back while they find out can leave all of them without
        a primary component.
        """
        import pymysql

        alive = [node.number for node in self.nodes if node.alive]
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            with contextlib.suppress(pymysql.MySQLError, OSError):
                if {
                    self.status(number)['cluster_size'] for number in alive
                } == {str(len(alive))}:
                    return
            time.sleep(0.05)
        raise ServerFailed(f'not all of the nodes {alive} see each other')

    def _recover_position(self, node):
        log = node.folder / 'recover.log'
        run(
            self._command(
                node,
                '--wsrep-recover',
                '--disable-log-error',
                f'--log-error={log}',
            ),
            **self.identity,
        )
        found = re.findall(
            r'WSREP: Recovered position: (\S+:-?\d+)',
            log.read_text(errors='replace'),
        )
        return found[-1] if found else None

    def _kill_state_transfer(self, node):
        """End the rsync that a killed node may have left behind.

        Only by the pid in our own folder, and only if that process was
        started with our folder in its command line.
        """
        file = node.data / 'rsync_sst.pid'
        with contextlib.suppress(OSError, ValueError):
            pid = int(file.read_text())
            command = Path(f'/proc/{pid}/cmdline').read_text()
            if str(self.folder) in command:
                os.kill(pid, signal.SIGKILL)
        file.unlink(missing_ok=True)


if __name__ == '__main__':
    with TempGalera() as cluster, contextlib.suppress(KeyboardInterrupt):
        print(*cluster.urls, sep='\n', flush=True)
        time.sleep(float(sys.argv[1]) if len(sys.argv) > 1 else 3600)
