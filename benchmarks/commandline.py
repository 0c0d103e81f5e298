"""What ``psessions`` takes with many rows: time, and memory at its highest.

    python3 -m benchmarks.commandline
    python3 -m benchmarks.commandline --rows 20000      a short run

On SQLite and PostgreSQL; half of the rows have expired.  Each command is a
process, which is measured from outside; the first one starts the application
and looks at an empty table.
"""

import argparse
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time

from benchmarks import environment

APPLICATION = """
from pyramid.config import Configurator


def main(global_config, **settings):
    config = Configurator(settings=settings)
    config.include('pyramid_sqlasession')
    return config.make_wsgi_app()
"""

INI = """
[app:main]
use = call:application:main
sqlalchemy.url = {url}
sqlasession.create_table = true
"""

_COLUMNS = (
    'id, secret_hash, version, data, created, started, accessed, expires, '
    'sweep, rotated'
)
_FILL = {
    'sqlite': f"""
        INSERT INTO sessions ({_COLUMNS})
        WITH RECURSIVE numbers (n, at) AS (
            SELECT 1, datetime('now', '-1 hour') || '.000000'
            UNION ALL SELECT n + 1, at FROM numbers WHERE n < :rows
        ), rows (at, ends) AS (
            SELECT at, datetime('now', iif(n % 2, '-', '+') || '1 day')
                || '.000000'
            FROM numbers
        )
        SELECT randomblob(16), randomblob(32), 1, :data, at, at, at, ends,
            ends, at
        FROM rows
    """,
    'postgresql': f"""
        INSERT INTO sessions ({_COLUMNS})
        SELECT gen_random_uuid(), sha256(n::text::bytea), 1, :data, at, at, at,
            ends, ends, at
        FROM (
            SELECT n, now() - interval '1 hour' AS at,
                now() + (1 - n % 2 * 2) * interval '1 day' AS ends
            FROM generate_series(1, CAST(:rows AS integer)) AS n
        ) AS rows
    """,
}

COMMANDS = [
    ['stats'],
    ['list'],
    ['list', '--limit', '1000000'],
    ['list', '--limit', '1000000', '--json'],
    ['expire'],
    ['revoke', '--all', '--yes'],
]


def run(folder, words):
    """Run ``psessions``; return seconds and MiB."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, '-m', 'pyramid_sqlasession.scripts', 'app.ini',
         *words],
        cwd=folder, stdout=subprocess.DEVNULL,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(
            [str(folder), str(environment.ROOT)]
        )},
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, words
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def measure(url, rows):
    """Print a line for each command on the database at *url*."""
    import sqlalchemy as sa

    data = json.dumps({'text': 'x' * 600})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / 'application.py').write_text(APPLICATION)
        (folder / 'app.ini').write_text(INI.format(url=url))
        show('(no rows)', *run(folder, ['stats']))
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(
                sa.text(_FILL[engine.dialect.name]),
                {'rows': rows, 'data': data},
            )
        engine.dispose()
        for words in COMMANDS:
            show(' '.join(words), *run(folder, words))


def show(what, seconds, mebibytes):
    """Print a line."""
    print(f'  {what:<30} {seconds:8.1f} s {mebibytes:8.1f} MiB', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rows', type=int, default=1_000_000)
    options = parser.parse_args()
    environment.enter('benchmarks.commandline')
    from benchmarks import servers

    with tempfile.TemporaryDirectory() as folder:
        print(f'SQLite, {options.rows:,} rows')
        measure(f'sqlite:///{folder}/commandline.sqlite', options.rows)
    with servers.postgresql() as server:
        print(f'PostgreSQL, {options.rows:,} rows')
        measure(server.url, options.rows)


if __name__ == '__main__':
    main()
