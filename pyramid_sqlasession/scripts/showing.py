"""``psessions INI show``: one session with its data."""

from __future__ import annotations

import argparse
import pprint
import textwrap
from typing import Any

import sqlalchemy as sa

from pyramid_sqlasession.application import Application
from pyramid_sqlasession.changes import CSRF
from pyramid_sqlasession.codec import DamagedData
from pyramid_sqlasession.lenient import leniently
from pyramid_sqlasession.scripts.failures import Failure
from pyramid_sqlasession.scripts.failures import line
from pyramid_sqlasession.scripts.options import add_command
from pyramid_sqlasession.scripts.options import add_json
from pyramid_sqlasession.scripts.options import session_id
from pyramid_sqlasession.scripts.output import bold
from pyramid_sqlasession.scripts.output import is_long
from pyramid_sqlasession.scripts.output import json_value
from pyramid_sqlasession.scripts.output import put
from pyramid_sqlasession.scripts.output import put_json
from pyramid_sqlasession.scripts.output import say
from pyramid_sqlasession.scripts.output import shown

#: Of a record, as ``show`` names them; secret_hash and retired are secret.
_SHOWN = {
    'id': 'id', 'created': 'created', 'started': 'started',
    'last_used': 'accessed', 'expires': 'expires', 'rotated': 'rotated',
    'lifetime': 'lifetime', 'version': 'version',
}


def add_to(commands: Any) -> None:
    """Add the command to *commands*, argparse's."""
    parser = add_command(
        commands, 'show', 'show one session with its data', run
    )
    add_json(parser)
    parser.add_argument(
        'id', metavar='ID', type=session_id, help='as list shows it'
    )


def run(application: Application, args: argparse.Namespace) -> int:
    """Print it; a session that has expired too, while it is there."""
    c = application.records.table.c
    fields = application.fields.columns
    row = application.database.read_aside(
        lambda connection: connection.execute(
            sa.select(
                application.live().label('live'),
                leniently(c.data),
                *(leniently(c[name]) for name in _SHOWN.values()),
                *(leniently(column) for column in fields.values()),
            ).where(c.id == args.id)
        ).first()
    )
    if row is None:
        raise Failure(
            f'there is no session {args.id}; "psessions {args.ini} list" '
            f'shows which there are'
        )
    live, text, *values = row
    record = dict(zip(_SHOWN, values, strict=False))
    record['state'] = 'live' if live else 'expired'
    record['fields'] = dict(
        zip(fields, values[len(_SHOWN):], strict=True)
    )
    return _show_record(application, record, text, as_json=args.json)


def _show_record(
    application: Application, record: dict[str, Any], text: Any,
    *, as_json: bool,
) -> int:
    data: dict[str, Any] | None = None
    damage = ''
    try:
        data, _ = application.codec.read(text if isinstance(text, str) else '')
    except DamagedData as error:
        damage = line(error)
    else:
        if CSRF in data:
            data[CSRF] = '(not shown)'
    if as_json:
        put_json({**json_value(record), 'data': json_value(data)})
    else:
        _put_record(record, data)
    if data is None:
        say(f'its data cannot be read: {damage}')
        return 1
    return 0


def _put_record(record: dict[str, Any], data: dict[str, Any] | None) -> None:
    lifetime = record['lifetime']
    words = {
        **record,
        'lifetime': 'by the settings' if lifetime is None else (
            f'{lifetime} seconds' if lifetime else 'fixed'
        ),
    }
    del words['fields']
    put(bold('Session'))
    _put_pairs({name.replace('_', ' '): v for name, v in words.items()})
    if record['fields']:
        put(bold('Fields'))
        _put_pairs(record['fields'])
    put(bold('Data'))
    if data is None:
        put('  (damaged)')
    elif not data:
        put('  (empty)')
    else:
        # repr: types can be told apart, and no control character is left.
        written = pprint.pformat(_writable(data), sort_dicts=False)
        put(textwrap.indent(written, '  '))


class _Long(int):
    """An int that is shown in hexadecimal."""

    def __repr__(self) -> str:
        return hex(self)


def _writable(value: Any) -> Any:
    """Return *value* with each int so that it can be shown."""
    if isinstance(value, dict):
        return {key: _writable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(map(_writable, value))
    if isinstance(value, int) and is_long(value):
        return _Long(value)
    return value


def _put_pairs(pairs: dict[str, Any]) -> None:
    width = max(len(name) for name in pairs)
    for name, value in pairs.items():
        put(f'  {name:<{width}}  {shown(value)}')
