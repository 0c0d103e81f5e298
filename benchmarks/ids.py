"""What ids in the order of time (UUID version 7) give the index.

    python3 -m benchmarks.ids                   500,000 rows
    python3 -m benchmarks.ids --rows 50000      a short run

On PostgreSQL, two tables with the same rows, one with ids of version 7, as
the package makes them, and one with random ids (version 4).  What new
sessions do to the index of the ids: pages that have to be written, bytes of
WAL.
"""

from benchmarks import environment
from benchmarks import outcome
from benchmarks.environment import say
from benchmarks.outcome import number

NAMES = {'v7': 'version 7, in the order of time', 'v4': 'version 4, random'}


def one(engine, rows, new, *, random_ids):
    """Return what *new* sessions did to a table of *rows*."""
    import sqlalchemy as sa

    from benchmarks import filling
    from pyramid_sqlasession import session_model

    session_model(metadata := sa.MetaData())
    metadata.create_all(engine)

    def ask(statement):
        with engine.connect().execution_options(
            isolation_level='AUTOCOMMIT'
        ) as connection:
            result = connection.exec_driver_sql(statement)
            return result.fetchall() if result.returns_rows else []

    # Of PostgreSQL's own contrib.
    ask('CREATE EXTENSION IF NOT EXISTS pg_buffercache')
    whole = filling.Rows(rows + new)
    first = filling.Rows(rows, end=whole.end - 60_000)
    first.fill(engine, 'sessions', random_ids=random_ids)
    # The first change of a page after it goes to the WAL as a whole.
    filling.settle(engine, 'sessions')
    ((before,),) = ask("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
    whole.fill(engine, 'sessions', first=rows + 1, random_ids=random_ids)
    ((after,),) = ask("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
    ((dirty,),) = ask(
        "SELECT count(*) FROM pg_buffercache WHERE isdirty "
        "AND relfilenode = pg_relation_filenode('sessions_pkey') "
        "AND reldatabase = (SELECT oid FROM pg_database "
        "WHERE datname = current_database())"
    )
    ((size,),) = ask("SELECT pg_relation_size('sessions_pkey')")
    return {
        'pages_dirtied': dirty,
        'wal_bytes': round(float(after - before) / new),
        'index_bytes': round(size / (rows + new), 1),
    }


def measure(options):
    import sqlalchemy as sa

    from benchmarks import servers

    found = {}
    with servers.postgresql(
        autovacuum='off', shared_buffers='1GB', max_wal_size='8GB'
    ) as server:
        for name in NAMES:
            say(NAMES[name])
            engine = sa.create_engine(servers.new_database(server, name))
            found[name] = one(
                engine, options.rows, options.new, random_ids=name == 'v4'
            )
            engine.dispose()
    return {'rows': options.rows, 'new': options.new, 'ids': found}


def as_rst(figures):
    return '\n'.join([
        f'{figures["new"]:,} new sessions beside {figures["rows"]:,}, after '
        f'a checkpoint. WAL is that of the whole row and its index entries.',
        '',
        outcome.table(
            ['Ids', 'pages of their index written', 'WAL, bytes a session',
             'their index, bytes a session'],
            [
                [NAMES[name], number(row['pages_dirtied']),
                 number(row['wal_bytes']), number(row['index_bytes'])]
                for name, row in figures['ids'].items()
            ],
        ),
    ])


def arguments(args=None):
    parser = outcome.parser('benchmarks.ids', __doc__)
    parser.add_argument('--rows', type=int, default=500_000)
    parser.add_argument('--new', type=int, default=10_000)
    return parser.parse_args(args)


def main():
    options = arguments()
    environment.enter('benchmarks.ids')
    outcome.publish('ids', measure(options), as_rst, options.results)


if __name__ == '__main__':
    main()
