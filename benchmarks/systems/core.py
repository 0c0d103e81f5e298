"""SQLAlchemy Core alone: the statements of ``raw``, built once."""

import itertools
import time
import uuid

import sqlalchemy as sa

from benchmarks.systems.sqlite import prepare_all_engines
from benchmarks.systems.statements import DATA
from benchmarks.systems.statements import ids

TABLE = sa.Table(
    'core_sessions', sa.MetaData(),
    sa.Column('id', sa.Uuid, primary_key=True),
    sa.Column('data', sa.Text),
    sa.Column('expires', sa.Double),
)


def make(url):
    prepare_all_engines()
    engine = sa.create_engine(url)
    c = TABLE.c
    this = c.id == sa.bindparam('_id')
    select = sa.select(c.data, c.expires).where(this)
    update = TABLE.update().where(this)
    insert = TABLE.insert()
    stored = ids()
    with engine.begin() as connection:
        TABLE.drop(connection, checkfirst=True)
        TABLE.create(connection)
        for one in stored:
            connection.execute(
                insert, {'id': one, 'data': DATA, 'expires': time.time()}
            )
    turns = itertools.cycle(stored)

    def read():
        with engine.begin() as connection:
            assert connection.execute(select, {'_id': next(turns)}).first()

    def change():
        one = next(turns)
        with engine.begin() as connection:
            assert connection.execute(select, {'_id': one}).first()
            connection.execute(
                update, {'_id': one, 'data': DATA, 'expires': time.time()}
            )

    def create():
        with engine.begin() as connection:
            connection.execute(
                insert,
                {'id': uuid.uuid4(), 'data': DATA, 'expires': time.time()},
            )

    return {'S0': lambda: None, 'S2': read, 'S3': change, 'S4': create}
