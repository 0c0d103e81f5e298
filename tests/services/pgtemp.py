"""A throw-away PostgreSQL on a free port of 127.0.0.1, as root or not.

    with TempPostgres() as server:
        create_engine(server.url)

``python -m tests.services.pgtemp 60`` runs one for a minute.
"""

import contextlib
import glob
import os
from pathlib import Path
import re
import shutil
import signal
import sys
import tempfile
import time

from .common import find_program
from .common import give_to
from .common import launch_somewhere
from .common import run
from .common import ServerFailed
from .common import ServerMissing
from .common import spawn
from .common import stop_process
from .common import tail
from .common import Temporary
from .common import unprivileged

# Nothing here has to survive a power failure, so nothing waits for the disk.
SETTINGS = {
    'autovacuum': 'off',
    'checkpoint_timeout': '1h',
    # In the data folder, so that `kill -9` leaves nothing in shared memory.
    'dynamic_shared_memory_type': 'mmap',
    'fsync': 'off',
    'full_page_writes': 'off',
    'jit': 'off',
    'listen_addresses': '127.0.0.1',
    'log_min_messages': 'warning',
    'max_connections': '200',
    'max_wal_senders': '0',
    'shared_buffers': '32MB',
    'synchronous_commit': 'off',
    'timezone': 'UTC',
    # Their paths are limited to 107 bytes, and the folder may be deeper.
    'unix_socket_directories': '',
    'wal_level': 'minimal',
}


def find_binaries():
    """Return the folder of the newest server, or None.

    ``PGBIN`` comes first; Debian keeps the servers out of PATH.
    """

    def version(folder):
        return [int(n) for n in re.findall(r'\d+', folder)]

    debian = sorted(glob.glob('/usr/lib/postgresql/*/bin'), key=version)
    candidates = [os.environ.get('PGBIN'), *reversed(debian)]
    if initdb := find_program('initdb'):
        candidates.append(os.path.dirname(os.path.realpath(initdb)))
    for folder in filter(None, candidates):
        if all(Path(folder, name).exists() for name in ('initdb', 'postgres')):
            return folder
    return None


class TempPostgres(Temporary):
    """A server with an empty database ``dbname``; settings by keyword."""

    def __init__(self, dbname='test', **settings):
        self.binaries = find_binaries()
        if not self.binaries:
            raise ServerMissing(
                'no PostgreSQL server (Debian: apt install postgresql; '
                'elsewhere set PGBIN to the folder of its programs)'
            )
        self.dbname = dbname
        self.settings = SETTINGS | settings
        self.identity = unprivileged('postgres')
        self.folder = self.port = self.process = None

    @property
    def url(self):
        return (
            f'postgresql+psycopg://postgres@127.0.0.1:{self.port}'
            f'/{self.dbname}'
        )

    def start(self):
        """Create the data folder, start the server, create the database."""
        self._make_folder()
        run(
            [
                f'{self.binaries}/initdb',
                *('-D', f'{self.folder}/data', '-U', 'postgres'),
                *('-A', 'trust', '-E', 'UTF8', '--locale=C'),
                *('-N', '--no-instructions'),
            ],
            **self._environment(),
        )
        launch_somewhere(self)
        if self.dbname != 'postgres':
            self.execute(f'CREATE DATABASE "{self.dbname}"')
        return self

    def _make_folder(self):
        # Not pytest's tmp_path, which only root may enter if root runs it.
        self.folder = tempfile.mkdtemp(prefix='pgtemp-')
        give_to(self.folder, self.identity)

    def launch(self, timeout=20):
        """Start the server on its port; also after ``kill`` or ``halt``."""
        options = [
            part
            for name, value in self.settings.items()
            for part in ('-c', f'{name}={value}')
        ]
        self.process = spawn(
            [
                f'{self.binaries}/postgres',
                *('-D', f'{self.folder}/data', '-p', self.port),
                *options,
            ],
            f'{self.folder}/log',
            # Immediate shutdown; SIGKILL would leave the children running.
            death_signal=signal.SIGQUIT,
            **self._environment(),
        )
        end = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < end:
            if self._ready():
                return
            time.sleep(0.01)
        self.kill()
        raise ServerFailed(
            'PostgreSQL does not start:\n' + tail(f'{self.folder}/log')
        )

    def _ready(self):
        # What `pg_ctl -w` looks at: the pid is in the first line, the state
        # in the eighth.  The pid matters after a crash left the old file.
        try:
            lines = Path(f'{self.folder}/data/postmaster.pid').read_text()
            pid, state = [lines.splitlines()[n].strip() for n in (0, 7)]
        except (OSError, IndexError):
            return False
        return pid == str(self.process.pid) and state == 'ready'

    def execute(self, statement):
        """Run one statement as superuser, outside any transaction.

        Return its rows, None if it gives none.
        """
        import psycopg

        with psycopg.connect(
            host='127.0.0.1',
            port=self.port,
            user='postgres',
            dbname='postgres',
            autocommit=True,
        ) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else None

    def kill(self):
        """End the server at once, as a crash would; ``launch`` recovers."""
        stop_process(self.process, signal.SIGQUIT)

    def halt(self):
        """Shut down in order; open connections are cut."""
        stop_process(self.process, signal.SIGINT)

    def stop(self):
        """End the server and remove everything."""
        self.kill()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _environment(self):
        return {
            'cwd': self.folder,
            'env': {'PATH': '/usr/bin:/bin', 'LC_ALL': 'C', 'TZ': 'UTC'},
            **self.identity,
        }


if __name__ == '__main__':
    with TempPostgres() as server, contextlib.suppress(KeyboardInterrupt):
        print(server.url, flush=True)
        time.sleep(float(sys.argv[1]) if len(sys.argv) > 1 else 3600)
