"""``psessions INI revoke`` and ``expire``: which sessions end."""

import datetime as dt
import sys
import uuid

import pytest
import sqlalchemy as sa

from pyramid_sqlasession import dialects
from pyramid_sqlasession.model import PublicId
from pyramid_sqlasession.scripts import batches

from . import psessions
from .psessions import EXPIRED
from .psessions import HOUR
from .psessions import NOBODY
from .psessions import server_error

ON_SERVERS = pytest.mark.parametrize(
    'database', ['postgresql', 'mariadb'], indirect=True
)


# -- revoke -------------------------------------------------------------------


def test_revoke_by_id(stocked):
    """The named sessions end, the others stay."""
    first, second, third = (stocked.new() for _ in range(3))
    out = stocked.done('revoke', first, third, first)
    assert out == '2 sessions ended\n'
    assert stocked.ids() == {uuid.UUID(second)}


def test_revoke_of_an_unknown_id(stocked):
    """What is there ends all the same; the exit code is 1."""
    id = stocked.new()
    code, out, err = stocked.run('revoke', NOBODY, id)
    assert code == 1
    assert out == '1 session ended\n'
    assert NOBODY in err
    assert id not in err
    assert stocked.ids() == set()


def test_revoke_of_unknown_ids_alone(stocked):
    """The error is all that is said."""
    code, out, err = stocked.run('revoke', NOBODY)
    assert (code, out) == (1, '')
    assert err == (
        f'psessions: there is no live session {NOBODY}; "psessions '
        f'{stocked.ini} list" shows which there are\n'
    )


def test_revoke_of_an_expired_session(stocked):
    """Section 3: it has ended before; each way says so, and leaves it."""
    id = stocked.new(ago=48 * HOUR, user_id=7)
    assert 'no live session' in stocked.fails(1, 'revoke', id)
    for rest in (['--field', 'user_id=7'], ['--all', '--yes']):
        assert stocked.done('revoke', *rest) == '0 sessions ended\n'
    assert stocked.ids() == {uuid.UUID(id)}


@pytest.mark.parametrize('which', ['id', 'all'])
def test_revoke_of_what_a_later_absolute_timeout_has_ended(
    stocked, database, which
):
    """C4: it ends for good, and does not come back with a longer timeout."""
    rest = {'check_expiration_interval': '0', 'expiration': '160d'}
    stocked.write(database.url, **rest)
    id = stocked.new(ago=49 * HOUR)
    stocked.write(
        database.url, **{**rest, 'expiration': '1d'}, absolute_timeout='2d'
    )
    args = [id] if which == 'id' else ['--all', '--yes']
    assert stocked.done('revoke', *args) == '1 session ended\n'
    assert stocked.ids() == set()


def count_batches(monkeypatch):
    """Return a list that has an item for each batch that is written."""
    commit = batches.commit
    turns = []

    def count(*args):
        turns.append(args)
        return commit(*args)

    monkeypatch.setattr(batches, 'commit', count)
    return turns


def test_revoke_by_field(stocked, monkeypatch):
    """All sessions of a user end, the others stay."""
    turns = count_batches(monkeypatch)
    monkeypatch.setattr(batches, 'BATCH', 1)
    for user_id in (7, 8, 7, None):
        stocked.new(user_id=user_id)
    assert stocked.done('revoke', '--field', 'user_id=7') == (
        '2 sessions ended\n'
    )
    assert len(stocked.ids()) == 2
    assert len(turns) == 2


def test_revoke_all(stocked, monkeypatch):
    """--all --yes ends every session, in batches, without a question."""
    turns = count_batches(monkeypatch)
    monkeypatch.setattr(batches, 'BATCH', 2)
    monkeypatch.setattr(batches, 'CHOSEN', 3)
    for _ in range(9):
        stocked.new()
    assert stocked.done('revoke', '--all', '--yes') == '9 sessions ended\n'
    assert stocked.ids() == set()
    assert len(turns) == 3 * 2


@pytest.mark.parametrize('answer', ['\n', 'n\n', '', 'all\n'])
def test_revoke_all_asks(in_file, terminal, answer):
    """On a terminal nothing happens without a yes."""
    in_file.new()
    terminal(answer)
    code, _, err = in_file.run('revoke', '--all')
    assert code == 1
    assert 'End 1 live session, ' in err
    assert 'nothing was done' in err
    assert len(in_file.ids()) == 1


@pytest.mark.parametrize('answer', ['yes\n', 'y\n', ' Y \n'])
def test_revoke_all_after_yes(in_file, terminal, answer):
    """A yes at the terminal ends them."""
    in_file.new()
    terminal(answer)
    code, out, _ = in_file.run('revoke', '--all')
    assert (code, out) == (0, '1 session ended\n')
    assert in_file.ids() == set()


def refuse(monkeypatch, count, sqlstate='40P01'):
    """Have the database refuse so many batches.

    Return two lists, of the tries and of the pauses between them.
    """
    begin = dialects.begin_writing
    tries, pauses = [], []

    def try_it(connection):
        tries.append(connection)
        if len(tries) <= count:
            raise server_error(sqlstate)
        begin(connection)

    monkeypatch.setattr(dialects, 'begin_writing', try_it)
    monkeypatch.setattr(batches.time, 'sleep', pauses.append)
    return tries, pauses


def test_revoked_in_spite_of_a_conflict(stocked, monkeypatch):
    """A batch that the database refuses is done again, a little later."""
    stocked.new()
    tries, pauses = refuse(monkeypatch, 2)
    assert stocked.done('revoke', '--all', '--yes') == '1 session ended\n'
    assert len(tries) == 3
    assert pauses == [0.05, 0.1]


@pytest.mark.parametrize(
    ('sqlstate', 'times'), [('40P01', batches.REPETITIONS), ('42501', 1)]
)
def test_revoked_in_vain(in_file, monkeypatch, sqlstate, times):
    """A conflict is the last try's, any other error at once; nothing ended."""
    in_file.new()
    tries, pauses = refuse(monkeypatch, 100, sqlstate)
    line = in_file.fails(1, 'revoke', '--all', '--yes')
    assert 'the database refused it: not now' in line
    assert len(tries) == times
    assert len(pauses) == times - 1
    assert len(in_file.ids()) == 1


# -- expire -------------------------------------------------------------------


def test_expire(stocked, monkeypatch):
    """All that has expired goes, in batches; subscribers hear of it."""
    monkeypatch.setattr(batches, 'BATCH', 2)
    monkeypatch.setattr(batches, 'CHOSEN', 4)
    live = stocked.new()
    for _ in range(9):
        stocked.new(ago=48 * HOUR)
    # Shortly: the cleaner, which goes by a coarse index, would wait.
    stocked.new(ago=24 * HOUR + dt.timedelta(seconds=1))
    EXPIRED.clear()
    assert stocked.done('expire') == '10 expired sessions were deleted\n'
    assert [event.count for event in EXPIRED] == [10]
    assert stocked.ids() == {uuid.UUID(live)}
    assert stocked.done('expire') == '0 expired sessions were deleted\n'
    assert len(EXPIRED) == 1


def change_before(monkeypatch, stocked, id, **values):
    """Have a session changed after it was chosen, and before its batch."""
    commit = batches.commit
    application = stocked.application
    table = application.records.table
    change = table.update().where(table.c.id == uuid.UUID(id)).values(values)

    def change_and_commit(*args):
        with application.engine.begin() as connection:
            connection.execute(change)
        return commit(*args)

    monkeypatch.setattr(batches, 'commit', change_and_commit)


def test_expire_leaves_what_is_touched_meanwhile(stocked, monkeypatch):
    """E3: a session that is used before its batch lives on."""
    used, _ = (stocked.new(ago=48 * HOUR) for _ in range(2))
    later = dt.datetime.now(dt.UTC) + HOUR
    change_before(monkeypatch, stocked, used, expires=later)
    assert stocked.done('expire') == '1 expired session was deleted\n'
    assert stocked.ids() == {uuid.UUID(used)}


def test_revoke_leaves_what_is_anothers_meanwhile(stocked, monkeypatch):
    """Section 3: nor does a session end that has become another user's."""
    moved, _ = (stocked.new(user_id=7) for _ in range(2))
    change_before(monkeypatch, stocked, moved, user_id=8)
    out = stocked.done('revoke', '--field', 'user_id=7')
    assert out == '1 session ended\n'
    assert stocked.ids() == {uuid.UUID(moved)}


@pytest.mark.parametrize('args', [('expire',), ('revoke', '--all', '--yes')])
def test_a_damaged_id_is_in_nobodys_way(in_file, args):
    """E3, C4: SQLite keeps any value as an id; such a row is deleted, too."""
    for _ in range(3):
        in_file.new(ago=48 * HOUR if args == ('expire',) else None)
    in_file.execute("UPDATE sessions SET id = 'abc' WHERE rowid = 2")
    assert in_file.done(*args).startswith('3 ')
    assert in_file.ids() == set()


def test_expire_after_the_expiration_was_lowered(stocked, database):
    """E1: what was stored under another setting goes as soon as it expires."""
    rest = {'check_expiration_interval': '0'}
    stocked.write(database.url, expiration='160d', **rest)
    stocked.new(ago=160 * 24 * HOUR + HOUR)
    live = stocked.new(ago=160 * 24 * HOUR - HOUR)
    stocked.write(database.url, expiration='1h', **rest)
    assert stocked.done('expire') == '1 expired session was deleted\n'
    assert stocked.ids() == {uuid.UUID(live)}


def test_absolute_timeout_that_is_set_later(stocked, database):
    """E1: what it has ended is expired for each of the commands."""
    rest = {'check_expiration_interval': '0'}
    stocked.write(database.url, expiration='160d', **rest)
    id = stocked.new(ago=49 * HOUR)
    live = stocked.new(ago=47 * HOUR)
    stocked.write(
        database.url, expiration='1d', absolute_timeout='2d', **rest
    )
    stats = stocked.json('stats')
    assert (stats['live'], stats['expired']) == (1, 1)
    assert [one['id'] for one in stocked.json('list')] == [live]
    assert stocked.json('show', id)['state'] == 'expired'
    assert stocked.done('expire') == '1 expired session was deleted\n'
    assert stocked.ids() == {uuid.UUID(live)}


# -- locked by others ---------------------------------------------------------


#: What in a URL has the server give up a statement soon.
IMPATIENT = {
    'lock': {
        'postgresql': {'options': '-c lock_timeout=300'},
        'mariadb': {'init_command': 'SET innodb_lock_wait_timeout = 1'},
    },
    'statement': {
        'postgresql': {'options': '-c statement_timeout=300'},
        'mariadb': {'init_command': 'SET max_statement_time = 0.3'},
    },
}


@pytest.fixture
def impatient(stocked, database):
    """A function that sets a limit for the commands from now on."""

    def give_up(what):
        url = sa.make_url(database.url).update_query_dict(
            IMPATIENT[what][database.name]
        )
        stocked.write(
            url.render_as_string(hide_password=False),
            check_expiration_interval='0',
        )
        return stocked

    return give_up


def lock(connection, id):
    """Lock the row of the session *id* in *connection*'s transaction."""
    table = sa.table('sessions', sa.column('id', PublicId), sa.column('data'))
    row = sa.select(table.c.data).where(table.c.id == uuid.UUID(id))
    assert connection.scalar(row.with_for_update())


@ON_SERVERS
@pytest.mark.parametrize('number', [1, 2])
def test_expire_waits_for_nobody(
    stocked, impatient, database, monkeypatch, number
):
    """E3: a row that somebody has locked is left, and told of."""
    monkeypatch.setattr(batches, 'CHOSEN', 2)
    ids = [stocked.new(ago=(60 - age) * HOUR) for age in range(3)]
    impatient('lock')
    with database.create_engine().begin() as other:
        # The first ones that are chosen.
        for id in ids[:number]:
            lock(other, id)
        code, out, err = stocked.run('expire')
    deleted = {1: '2 expired sessions were', 2: '0 expired sessions were'}
    assert (code, out) == (0, f'{deleted[number]} deleted\n')
    left = {1: '1 more is', 2: '3 more are'}
    assert err.startswith(f'psessions: {left[number]} locked by other')
    rest = 3 if number == 2 else 1
    assert stocked.done('expire').startswith(f'{rest} expired')


@ON_SERVERS
@pytest.mark.parametrize('limit', IMPATIENT)
@pytest.mark.parametrize('which', ['id', 'all'])
def test_a_command_that_waited_in_vain(
    stocked, impatient, database, monkeypatch, limit, which
):
    """C4, D1: a locked session is not left, and the line says why it is."""
    monkeypatch.setattr(batches, 'REPETITIONS', 1)
    id = stocked.new()
    impatient(limit)
    with database.create_engine().begin() as other:
        lock(other, id)
        rest = [id] if which == 'id' else ['--all', '--yes']
        line = stocked.fails(1, 'revoke', *rest)
    assert 'gave up a statement' in line
    assert 'does it run' not in line


class Leaving:
    """A list that ends the process when something comes."""

    def append(self, event):
        sys.exit(3)


def test_a_subscriber_that_leaves(in_file, monkeypatch):
    """E3: a subscriber to SessionsExpired that ends the command: code 1."""
    in_file.new(ago=48 * HOUR)
    monkeypatch.setattr(psessions, 'EXPIRED', Leaving())
    assert 'the application has ended the command (3)' in in_file.fails(
        1, 'expire'
    )
