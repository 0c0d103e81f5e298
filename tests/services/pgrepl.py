"""A throw-away PostgreSQL primary with a synchronous standby on 127.0.0.1.

    with TempPair() as pair:
        engine = create_engine(pair.url)     # whichever of both is writable
        pair.kill_primary()
        pair.promote()
        pair.rebuild()                       # a standby again

``python -m tests.services.pgrepl 60`` runs one for a minute.
"""

import contextlib
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

from .common import find_program
from .common import launch_somewhere
from .common import run
from .common import ServerFailed
from .common import tail
from .common import Temporary
from .pgtemp import TempPostgres

SETTINGS = {
    'hot_standby': 'on',
    'max_wal_senders': '8',
    # COMMIT returns when the standby shows what was committed.
    'synchronous_commit': 'remote_apply',
    # For a standby that is made while others write.
    'wal_keep_size': '64MB',
    'wal_level': 'replica',
    'wal_receiver_timeout': '3s',
    'wal_retrieve_retry_interval': '100ms',
    'wal_sender_timeout': '3s',
}

_STREAMING = (
    "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' "
    "AND application_name = '{}'"
)
_SYNCHRONOUS = (
    'SELECT count(*) FROM pg_stat_replication '
    "WHERE sync_state IN ('sync', 'quorum')"
)


class _Server(TempPostgres):
    """One of both; ``name`` is what the other one knows it by."""

    def __init__(self, name, dbname):
        super().__init__(dbname, **SETTINGS, cluster_name=name)
        self.name = name

    def follow(self, primary, port=None):
        """Start as a copy of *primary* that follows it."""
        self._make_folder()
        run(
            [
                f'{self.binaries}/pg_basebackup',
                *('-D', f'{self.folder}/data', '-h', '127.0.0.1'),
                *('-p', primary.port, '-U', 'postgres'),
                # -R: it shall be a standby; -N: and need not be on disk.
                *('-R', '-X', 'stream', '-c', 'fast', '-N'),
            ],
            **self._environment(),
        )
        # The copy has the primary's; it waits for nobody.
        with open(f'{self.folder}/data/postgresql.auto.conf', 'a') as file:
            file.write("synchronous_standby_names = ''\n")
        if port:
            self.port = port
            self.launch()
        else:
            launch_somewhere(self)
        _wait_for(
            primary, _STREAMING.format(self.name),
            lambda: 'does not stream:\n' + tail(f'{self.folder}/log'),
        )

    def destroy(self):
        """End all its processes at once, as if the machine had gone."""
        pids = [self.process.pid, *self._children()]
        memory = self._shared_memory()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        # Its 56 bytes would stay until the next boot.
        if remove := find_program('ipcrm'):
            subprocess.run([remove, '-m', memory], check=False)

    def _children(self):
        tasks = Path(f'/proc/{self.process.pid}/task').iterdir()
        return [
            int(pid) for task in tasks
            for pid in (task / 'children').read_text().split()
        ]

    def _shared_memory(self):
        lines = Path(self.folder, 'data/postmaster.pid').read_text()
        _, number = lines.splitlines()[6].split()
        return number


class TempPair(Temporary):
    """A primary and a standby that has what the primary acknowledges."""

    def __init__(self, dbname='test'):
        self.dbname = dbname
        self.primary = _Server('server1', dbname)
        self.standby = _Server('server2', dbname)

    @property
    def url(self):
        """Both, of which libpq takes the one that can be written to."""
        first, second = sorted(
            (self.primary, self.standby), key=lambda server: server.name
        )
        return (
            f'postgresql+psycopg://postgres@/{self.dbname}'
            f'?host=127.0.0.1:{first.port}&host=127.0.0.1:{second.port}'
            '&target_session_attrs=read-write&connect_timeout=3'
        )

    def start(self):
        """Start both; return when the standby is synchronous."""
        self.primary.start()
        self.standby.follow(self.primary)
        self.synchronize()
        return self

    def synchronize(self, *, with_standby=True):
        """Have each COMMIT wait for the standby from now on, or not."""
        # Not before it is there: all would wait for it, set-up too.
        name = self.standby.name if with_standby else ''
        self.primary.execute(
            f"ALTER SYSTEM SET synchronous_standby_names = '{name}'"
        )
        self.primary.execute('SELECT pg_reload_conf()')
        if with_standby:
            _wait_for(
                self.primary, _SYNCHRONOUS,
                lambda: f'{name} is not synchronous',
            )

    def hold_back(self):
        """Send nothing more to the standby, as a slow line would."""
        ((pid,),) = self.primary.execute('SELECT pid FROM pg_stat_replication')
        os.kill(pid, signal.SIGSTOP)

    def kill_primary(self):
        """End the primary as if its machine had gone."""
        self.primary.destroy()

    def promote(self):
        """Let the standby take writes; they change their names."""
        self.standby.execute('SELECT pg_promote()')
        self.primary, self.standby = self.standby, self.primary

    def rebuild(self):
        """Start the one that is down as a standby, on its port."""
        port = self.standby.port
        self.standby.stop()
        self.standby.follow(self.primary, port)
        self.synchronize()

    def stop(self):
        """End both and remove everything."""
        for server in (self.primary, self.standby):
            server.stop()


def _wait_for(server, query, problem, timeout=10):
    end = time.monotonic() + timeout
    while not server.execute(query)[0][0]:
        if time.monotonic() > end:
            raise ServerFailed(problem())
        time.sleep(0.01)


if __name__ == '__main__':
    with TempPair() as pair, contextlib.suppress(KeyboardInterrupt):
        print(pair.url, flush=True)
        time.sleep(float(sys.argv[1]) if len(sys.argv) > 1 else 3600)
