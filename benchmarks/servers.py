"""The servers that the benchmarks start, and an empty database for each
system."""

import contextlib

from tests.services.common import ServerMissing
from tests.services.mariatemp import TempMariaDB
from tests.services.pgtemp import TempPostgres
from tests.services.redistemp import TempRedis

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
def redis():
    """Run a redis that keeps nothing; yield its URL, None if there is none."""
    try:
        server = TempRedis()
    except ServerMissing:
        yield None
        return
    with server:
        yield server.url
