"""An empty database for each test, on servers that start once and lazily.

Knows SQLAlchemy's URLs and the drivers, and nothing of the package.
"""

import contextlib
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
import itertools
import os
import time

import pymysql
from sqlalchemy import create_engine
from sqlalchemy import make_url
from sqlalchemy import NullPool
from sqlalchemy import text

from .common import ServerFailed
from .common import ServerMissing
from .galera import TempGalera
from .mariatemp import TempMariaDB
from .pgtemp import TempPostgres

# Ours alone on a server that others use too, and one per test process.
NAME = f'pyramid_sqlasession_test_{os.getpid()}'


@dataclass
class Database:
    """An empty database: ``name`` of the kind, ``url`` for SQLAlchemy."""

    name: str
    url: str
    #: The ports of a cluster's nodes.
    ports: tuple = ()
    _engines: list = field(default_factory=list, init=False, repr=False)
    _connections: list = field(default_factory=list, init=False, repr=False)

    def create_engine(self, **options):
        """Return an engine that is disposed of when the test is over.

        In a cluster each of its connections is to the next node, so that
        two requests at a time are on two nodes.
        """
        if self.ports:
            options.setdefault(
                'creator',
                connector(self.url, itertools.cycle(self.ports)),
            )
        engine = create_engine(self.url, **options)
        self._engines.append(engine)
        return engine

    def take_driver(self, name):
        """Have engines use this one, not the one that we prefer."""
        url = make_url(self.url)
        self.url = url.set(
            drivername=f'{url.get_backend_name()}+{name}'
        ).render_as_string(hide_password=False)

    def nodes(self):
        """Return one ``Database`` for each node of a cluster."""
        return [replace(self, ports=(port,)) for port in self.ports]

    def settle(self):
        """Wait until each node of a cluster has what one has committed."""
        if self.ports and not self._connections:
            engine = self.create_engine(poolclass=NullPool)
            self._connections = [engine.connect() for _ in self.ports]
        for connection in self._connections:
            connection.execute(text('SELECT 1'))
            connection.rollback()

    def dispose(self):
        while self._connections:
            self._connections.pop().close()
        while self._engines:
            self._engines.pop().dispose()


def connector(url, ports):
    """Return a function that connects to the next of *ports*, an iterator.

    No event does it, as tests take away what listens to their engines.
    """
    dialect = create_engine(url).dialect
    args, options = dialect.create_connect_args(make_url(url))
    # As the docs advise.
    options['init_command'] = 'SET SESSION wsrep_sync_wait = 3'

    def connect():
        there = {**options, 'port': next(ports)}
        end = time.monotonic() + 10
        while True:
            try:
                return dialect.connect(*args, **there)
            # A node that is behind does not know the database yet that
            # another one has made, and no statement could wait for it.
            except pymysql.OperationalError as error:
                if error.args[0] != 1049 or time.monotonic() > end:
                    raise
            time.sleep(0.05)

    return connect


class _Server:
    """A server and a connection to it that empties the tests' database."""

    def __init__(self, given_url):
        """Use the server at ``given_url``, else start one."""
        self._temporary = None if given_url else self.launcher()
        self._given_url = given_url
        self._connection = None

    def database(self):
        """Return the tests' database."""
        return Database(self.name, self.url)

    def start(self):
        if self._temporary:
            self._temporary.start()
        self._admin_url = make_url(self._given_url or self._temporary.url)
        self.url = self._admin_url.set(database=NAME).render_as_string(
            hide_password=False
        )
        try:
            self.create()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self):
        self._disconnect()
        if self._temporary:
            self._temporary.stop()
        elif self._given_url:
            self.drop()

    def empty(self):
        """End what a test left open, then remove what it created."""
        try:
            self._clean()
        except Exception:
            # The test may have restarted the server or killed this too.
            self._disconnect()
            self._clean()

    def _disconnect(self):
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()
            self._connection = None


class PostgreSQL(_Server):
    name = 'postgresql'
    variable = 'TEST_POSTGRESQL_URL'
    launcher = TempPostgres

    def create(self):
        self._as_admin(f'CREATE DATABASE {NAME} TEMPLATE template0')

    def drop(self):
        self._as_admin(f'DROP DATABASE {NAME} WITH (FORCE)')

    def _clean(self):
        connection = self._connected()
        # An open transaction of a failed test would block the DROP.  Asked
        # again and again, as pg_terminate_backend's own wait takes 100 ms.
        end = time.monotonic() + 10
        while connection.execute(
            'SELECT pg_terminate_backend(pid) FROM pg_stat_activity '
            'WHERE datname = current_database() AND pid <> pg_backend_pid() '
            "AND backend_type = 'client backend'"
        ).fetchall():
            if time.monotonic() > end:
                raise ServerFailed('a connection of a test does not end')
            time.sleep(0.001)
        schemas = connection.execute(
            'SELECT nspname FROM pg_namespace '
            r"WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        ).fetchall()
        for (schema,) in schemas:
            connection.execute(f'DROP SCHEMA "{schema}" CASCADE')
        connection.execute('CREATE SCHEMA public')
        # A test may have set a default isolation level.
        connection.execute(f'ALTER DATABASE {NAME} RESET ALL')

    def _connected(self):
        import psycopg

        if self._connection is None:
            url = self._admin_url.set(database=NAME)
            self._connection = psycopg.connect(
                _libpq(url), autocommit=True, options='-c lock_timeout=10s'
            )
            # DROP ... CASCADE reports every table.
            self._connection.execute('SET client_min_messages = warning')
        return self._connection

    def _as_admin(self, statement):
        import psycopg

        with psycopg.connect(
            _libpq(self._admin_url), autocommit=True
        ) as connection:
            connection.execute(statement)


class MariaDB(_Server):
    name = 'mariadb'
    variable = 'TEST_MARIADB_URL'
    launcher = TempMariaDB

    def create(self):
        self._execute(f'CREATE DATABASE {NAME} CHARACTER SET utf8mb4')

    def drop(self):
        self._execute(f'DROP DATABASE IF EXISTS {NAME}')
        self._disconnect()

    def _clean(self):
        import pymysql

        # An open transaction of a failed test would block the DROP.
        for (number,) in self._execute(
            'SELECT id FROM information_schema.processlist '
            f"WHERE db = '{NAME}' AND id <> CONNECTION_ID()"
        ):
            # It may have ended by itself.
            with contextlib.suppress(pymysql.MySQLError):
                self._execute(f'KILL {number}')
        self._execute(f'DROP DATABASE IF EXISTS {NAME}')
        self.create()

    def _execute(self, statement):
        import pymysql

        if self._connection is None:
            url = self._admin_url
            self._connection = pymysql.connect(
                host=url.host,
                port=url.port or 3306,
                user=url.username,
                password=url.password or '',
                autocommit=True,
                ssl_disabled='ssl_disabled' in url.query,
                init_command='SET SESSION lock_wait_timeout = 10',
            )
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()


class Galera(MariaDB):
    """A cluster of three nodes, always one of our own."""

    variable = ''
    launcher = TempGalera

    def database(self):
        ports = tuple(node.port for node in self._temporary.nodes)
        return Database(self.name, self.url, ports)


def _libpq(url):
    """Return a URL that psycopg itself understands."""
    return url.set(drivername='postgresql').render_as_string(
        hide_password=False
    )


SERVERS = {'postgresql': PostgreSQL, 'mariadb': MariaDB, 'galera': Galera}
#: Where a test runs that says nothing else.
NAMES = ('sqlite', 'postgresql', 'mariadb')


def start(name):
    """Start (or reach) the server ``name``; ``ServerMissing`` says why not."""
    kind = SERVERS[name]
    return kind(os.environ.get(kind.variable)).start()


def describe():
    """Return one line on which databases this machine can test."""
    found = ['sqlite']
    for name, kind in SERVERS.items():
        if os.environ.get(kind.variable):
            found.append(f'{name} ({kind.variable})')
            continue
        try:
            kind.launcher()
        except ServerMissing as error:
            found.append(str(error))
        else:
            found.append(name)
    return ', '.join(found)
