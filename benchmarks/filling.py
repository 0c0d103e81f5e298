"""Fills the table of the sessions with many rows, by the server itself."""

import json

import sqlalchemy as sa

from benchmarks.systems import PAYLOAD

DATA = json.dumps(PAYLOAD, separators=(',', ':'))

#: One row for each number: ids as the package makes them (UUID version 7),
#: spread over the last day; a share of them expired.
_FILL = """
    INSERT INTO {table} (id, secret_hash, version, data, created, started,
        accessed, expires, sweep, rotated)
    SELECT
        (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
            || '7' || substr(md5(n::text), 1, 3)
            || '8' || substr(md5(n::text || 'x'), 1, 15))::uuid,
        sha256(n::text::bytea), 1, :data, at, at, at, ends,
        date_trunc('hour', ends) + interval '1 hour', at
    FROM (
        SELECT n, now() - (random() * interval '23 hours') AS at,
            CASE WHEN n % 10 < :expired
                THEN now() - random() * interval '5 hours'
                ELSE now() + interval '1 day' + random() * interval '1 hour'
            END AS ends
        FROM generate_series(CAST(:first AS bigint), :last) AS n
        ORDER BY at
    ) AS rows
"""

_STEP = 250_000


def fill(engine, table, rows, *, first=1, expired=0):
    """Insert rows *first* to *rows*; *expired* tenths of them are so."""
    for start in range(first, rows + 1, _STEP):
        with engine.begin() as connection:
            connection.execute(
                sa.text(_FILL.format(table=table)),
                {'data': DATA, 'first': start, 'expired': expired,
                 'last': min(start + _STEP - 1, rows)},
            )


def settle(engine, table):
    """Have the server know the table, and its pages written."""
    with engine.connect().execution_options(
        isolation_level='AUTOCOMMIT'
    ) as connection:
        connection.execute(sa.text(f'VACUUM ANALYZE {table}'))
        connection.execute(sa.text('CHECKPOINT'))
