"""What sessions weigh, on disk and in the process.

    python3 -m benchmarks.memory
    python3 -m benchmarks.memory --rows 20000 --requests 5000    a short run

Bytes of table and indexes for each stored session (PostgreSQL and SQLite),
bytes of Python objects for each loaded session, and what the process has
grown by over many requests.
"""

import argparse
import gc
from pathlib import Path
import tempfile
import tracemalloc

from benchmarks import environment

_LOADED = 500


def resident():
    """Return the resident memory of this process, in bytes."""
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * 4096


def stored_on_postgresql(rows):
    """Print bytes per session of table and indexes."""
    import sqlalchemy as sa

    from benchmarks import filling
    from benchmarks import servers
    from pyramid_sqlasession import session_model

    with servers.postgresql() as server:
        engine = sa.create_engine(server.url)
        session_model(metadata := sa.MetaData())
        metadata.create_all(engine)
        filling.fill(engine, 'sessions', rows)
        filling.settle(engine, 'sessions')
        with engine.connect() as connection:
            table, indexes = connection.execute(sa.text(
                "SELECT pg_table_size('sessions'), "
                "pg_indexes_size('sessions')"
            )).one()
        engine.dispose()
    size = len(filling.DATA)
    print(f'PostgreSQL, {rows} sessions of {size} B: {table / rows:.0f} B '
          f'table and {indexes / rows:.0f} B indexes each')


def stored_on_sqlite(app, calls, rows, path):
    """Print bytes per session of the file."""
    before = path.stat().st_size
    for _ in range(rows):
        calls['S4']()
    engine = app.registry['sqlasession'].engine
    with engine.connect() as connection:
        connection.exec_driver_sql('PRAGMA wal_checkpoint(TRUNCATE)')
    each = (path.stat().st_size - before) / rows
    print(f'SQLite, {rows} sessions: {each:.0f} B each')


def loaded(app, cookie):
    """Print the Python memory of one loaded session."""
    from pyramid.request import Request

    def load():
        request = Request.blank('/', headers={'Cookie': cookie})
        request.registry = app.registry
        return request

    requests = [load() for _ in range(_LOADED)]
    for request in requests:
        _ = request.environ, request.path
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for request in requests:
        assert request.session['user_id']
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    print(f'a loaded session: {(after - before) / _LOADED:.0f} B of Python '
          f'objects')


def growth(calls, count):
    """Print what the process grows by over *count* requests."""
    names = ['S1', 'S2', 'S3', 'S4']
    for _ in range(200):
        for name in names:
            calls[name]()
    gc.collect()
    start = resident()
    for number in range(1, 5):
        for _ in range(count // 16):
            for name in names:
                calls[name]()
        gc.collect()
        print(f'after {number * count // 4} requests: '
              f'{(resident() - start) / 1024:+.0f} KiB')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rows', type=int, default=200_000)
    parser.add_argument('--requests', type=int, default=100_000)
    options = parser.parse_args()
    environment.enter('benchmarks.memory')
    from benchmarks.systems import sqlasession
    from benchmarks.wsgi import Client
    from benchmarks.wsgi import scenarios

    stored_on_postgresql(options.rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'memory.sqlite')
        app = sqlasession.application(f'sqlite:///{path}')
        calls = scenarios(app)
        stored_on_sqlite(app, calls, min(options.rows, 5000), path)
        loaded(app, Client(app).create())
        growth(calls, options.requests)


if __name__ == '__main__':
    main()
