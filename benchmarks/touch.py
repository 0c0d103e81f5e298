"""What an index on the expiry costs each touch, and gives the cleaner.

    python3 -m benchmarks.touch                  1 million rows
    python3 -m benchmarks.touch --rows 50000     a short run

On PostgreSQL, three tables with the same rows: as built (an index on the
coarse ``sweep``), with an index on ``expires`` itself, and with none.  For
each: bytes of WAL and the share of HOT updates per touch, what the indexes
weigh, and how long the cleaner takes to find a batch of expired rows and to
find that there is none.
"""

from dataclasses import dataclass
from statistics import median
import time

from benchmarks import environment
from benchmarks import outcome
from benchmarks.environment import say
from benchmarks.outcome import number

_EXPIRED = 3


@dataclass(frozen=True)
class Variant:
    """How a table differs from the one as built."""

    name: str
    statements: tuple[str, ...]
    #: By which column the cleaner finds its rows in order.
    column: str | None


VARIANTS = (
    Variant('index on sweep (as built)', (), 'sweep'),
    Variant(
        'index on expires',
        ('ALTER TABLE sessions DROP COLUMN sweep',
         'CREATE INDEX ix_sessions_expires ON sessions (expires)'),
        'expires',
    ),
    Variant(
        'no index', ('ALTER TABLE sessions DROP COLUMN sweep',), None,
    ),
)


class Table:
    """The table of one variant."""

    def __init__(self, engine, variant):
        import sqlalchemy as sa

        from pyramid_sqlasession.cleaner import BATCH

        self._batch = BATCH
        self._text = sa.text
        self._engine = engine
        self._variant = variant
        self.execute(*variant.statements, 'VACUUM ANALYZE sessions',
                     'CHECKPOINT')

    def execute(self, *statements):
        """Run SQL; return the rows of the last one, if it has any."""
        with self._engine.connect().execution_options(
            isolation_level='AUTOCOMMIT'
        ) as connection:
            for statement in statements:
                result = connection.execute(self._text(statement))
            if statements and result.returns_rows:
                return result.fetchall()
        return []

    def touches(self, count):
        """Touch *count* live rows as requests do; return what it took."""
        from benchmarks.filling import SWEEP

        ids = [row[0] for row in self.execute(
            f'SELECT id FROM sessions WHERE expires > now() '
            f'ORDER BY md5(id::text) LIMIT {count}'
        )]
        assignments = (
            "accessed = now(), expires = expires + interval '1 minute'"
        )
        if self._variant.column == 'sweep':
            assignments += (
                f", sweep = to_timestamp(ceil(extract(epoch FROM expires "
                f"+ interval '1 minute') / {SWEEP}) * {SWEEP})"
            )
        statement = self._text(
            f'UPDATE sessions SET {assignments} WHERE id = :id'
        )
        before, clock, took = self._counters(), time.perf_counter, []
        with self._engine.connect().execution_options(
            isolation_level='AUTOCOMMIT'
        ) as connection:
            for one in ids:
                start = clock()
                connection.execute(statement, {'id': one})
                took.append(clock() - start)
        after = self._counters()
        wal, updates, hot = (
            b - a for a, b in zip(before, after, strict=True)
        )
        return {
            'touch_us': round(median(took) * 1e6, 1),
            'wal_bytes': round(wal / len(ids), 1),
            'hot_percent': round(100 * hot / max(updates, 1), 1),
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

    def cleaner(self, most):
        """Return the ms of up to *most* batches of expired rows, and of an
        idle tick.
        """
        found = self._chosen()
        took = []
        while len(took) < most:
            start = time.perf_counter()
            with self._engine.begin() as connection:
                ids = [row[0] for row in connection.execute(found)]
                connection.execute(
                    self._text('DELETE FROM sessions WHERE id = ANY(:ids) '
                               'AND expires <= now()'),
                    {'ids': ids},
                )
            took.append((time.perf_counter() - start) * 1000)
            if len(ids) < self._batch:
                break
        # What is left of them, at once: an idle tick finds none.
        self.execute(
            'DELETE FROM sessions WHERE expires <= now()', 'VACUUM sessions'
        )
        return {
            'batch_ms': round(median(took), 2),
            'longest_batch_ms': round(max(took), 2),
            'idle_ms': round(median(self._idle(found) for _ in range(5)), 2),
        }

    def _idle(self, found):
        start = time.perf_counter()
        with self._engine.begin() as connection:
            assert not connection.execute(found).fetchall()
        return (time.perf_counter() - start) * 1000

    def _chosen(self):
        """Return what finds a batch, as Records.remove_expired() does."""
        column = self._variant.column
        where, order = 'expires <= now()', ''
        if column == 'sweep':
            where += ' AND sweep <= now()'
        if column:
            order = f'ORDER BY {column}'
        return self._text(
            f'SELECT id FROM sessions WHERE {where} {order} '
            f'LIMIT {self._batch} FOR UPDATE SKIP LOCKED'
        )


def _fill(url, rows):
    """Fill the database that all variants are copies of."""
    import sqlalchemy as sa

    from benchmarks import filling
    from pyramid_sqlasession import session_model

    engine = sa.create_engine(url)
    session_model(metadata := sa.MetaData())
    metadata.create_all(engine)
    filling.Rows(rows * 4 // 3, _EXPIRED).fill(engine, 'sessions')
    # Pages that were just filled have no room for a HOT update; those of a
    # table in use have, where sessions ended.
    with engine.begin() as connection:
        connection.exec_driver_sql(
            'DELETE FROM sessions '
            'WHERE mod((ctid::text::point)[1]::int, 4) = 1'
        )
    filling.settle(engine, 'sessions')
    engine.dispose()


def measure(options):
    import sqlalchemy as sa

    from benchmarks import servers
    from pyramid_sqlasession.cleaner import BATCH

    found = []
    # What autovacuum does meanwhile would be counted as the touches', and
    # the first change of a page after a checkpoint has nothing to do with
    # indexes.
    with servers.postgresql(
        autovacuum='off', full_page_writes='off', shared_buffers='1GB',
        max_wal_size='8GB',
    ) as server:
        say(f'Filling {options.rows} rows')
        _fill(servers.new_database(server, 'touch'), options.rows)
        for n, variant in enumerate(VARIANTS):
            say(variant.name)
            url = servers.new_database(server, f'touch{n}', copy_of='touch')
            engine = sa.create_engine(url)
            table = Table(engine, variant)
            table.touches(options.touches // 10)
            found.append({
                'name': variant.name, **table.touches(options.touches),
                'index_bytes': table.index_bytes(),
                **table.cleaner(options.batches),
            })
            engine.dispose()
    return {'rows': options.rows, 'batch': BATCH, 'variants': found}


# -- the page ----------------------------------------------------------------

_COLUMNS = {
    'touch_us': ('µs for a touch', 0),
    'wal_bytes': ('WAL, bytes', 0),
    'hot_percent': ('HOT, percent', 1),
    'index_bytes': ('indexes, MB', 1),
    'batch_ms': ('{} deleted, ms', 1),
    'longest_batch_ms': ('longest, ms', 1),
    'idle_ms': ('idle tick, ms', 2),
}


def as_rst(figures):
    def cell(row, key):
        value = row[key] / 1e6 if key == 'index_bytes' else row[key]
        return number(value, _COLUMNS[key][1])

    return '\n'.join([
        f'{figures["rows"]:,} sessions on PostgreSQL, three of ten expired. '
        f'WAL and HOT are for each touch, and both indexes are counted, that '
        f'of the ids too.',
        '',
        outcome.table(
            ['Table', *(
                title.format(figures['batch'])
                for title, _ in _COLUMNS.values()
            )],
            [
                [row['name'], *(cell(row, key) for key in _COLUMNS)]
                for row in figures['variants']
            ],
        ),
    ])


def arguments(args=None):
    parser = outcome.parser('benchmarks.touch', __doc__)
    parser.add_argument('--rows', type=int, default=10**6)
    parser.add_argument('--touches', type=int, default=30_000)
    parser.add_argument('--batches', type=int, default=60, help='at most')
    return parser.parse_args(args)


def main():
    options = arguments()
    environment.enter('benchmarks.touch')
    outcome.publish('touch', measure(options), as_rst, options.results)


if __name__ == '__main__':
    main()
