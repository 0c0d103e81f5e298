"""What can happen to a process: SIGTERM in the middle of a batch of the
cleaner, gunicorn with its ways to fork, ``pserve --reload``.
"""

from concurrent.futures import ThreadPoolExecutor
import contextlib
import http.client
from itertools import pairwise
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

from pyramid_sqlasession.cleaner import BATCH

from ..services.common import free_ports
from ..services.common import stop_process
from ..services.common import tail
from .cases import judge
from .cases import Result
from .load import Http
from .load import Load
from .servers import PostgreSQL
from .site import Site

EXPIRED = 5 * BATCH
#: Seconds that a process may take to end.
END = 2.0
#: Processes of gunicorn, and threads that serve in each of any server.
WORKERS = 4
THREADS = 4
#: Besides those that serve: the main thread and the cleaner.
OTHERS = 2

#: Slows a DELETE down, so that a batch takes a second.
_SLOW = (
    '''
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_sleep(0.001); RETURN OLD; END $$
    ''',
    '''
    CREATE TRIGGER slow BEFORE DELETE ON {table}
    FOR EACH ROW EXECUTE FUNCTION slow()
    ''',
)

#: Notes each DELETE: who, how many records, from when until when.
_NOTED = (
    '''
    CREATE TABLE batches (
        pid int, records int, begun timestamptz, ended timestamptz)
    ''',
    '''
    CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO batches SELECT pg_backend_pid(), count(*),
        statement_timestamp(), clock_timestamp() FROM gone;
    RETURN NULL; END $$
    ''',
    '''
    CREATE TRIGGER noted AFTER DELETE ON {table}
    REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION noted()
    ''',
)


#: For pserve.
_INI = '''
[app:main]
use = call:tests.faults.wsgi:make_for_pserve

[server:main]
use = egg:waitress#main
listen = 127.0.0.1:{port}
threads = {threads}
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
        self.ini = Path(folder, 'app.ini')
        self.ini.write_text(_INI.format(port=self._port, threads=THREADS))
        self._command = [
            part.format(port=self._port, ini=self.ini) for part in command
        ]
        self.process = None

    def __enter__(self):
        self._launch()
        return self

    def _launch(self):
        with open(self.log, 'ab') as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log,
            )
        end = time.monotonic() + 30
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.__exit__()
                raise RuntimeError(tail(self.log))
            time.sleep(0.05)

    def _answers(self):
        try:
            self.state()
        except OSError:
            return False
        return True

    def __exit__(self, *_):
        stop_process(self.process, signal.SIGTERM, timeout=20)

    def restart(self):
        """End the process by SIGTERM, and start it at the same address."""
        self.terminate()
        self._launch()

    def state(self):
        """Return what the worker that happens to answer says of itself.

        :raises OSError: if there is none, or it ends in the middle.
        """
        try:
            with urllib.request.urlopen(  # noqa: S310
                f'{self.url}/state', timeout=10
            ) as page:
                return json.load(page)
        except http.client.HTTPException as error:
            raise ConnectionError(repr(error)) from error

    def states(self, count, timeout=20):
        """Return the states of *count* workers by their pid."""
        found, end = {}, time.monotonic() + timeout
        # Together, or the worker that is free first answers all of them.
        with ThreadPoolExecutor(4 * WORKERS) as pool:
            while len(found) < count and time.monotonic() < end:
                asked = [pool.submit(self.state) for _ in range(4 * WORKERS)]
                for one in asked:
                    with contextlib.suppress(OSError):
                        state = one.result()
                        found[state['pid']] = state
        return found

    def change(self, times=6, seconds=5):
        """Change a file, and wait until another process answers.

        Return the pid of the one before.
        """
        before = self.state()['pid']
        for _ in range(times):
            # The reloader sees nothing before it has looked once.
            os.utime(self.ini)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                with contextlib.suppress(OSError):
                    if self.state()['pid'] != before:
                        return before
                time.sleep(0.05)
        raise RuntimeError(f'{before} is still there')

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

PSERVE = [
    str(Path(sys.executable).with_name('pserve')), '--reload', '{ini}',
]

MAKE = 'tests.faults.wsgi:make()'
PLAIN = 'tests.faults.wsgi:plain()'


def gunicorn(*options):
    return [
        sys.executable, '-m', 'gunicorn', MAKE,
        '--bind', '127.0.0.1:{port}', '--workers', str(WORKERS),
        '--worker-class', 'gthread', '--threads', str(THREADS),
        # One for all of a user's, for which the master waits at its end.
        '--no-control-socket', *options,
    ]


RECYCLE = ('--max-requests', '40', '--max-requests-jitter', '20')


def cases():
    """Yield (name, function that returns a Result)."""
    for name, command in (
        ('waitress', WAITRESS), ('gunicorn', gunicorn()),
        ('gunicorn --preload', gunicorn('--preload')),
    ):
        yield _case(f'{name}/SIGTERM in a batch', sigterm, command)
    yield _case('waitress/restarted', restarted, WAITRESS)
    yield _case('pserve --reload/files changed', reloaded, PSERVE)
    for options in ((), ('--preload',)):
        name = ' '.join(['gunicorn', *options])
        yield _case(f'{name}/cleans once', cleans_once, gunicorn(*options))
        yield _case(f'{name}/worker killed', killed, gunicorn(*options))
        yield _case(
            f'{name}/recycled', recycled, gunicorn(*options, *RECYCLE)
        )


def _case(name, function, command):
    return name, lambda: function(name, command)


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
        _execute(site, _SLOW)
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
        result.leaked = _left_open(server, site)
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
        web.states(WORKERS)
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


def _left_open(server, site, timeout=10):
    """Return how many connections of the ended processes are left."""
    end = time.monotonic() + timeout
    while True:
        site.engine.dispose()
        count = server.connections()
        if not count or time.monotonic() > end:
            return count
        time.sleep(0.05)


def _execute(site, statements):
    with site.engine.begin() as connection:
        for statement in statements:
            connection.execute(
                sa.text(statement.format(table=site.table.name))
            )


def cleans_once(name, command):
    """All workers have a cleaner, and do together what one would do."""
    result = Result(name)
    with _place() as (server, site, folder):
        _execute(site, (*_SLOW, *_NOTED))
        with Web(server, folder, command) as web:
            states = web.states(WORKERS)
            add_expired(site, EXPIRED)
            end = time.monotonic() + 30
            while web.cleaned < EXPIRED and time.monotonic() < end:
                time.sleep(0.05)
            # So that each of them has looked again.
            time.sleep(2)
        _judge_batches(result, site)
        if (said := web.cleaned) != EXPIRED:
            result.wrong.append(f'they say that they deleted {said}')
        _check_workers(result, states, WORKERS)
        _check_log(result, web.log.read_text())
        result.leaked = _left_open(server, site)
    return result


def _judge_batches(result, site):
    """Count the statements that deleted, and those at the same time."""
    with site.engine.connect() as connection:
        batches = connection.execute(sa.text(
            'SELECT pid, records, begun, ended FROM batches ORDER BY begun'
        )).all()
    result.tried = EXPIRED
    result.answered = sum(batch.records for batch in batches)
    together = sum(
        after.begun < before.ended
        for before, after in pairwise(batches)
    )
    left = count_expired(site.engine, site.table.name)
    result.remark = (
        f'{len(batches)} statements, as of one cleaner; '
        f'{together} beside another'
    )
    if result.answered != EXPIRED or left:
        result.wrong.append(f'{result.answered} deleted, {left} left')
    if len(batches) != EXPIRED // BATCH or together:
        result.wrong.append(result.remark)


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
        for _ in range(2):
            web.process.send_signal(signal.SIGHUP)
            time.sleep(1)

    return _under_load(name, command, hang_up)


def restarted(name, command):
    """SIGTERM under load, and a new process: only what was in flight."""

    def restart(web):
        for _ in range(2):
            web.restart()
            time.sleep(0.5)

    return _under_load(name, command, restart, workers=1)


def reloaded(name, command):
    """The process is another one after a change, and the old one is gone."""
    pids = []

    def change(web):
        for _ in range(2):
            pids.append(web.change())

    result = _under_load(name, command, change, workers=1, others=4)
    alive = [pid for pid in pids if Path(f'/proc/{pid}').exists()]
    if alive or len(set(pids)) != 2:
        result.wrong.append(f'processes {pids}, still there: {alive}')
    return result


def _under_load(name, command, fault, workers=WORKERS, others=OTHERS):
    with _place() as (server, site, folder):
        with Web(server, folder, command) as web:
            load = Load(Http(web.url))
            # The view without a session is served by the same workers.
            with load:
                load.wait_for(100)
                add_expired(site, EXPIRED)
                fault(web)
                load.wait_for(100)
            _wait_until_clean(site)
            states = web.states(workers)
        # 503 stands for a connection that was cut as well; without the
        # session there can be no other.
        load.wrong = [w for w in load.wrong if w != '/plain: 503']
        result = judge(name, load, *site.stored())
        _check_workers(result, states, workers, others)
        if left := count_expired(site.engine, site.table.name):
            result.wrong.append(f'{left} expired records are left')
        _check_log(result, web.log.read_text())
        result.leaked = _left_open(server, site)
    return result


def _check_workers(result, states, count, others=OTHERS):
    """Note workers without a cleaner, or with more threads than they need.

    *others* are the threads of a process that do not serve.
    """
    if len(states) != count:
        result.wrong.append(f'{count} workers expected: {states}')
    for pid, state in states.items():
        if not state['cleaner']:
            result.wrong.append(f'no cleaner in {pid}')
        if state['threads'] > THREADS + others:
            result.wrong.append(f'{pid} has {state["threads"]} threads')


def _wait_until_clean(site, timeout=60):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if not count_expired(site.engine, site.table.name):
            return
        time.sleep(0.1)


def _check_log(result, log):
    if 'Traceback' in log:
        result.wrong.append(log[log.index('Traceback'):][:9000])
