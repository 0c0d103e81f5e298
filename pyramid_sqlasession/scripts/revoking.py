"""``psessions INI revoke``: end sessions."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import sqlalchemy as sa

from pyramid_sqlasession.application import Application
from pyramid_sqlasession.scripts.batches import count
from pyramid_sqlasession.scripts.batches import Deletion
from pyramid_sqlasession.scripts.batches import execute
from pyramid_sqlasession.scripts.conditions import conditions_of
from pyramid_sqlasession.scripts.failures import Failure
from pyramid_sqlasession.scripts.failures import UsageFailure
from pyramid_sqlasession.scripts.interruption import held_back
from pyramid_sqlasession.scripts.options import add_command
from pyramid_sqlasession.scripts.options import add_fields
from pyramid_sqlasession.scripts.options import session_id
from pyramid_sqlasession.scripts.output import plural
from pyramid_sqlasession.scripts.output import put


def add_to(commands: Any) -> None:
    """Add the command to *commands*, argparse's."""
    parser = add_command(
        commands, 'revoke', 'end sessions: their users are logged out', run,
        check=_check,
    )
    parser.add_argument(
        'ids', metavar='ID', type=session_id, nargs='*',
        help='as list shows it',
    )
    add_fields(parser)
    parser.add_argument(
        '--all', action='store_true',
        help='the sessions of everybody; asks first',
    )
    parser.add_argument('--yes', action='store_true', help='do not ask')


def _check(args: argparse.Namespace) -> None:
    ways = [bool(args.ids), bool(args.fields), args.all]
    if sum(ways) > 1:
        raise UsageFailure(
            'revoke takes only one of these: ids, fields (--field '
            'NAME=VALUE, --without NAME), --all'
        )
    if not any(ways):
        raise UsageFailure(
            'revoke needs to know which: one or more ids, or --field '
            'NAME=VALUE, or --without NAME, or --all'
        )
    if args.all and not args.yes and not sys.stdin.isatty():
        raise UsageFailure(
            'revoke --all asks first, and there is no terminal to ask at; '
            'add --yes to do it without'
        )


def run(application: Application, args: argparse.Namespace) -> int:
    """End those of the ids, those of the fields, or all."""
    c = application.records.table.c
    # Those too that an absolute timeout has ended, which may be lengthened.
    live = c.expires > application.now()
    if args.ids:
        return _revoke_ids(application, args, live)
    condition = sa.and_(live, *conditions_of(application, args.fields))
    if args.all and not args.yes and not _is_sure(application):
        raise Failure('nothing was done')
    deletion = Deletion(application, condition, c.id)
    deletion.run()
    put(f'{plural(deletion.count, "session", "sessions")} ended')
    return 0


def _revoke_ids(
    application: Application, args: argparse.Namespace, live: Any
) -> int:
    table = application.records.table
    gone = []
    ended = 0
    try:
        for id in dict.fromkeys(args.ids):
            statement = table.delete().where(table.c.id == id, live)
            with held_back():
                found = execute(application, statement)
                ended += found
            if not found:
                gone.append(str(id))
    except BaseException as error:
        if ended:
            error.add_note(
                f'{plural(ended, "session", "sessions")} ended before that'
            )
        raise
    if ended:
        put(f'{plural(ended, "session", "sessions")} ended')
    if gone:
        raise Failure(
            f'there is no live session {", ".join(gone)}; "psessions '
            f'{args.ini} list" shows which there are'
        )
    return 0


def _is_sure(application: Application) -> bool:
    live = count(application, application.live())
    sessions = plural(live, 'live session', 'live sessions')
    sys.stderr.write(f'End {sessions}, everybody is logged out? [y/N] ')
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ('y', 'yes')
