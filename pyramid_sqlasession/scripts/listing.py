"""``psessions INI list``: the live sessions, newest first."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import itertools
import json
import sys
from typing import Any

import sqlalchemy as sa

from pyramid_sqlasession import dialects
from pyramid_sqlasession.application import Application
from pyramid_sqlasession.lenient import leniently
from pyramid_sqlasession.scripts.conditions import conditions_of
from pyramid_sqlasession.scripts.options import add_command
from pyramid_sqlasession.scripts.options import add_fields
from pyramid_sqlasession.scripts.options import add_json
from pyramid_sqlasession.scripts.output import bold
from pyramid_sqlasession.scripts.output import json_value
from pyramid_sqlasession.scripts.output import put
from pyramid_sqlasession.scripts.output import say
from pyramid_sqlasession.scripts.output import shown


def add_to(commands: Any) -> None:
    """Add the command to *commands*, argparse's."""
    parser = add_command(
        commands, 'list', 'list the live sessions, newest first', run
    )
    add_json(parser)
    add_fields(parser)
    parser.add_argument(
        '--limit', metavar='N', type=_limit, default=50,
        help='at most so many (default: %(default)s)',
    )


def _limit(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no number from 1 to 2147483647'
        )
    return int(text)


def run(application: Application, args: argparse.Namespace) -> int:
    """Print them."""
    where = conditions_of(application, args.fields)
    fields = application.fields.columns
    c = application.records.table.c
    with application.database.connect() as connection:
        # Where the application has them in autocommit, no rows could be
        # fetched bit by bit.
        dialects.read_committed(connection)
        statement = (
            sa.select(
                *(leniently(column) for column in
                  (c.id, c.created, c.accessed, c.expires)),
                dialects.size_of(c.data, connection.dialect),
                *(leniently(column) for column in fields.values()),
            )
            .where(application.live(), *where)
            .order_by(c.created.desc(), c.id.desc())
            # One more tells whether there are more.
            .limit(args.limit + 1)
        )
        # A million rows are no reason to hold a million rows.
        rows = connection.execute(
            statement, execution_options={'yield_per': 500}
        )
        first = itertools.islice(rows, args.limit)
        if args.json:
            _put_list_json(first, list(fields))
        else:
            _put_list(first, list(fields))
        if rows.first() is not None:
            say(
                f'there are more than these {args.limit}; --limit N shows '
                f'more'
            )
    return 0


def _put_list(rows: Iterator[Any], fields: list[str]) -> None:
    start = list(itertools.islice(rows, 200))
    if not start:
        put('no live sessions')
        return
    names = ['id', 'created (UTC)', 'last used', 'expires', 'bytes', *fields]
    table = [[_cell(value) for value in row] for row in start]
    widths = [
        max(len(name), *(len(line[i]) for line in table))
        for i, name in enumerate(names)
    ]

    def aligned(cells: list[str]) -> str:
        texts = [
            cell.rjust(width) if i == 4 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return '  '.join(texts).rstrip()

    put(bold(aligned(names)))
    for line in table:
        put(aligned(line))
    for row in rows:
        put(aligned([_cell(value) for value in row]))


def _cell(value: Any) -> str:
    text = shown(value)
    return text if len(text) <= 40 else f'{text[:39]}…'


def _put_list_json(rows: Iterator[Any], fields: list[str]) -> None:
    separator = '['
    for id, created, accessed, expires, size, *values in rows:
        one = {
            'id': id, 'created': created, 'last_used': accessed,
            'expires': expires, 'bytes': size,
            'fields': dict(zip(fields, values, strict=True)),
        }
        sys.stdout.write(f'{separator}\n  {json.dumps(json_value(one))}')
        separator = ','
    put('[]' if separator == '[' else '\n]')
