"""Does a session get dearer as the table grows?  And beside the cleaner?

    python3 -m benchmarks.growth
    python3 -m benchmarks.growth --rows 10000 50000    a short run

Fills a table for each size and then measures S2 and S3 on all of them in
turns; on PostgreSQL, and on SQLite and MariaDB.  Then, on PostgreSQL, S2
while the cleaner deletes three of ten rows, and an idle tick of the cleaner.
"""

import contextlib
import json
import select
from statistics import median
import subprocess
import sys
import tempfile

from benchmarks import environment
from benchmarks import outcome
from benchmarks.environment import say
from benchmarks.outcome import number
from benchmarks.timing import quantile
from benchmarks.timing import times
from benchmarks.timing import typical

#: The targets.
GROWTH = 1.25
BESIDE = 2.0
IDLE_MS = 5.0

#: Tenths of all rows, at every size.
EXPIRED = 3
#: Visitors who take turns, as in `make bench`.
VISITORS = 200
# Live rows of which each is visited once or twice.
_STRANGERS = 20_000

NAMES = {
    'postgresql': 'PostgreSQL', 'sqlite': 'SQLite', 'mariadb': 'MariaDB',
}


class Size:
    """One application and its table of so many rows."""

    def __init__(self, url, rows):
        from benchmarks import filling
        from benchmarks.systems import sqlasession

        self.rows, self.url = rows, url
        self.table = f'sessions_{rows}'
        # What comes from the filling is older than a touch_interval.
        app = sqlasession.application(
            url, table_name=self.table, disable_touch='true'
        )
        self.engine = app.registry['sqlasession'].engine
        filled = filling.Rows(rows, EXPIRED)
        filled.fill(self.engine, self.table)
        filling.settle(self.engine, self.table)
        #: kind of visitors -> scenarios.
        self.calls = {
            'visitors': self._calls(app, filled, VISITORS),
            'strangers': self._calls(app, filled, _STRANGERS),
        }
        for _ in range(VISITORS):
            self.calls['visitors']['S3']()

    @staticmethod
    def _calls(app, filled, count):
        from benchmarks.wsgi import Client
        from benchmarks.wsgi import visits

        client = Client(app)
        cookies = [filled.cookie(n) for n in filled.live(count)]
        body, _ = client.get('/read', cookies[-1])
        assert body == b'48213', body
        return visits(client, cookies)


@contextlib.contextmanager
def databases(name, folder):
    """Yield a function from a number of rows to a URL."""
    from benchmarks import servers

    if name == 'sqlite':
        yield lambda rows: f'sqlite:///{folder}/{rows}.sqlite'
    elif name == 'mariadb':
        with servers.mariadb() as server:
            yield lambda rows: server.url
    else:
        with servers.postgresql(
            shared_buffers='1GB', max_wal_size='16GB'
        ) as server:
            yield lambda rows: server.url


def in_turns(sizes, rounds, count):
    """Return {kind: {scenario: {rows: [cost of each round]}}}."""
    found = {
        kind: {
            scenario: {size.rows: [] for size in sizes}
            for scenario in ('S2', 'S3')
        }
        for kind in ('visitors', 'strangers')
    }
    for turn in range(rounds):
        # Forwards and backwards, so that none is always the first.
        for size in sizes if turn % 2 else reversed(sizes):
            for kind, scenarios in found.items():
                calls = size.calls[kind]
                without = typical(calls['S0'], count)
                for scenario, row in scenarios.items():
                    row[size.rows].append(
                        typical(calls[scenario], count) - without
                    )
    return found


def summed_up(found):
    """Return [{visitors, scenario, rows, cost, ratio}]."""
    result = []
    for kind, scenarios in found.items():
        for scenario, by_rows in scenarios.items():
            smallest = by_rows[min(by_rows)]
            for rows, costs in by_rows.items():
                pairs = zip(costs, smallest, strict=True)
                result.append({
                    'visitors': kind, 'scenario': scenario, 'rows': rows,
                    'cost': round(median(costs), 1),
                    'ratio': round(median(a / b for a, b in pairs), 3),
                })
    return result


class OtherProcess:
    """benchmarks.cleaning on one table."""

    def __init__(self, size):
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'benchmarks.cleaning', size.url,
             size.table],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=environment.ROOT,
        )
        self._process.stdout.readline()

    def begin(self):
        self._process.stdin.write('\n')
        self._process.stdin.flush()

    @property
    def is_done(self):
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def answer(self):
        return json.loads(self._process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


def percentiles(values):
    return {
        'requests': len(values),
        'p50': round(quantile(values, 0.5), 1),
        'p99': round(quantile(values, 0.99), 1),
        'longest': round(max(values), 1),
    }


def beside_the_cleaner(size, requests):
    """Return what S2 takes alone and while *size* is cleaned."""
    from benchmarks import filling

    call = size.calls['visitors']['S2']
    with OtherProcess(size) as other:
        alone = times(call, requests)
        other.begin()
        beside = []
        while not other.is_done:
            beside += times(call, 20)
        cleaned = other.answer()
        other.begin()
        after = other.answer()['idle']
        # As the server's autovacuum does: until then the index leads to what
        # was deleted.
        filling.settle(size.engine, size.table)
        other.begin()
        found = other.answer()
        ticks = found['idle']
    alone, beside = percentiles(alone), percentiles(beside)
    return {
        'rows': size.rows, **cleaned, 'alone': alone, 'beside': beside,
        'p99_ratio': round(beside['p99'] / alone['p99'], 2),
        'idle_ms': round(median(ticks), 2),
        'connect_ms': round(median(found['connect']), 2),
        'idle_ms_first': round(after[0], 2),
        'idle_ms_after': round(median(after), 2),
        'ticks': len(ticks),
    }


def measure(options):
    figures = {'unit': 'microseconds', 'growth': {}}
    for name in options.databases:
        wanted = options.rows if name == 'postgresql' else options.other_rows
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            url = stack.enter_context(databases(name, folder))
            sizes = []
            for rows in sorted(wanted):
                say(f'{NAMES[name]}: filling {rows} rows')
                size = Size(url(rows), rows)
                stack.callback(size.engine.dispose)
                sizes.append(size)
            say(f'{NAMES[name]}: S2 and S3 at each size')
            figures['growth'][name] = summed_up(
                in_turns(sizes, options.rounds, options.requests)
            )
            if name == 'postgresql':
                cleaned = [s for s in sizes if s.rows <= options.cleaned][-1]
                say(f'Cleaning {cleaned.rows} rows')
                figures['cleaner'] = beside_the_cleaner(
                    cleaned, options.beside
                )
    return figures


# -- the page ----------------------------------------------------------------

_KINDS = {
    'visitors': f'{VISITORS} visitors in turn',
    'strangers': 'each request another visitor',
}


def as_rst(figures):
    parts = []
    for name, rows in figures['growth'].items():
        parts.append(_growth(NAMES[name], rows))
    parts.append(outcome.targets(list(_targets(figures))))
    if 'cleaner' in figures:
        parts.append(_cleaner(figures['cleaner']))
    return '\n'.join(parts)


def _growth(name, rows):
    sizes = sorted({row['rows'] for row in rows})
    header = [f'{name}, session cost in µs']
    header += [f'{size:,} rows' for size in sizes]
    header += ['largest / smallest']
    lines = []
    for kind in _KINDS:
        for scenario in ('S2', 'S3'):
            found = {
                row['rows']: row for row in rows
                if (row['visitors'], row['scenario']) == (kind, scenario)
            }
            lines.append([
                f'{scenario}, {_KINDS[kind]}',
                *(number(found[size]['cost']) for size in sizes),
                number(found[sizes[-1]]['ratio'], 2),
            ])
    return outcome.table(header, lines)


def _targets(figures):
    for name, rows in figures['growth'].items():
        largest = max(row['rows'] for row in rows)
        for row in rows:
            if row['rows'] == largest and row['visitors'] == 'visitors':
                yield (
                    f'{NAMES[name]}, {row["scenario"]}: {largest:,} rows, '
                    f'times the fewest', f'{GROWTH:g}',
                    f'{row["ratio"]:.2f}', row['ratio'] <= GROWTH,
                )
    if (found := figures.get('cleaner')) is not None:
        yield (
            'S2 beside the cleaner: times its 99th percentile without',
            f'{BESIDE:g}', f'{found["p99_ratio"]:.2f}',
            found['p99_ratio'] <= BESIDE,
        )
        yield (
            'An idle tick of the cleaner', f'{IDLE_MS:g} ms',
            f'{found["idle_ms"]:.1f} ms', found['idle_ms'] <= IDLE_MS,
        )


def _cleaner(found):
    return '\n'.join([
        f'The cleaner deleted {found["deleted"]:,} expired sessions out of '
        f'{found["rows"]:,} in {found["seconds"]:.1f} s, in batches, on '
        f'PostgreSQL. It ran in a process of its own, as that of another '
        f'worker of a web server does; S2 was measured meanwhile in this '
        f'one, so that what is seen is the database and the two processors '
        f'and not a shared interpreter.',
        '',
        outcome.table(
            ['S2, whole request in µs', 'requests', 'median',
             '99th percentile', 'longest'],
            [
                [name, *(number(found[key][what]) for what in (
                    'requests', 'p50', 'p99', 'longest'
                ))]
                for name, key in (
                    ('without the cleaner', 'alone'),
                    ('beside the cleaner', 'beside'),
                )
            ],
        ),
        f'An idle tick took {found["idle_ms"]:.1f} ms, of which a connection '
        f'by the driver alone, which it opens for itself, '
        f'{found["connect_ms"]:.1f} ms. Right after the '
        f'deletion, before the server had vacuumed the table, the first of '
        f'{found["ticks"]} took {found["idle_ms_first"]:.1f} ms and the '
        f'median was {found["idle_ms_after"]:.1f} ms. What a tick asks '
        f'finds nothing by the index.',
        '',
    ])


def arguments(args=None):
    parser = outcome.parser('benchmarks.growth', __doc__)
    add = parser.add_argument
    add('--databases', nargs='+', choices=NAMES, default=list(NAMES))
    add('--rows', nargs='+', type=int, default=[10**4, 10**6, 5 * 10**6],
        help='on PostgreSQL')
    add('--other-rows', nargs='+', type=int, default=[10**4, 10**6],
        help='on SQLite and MariaDB')
    add('--cleaned', type=int, default=10**6,
        help='the largest table of at most so many rows gets cleaned')
    add('--rounds', type=int, default=30)
    add('--requests', type=int, default=60)
    add('--beside', type=int, default=8000,
        help='requests without the cleaner')
    return parser.parse_args(args)


def main():
    options = arguments()
    environment.enter('benchmarks.growth')
    outcome.publish('growth', measure(options), as_rst, options.results)


if __name__ == '__main__':
    main()
