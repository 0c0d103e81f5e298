"""What can happen to a database server.

To be called in the main thread: a server ends with the thread that started
it (services.common.spawn).
"""

import contextlib
import os
from pathlib import Path
import signal
import time

from ..services.mariatemp import TempMariaDB
from ..services.pgtemp import TempPostgres


class PostgreSQL(TempPostgres):
    """What was acknowledged survives a crash of the server."""

    name = 'postgresql'

    def __init__(self, **settings):
        # Written to the operating system, which does not crash here.
        super().__init__(synchronous_commit='on', **settings)

    def cut(self):
        """End all connections."""
        self.execute(
            'SELECT pg_terminate_backend(pid) FROM pg_stat_activity '
            "WHERE backend_type = 'client backend' "
            'AND pid <> pg_backend_pid()'
        )

    def pids(self):
        """Return the server's processes: each connection has its own."""
        return [self.process.pid, *_children(self.process.pid)]

    def connections(self):
        """Return how many connections to the tests' database there are."""
        return ask(
            self.url, 'SELECT count(*) FROM pg_stat_activity WHERE '
            'datname = current_database() AND pid <> pg_backend_pid() '
            "AND backend_type = 'client backend'",
        )


class MariaDB(TempMariaDB):
    """What was acknowledged survives a crash of the server."""

    name = 'mariadb'

    def __init__(self):
        super().__init__('test', '--innodb-flush-log-at-trx-commit=2')

    def cut(self):
        """End all connections."""
        import pymysql

        with self._admin() as admin, admin.cursor() as cursor:
            for number in self._numbers(cursor):
                # It may have ended by itself.
                with contextlib.suppress(pymysql.MySQLError):
                    cursor.execute(f'KILL {number}')

    def pids(self):
        return [self.process.pid]

    def connections(self):
        """Return how many connections to the tests' database there are."""
        with self._admin() as admin, admin.cursor() as cursor:
            return len(self._numbers(cursor))

    def _admin(self):
        import pymysql

        return pymysql.connect(
            host='127.0.0.1', port=self.port, user='root', autocommit=True,
            ssl_disabled=True,
        )

    def _numbers(self, cursor):
        cursor.execute(
            'SELECT id FROM information_schema.processlist '
            f"WHERE db = '{self.dbname}'"
        )
        return [number for (number,) in cursor.fetchall()]


def restart(server):
    """Shut the server down in order, and start it half a second later."""
    server.halt()
    time.sleep(0.5)
    server.launch()


def crash(server):
    """End the server as a crash would, and let it recover."""
    server.kill()
    time.sleep(0.5)
    server.launch()


def cut(server, times=5):
    """End all connections, again and again."""
    for _ in range(times):
        server.cut()
        time.sleep(0.1)


def pause(server, seconds=2.0):
    """Stop the server's processes, and let them go on."""
    pids = server.pids()
    for pid in pids:
        _signal(pid, signal.SIGSTOP)
    time.sleep(seconds)
    for pid in pids:
        _signal(pid, signal.SIGCONT)


FAULTS = {
    'restarted': restart, 'crashed': crash, 'connections killed': cut,
    'paused 2 s': pause,
}


def _signal(pid, number):
    # It may be that of a connection that has ended.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _children(pid):
    threads = Path(f'/proc/{pid}/task').iterdir()
    return [
        int(child) for thread in threads
        for child in (thread / 'children').read_text().split()
    ]


def ask(url, query):
    """Return the value that *query* gives, with a connection of its own."""
    import sqlalchemy as sa

    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return connection.scalar(sa.text(query))
