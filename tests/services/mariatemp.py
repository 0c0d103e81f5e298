"""A throw-away MariaDB on a free port of 127.0.0.1, as root or not.

    with TempMariaDB() as server:
        create_engine(server.url)

``python -m tests.services.mariatemp 60`` runs one for a minute.
"""

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time

from .common import find_program
from .common import launch_somewhere
from .common import run
from .common import ServerFailed
from .common import ServerMissing
from .common import spawn
from .common import stop_process
from .common import tail
from .common import Temporary

# The servers have no certificate.  PyMySQL would read all authorities that the
# machine trusts for each connection nevertheless, several times as long as it
# takes to connect.
NO_TLS = 'ssl_disabled=true'


def find_binaries():
    """Return the paths of the server and its installer, or None."""
    server = find_program('mariadbd', 'mysqld')
    install = find_program('mariadb-install-db')
    return (server, install) if server and install else None


class TempMariaDB(Temporary):
    """A server with an empty database ``dbname``; more options as they are."""

    def __init__(self, dbname='test', *options):
        binaries = find_binaries()
        if not binaries:
            raise ServerMissing(
                'no MariaDB server (Debian: apt install mariadb-server)'
            )
        self.server, self.install = binaries
        self.dbname = dbname
        self.options = options
        self.folder = self.port = self.process = None

    @property
    def url(self):
        # Not `localhost`, for which C drivers take a unix socket.
        return (
            f'mysql+pymysql://root@127.0.0.1:{self.port}/{self.dbname}'
            f'?charset=utf8mb4&{NO_TLS}'
        )

    def start(self):
        """Create the data folder, start the server, create the database."""
        self.folder = tempfile.mkdtemp(prefix='mariatemp-')
        run(
            [
                self.install,
                *self._common(),
                # root without a password, by TCP too.
                '--auth-root-authentication-method=normal',
                '--skip-test-db',
            ]
        )
        launch_somewhere(self)
        self.execute(f'CREATE DATABASE `{self.dbname}` CHARACTER SET utf8mb4')
        return self

    def launch(self, timeout=30):
        """Start the server on its port; also after ``kill`` or ``halt``."""
        self.process = spawn(
            [
                self.server,
                *self._common(),
                f'--socket={self.folder}/s',
                f'--pid-file={self.folder}/pid',
                f'--port={self.port}',
                '--bind-address=127.0.0.1',
                '--skip-log-bin',
                '--innodb-flush-log-at-trx-commit=0',
                '--innodb-buffer-pool-size=32M',
                '--innodb-fast-shutdown=3',
                '--max-connections=200',
                '--character-set-server=utf8mb4',
                *self.options,
            ],
            f'{self.folder}/log',
            death_signal=signal.SIGKILL,
        )
        end = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < end:
            if self._ready():
                return
            time.sleep(0.02)
        self.kill()
        raise ServerFailed(
            'MariaDB does not start:\n' + tail(f'{self.folder}/log')
        )

    def _common(self):
        return [
            '--no-defaults',  # has to be the first
            # As root it insists on being told so.
            *(['--user=root'] if os.geteuid() == 0 else []),
            f'--datadir={self.folder}/data',
            # A server that starts deletes all temporary tables there.
            f'--tmpdir={self.folder}',
            '--innodb-log-file-size=4M',
            # Nothing has to survive a power failure.
            '--innodb-flush-method=nosync',
            '--skip-name-resolve',
        ]

    def _ready(self):
        # The server greets first.
        with contextlib.suppress(OSError):
            with socket.create_connection(('127.0.0.1', self.port), 1) as s:
                s.settimeout(5)
                return len(s.recv(5)) == 5
        return False

    def execute(self, statement):
        """Run one statement as root."""
        import pymysql

        connection = pymysql.connect(
            host='127.0.0.1', port=self.port, user='root', autocommit=True,
            ssl_disabled=True,
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def kill(self):
        """End the server at once, as a crash would; ``launch`` recovers."""
        stop_process(self.process, signal.SIGKILL)

    def halt(self):
        """Shut down in order."""
        stop_process(self.process, signal.SIGTERM, timeout=30)

    def stop(self):
        """End the server and remove everything."""
        self.kill()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


if __name__ == '__main__':
    with TempMariaDB() as server, contextlib.suppress(KeyboardInterrupt):
        print(server.url, flush=True)
        time.sleep(float(sys.argv[1]) if len(sys.argv) > 1 else 3600)
