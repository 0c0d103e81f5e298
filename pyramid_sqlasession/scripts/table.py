"""``psessions INI table``: create the table, or print its SQL."""

from __future__ import annotations

import argparse
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine.mock import MockConnection

from pyramid_sqlasession import faults
from pyramid_sqlasession.application import Application
from pyramid_sqlasession.dialects import DIALECTS
from pyramid_sqlasession.faults import Fault
from pyramid_sqlasession.scripts.failures import Failure
from pyramid_sqlasession.scripts.failures import line
from pyramid_sqlasession.scripts.failures import text_of
from pyramid_sqlasession.scripts.options import add_command
from pyramid_sqlasession.scripts.output import put


def add_to(commands: Any) -> None:
    """Add the command to *commands*, argparse's."""
    parser = add_command(
        commands, 'table', 'create the table if it is missing', run
    )
    parser.add_argument(
        '--sql', metavar='DIALECT', type=_dialect, nargs='?', const=True,
        help='print the SQL instead, without connecting; for the database '
        f'of the application, or for one of {", ".join(DIALECTS)}',
    )


def _dialect(text: str) -> str:
    if text not in DIALECTS:
        raise argparse.ArgumentTypeError(
            f'{text!r} is none of {", ".join(DIALECTS)}'
        )
    return text


def run(application: Application, args: argparse.Namespace) -> int:
    """Create the table, or say that it is there, or print its SQL."""
    table = application.records.table
    if args.sql:
        name = None if args.sql is True else args.sql
        put(_ddl(application, name).rstrip())
        return 0
    read = application.database.read_aside
    if not read(application.records.is_there):
        _create(application)
        put(f'the table {table.fullname} was created')
        if application.settings.model is not None:
            put(
                'It is one of the models: if Alembic makes their tables, it '
                'will want to create this one, too. Then drop it and run '
                '"alembic upgrade head"; or, if its migration is the only '
                'one that has not been run, say that it has: "alembic stamp '
                'head".'
            )
        return 0
    if missing := read(application.records.missing_columns):
        raise Failure(
            f'the table {table.fullname} is there, but without '
            f'{", ".join(missing)}; add what is missing by a migration '
            f'("psessions {args.ini} table --sql" shows how it must be)'
        )
    if unfilled := read(application.records.unfilled_columns):
        raise Failure(
            f'the table {table.fullname} is there, with '
            f'{", ".join(unfilled)}, which no session of this application '
            f'fills and which may not be NULL; give it a DEFAULT by a '
            f'migration, or drop it'
        )
    put(f'the table {table.fullname} was there already')
    return 0


def _ddl(application: Application, name: str | None) -> str:
    """Return the statements that create the table, types and indexes."""
    dialect = application.engine.dialect
    if name is not None:
        # No driver is imported for it.
        dialect = sa.make_url(f'{name}://').get_dialect()()
    statements: list[str] = []

    def note(statement: Any, *args: object, **kwargs: object) -> None:
        text = str(statement.compile(dialect=dialect))
        statements.append(f'{text.strip()};\n')

    try:
        # As create() does it: on PostgreSQL an Enum is a type to create.
        application.records.table.create(MockConnection(dialect, note))
    except exc.CompileError as error:
        raise Failure(
            f'this table cannot be made in {dialect.name}: {error}'
        ) from error
    return '\n'.join(statements)


def _create(application: Application) -> None:
    table = application.records.table
    try:
        application.database.create_table()
    except exc.DBAPIError as error:
        if faults.fault_of(error) is Fault.UNAVAILABLE:
            raise
        # Not "run psessions table": this is it.
        others = sorted(
            {key.target_fullname.rpartition('.')[0]
             for key in table.foreign_keys}
        )
        hint = 'it refers to ' + ', '.join(others) + (
            ', which must be there before'
        )
        raise Failure(
            line(
                f'the table {table.fullname} cannot be created',
                *([hint] if others else []), text_of(error),
            )
        ) from error
