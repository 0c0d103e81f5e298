"""Does a session get dearer as the table grows?  And beside the cleaner?

    python3 -m benchmarks.growth                       10k, 1M, 5M rows
    python3 -m benchmarks.growth --rows 10000 50000    a short run

On PostgreSQL.  Fills one table step by step and measures S2 and S3 at each
size; then measures S2 while the cleaner deletes 3 of 10 rows, and an idle
tick of the cleaner.
"""

import argparse
from statistics import median
import threading
import time

from benchmarks import environment
from benchmarks.environment import say

#: Issue 4.
GROWTH = 1.25
BESIDE = 2.0
IDLE_MS = 5.0


def quantile(values, share):
    """Return the value below which *share* of them lie."""
    values = sorted(values)
    return values[min(int(len(values) * share), len(values) - 1)]


def times(call, count):
    """Return the µs of *count* calls."""
    result = []
    for _ in range(count):
        start = time.perf_counter_ns()
        call()
        result.append((time.perf_counter_ns() - start) / 1000)
    return result


def costs(calls, rounds, count):
    """Return the medians of S2 and S3 beyond S0."""
    found = {'S2': [], 'S3': []}
    for _ in range(rounds):
        without = median(times(calls['S0'], count))
        for name, values in found.items():
            values.append(median(times(calls[name], count)) - without)
    return {name: median(values) for name, values in found.items()}


def verdict(kept):
    return 'kept' if kept else 'MISSED'


def measure_growth(app, calls, engine, options):
    """Print S2 and S3 at each size."""
    from benchmarks import filling

    first, smallest = 1, None
    for rows in sorted(options.rows):
        say(f'Filling up to {rows} rows')
        filling.fill(engine, 'sessions', rows, first=first, expired=3)
        filling.settle(engine, 'sessions')
        first = rows + 1
        calls['S2'](), calls['S3']()
        found = costs(calls, options.rounds, options.requests)
        smallest = smallest or found
        print(f'{rows:>9} rows: ' + ', '.join(
            f'{name} {value:.0f} µs ({value / smallest[name]:.2f})'
            for name, value in found.items()
        ))
    print(f'at most {GROWTH}: ' + verdict(all(
        found[name] <= GROWTH * smallest[name] for name in found
    )))


def sample(call, until):
    """Return the µs of calls until *until* is set."""
    result = []
    while not until.is_set():
        result += times(call, 20)
    return result


def measure_cleaner(app, call, options):
    """Print S2's percentiles without the cleaner and beside it."""
    from pyramid_sqlasession.cleaner import Cleaner

    application = app.registry['sqlasession']
    cleaner = Cleaner(application)
    alone = times(call, options.requests * options.rounds)
    done, deleted = threading.Event(), []

    def clean():
        start = time.perf_counter()
        deleted.append(cleaner.clean())
        deleted.append(time.perf_counter() - start)
        done.set()

    thread = threading.Thread(target=clean)
    thread.start()
    beside = sample(call, done)
    thread.join()
    print(f'the cleaner deleted {deleted[0]} rows in {deleted[1]:.1f} s')
    for name, row in (('alone', alone), ('beside it', beside)):
        print(f'S2 {name:10} p50 {quantile(row, 0.5):6.0f} µs, '
              f'p99 {quantile(row, 0.99):6.0f} µs ({len(row)} requests)')
    factor = quantile(beside, 0.99) / quantile(alone, 0.99)
    print(f'p99: {factor:.2f} times, at most {BESIDE}: '
          f'{verdict(factor <= BESIDE)}')
    idle = median(times(cleaner.clean, 20)) / 1000
    print(f'an idle tick: {idle:.1f} ms, at most {IDLE_MS}: '
          f'{verdict(idle <= IDLE_MS)}')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('--rows', nargs='+', type=int, default=[10**4, 10**6, 5 * 10**6])
    add('--rounds', type=int, default=20)
    add('--requests', type=int, default=100)
    options = parser.parse_args()
    environment.enter('benchmarks.growth')
    from benchmarks import servers
    from benchmarks.systems import sqlasession
    from benchmarks.wsgi import scenarios

    with servers.postgresql(shared_buffers='1GB') as server:
        app = sqlasession.application(server.url, touch_interval='1h')
        calls = scenarios(app)
        engine = app.registry['sqlasession'].engine
        measure_growth(app, calls, engine, options)
        measure_cleaner(app, calls['S2'], options)
        engine.dispose()


if __name__ == '__main__':
    main()
