"""What sessions weigh, on disk and in the process.

    python3 -m benchmarks.memory
    python3 -m benchmarks.memory --rows 20000 --requests 5000    a short run

Bytes of table and indexes for each stored session (PostgreSQL, MariaDB,
SQLite), bytes of Python objects for each loaded session, what a request
leaves to the garbage collector, and what the process has grown by over many
requests.
"""

from array import array
import contextlib
import gc
from pathlib import Path
import sys
import tempfile
import tracemalloc

from benchmarks import environment
from benchmarks import outcome
from benchmarks.environment import say
from benchmarks.outcome import number

NAMES = {
    'postgresql': 'PostgreSQL', 'mariadb': 'MariaDB', 'sqlite': 'SQLite',
}
_LOADED = 500
# Each live session is changed so often before a table counts as in use; by
# the vacuum's default it runs when a fifth of the rows has changed.
_CHANGES, _SHARE = 3, 5
#: "No growth": of a hundred requests at most one leaves a block of memory.
LEFT = 0.01
_SCENARIOS = ('S1', 'S2', 'S3', 'S4')


# -- on disk -----------------------------------------------------------------

#: database -> SQL with the bytes of table and indexes.
_SIZES = {
    'postgresql': "SELECT pg_table_size('sessions'), "
                  "pg_indexes_size('sessions')",
    # InnoDB's table is its primary key.
    'mysql': 'SELECT data_length, index_length '
             'FROM information_schema.tables '
             "WHERE table_schema = DATABASE() AND table_name = 'sessions'",
    'sqlite': "SELECT sum(iif(name = 'sessions', pgsize, 0)), "
              "sum(iif(name = 'sessions', 0, pgsize)) FROM dbstat "
              "WHERE name LIKE '%sessions%'",
}


@contextlib.contextmanager
def database(name):
    """Yield the URL of an empty database."""
    from benchmarks import servers

    if name == 'sqlite':
        with tempfile.TemporaryDirectory() as folder:
            yield f'sqlite:///{folder}/memory.sqlite'
        return
    with servers.mariadb() if name == 'mariadb' else (
        servers.postgresql(max_wal_size='8GB')
    ) as server:
        yield server.url


def stored(url, rows):
    """Return bytes per session: new rows, and in use on PostgreSQL."""
    import sqlalchemy as sa

    from benchmarks import filling
    from pyramid_sqlasession import session_model

    engine = sa.create_engine(url)
    session_model(metadata := sa.MetaData())
    metadata.create_all(engine)
    filling.Rows(rows).fill(engine, 'sessions')
    filling.settle(engine, 'sessions')
    found = {
        'rows': rows, 'data': len(filling.data()), **_weight(engine, rows)
    }
    if engine.dialect.name == 'postgresql':
        _use(engine)
        found['in_use'] = _weight(engine, rows)
    engine.dispose()
    return found


def _weight(engine, rows):
    with engine.connect() as connection:
        table, indexes = connection.exec_driver_sql(
            _SIZES[engine.dialect.name]
        ).one()
    return {
        'table': round(int(table) / rows, 1),
        'indexes': round(int(indexes) / rows, 1),
        'total': round((int(table) + int(indexes)) / rows, 1),
    }


def _use(engine):
    """Change all sessions, a share at a time, and vacuum as the server."""
    with engine.connect().execution_options(
        isolation_level='AUTOCOMMIT'
    ) as connection:
        for part in range(_CHANGES * _SHARE):
            connection.exec_driver_sql(
                "UPDATE sessions SET version = version + 1, "
                "accessed = accessed + interval '1 minute', "
                "expires = expires + interval '1 minute' "
                f"WHERE mod(hashtext(id::text), {_SHARE}) "
                f"IN ({part % _SHARE}, {-(part % _SHARE)})"
            )
            connection.exec_driver_sql('VACUUM sessions')


# -- in the process ----------------------------------------------------------


def loaded(app, cookie):
    """Return the bytes of Python objects of a loaded session."""
    import orjson
    from pyramid.request import Request

    from benchmarks import filling

    def load():
        request = Request.blank('/', headers={'Cookie': cookie})
        request.registry = app.registry
        return request

    requests = [load() for _ in range(_LOADED)]
    for request in requests:
        _ = request.environ, request.path
    text = filling.data()
    kept = []
    # Whatever the first one makes for all.
    assert load().session['user_id']
    with_data = _traced(
        lambda: [request.session['user_id'] for request in requests]
    )
    alone = _traced(
        lambda: kept.extend(orjson.loads(text) for _ in requests)
    )
    return {
        'session': round(with_data / _LOADED), 'data': round(alone / _LOADED)
    }


def _traced(work, before=None):
    """Return the bytes that stay after *work*."""
    tracemalloc.start()
    if before is not None:
        before()
    gc.collect()
    start = tracemalloc.get_traced_memory()[0]
    work()
    gc.collect()
    end = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return end - start


# -- after a request ---------------------------------------------------------


def uncollected(calls, count=100):
    """Return {scenario: objects} that wait for the garbage collector after
    each of *count* requests: what the application keeps of a request, its
    body and its SQLAlchemy session, waits with them.
    """
    found = {}
    for name in ('S0', *_SCENARIOS):
        calls[name]()
        gc.collect()
        gc.disable()
        try:
            for _ in range(count):
                calls[name]()
            found[name] = round(gc.collect() / count, 2)
        finally:
            gc.enable()
    return found


# -- over many requests ------------------------------------------------------


def resident():
    """Return the resident memory of this process, in bytes."""
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * 4096


#: What is looked at, in the order of the table.
_COUNTS = {
    'requests': 'After so many requests', 'resident_kib': 'resident KiB',
    'blocks': 'blocks of memory', 'objects': 'objects',
}


def _counts(requests):
    gc.collect()
    return (
        requests, resident() // 1024, sys.getallocatedblocks(),
        len(gc.get_objects()),
    )


def growth(calls, count, samples=10):
    """Return samples of what the process holds, over *count* requests.

    The first is taken when everything that is made once has been made.
    """
    def ask(requests):
        for _ in range(requests // len(_SCENARIOS)):
            for name in _SCENARIOS:
                calls[name]()

    # Room for all samples beforehand: they are no growth.
    room = array('q', [0] * len(_COUNTS) * (samples + 1))
    ask(min(2000, count))
    for turn in range(samples + 1):
        if turn:
            ask(count // samples)
        at = turn * len(_COUNTS)
        room[at:at + len(_COUNTS)] = array(
            'q', _counts(turn * count // samples)
        )
    found = [
        dict(zip(_COUNTS, room[at:at + len(_COUNTS)], strict=True))
        for at in range(0, len(room), len(_COUNTS))
    ]
    blocks = found[-1]['blocks'] - found[1]['blocks']
    left = blocks / max(1, count - count // samples)
    # Bytes, but many times as slow: of a few requests only.
    few = max(40, count // 100)
    return {
        'requests': count, 'samples': found,
        'blocks_per_request': round(left, 4),
        'traced': {
            'requests': few,
            # What replaces an object of before would count as new.  The
            # least of three: a leak is there each time, a table that Python
            # doubles (of the classes that Pyramid makes for requests) once.
            'bytes_kept': min(
                _traced(lambda: ask(few), before=lambda: ask(few))
                for _ in range(3)
            ),
        },
    }


def measure(options):
    from benchmarks.systems import sqlasession
    from benchmarks.wsgi import Client
    from benchmarks.wsgi import scenarios

    figures = {'unit': 'bytes', 'stored': {}}
    for name in options.databases:
        say(f'{NAMES[name]}: {options.rows} sessions on disk')
        with database(name) as url:
            figures['stored'][name] = stored(url, options.rows)
    say(f'{options.requests} requests in one process')
    with database(options.databases[0]) as url:
        app = sqlasession.application(url)
        figures['loaded'] = loaded(app, Client(app).create())
        calls = scenarios(app)
        figures['uncollected'] = uncollected(calls)
        figures['growth'] = growth(calls, options.requests)
        app.registry['sqlasession'].engine.dispose()
    return figures


# -- the page ----------------------------------------------------------------


def as_rst(figures):
    rows = []
    for name, found in figures['stored'].items():
        rows.append([NAMES[name], *_weights(found)])
        if 'in_use' in found:
            rows.append(
                [f'{NAMES[name]}, in use', *_weights(found['in_use'])]
            )
    some = next(iter(figures['stored'].values()))
    loaded, growth = figures['loaded'], figures['growth']
    without, *waiting = figures['uncollected'].values()
    more = max(waiting) - without
    left = growth['blocks_per_request']
    traced = growth['traced']
    return '\n'.join([
        f'{some["rows"]:,} sessions of {some["data"]} bytes of data, as the '
        f'rows are after they were stored; "in use" is after each was '
        f'changed {_CHANGES} times while the table was vacuumed whenever a '
        f'{_ordinal(_SHARE)} of it had changed.',
        '',
        outcome.table(
            ['Bytes on disk for each session', 'table', 'indexes', 'in all'],
            rows,
        ),
        f'A loaded session takes {loaded["session"]:,} bytes of Python '
        f'objects until its request ends; {loaded["data"]:,} of them are '
        f'the decoded data. It is freed at once then, with all of the '
        f'request: {without + more:g} objects wait for the garbage '
        f'collector, {without:g} without session (Pyramid makes a class for '
        f'each request).',
        '',
        outcome.table(
            list(_COUNTS.values()),
            [
                [number(sample[key]) for key in _COUNTS]
                for sample in growth['samples']
            ],
        ),
        f'The requests are {", ".join(_SCENARIOS)} in turn. Over '
        f'{traced["requests"]:,} more of them, {traced["bytes_kept"]:,} '
        f'bytes were kept.',
        '',
        outcome.targets([
            (
                f'Blocks of memory that stay, for each request, over '
                f'{growth["requests"]:,}', f'{LEFT:g}', f'{left:.4f}',
                left <= LEFT,
            ),
            (
                'Objects that a request leaves to the garbage collector, '
                'more than without session', '0', f'{more:g}', more <= 0,
            ),
        ]),
    ])


def _weights(found):
    return [number(found[key]) for key in ('table', 'indexes', 'total')]


def _ordinal(share):
    return {5: 'fifth'}[share]


def arguments(args=None):
    parser = outcome.parser('benchmarks.memory', __doc__)
    add = parser.add_argument
    add('--databases', nargs='+', choices=NAMES, default=list(NAMES),
        help='the first one is that of the requests')
    add('--rows', type=int, default=300_000)
    add('--requests', type=int, default=100_000)
    return parser.parse_args(args)


def main():
    options = arguments()
    environment.enter('benchmarks.memory')
    outcome.publish('memory', measure(options), as_rst, options.results)


if __name__ == '__main__':
    main()
