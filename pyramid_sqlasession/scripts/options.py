"""The options that commands share, and what they read."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any
import uuid

from pyramid_sqlasession.application import Application

Run = Callable[[Application, argparse.Namespace], int]
Check = Callable[[argparse.Namespace], None]


def nothing_to_check(args: argparse.Namespace) -> None:
    """Say nothing: argparse sees all that can be wrong."""


def add_command(
    commands: Any, name: str, help: str, run: Run,
    check: Check = nothing_to_check,
) -> argparse.ArgumentParser:
    """Return the parser of a new command.

    :param check: raises ``UsageFailure`` for what argparse cannot see,
        before the application starts.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=f'{help[0].upper()}{help[1:]}.'
    )
    parser.set_defaults(run=run, check=check)
    # Behind the command too; without a default, or it would undo the other.
    parser.add_argument(
        '--traceback', action='store_true', default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )
    return parser


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument(
        '--json', action='store_true', help='for programs: JSON'
    )


def add_fields(parser: argparse.ArgumentParser) -> None:
    """Add ``--field`` and ``--without``; ``fields`` are pairs of name and
    text, or None.
    """
    parser.add_argument(
        '--field', metavar='NAME=VALUE', action='append', default=[],
        dest='fields', type=pair,
        help='only those with this value of an additional field; several '
        'have to be true together',
    )
    parser.add_argument(
        '--without', metavar='NAME', action='append', default=[],
        dest='fields', type=_no_value,
        help='only those in which an additional field has no value, such as '
        'the user of visitors who have not logged in',
    )


def _no_value(name: str) -> tuple[str, None]:
    return name, None


def session_id(text: str) -> uuid.UUID:
    """Return the id that *text* is."""
    try:
        return uuid.UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not the id of a session, which looks like '
            f'12345678-1234-4abc-8def-1234567890ab; the command list shows '
            f'them'
        ) from None


def pair(text: str) -> tuple[str, str]:
    """Return name and value of ``NAME=VALUE``."""
    name, separator, value = text.partition('=')
    if not name or not separator:
        raise argparse.ArgumentTypeError(f'{text!r}: write it as NAME=VALUE')
    return name, value
