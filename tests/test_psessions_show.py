"""``psessions INI show``: one session with its data."""

import datetime as dt
from decimal import Decimal
import json
import re
import uuid

import pytest
import sqlalchemy as sa

from .psessions import AT
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


def test_show_is_of_the_one_that_is_named(stocked):
    """Section 3: of several sessions, it is that of the id."""
    for n, id in enumerate([stocked.new(tea=n) for n in range(3)]):
        shown = stocked.json('show', id)
        assert (shown['id'], shown['data']['tea']) == (id, n)


@pytest.mark.parametrize(
    ('lifetime', 'words'),
    [(None, 'by the settings'), (90, '90 seconds'), (0, 'fixed')],
)
def test_show_to_a_person(plain, lifetime, words):
    """Section 3: what of the record is no secret, then fields and data."""
    id = plain.new(agent='Browser')
    plain.set(
        created=AT, started=AT - HOUR, accessed=AT + HOUR, rotated=AT,
        expires=AT + 2 * HOUR, lifetime=lifetime, version=3,
    )
    assert plain.done('show', id).split('\n') == [
        'Session',
        f'  id         {id}',
        '  created    2100-01-02 03:04:05',
        '  started    2100-01-02 02:04:05',
        '  last used  2100-01-02 04:04:05',
        '  expires    2100-01-02 05:04:05',
        '  rotated    2100-01-02 03:04:05',
        f'  lifetime   {words}',
        '  version    3',
        '  state      live',
        'Fields',
        '  agent  Browser',
        'Data',
        "  {'n': 1, 'agent': 'Browser'}",
        '',
    ]


def test_show_to_a_program(plain):
    """Section 3: the same as JSON."""
    id = plain.new(agent='Browser')
    plain.set(
        created=AT, started=AT - HOUR, accessed=AT + HOUR, rotated=AT,
        expires=AT + 2 * HOUR, version=3,
    )
    out = plain.done('show', id, '--json')
    assert out.startswith('{\n  "id": ')
    assert json.loads(out) == {
        'id': id,
        'created': '2100-01-02T03:04:05+00:00',
        'started': '2100-01-02T02:04:05+00:00',
        'last_used': '2100-01-02T04:04:05+00:00',
        'expires': '2100-01-02T05:04:05+00:00',
        'rotated': '2100-01-02T03:04:05+00:00',
        'lifetime': None,
        'version': 3,
        'state': 'live',
        'fields': {'agent': 'Browser'},
        'data': {'n': 1, 'agent': 'Browser'},
    }


#: Values of a session, and what is in their place in JSON.
VALUES = [
    (None, None), (True, True), (7, 7), (0.5, 0.5), ('ä', 'ä'),
    (float('inf'), 'inf'), (b'\x01\xff', '01ff'),
    (dt.datetime(2026, 1, 2, 3), '2026-01-02T03:00:00'),
    (dt.date(2026, 1, 2), '2026-01-02'), (dt.time(1, 2), '01:02:00'),
    (dt.timedelta(minutes=1), 60.0), (Decimal('9.50'), '9.50'),
    (uuid.UUID(NOBODY), NOBODY), ([1, (b'\x02',)], [1, ['02']]),
    ({'b', 1}, ['b', 1]), ({'a': {'b': {1}}}, {'a': {'b': [1]}}),
]


def test_values_in_json(plain):
    """R6: each type of value has a form that programs can read."""
    values = dict(zip(map(str, range(len(VALUES))), VALUES, strict=True))
    id = plain.new(**{key: stored for key, (stored, _) in values.items()})
    assert plain.json('show', id)['data'] == {
        'n': 1, **{key: shown for key, (_, shown) in values.items()}
    }


def test_integers_of_any_size(plain):
    """R6: Python refuses to write one of so many digits; it is in hex."""
    long = 10 ** 5000
    id = plain.new(a=[long, {-long}], b={'c': (long, 10 ** 600)})
    data = plain.json('show', id)['data']
    assert data['a'] == [hex(long), [hex(-long)]]
    assert data['b'] == {'c': [hex(long), 10 ** 600]}
    shown = plain.done('show', id)
    assert shown.count(hex(long)) == 3
    assert f'{{{hex(-long)}}}' in shown
    assert str(10 ** 600) in shown


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
    assert re.match('psessions: its data cannot be read: .{9}', err)
    assert err.count('\n') == 1
    code, out, err = stocked.run('show', id, '--json')
    assert code == 1
    assert json.loads(out)['data'] is None
