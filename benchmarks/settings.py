"""What to set for speed, and what each setting buys.

    python3 -m benchmarks.settings
    python3 -m benchmarks.settings --rounds 5 --seconds 0.3    a short run

On PostgreSQL.  The same application set up in different ways, in turns: how
``request.dbsession`` joins the transaction, driver, prepared statements,
``touch_interval``.  Then ``fillfactor`` of the table, and the size of the pool
under the threads of waitress.
"""

import contextlib
import itertools
from pathlib import Path
from statistics import median
import sys
import tempfile

from benchmarks import environment
from benchmarks import outcome
from benchmarks.environment import say
from benchmarks.outcome import number

BASE = 'cookiecutter'
#: variant -> how the page calls it.
NAMES = {
    BASE: 'as the cookiecutter sets it up (psycopg 3)',
    'registered once': 'zope.sqlalchemy registered once, on the sessionmaker',
    'initial_state changed': "registered with initial_state='changed'",
    'both': 'both of them',
    'never prepared': 'psycopg 3 with prepare_threshold=None',
    'psycopg2': 'psycopg2',
    'traced': 'somebody listens to the statements (a toolbar, tracing)',
    'pool_pre_ping': 'pool_pre_ping',
    'touch_interval 0': 'touch_interval = 0: each read is a touch too',
}
SCENARIOS = ('S2', 'S3', 'S4', 'Q0', 'Q2', 'Q3')

FILLFACTORS = (100, 90, 80)
# Of each new session.
_CHANGES = 4
#: sqlalchemy.pool_size; at most ten more are opened for a while.
POOLS = [1, 2, 5, 8]
_THREADS = 8
_PATHS = {'S2': '/read', 'Q2': '/query_read'}


# -- in turns, one process each ----------------------------------------------


def variants(names, options, folder):
    """Return {variant: {scenario: µs of the request, and µs less}}."""
    from benchmarks import run
    from benchmarks import servers

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(servers.postgresql())
        workers = []
        for name in names:
            url = servers.new_database(server, name)
            worker = run.Worker(
                name, [sys.executable, '-m', 'benchmarks.worker', 'variants',
                       url, name], folder,
            )
            stack.callback(worker.close)
            worker.wait()
            workers.append(worker)
        found = run.measure(workers, options.rounds, options.requests)
    return {name: _against(found[name], found[BASE]) for name in names}


def _against(rounds, base):
    return {
        scenario: {
            'request': round(median(r[scenario][0] for r in rounds), 1),
            'less': round(median(
                b[scenario][0] - r[scenario][0]
                for r, b in zip(rounds, base, strict=True)
            ), 1),
        }
        for scenario in SCENARIOS
    }


# -- fillfactor --------------------------------------------------------------


def fillfactors(options):
    """Return [{fillfactor, …}] of new visitors who look around."""
    from benchmarks import servers

    with servers.postgresql(autovacuum='off') as server:
        return [
            _fillfactor(server.url, one, options.visitors)
            for one in FILLFACTORS
        ]


def _fillfactor(url, fillfactor, visitors):
    from benchmarks.systems import sqlasession
    from benchmarks.timing import times
    from benchmarks.wsgi import Client
    from benchmarks.wsgi import visits

    table = f'sessions_{fillfactor}'
    app = sqlasession.application(url, table_name=table)
    engine = app.registry['sqlasession'].engine

    def ask(statement):
        with engine.connect().execution_options(
            isolation_level='AUTOCOMMIT'
        ) as connection:
            result = connection.exec_driver_sql(statement)
            return result.one() if result.returns_rows else None

    def counters():
        # What a backend has counted it tells when it ends.
        engine.dispose()
        ask('SELECT pg_stat_force_next_flush()')
        return [float(one) for one in ask(
            f"SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn, "
            f"pg_stat_get_tuples_updated('{table}'::regclass), "
            f"pg_stat_get_tuples_hot_updated('{table}'::regclass)"
        )]

    ask(f'ALTER TABLE {table} SET (fillfactor = {fillfactor})')
    client = Client(app)
    calls = visits(client, [client.create() for _ in range(visitors)])
    before = counters()
    calls['S2']()
    took = times(calls['S3'], visitors * _CHANGES)
    wal, updates, hot = (
        b - a for a, b in zip(before, counters(), strict=True)
    )
    (size,) = ask(f"SELECT pg_table_size('{table}')")
    engine.dispose()
    return {
        'fillfactor': fillfactor,
        'bytes_per_session': round(size / visitors, 1),
        'hot_percent': round(100 * hot / max(1, updates), 1),
        'wal_bytes': round(wal / len(took)),
        'request': round(median(took), 1),
    }


# -- the pool ----------------------------------------------------------------


def pools(options, folder):
    """Return {size: {scenario: requests per second}}."""
    from benchmarks import serve
    from benchmarks import servers
    from benchmarks import serving
    from benchmarks.systems import sqlasession

    with contextlib.ExitStack() as stack:
        database = stack.enter_context(servers.postgresql())
        app = sqlasession.application(database.url)
        app.registry['sqlasession'].engine.dispose()
        running = {}
        for size in options.pools:
            server = stack.enter_context(serving.Server(
                serving.waitress(_THREADS), 'sqlasession', database.url,
                engine={'pool_size': size},
                log=Path(folder, f'pool-{size}.log'),
            ))
            cookies = server.cookies(50)
            running[size] = (server.port, {
                name: itertools.cycle(
                    server.requests(path, cookies)
                ).__next__
                for name, path in _PATHS.items()
            })
        found = serve.in_turns(running, options.turns, options.seconds)
    return {
        size: {
            name: round(median(rate for rate, _ in rates), 1)
            for name, rates in scenarios.items()
        }
        for size, scenarios in found.items()
    }


def measure(options):
    names = [n for n in NAMES if n == BASE or n in options.variants]
    try:
        import psycopg2  # noqa: F401
    except ImportError:
        say('psycopg2 is left out: it is not installed')
        names = [name for name in names if name != 'psycopg2']
    with tempfile.TemporaryDirectory(prefix='bench-') as folder:
        say('The application in different ways')
        found = variants(names, options, folder)
        say('fillfactor')
        filled = fillfactors(options)
        say('The size of the pool')
        return {
            'unit': 'microseconds', 'variants': found,
            'fillfactor': filled, 'pool': pools(options, folder),
        }


# -- the page ----------------------------------------------------------------


def as_rst(figures):
    found = figures['variants']
    return '\n'.join([
        'A whole request in µs, and what the same request takes less than '
        'as the cookiecutter sets it up (above 0 is faster, by the median '
        'of the rounds):',
        '',
        outcome.table(
            ['µs', *SCENARIOS],
            [[NAMES[BASE], *(
                number(found[BASE][scenario]['request'])
                for scenario in SCENARIOS
            )]],
        ),
        outcome.table(
            ['µs less', *SCENARIOS],
            [
                [NAMES[name], *(_signed(row[s]['less']) for s in SCENARIOS)]
                for name, row in found.items() if name != BASE
            ],
        ),
        f'Free room in the pages of the table. New visitors came, then each '
        f'of them in turn changed the session {_CHANGES} times:',
        '',
        outcome.table(
            ['fillfactor', 'table, bytes a session', 'HOT, percent',
             'WAL, bytes a change', 'S3, µs'],
            [
                [number(row['fillfactor']), number(row['bytes_per_session']),
                 number(row['hot_percent'], 1), number(row['wal_bytes']),
                 number(row['request'])]
                for row in figures['fillfactor']
            ],
        ),
        f'Requests per second of waitress with {_THREADS} threads:',
        '',
        outcome.table(
            ['pool_size', *(f'{name} ({path})'
                            for name, path in _PATHS.items())],
            [
                [size, *(number(rates[name]) for name in _PATHS)]
                for size, rates in figures['pool'].items()
            ],
        ),
    ])


def _signed(value):
    return f'{value:+,.0f}'


def arguments(args=None):
    parser = outcome.parser('benchmarks.settings', __doc__)
    add = parser.add_argument
    add('--variants', nargs='+', choices=NAMES, default=list(NAMES))
    add('--pools', nargs='+', type=int, default=POOLS)
    add('--rounds', type=int, default=40)
    add('--requests', type=int, default=30, help='of a scenario in a round')
    add('--visitors', type=int, default=2000, help='of each fillfactor')
    add('--turns', type=int, default=4, help='of each pool')
    add('--seconds', type=float, default=1.0, help='of a turn')
    return parser.parse_args(args)


def main():
    options = arguments()
    environment.enter('benchmarks.settings')
    outcome.publish('settings', measure(options), as_rst, options.results)


if __name__ == '__main__':
    main()
