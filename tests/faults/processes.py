"""What can happen to a process: SIGTERM in the middle of a batch of the
cleaner, gunicorn with its ways to fork.
"""

import contextlib
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

import sqlalchemy as sa

from ..services.common import free_ports
from ..services.common import stop_process
from ..services.common import tail
from .cases import judge
from .cases import Result
from .load import Http
from .load import Load
from .servers import PostgreSQL
from .site import Site

#: Records of a batch of the cleaner.
BATCH = 1000
EXPIRED = 5 * BATCH
#: Seconds that a process may take to end (issue 6).
END = 2.0

#: Slows a DELETE down, so that a batch takes a second.
_SLOW = '''
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_sleep(0.001); RETURN OLD; END $$
'''


class Web:
    """The application in processes of its own."""

    def __init__(self, server, folder, command):
        self._port = free_ports(1)[0]
        self.url = f'http://127.0.0.1:{self._port}'
        self.deleted = Path(folder, 'deleted')
        self.log = Path(folder, 'log')
        self._environment = {
            **os.environ, 'FAULTS_URL': server.url,
            'FAULTS_DELETED': str(self.deleted),
            'FAULTS_LISTEN': f'127.0.0.1:{self._port}',
            'PYTHONPATH': os.getcwd(), 'PYTHONWARNINGS': 'ignore',
        }
        self._command = [
            part.format(port=self._port) for part in command
        ]
        self.process = None

    def __enter__(self):
        with open(self.log, 'wb') as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log,
            )
        end = time.monotonic() + 30
        while True:
            try:
                self.state()
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    self.__exit__()
                    raise RuntimeError(tail(self.log)) from None
                time.sleep(0.05)
            else:
                return self

    def __exit__(self, *_):
        stop_process(self.process, signal.SIGTERM, timeout=20)

    def state(self):
        """Return what the worker that happens to answer says of itself."""
        with urllib.request.urlopen(f'{self.url}/state', timeout=10) as page:  # noqa: S310
            return json.load(page)

    def states(self, count, timeout=20):
        """Return the states of *count* workers by their pid."""
        found, end = {}, time.monotonic() + timeout
        while len(found) < count and time.monotonic() < end:
            state = self.state()
            found[state['pid']] = state
        return found

    def terminate(self):
        """Send SIGTERM; return how many seconds the process took to end."""
        begun = time.monotonic()
        self.process.terminate()
        self.process.wait(30)
        return time.monotonic() - begun

    @property
    def cleaned(self):
        """How many records the cleaners say that they have deleted."""
        if not self.deleted.exists():
            return 0
        return sum(map(int, self.deleted.read_text().split()))


WAITRESS = [sys.executable, '-m', 'tests.faults.wsgi']


MAKE = 'tests.faults.wsgi:make()'
PLAIN = 'tests.faults.wsgi:plain()'


def gunicorn(*options):
    return [
        sys.executable, '-m', 'gunicorn', MAKE,
        '--bind', '127.0.0.1:{port}', '--workers', '2',
        '--worker-class', 'gthread', '--threads', '4', *options,
    ]


def cases():
    """Yield (name, function that returns a Result)."""
    for name, command in (
        ('waitress', WAITRESS), ('gunicorn', gunicorn()),
        ('gunicorn --preload', gunicorn('--preload')),
    ):
        title = f'{name}/SIGTERM in a batch'
        yield title, lambda t=title, c=command: sigterm(t, c)
    for options in ((), ('--preload',)):
        name = ' '.join(['gunicorn', *options])
        command = gunicorn(*options)
        title = f'{name}/cleans once'
        yield title, lambda t=title, c=command: cleans_once(t, c)
        title = f'{name}/worker killed'
        yield title, lambda t=title, c=command: killed(t, c)
        title = f'{name}/recycled'
        command = gunicorn(
            *options, '--max-requests', '40', '--max-requests-jitter', '20'
        )
        yield title, lambda t=title, c=command: recycled(t, c)


@contextlib.contextmanager
def _place(**settings):
    """Give a server with the tables, a ``Site`` on it, and a folder."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(PostgreSQL())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        site = Site(
            server.url, check_expiration_interval='0', **settings
        )
        stack.callback(site.close)
        site.create_tables()
        yield server, site, folder


def add_expired(site, count):
    """Put records into the site's table that have expired."""
    with site.engine.begin() as connection:
        add_expired_to(connection, site.table, count)


def add_expired_to(connection, table, count):
    """Put records into *table* that have expired."""
    connection.execute(sa.text(
        f'INSERT INTO {table.name} '
        f'({", ".join(column.name for column in table.c)}) SELECT '
        + ', '.join(map(_expired, table.c))
        + f' FROM generate_series(1, {count})'
    ))


_PAST = "now() - interval '2 days'"
_EXPIRED = {
    'id': 'gen_random_uuid()', 'secret_hash': "sha256('x')",
    'version': '1', 'data': "'{}'",
}


def _expired(column):
    """Return the SQL of what an expired record has in *column*."""
    # All others that have to be there are moments.
    default = 'NULL' if column.nullable else _PAST
    return _EXPIRED.get(column.name, default)


def count_expired(engine, table):
    """Return how many records of the table have expired."""
    with engine.connect() as connection:
        return connection.scalar(sa.text(
            f'SELECT count(*) FROM {table} WHERE expires < now()'
        ))


def sigterm(name, command):
    """A process that gets SIGTERM in a batch ends within two seconds."""
    result = Result(name, tried=1)
    with _place() as (server, site, folder):
        table = site.table.name
        with site.engine.begin() as connection:
            connection.execute(sa.text(_SLOW))
            connection.execute(sa.text(
                f'CREATE TRIGGER slow BEFORE DELETE ON {table} '
                'FOR EACH ROW EXECUTE FUNCTION slow()'
            ))
        add_expired(site, EXPIRED)
        with Web(server, folder, command) as web:
            _wait_for_batch(site.engine)
            took = web.terminate()
        log = web.log.read_text()
        own = _own_time(server, folder, command)
        result.remark = f'ended within {took:.1f} s' + (
            f'; without the package {own:.1f} s' if own else ''
        )
        if took > END + own:
            result.wrong.append(result.remark)
        # The server works at its statement until it sees that nobody waits.
        result.leaked = _left_open(site.engine)
        left = count_expired(site.engine, table)
        result.half = left % BATCH
        result.answered = 1
        if not left:
            result.wrong.append('the signal came too late')
        _check_log(result, log)
    return result


def _own_time(server, folder, command):
    """Return the seconds that gunicorn needs to end, whatever it serves."""
    if MAKE not in command:
        return 0.0
    command = [PLAIN if part == MAKE else part for part in command]
    with Web(server, folder, command) as web:
        web.states(2)
        return web.terminate()


_BATCHES = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DELETE%' "
    "AND state = 'active' AND pid <> pg_backend_pid()"
)


def _wait_for_batch(engine, timeout=20):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        with engine.connect() as connection:
            if connection.scalar(_BATCHES):
                return
        time.sleep(0.01)
    raise RuntimeError('the cleaner does not begin')


def _left_open(engine, timeout=10):
    """Return how many transactions of others are open after a while."""
    open_ones = sa.text(
        'SELECT count(*) FROM pg_stat_activity WHERE xact_start IS NOT NULL '
        "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    end = time.monotonic() + timeout
    while True:
        with engine.connect() as connection:
            count = connection.scalar(open_ones)
        if not count or time.monotonic() > end:
            return count
        time.sleep(0.05)


def cleans_once(name, command):
    """Two workers delete each record once, and both have a cleaner."""
    result = Result(name)
    with _place() as (server, site, folder):
        with Web(server, folder, command) as web:
            states = web.states(2)
            add_expired(site, EXPIRED)
            end = time.monotonic() + 20
            while web.cleaned < EXPIRED and time.monotonic() < end:
                time.sleep(0.05)
            cleaned = web.cleaned
        left = count_expired(site.engine, site.table.name)
        result.tried, result.answered = EXPIRED, cleaned
        if cleaned != EXPIRED or left:
            result.wrong.append(f'{cleaned} deleted, {left} left')
        without = [pid for pid, s in states.items() if not s['cleaner']]
        if len(states) != 2 or without:
            result.wrong.append(f'no cleaner in {without} of {states}')
        _check_log(result, web.log.read_text())
    return result


def killed(name, command):
    """A worker that is killed costs what was in flight in it."""

    def kill_one(web):
        for _ in range(2):
            os.kill(web.state()['pid'], signal.SIGKILL)
            time.sleep(1)

    return _under_load(name, command, kill_one)


def recycled(name, command):
    """Workers that end after some requests, and SIGHUP, lose nothing."""

    def hang_up(web):
        web.process.send_signal(signal.SIGHUP)
        time.sleep(1)

    return _under_load(name, command, hang_up)


def _under_load(name, command, fault):
    with _place() as (server, site, folder):
        with Web(server, folder, command) as web:
            load = Load(Http(web.url))
            # The view without a session is served by the same workers.
            with load:
                load.wait_for(100)
                add_expired(site, EXPIRED)
                fault(web)
                load.wait_for(100)
            states = web.states(2)
            _wait_until_clean(site)
        # 503 stands for a connection that was cut as well; without the
        # session there can be no other.
        load.wrong = [w for w in load.wrong if w != '/plain: 503']
        result = judge(name, load, *site.stored())
        if not all(state['cleaner'] for state in states.values()):
            result.wrong.append(f'a worker without a cleaner: {states}')
        if left := count_expired(site.engine, site.table.name):
            result.wrong.append(f'{left} expired records are left')
        _check_log(result, web.log.read_text())
        result.leaked = _left_open(site.engine)
    return result


def _wait_until_clean(site, timeout=20):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if not count_expired(site.engine, site.table.name):
            return
        time.sleep(0.1)


def _check_log(result, log):
    if 'Traceback' in log:
        result.wrong.append(log[log.index('Traceback'):][:1500])
