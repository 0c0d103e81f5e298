"""Measure sessions, here and elsewhere: ``make bench``.

    python3 -m benchmarks.run                   all of it, about 10 minutes
    python3 -m benchmarks.run --quick           orientation, about 2 minutes
    python3 -m benchmarks.run --databases sqlite --systems raw sqlasession

Each system runs in a process of its own, one at a time, on the same processor
as the database server; what changes if the server has another one is measured
as well (``postgresql-apart``).  A round lets each of them make some requests
of each scenario, in an order that changes from round to round.  A session's
cost is a scenario's median minus that of the same application without session
(S0), in the same turn; a ratio compares two systems in the same round.  What
is reported are medians over the rounds, as the machine's own speed changes
while it measures.  All of it is started anew a few times: where a process
happens to lie in memory makes some percent, for as long as it runs.

Writes benchmarks/results/: sessions.json, sessions.rst, sessions-*.svg.
"""

import contextlib
import json
import os
from pathlib import Path
import random
import subprocess
import sys
import tempfile

from benchmarks import environment
from benchmarks import outcome
from benchmarks import placement
from benchmarks.environment import say

#: module of benchmarks.systems (or ``sequelize``) by kind of store.
SYSTEMS = {
    'postgresql': [
        'raw', 'raw_view', 'core', 'sqlasession', 'django_db',
        'flask_session', 'beaker', 'sequelize',
    ],
    'postgresql-apart': [
        'raw', 'raw_view', 'core', 'sqlasession', 'django_db', 'sequelize',
    ],
    'sqlite': [
        'raw', 'raw_view', 'core', 'sqlasession', 'django_db',
        'flask_session', 'beaker',
    ],
    'other': ['signed_cookie', 'redis'],
}


class Worker:
    """The process of one system."""

    def __init__(self, name, command, folder):
        self.name = name
        self._log = Path(folder, f'{name}.log')
        with self._log.open('wb') as log:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True, cwd=environment.ROOT,
                # As in production; Express and others look at it.
                env=os.environ | {'NODE_ENV': 'production'},
            )

    def wait(self):
        """Wait until its sessions are stored."""
        self._line()

    def turn(self, requests):
        """Return {scenario: [median, CPU time]} of so many requests."""
        self._process.stdin.write(f'{requests}\n')
        self._process.stdin.flush()
        return json.loads(self._line())

    def _line(self):
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(
                f'{self.name} failed:\n{self._log.read_text()[-3000:]}'
            )
        return line

    def close(self):
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def measure(workers, rounds, requests):
    """Return {system: [result of each round]}."""
    results = {worker.name: [] for worker in workers}
    for worker in workers:
        worker.turn(max(60, requests))
    rng = random.Random(1)
    for number in range(rounds):
        rng.shuffle(workers)
        for worker in workers:
            results[worker.name].append(worker.turn(requests))
        if sys.stdout.isatty():
            print(f'\r    round {number + 1}/{rounds}', end='', flush=True)
    if sys.stdout.isatty():
        print()
    return results


def python_worker(name, url, folder):
    """Return the worker of a system that is written in Python."""
    return Worker(
        name, [sys.executable, '-m', 'benchmarks.worker', name, url], folder
    )


def node_worker(name, url, folder):
    """Return the worker of connect-session-sequelize."""
    from benchmarks.systems import PAYLOAD
    from benchmarks.systems import POOL
    from benchmarks.worker import WARM_UP

    command = [
        'node', '--no-deprecation', environment.NODE / 'worker.js',
        url.replace('postgresql+psycopg:', 'postgres:'), json.dumps(PAYLOAD),
        POOL, WARM_UP,
    ]
    return Worker(name, command, folder)


@contextlib.contextmanager
def started(names, make_url, folder):
    """Start one worker after the other; stop all at the end."""
    workers = []
    client, _ = placement.processors()
    with contextlib.ExitStack() as stack:
        for name in names:
            make = node_worker if name == 'sequelize' else python_worker
            with placement.on(client):
                worker = make(name, make_url(name), folder)
            stack.callback(worker.close)
            # One at a time: they have two cores, and memory to fill.
            worker.wait()
            workers.append(worker)
        yield workers


def on_postgresql(names, options, folder, *, apart=False):
    """Measure *names* on PostgreSQL.

    :param apart: the server works on another processor than the client.
    """
    from benchmarks import servers

    client, other = placement.processors()
    with contextlib.ExitStack() as stack:
        with placement.on(other if apart else client):
            server = stack.enter_context(servers.postgresql())
        workers = stack.enter_context(started(
            names, lambda name: servers.new_database(server, name), folder
        ))
        return measure(workers, options.rounds, options.requests)


def on_two_processors(names, options, folder):
    """Measure *names* on one processor and PostgreSQL on another one."""
    return on_postgresql(names, options, folder, apart=True)


def on_sqlite(names, options, folder):
    """Measure *names* on SQLite."""
    with started(
        names, lambda name: f'sqlite:///{folder}/{name}.sqlite', folder
    ) as workers:
        return measure(workers, options.rounds, options.requests)


def on_other(names, options, folder):
    """Measure what needs no database of SQLAlchemy's."""
    from benchmarks import servers

    client, _ = placement.processors()
    with contextlib.ExitStack() as stack:
        with placement.on(client):
            url = stack.enter_context(servers.redis())
        if url is None:
            names = skip(names, 'redis', 'redis-server is not on this machine')
        workers = stack.enter_context(
            started(names, lambda name: url or '-', folder)
        )
        return measure(workers, options.rounds, options.requests)


DATABASES = {
    'postgresql': on_postgresql, 'postgresql-apart': on_two_processors,
    'sqlite': on_sqlite, 'other': on_other,
}


def skip(names, name, reason):
    """Return *names* without *name*, and say why."""
    if name in names:
        say(f'{name} is left out: {reason}')
    return [other for other in names if other != name]


def run(options):
    """Return {database: {system: [result of each round]}}."""
    results = {}
    for database in options.databases:
        names = [
            name for name in SYSTEMS[database]
            if not options.systems or name in options.systems
        ]
        if 'sequelize' in names and (why := environment.prepare_node()):
            names = skip(names, 'sequelize', why)
        if not names:
            continue
        results[database] = {name: [] for name in names}
        for start in range(1, options.starts + 1):
            say(
                f'Measuring {", ".join(names)} ({database}, start {start} of '
                f'{options.starts})'
            )
            with tempfile.TemporaryDirectory(prefix='bench-') as folder:
                found = DATABASES[database](names, options, folder)
            results[database] = {
                name: results[database][name] + rounds
                for name, rounds in found.items()
            }
    return results


def count_trips(options):
    """Return {scenario: first words of its round trips}, on PostgreSQL."""
    from benchmarks import servers
    from benchmarks import trips

    if 'postgresql' not in options.databases:
        return {}
    say('Counting round trips')
    with servers.postgresql() as server:
        return trips.count(server.url)


def arguments(args=None):
    parser = outcome.parser('benchmarks.run', __doc__)
    add = parser.add_argument
    add('--databases', nargs='+', choices=DATABASES, default=list(DATABASES))
    add('--systems', nargs='+', help='only these (names of modules)')
    add('--starts', type=int, default=4, help='of all processes')
    add('--rounds', type=int, default=15, help='of a start')
    add('--requests', type=int, default=40, help='of a scenario in a round')
    add('--quick', action='store_true', help='one start, 8 rounds of 30')
    options = parser.parse_args(args)
    if options.quick:
        options.starts, options.rounds, options.requests = 1, 8, 30
    return options


def main():
    options = arguments()
    environment.enter('benchmarks.run')
    from benchmarks import report

    raw = run(options)
    missed = report.write(raw, count_trips(options), options)
    print((options.results / 'sessions.rst').read_text())
    say(f'Written to {options.results}')
    if missed:
        say(f'{missed} targets are missed')


if __name__ == '__main__':
    main()
