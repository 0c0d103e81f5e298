"""``psessions INI stats``: how many sessions, how old, how large."""

import datetime as dt

import pytest
import sqlalchemy as sa

from pyramid_sqlasession.scripts import starting
from pyramid_sqlasession.scripts.output import readable_bytes
from pyramid_sqlasession.scripts.stats import _DISK

from .psessions import HOUR
from .psessions import PartitionedSession

PARTITION = (
    'CREATE TABLE part_{0} PARTITION OF partitioned_sessions '
    'FOR VALUES WITH (MODULUS 2, REMAINDER {0})'
)


def test_stats_of_nothing(stocked):
    """An empty table has numbers too, all 0."""
    stats = stocked.json('stats')
    assert stats['live'] == stats['expired'] == 0
    assert stats['data'] == {'average': 0, 'largest': 0, 'total': 0}
    assert set(stats['created'].values()) == {0}
    assert 'live' in stocked.done('stats')


def test_stats(stocked, database):
    """Live and expired, ages, sizes of the data, bytes on disk."""
    stocked.new(ago=48 * HOUR)
    stocked.new(ago=2 * HOUR, text='ä' * 1000)
    stocked.new(ago=2 * HOUR)
    stocked.new()
    stats = stocked.json('stats')
    assert (stats['live'], stats['expired']) == (3, 1)
    ages = {'5m': 1, '1h': 0, '1d': 2, '7d': 0, '30d': 0, 'older': 0}
    assert stats['created'] == stats['last_used'] == ages
    assert 2000 < stats['data']['largest'] < 2100
    assert stats['data']['total'] > stats['data']['largest']
    assert stats['data']['average'] == round(stats['data']['total'] / 4)
    assert stats['disk']['table'] >= 8192 or database.name == 'sqlite'
    assert stats['disk']['indexes'] >= 4096
    assert stats['disk']['table'] % 1024 == 0
    assert stats['table'] == 'sessions'
    at = dt.datetime.fromisoformat(stats['at'])
    assert HOUR > dt.datetime.now(dt.UTC) - at >= 0 * HOUR


def test_stats_of_partitions(database, make_command):
    """The bytes on disk are those of the table's partitions."""
    kind = PartitionedSession
    made = make_command(
        database.url, model=f'{kind.__module__}.{kind.__name__}'
    )
    made.done('table')
    if database.name == 'postgresql':
        with database.create_engine().begin() as connection:
            for number in range(2):
                connection.exec_driver_sql(PARTITION.format(number))
    for _ in range(4):
        made.new()
    stats = made.json('stats')
    assert stats['live'] == 4
    assert stats['disk']['table'] >= 4096
    assert stats['disk']['indexes'] >= 4096


def test_stats_is_the_default(stocked):
    """``psessions INI`` alone is ``stats``, readable and aligned."""
    stocked.new()
    out = stocked.done()
    assert out == stocked.done('stats')
    assert '  live                       1\n' in out
    assert '  expired                    0\n' in out
    assert '\x1b' not in out


def test_stats_to_a_person(tmp_path, make_command):
    """Section 3: a line for each number, and what to do with expired ones."""
    url = f'sqlite:///{tmp_path}/shop.sqlite'
    made = make_command(url, expiration='90d')
    made.done('table')
    for hours in (0, 0.5, 3, 4, 48, 240, 1200, 2400):
        made.new(ago=hours * HOUR)
    made.new()
    made.set(accessed=dt.datetime.now(dt.UTC), data='{"a": 1}')
    disk = made.json('stats')['disk']
    assert made.done('stats').split('\n') == [
        f'Sessions in sessions, {url}',
        '  live                       8',
        f'  expired                    1   ("psessions {made.ini} expire" '
        f'deletes them)',
        '',
        'Age of the live ones       created       last used',
        '  up to 5 minutes              2               8',
        '  up to 1 hour                 1               0',
        '  up to 1 day                  2               0',
        '  up to 7 days                 1               0',
        '  up to 30 days                1               0',
        '  older                        1               0',
        '',
        'Size',
        '  data, average            8 B',
        '  data, largest            8 B',
        '  data, total             72 B',
        f'  table on disk  {readable_bytes(disk["table"]):>13}',
        f'  indexes on disk{readable_bytes(disk["indexes"]):>13}',
        '',
    ]


def test_stats_tell_no_password(make_command, database):
    """The address of the database is shown without its password."""
    made = make_command(database.url)
    made.done('table')
    url = sa.make_url(database.url)
    shown = made.json('stats')['database']
    assert shown == url.render_as_string(hide_password=True)


def test_stats_where_the_database_does_not_tell(in_file, monkeypatch):
    """An SQLite built without dbstat has no sizes on disk; the rest is."""
    monkeypatch.setitem(_DISK, 'sqlite', 'SELECT * FROM nothing')
    assert in_file.json('stats')['disk'] == {'table': None, 'indexes': None}
    assert 'not known' in in_file.done('stats')
    monkeypatch.delitem(_DISK, 'sqlite')
    assert in_file.json('stats')['disk'] == {'table': None, 'indexes': None}


@pytest.mark.parametrize('command', ['stats', 'list'])
def test_rows_are_not_loaded(stocked, command, monkeypatch):
    """Neither counting nor listing reads the data of the sessions."""
    stocked.new()
    sent = []

    def note(connection, cursor, statement, *args):
        sent.append(statement)

    monkeypatch.setattr(
        starting, 'found_in', _listening(starting.found_in, note)
    )
    stocked.done(command)
    selects = [s for s in sent if 'FROM sessions' in s]
    assert len(selects) == 1
    for column in ('secret_hash', 'retired', 'sessions.data,'):
        assert column not in selects[0]


def _listening(found_in, note):
    def found(registry):
        application = found_in(registry)
        sa.event.listen(application.engine, 'before_cursor_execute', note)
        return application

    return found


@pytest.mark.parametrize(
    ('count', 'shown'),
    [(0, '0 B'), (1023, '1023 B'), (1024, '1.0 KiB'), (1700, '1.7 KiB'),
     (2 << 20, '2.0 MiB'), (5 << 30, '5.0 GiB'), (1 << 60, '1048576.0 TiB')],
)
def test_bytes(count, shown):
    """Sizes have a unit that keeps them short."""
    assert readable_bytes(count) == shown
