"""What an index on the expiry costs each touch, and gives the cleaner.

    python3 -m benchmarks.touch                  1 million rows
    python3 -m benchmarks.touch --rows 50000     a short run

On PostgreSQL, three tables with the same rows: as built (an index on the
coarse ``sweep``), with an index on ``expires`` itself, and with none.  For
each: bytes of WAL and the share of HOT updates per touch, what the indexes
weigh, and how long the cleaner takes to find a batch of expired rows and to
find that there is none.
"""

import argparse
from statistics import median
import time

from benchmarks import environment

#: name -> statements that make it out of the table as built.
VARIANTS = {
    'index on sweep (as built)': [],
    'index on expires': [
        'DROP INDEX ix_sessions_sweep',
        'CREATE INDEX ix_sessions_expires ON sessions (expires)',
    ],
    'no index': ['DROP INDEX ix_sessions_sweep'],
}


class Table:
    """One variant in a database of its own."""

    def __init__(self, engine, statements, rows):
        import sqlalchemy as sa

        from benchmarks import filling
        from pyramid_sqlasession import session_model

        self._text = sa.text
        self._engine = engine.execution_options(isolation_level='AUTOCOMMIT')
        self._model = session_model(sa.MetaData())
        self._model.metadata.create_all(engine)
        self.execute(*statements)
        filling.fill(engine, 'sessions', rows, expired=3)
        filling.settle(engine, 'sessions')
        # Pages that were just filled have no room for a HOT update; those
        # of a table in use have.
        self.execute(
            'UPDATE sessions SET accessed = accessed WHERE random() < 0.3'
        )
        filling.settle(engine, 'sessions')

    def execute(self, *statements):
        """Run SQL; return the rows of the last one, if it has any."""
        with self._engine.connect() as connection:
            for statement in statements:
                result = connection.execute(self._text(statement))
            if statements and result.returns_rows:
                return result.fetchall()
        return []

    def touches(self, count):
        """Touch *count* live rows as requests do; return what it took."""
        ids = [row[0] for row in self.execute(
            f'SELECT id FROM sessions WHERE expires > now() '
            f'ORDER BY md5(id::text) LIMIT {count}'
        )]
        before = self._counters()
        start = time.perf_counter()
        with self._engine.connect() as connection:
            statement = self._text(
                "UPDATE sessions SET accessed = now(), "
                "expires = expires + interval '1 minute', "
                "sweep = date_trunc('hour', expires + interval '1 minute') "
                "+ interval '1 hour' WHERE id = :id"
            )
            for one in ids:
                connection.execute(statement, {'id': one})
        seconds = time.perf_counter() - start
        after = self._counters()
        wal, updates, hot = (b - a for a, b in zip(before, after,
                                                   strict=True))
        return {
            'µs/touch': seconds * 1e6 / len(ids),
            'WAL B/touch': wal / len(ids),
            'HOT %': 100 * hot / max(updates, 1),
        }

    def _counters(self):
        # The numbers of the statistics come from backends when they idle.
        self.execute('SELECT pg_stat_force_next_flush()')
        ((wal,),) = self.execute(
            "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
        )
        ((updates, hot),) = self.execute(
            "SELECT pg_stat_get_tuples_updated('sessions'::regclass), "
            "pg_stat_get_tuples_hot_updated('sessions'::regclass)"
        )
        return float(wal), updates, hot

    def index_bytes(self):
        ((size,),) = self.execute("SELECT pg_indexes_size('sessions')")
        return size

    def cleaner(self):
        """Return ms for a batch of expired rows, and for an idle tick."""
        import datetime as dt

        from pyramid_sqlasession.records import Records

        records, now = Records(self._model), dt.datetime.now(dt.UTC)
        batches = []
        with self._engine.connect() as connection:
            connection = connection.execution_options(
                isolation_level='READ COMMITTED'
            )
            while True:
                start = time.perf_counter()
                with connection.begin():
                    count = records.remove_expired(connection, now, 1000)
                batches.append((time.perf_counter() - start) * 1000)
                if not count:
                    break
        return {
            'batch ms (median)': median(batches[:-1]),
            'batch ms (longest)': max(batches[:-1]),
            'idle ms': batches[-1],
            'all s': sum(batches) / 1000,
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rows', type=int, default=10**6)
    parser.add_argument('--touches', type=int, default=20_000)
    options = parser.parse_args()
    environment.enter('benchmarks.touch')
    import sqlalchemy as sa

    from benchmarks import servers

    # What autovacuum does meanwhile would be counted as the touches', and
    # the first change of a page after a checkpoint has nothing to do with
    # indexes.
    with servers.postgresql(
        autovacuum='off', full_page_writes='off'
    ) as server:
        for number, (name, statements) in enumerate(VARIANTS.items()):
            url = servers.new_database(server, f'touch{number}')
            engine = sa.create_engine(url)
            table = Table(engine, statements, options.rows)
            table.touches(options.touches // 10)
            found = table.touches(options.touches)
            found['index MB'] = table.index_bytes() / 1e6
            found |= table.cleaner()
            engine.dispose()
            print(f'{name}: ' + ', '.join(
                f'{key} {value:.1f}' for key, value in found.items()
            ), flush=True)


if __name__ == '__main__':
    main()
