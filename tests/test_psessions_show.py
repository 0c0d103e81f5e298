"""``psessions INI show``: one session with its data."""

import datetime as dt
import json

import pytest
import sqlalchemy as sa

from .psessions import HOUR
from .psessions import NOBODY


def test_show(stocked):
    """One session with its fields and its decoded data."""
    id = stocked.new(
        user_id=7, cart={'tea': 2, 'when': dt.date(2026, 1, 2)},
        tags={'b', 'a'}, raw=b'\x01', nan=float('nan'),
    )
    shown = stocked.json('show', id)
    assert shown['id'] == id
    assert shown['state'] == 'live'
    assert shown['version'] >= 0
    assert shown['fields']['user_id'] == 7
    assert shown['data']['cart'] == {'tea': 2, 'when': '2026-01-02'}
    assert shown['data']['tags'] == ['a', 'b']
    assert shown['data']['raw'] == '01'
    assert shown['data']['nan'] == 'nan'
    out = stocked.done('show', id)
    assert 'datetime.date(2026, 1, 2)' in out
    assert 'by the settings' in out


def test_show_of_an_expired_session(stocked):
    """A session that has expired is shown for as long as it is there."""
    id = stocked.new(ago=48 * HOUR)
    assert stocked.json('show', id)['state'] == 'expired'


def test_show_of_an_unknown_id(stocked):
    """An id that nobody has: one line, code 1."""
    assert '" shows which there are' in stocked.fails(1, 'show', NOBODY)


def test_no_secret_is_shown(stocked):
    """Neither list nor show have the hash, the old tokens, the CSRF token."""
    id = stocked.new(_csrft_='csrf-token')
    stocked.execute('UPDATE sessions SET version = version')
    table = stocked.application.records.table
    with stocked.application.engine.connect() as connection:
        hash = bytes(connection.scalar(sa.select(table.c.secret_hash)))
    for command in (('list',), ('show', id)):
        for option in ((), ('--json',)):
            out = stocked.done(*command, *option)
            assert hash.hex() not in out
            assert repr(hash) not in out
            assert 'csrf-token' not in out
            assert 'secret' not in out
            assert 'retired' not in out


def test_show_of_an_empty_session(stocked):
    """A session that was emptied is there, with nothing in it."""
    id = stocked.new()
    stocked.execute("UPDATE sessions SET data = '{}'")
    assert '(empty)' in stocked.done('show', id)
    assert stocked.json('show', id)['data'] == {}


@pytest.mark.parametrize('text', ['', '[1]', '{"a":', 'fernet:abc'])
def test_show_of_damaged_data(stocked, text):
    """What can be read is shown, and the exit code is 1."""
    id = stocked.new(user_id=7)
    stocked.execute('UPDATE sessions SET data = :text', text=text)
    code, out, err = stocked.run('show', id)
    assert code == 1
    assert '(damaged)' in out
    assert 'user_id' in out
    assert err.startswith('psessions: its data cannot be read: ')
    assert err.count('\n') == 1
    code, out, err = stocked.run('show', id, '--json')
    assert code == 1
    assert json.loads(out)['data'] is None
