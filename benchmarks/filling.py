"""Fills a table of sessions with many rows, as if visitors had come.

One row follows the other within the last 23 hours, with the id that the
package would have made then (UUID version 7) and about 600 bytes of data.
Everything follows from a row's number, so that any of them can be visited.
Servers make the rows themselves; that is the fastest way.
"""

import base64
from dataclasses import dataclass
from dataclasses import field
import datetime as dt
import hashlib
import time
import uuid

import sqlalchemy as sa

from benchmarks.systems import PAYLOAD

_HOUR = 3_600_000
#: From the first row to the last, in ms.
_SPAN = 23 * _HOUR
_STEP = 250_000
#: ``sweep`` is ``expires``, rounded up to a sixteenth of 24 hours; seconds.
SWEEP = 5400

_COLUMNS = (
    'id, secret_hash, version, data, created, started, accessed, expires, '
    'sweep, rotated'
)

# The parts of an id are those of Rows.id().
_POSTGRESQL = f"""
    INSERT INTO {{table}} ({_COLUMNS})
    SELECT id, sha256(sha256(uuid_send(id))), 1, :data, at, at, at, ends,
        to_timestamp(ceil(extract(epoch FROM ends) / {SWEEP}) * {SWEEP}), at
    FROM (
        SELECT {{id}} AS id, to_timestamp(ms / 1000.0) AS at,
            to_timestamp(CASE WHEN n % 10 < :expired
                THEN :end - {2 * _HOUR} - n % {5 * _HOUR}
                ELSE ms + {24 * _HOUR} END / 1000.0) AS ends
        FROM (
            SELECT n, :begin + n * {_SPAN} / :total AS ms
            FROM generate_series(CAST(:first AS bigint), :last) AS n
        ) AS numbers
    ) AS rows
"""
_ID = """
    (lpad(to_hex(ms), 12, '0') || '7' || substr(md5(n::text), 1, 3)
    || '8' || substr(md5(n::text), 18, 15))::uuid
"""
#: What everybody made before: all random.
_ID_V4 = """
    overlay(overlay(md5(n::text) placing '4' from 13) placing '8' from 17)
    ::uuid
"""
_MARIADB = f"""
    INSERT INTO {{table}} ({_COLUMNS})
    SELECT id, UNHEX(SHA2(UNHEX(SHA2(id, 256)), 256)), 1, :data, at, at, at,
        ends, FROM_UNIXTIME(CEIL(UNIX_TIMESTAMP(ends) / {SWEEP}) * {SWEEP}),
        at
    FROM (
        SELECT UNHEX(CONCAT(LPAD(HEX(ms), 12, '0'), '7',
                SUBSTR(MD5(n), 1, 3), '8', SUBSTR(MD5(n), 18, 15))) AS id,
            FROM_UNIXTIME(ms / 1000) AS at,
            FROM_UNIXTIME(CASE WHEN n % 10 < :expired
                THEN :end - {2 * _HOUR} - n % {5 * _HOUR}
                ELSE ms + {24 * _HOUR} END / 1000) AS ends
        FROM (
            SELECT seq AS n, :begin + seq * {_SPAN} DIV :total AS ms
            FROM seq_{{first}}_to_{{last}}
        ) AS numbers
    ) AS made
"""


def data():
    """Return the payload as the package stores it."""
    from pyramid_sqlasession.serializers import JSONSerializer

    return JSONSerializer().dumps(PAYLOAD).decode()


@dataclass(frozen=True)
class Rows:
    """So many rows, *expired* of ten expired; numbers begin with 1.

    Those ended so long ago that their ``sweep`` has come too.
    """

    total: int
    expired: int = 0
    #: ms since 1970.
    end: int = field(default_factory=lambda: time.time_ns() // 1_000_000)

    def _moment(self, n):
        return self.end - _SPAN + n * _SPAN // self.total

    def id(self, n):
        """Return the id of a row."""
        some = hashlib.md5(str(n).encode()).hexdigest()  # noqa: S324
        return uuid.UUID(f'{self._moment(n):012x}7{some[:3]}8{some[17:]}')

    def cookie(self, n):
        """Return the cookie that opens a row."""
        id = self.id(n).bytes
        token = base64.urlsafe_b64encode(id + hashlib.sha256(id).digest())
        return f'session={token.decode()}'

    def _is_live(self, n):
        return n % 10 >= self.expired

    def live(self, count):
        """Return the numbers of *count* live rows from all over the table."""
        # The last of each ten is never expired.
        tens = self.total // 10
        found = (
            i * tens // count * 10 + 9 for i in range(count)
        )
        return list(dict.fromkeys(found))

    def fill(self, engine, table, *, first=1, random_ids=False):
        """Insert the rows from *first* on.

        :param random_ids: UUID version 4; PostgreSQL only, and nobody has
            the cookies.
        """
        if engine.dialect.name == 'sqlite':
            self._fill_sqlite(engine, table)
            return
        values = {
            'data': data(), 'expired': self.expired, 'total': self.total,
            'begin': self.end - _SPAN, 'end': self.end,
        }
        for start in range(first, self.total + 1, _STEP):
            last = min(start + _STEP - 1, self.total)
            with engine.begin() as connection:
                if engine.dialect.name == 'postgresql':
                    statement = _POSTGRESQL.format(
                        table=table, id=_ID_V4 if random_ids else _ID
                    )
                    numbers = {'first': start, 'last': last}
                else:
                    connection.exec_driver_sql("SET time_zone = '+00:00'")
                    statement = _MARIADB.format(
                        table=table, first=start, last=last
                    )
                    numbers = {}
                connection.execute(sa.text(statement), values | numbers)

    def _fill_sqlite(self, engine, table):
        marks = ', '.join('?' * (_COLUMNS.count(',') + 1))
        connection = engine.raw_connection()
        try:
            connection.driver_connection.executemany(
                f'INSERT INTO {table} ({_COLUMNS}) VALUES ({marks})',
                self._rows(),
            )
            connection.commit()
        finally:
            connection.close()

    def _rows(self):
        text = data()
        for n in range(1, self.total + 1):
            id, at = self.id(n).bytes, self._moment(n)
            ends = at + 24 * _HOUR
            if not self._is_live(n):
                ends = self.end - 2 * _HOUR - n % (5 * _HOUR)
            sweep = -(-ends // (SWEEP * 1000)) * SWEEP * 1000
            secret_hash = hashlib.sha256(hashlib.sha256(id).digest()).digest()
            at = _as_text(at)
            yield (
                id, secret_hash, 1, text, at, at, at, _as_text(ends),
                _as_text(sweep), at,
            )


def _as_text(milliseconds):
    moment = dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)
    return moment.replace(tzinfo=None).isoformat(' ', 'microseconds')


_SETTLE = {
    'postgresql': ['VACUUM ANALYZE {table}', 'CHECKPOINT'],
    'mysql': ['ANALYZE TABLE {table}'],
    'sqlite': ['ANALYZE', 'PRAGMA wal_checkpoint(TRUNCATE)'],
}


def settle(engine, table):
    """Have the server know the table, and its pages written."""
    with engine.connect().execution_options(
        isolation_level='AUTOCOMMIT'
    ) as connection:
        for statement in _SETTLE[engine.dialect.name]:
            connection.exec_driver_sql(statement.format(table=table))
