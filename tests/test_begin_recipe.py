"""SQLite where the application itself sends BEGIN, as SQLAlchemy's recipe for
savepoints has it, or has the driver begin in another way.
"""

import sys

import pytest
import sqlalchemy as sa

from pyramid_sqlasession.scripts import batches

from .failing import on_sqlite
from .meeting import put


def leave_transactions_alone(raw, record):
    """Have the driver send no BEGIN and COMMIT."""
    raw.isolation_level = None


def begin(connection):
    """Send the BEGIN."""
    connection.exec_driver_sql('BEGIN')


def begin_to_write(connection):
    """Send one that takes the lock, as some do."""
    connection.exec_driver_sql('BEGIN IMMEDIATE')


each_recipe = pytest.mark.parametrize('beginning', [begin, begin_to_write])


@on_sqlite
@each_recipe
@pytest.mark.parametrize('options', [None, {'poolclass': sa.StaticPool}])
def test_the_table_is_made_at_the_start(make_site, beginning, options):
    """Section 2, C7: and the sessions work, of one connection, too."""

    def follow(config):
        engine = config.registry['dbsession_factory'].kw['bind']
        sa.event.listen(engine, 'connect', leave_transactions_alone)
        sa.event.listen(engine, 'begin', beginning)

    site = make_site(
        create=False, create_table='true', engine_options=options,
        configure=follow,
    )
    site.views['put'] = put(n=1)
    site.browser().get('/put')
    assert site.data() == {'n': 1}


@pytest.fixture
def all_follow(beginning):
    """Have all engines follow the recipe."""
    listeners = {'connect': leave_transactions_alone, 'begin': beginning}
    for name, listener in listeners.items():
        sa.event.listen(sa.Engine, name, listener)
    yield
    for name, listener in listeners.items():
        sa.event.remove(sa.Engine, name, listener)


@on_sqlite
@each_recipe
def test_the_command(all_follow, empty):
    """D2, C4: the table is made, and everybody is logged out."""
    empty.done('table')
    empty.new()
    assert empty.done('revoke', '--all', '--yes') == '1 session ended\n'
    assert empty.ids() == set()


#: How ``sqlite3`` can be told to begin transactions.
MODES = [{'isolation_level': None}, {'isolation_level': 'IMMEDIATE'}]
if sys.version_info >= (3, 12):
    MODES += [{'autocommit': True}, {'autocommit': False}]


@on_sqlite
@pytest.mark.parametrize('mode', MODES, ids=str)
def test_the_table_is_made_and_emptied_in_each_mode(make_site, mode):
    """Section 2, C4: what is said to be done is committed."""
    site = make_site(
        create=False, create_table='true',
        engine_options={'connect_args': mode},
    )
    site.views['put'] = put(n=1)
    site.browser().get('/put')
    ended = batches.execute(
        site.application, sa.delete(site.application.records.table)
    )
    assert (ended, site.rows()) == (1, [])


@on_sqlite
@pytest.mark.parametrize('mode', MODES, ids=str)
def test_an_own_engine_in_each_mode(make_site, tmp_path, mode):
    """T0: it connects, and the journal has its mode."""
    site = make_site(
        url=f'sqlite:///{tmp_path}/new.sqlite', create_table='true',
        create=False, **{'sqlasession.engine.connect_args': mode},
    )
    site.views['put'] = put(n=1)
    site.browser().get('/put')
    count = sa.text('SELECT count(*) FROM sessions')
    with site.application.engine.connect() as connection:
        assert connection.scalar(sa.text('PRAGMA journal_mode')) == 'wal'
        assert connection.scalar(count) == 1
