"""The servers that the benchmarks start, and an empty database for each
system."""

import contextlib
from pathlib import Path
import signal
import socket
import time

from tests.services.common import find_program
from tests.services.common import free_ports
from tests.services.common import spawn
from tests.services.common import stop_process
from tests.services.mariatemp import TempMariaDB
from tests.services.pgtemp import TempPostgres

#: As a server that has to survive: only its commits do not wait for the disk.
POSTGRESQL = {
    'autovacuum': 'on',
    'fsync': 'on',
    'full_page_writes': 'on',
    'shared_buffers': '256MB',
    'synchronous_commit': 'off',
    'wal_level': 'replica',
}


def postgresql(**settings):
    """Return a server that is not started yet."""
    return TempPostgres(**(POSTGRESQL | settings))


def mariadb():
    """Return a server that is not started yet, with room in memory."""
    return TempMariaDB(
        'test', '--innodb-buffer-pool-size=1G', '--innodb-log-file-size=1G'
    )


def new_database(server, name, *, copy_of='template1'):
    """Create a database on *server*; return its URL."""
    server.execute(
        f'CREATE DATABASE "{name}" TEMPLATE "{copy_of}" STRATEGY file_copy'
    )
    return f'{server.url.rpartition("/")[0]}/{name}'


@contextlib.contextmanager
def redis(folder):
    """Run a redis that keeps nothing; yield its URL, None if there is none."""
    program = find_program('redis-server')
    if program is None:
        yield None
        return
    (port,) = free_ports(1)
    process = spawn(
        [program, '--port', port, '--bind', '127.0.0.1', '--save', '',
         '--appendonly', 'no', '--dir', folder],
        Path(folder, 'redis.log'), death_signal=signal.SIGKILL,
    )
    try:
        _wait_for(port)
        yield f'redis://127.0.0.1:{port}/0'
    finally:
        stop_process(process, signal.SIGTERM)


def _wait_for(port, timeout=10):
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection(('127.0.0.1', port)).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
