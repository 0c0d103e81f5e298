"""Requests per second of real servers, beside sessions in a signed cookie.

    python3 -m benchmarks.serve
    python3 -m benchmarks.serve --servers waitress --seconds 0.5 --rounds 2

The same Pyramid application twice, once with this package on PostgreSQL and
once with Pyramid's SignedCookieSessionFactory, in waitress (4 threads) and in
gunicorn (2 processes; synchronous, and 4 threads each).  They take turns.
"""

import contextlib
import itertools
from pathlib import Path
from statistics import median
import tempfile

from benchmarks import environment
from benchmarks import outcome
from benchmarks.environment import say
from benchmarks.outcome import number

STORES = ('sqlasession', 'signed_cookie')
PATHS = {'S0': '/none', 'S2': '/read', 'S3': '/change'}
_VISITORS = 200

SERVERS = {
    'waitress': 'waitress, 4 threads',
    'gunicorn-sync': 'gunicorn, 2 processes',
    'gunicorn-gthread': 'gunicorn, 2 processes of 4 threads',
}


def command(name):
    from benchmarks import serving

    return {
        'waitress': serving.waitress(4),
        'gunicorn-sync': serving.gunicorn('--worker-class', 'sync'),
        'gunicorn-gthread': serving.gunicorn(
            '--worker-class', 'gthread', '--threads', '4'
        ),
    }[name]


def takers(server):
    """Return {scenario: function that returns the next request}."""
    cookies = server.cookies(_VISITORS)
    return {
        scenario: itertools.cycle(server.requests(path, cookies)).__next__
        for scenario, path in PATHS.items()
    }


def in_turns(servers, rounds, seconds):
    """Return {name: {scenario: [(requests per second, CPU) of each round]}}.

    :param servers: {name: (port, {scenario: taker})}.
    """
    from benchmarks.loading import load

    found = {
        name: {scenario: [] for scenario in calls}
        for name, (_, calls) in servers.items()
    }
    for port, calls in servers.values():
        for take in calls.values():
            load(port, take, seconds / 3)
    for turn in range(rounds):
        # Forwards and backwards, so that none is always the first.
        order = list(servers.items())[::1 if turn % 2 else -1]
        for scenario in next(iter(found.values())):
            for name, (port, calls) in order:
                found[name][scenario].append(
                    load(port, calls[scenario], seconds)
                )
    return found


def compared(found):
    """Return what each scenario reached, and what it costs in percent."""
    result = {}
    for scenario in PATHS:
        ours, cookie = (found[store][scenario] for store in STORES)
        result[scenario] = {
            'sqlasession': round(median(rate for rate, _ in ours), 1),
            'signed_cookie': round(median(rate for rate, _ in cookie), 1),
            'less_percent': round(100 * median(
                1 - a / b
                for (a, _), (b, _) in zip(ours, cookie, strict=True)
            ), 1),
            'client_cpu_percent': round(
                100 * median(cpu for _, cpu in [*ours, *cookie]), 1
            ),
        }
    return result


def measure(options):
    from benchmarks import servers
    from benchmarks.serving import Server
    from benchmarks.systems import sqlasession

    figures = {'unit': 'requests per second', 'servers': {}}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        database = stack.enter_context(servers.postgresql())
        app = sqlasession.application(database.url)
        app.registry['sqlasession'].engine.dispose()
        for name in options.servers:
            say(SERVERS[name])
            with contextlib.ExitStack() as running:
                pair = {}
                for store in STORES:
                    server = running.enter_context(Server(
                        command(name), store, database.url,
                        log=Path(folder, f'{name}-{store}.log'),
                    ))
                    pair[store] = (server.port, takers(server))
                figures['servers'][name] = compared(
                    in_turns(pair, options.rounds, options.seconds)
                )
    return figures


# -- the page ----------------------------------------------------------------


def as_rst(figures):
    rows = [
        [
            f'{SERVERS[name]}: {scenario}', number(row['sqlasession']),
            number(row['signed_cookie']), number(row['less_percent']),
        ]
        for name, scenarios in figures['servers'].items()
        for scenario, row in scenarios.items()
    ]
    busy = max(
        row['client_cpu_percent']
        for scenarios in figures['servers'].values()
        for row in scenarios.values()
    )
    return '\n'.join([
        outcome.table(
            ['Requests per second', 'pyramid_sqlasession', 'signed cookie',
             'less, in percent'],
            rows,
        ),
        f'Eight connections, in turns of the two applications; the database '
        f'and the client share the machine with the servers. The client '
        f'took at most {busy:.0f} percent of one processor. S0 is the same '
        f'in both: what it differs by is noise. gunicorn closes each '
        f'connection of a synchronous worker, so that its answers wait for '
        f'a new one.',
        '',
    ])


def arguments(args=None):
    parser = outcome.parser('benchmarks.serve', __doc__)
    add = parser.add_argument
    add('--servers', nargs='+', choices=SERVERS, default=list(SERVERS))
    add('--rounds', type=int, default=6)
    add('--seconds', type=float, default=1.5, help='of a turn')
    return parser.parse_args(args)


def main():
    options = arguments()
    environment.enter('benchmarks.serve')
    outcome.publish('serve', measure(options), as_rst, options.results)


if __name__ == '__main__':
    main()
