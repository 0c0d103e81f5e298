"""The cleaner in a process of its own: ``python -m benchmarks.cleaning``.

    python -m benchmarks.cleaning URL TABLE

Says when it is ready and waits for a line; then deletes what has expired and
answers with a line of JSON; then, for each other line, ticks with nothing to
do, and only connects.
"""

import json
import sys
import time

import psycopg
import sqlalchemy as sa

IDLE_TICKS = 20


def timed(cleaner):
    """Return how many records were deleted, and the ms that it took."""
    start = time.perf_counter()
    count = cleaner.clean()
    return count, (time.perf_counter() - start) * 1000


def connecting(url):
    """Return the ms that a connection by the driver alone takes."""
    plain = sa.make_url(url).set(drivername='postgresql')
    start = time.perf_counter()
    psycopg.connect(plain.render_as_string(hide_password=False)).close()
    return (time.perf_counter() - start) * 1000


def main(url, table):
    from benchmarks.systems import sqlasession
    from pyramid_sqlasession.cleaner import Cleaner

    app = sqlasession.configured(url, table_name=table)
    cleaner = Cleaner(app.registry['sqlasession'])
    print('ready', flush=True)
    sys.stdin.readline()
    deleted, ms = timed(cleaner)
    print(json.dumps({'deleted': deleted, 'seconds': ms / 1000}), flush=True)
    while sys.stdin.readline():
        ticks, connects = [], []
        for _ in range(IDLE_TICKS):
            ticks.append(timed(cleaner)[1])
            connects.append(connecting(url))
        print(json.dumps({'idle': ticks, 'connect': connects}), flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
