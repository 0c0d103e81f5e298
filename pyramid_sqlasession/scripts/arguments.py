"""The command line."""

from __future__ import annotations

import argparse
from importlib.metadata import version
import textwrap
from typing import NoReturn

from pyramid_sqlasession.scripts import expiring
from pyramid_sqlasession.scripts import listing
from pyramid_sqlasession.scripts import reencrypting
from pyramid_sqlasession.scripts import revoking
from pyramid_sqlasession.scripts import showing
from pyramid_sqlasession.scripts import stats
from pyramid_sqlasession.scripts import table
from pyramid_sqlasession.scripts.failures import UsageFailure
from pyramid_sqlasession.scripts.options import nothing_to_check
from pyramid_sqlasession.scripts.options import pair

#: In the order of ``--help``.
COMMANDS = (stats, listing, showing, table, revoking, expiring, reencrypting)

_EPILOG = """\
    examples:
      psessions production.ini table
      psessions production.ini stats --json
      psessions production.ini list --field user_id=7
      psessions production.ini revoke --field user_id=7
      psessions production.ini list --help

    Exit codes: 0 done, 1 not possible now, 2 called in a wrong way,
    130 interrupted.
    Secrets are never shown. All times are UTC. Colours are used on a
    terminal only, and not if NO_COLOR is set.
    """


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if 'argument COMMAND: invalid choice' in message:
            message = f'{message}; it is written: psessions INI COMMAND'
        # argparse would print the usage, too, which takes several lines.
        raise UsageFailure(f'{message} ("psessions --help" tells more)')


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line.

    It gives ``run(application, args)`` of the command, and ``check(args)``,
    to be called before.
    """
    parser = _Parser(
        prog='psessions',
        usage='psessions [-h] [--var NAME=VALUE] [--traceback] INI [COMMAND] '
        '...',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Look at the sessions of a Pyramid application, and end '
        'them.',
        epilog=textwrap.dedent(_EPILOG),
    )
    parser.add_argument(
        'ini', metavar='INI',
        help="the application's ini file; FILE#NAME for another section "
        'than main',
    )
    parser.add_argument(
        '--var', metavar='NAME=VALUE', action='append', default=[], type=pair,
        help='a variable that the ini file needs: %%(NAME)s',
    )
    parser.add_argument(
        '--traceback', action='store_true',
        help='show where an error came from',
    )
    parser.add_argument(
        '--version', action='version',
        version=f'pyramid_sqlasession {version("pyramid_sqlasession")}',
    )
    parser.set_defaults(run=stats.run, check=nothing_to_check, json=False)
    commands = parser.add_subparsers(
        title='commands', metavar='COMMAND', prog='psessions INI',
        description='without one: stats',
    )
    for command in COMMANDS:
        command.add_to(commands)
    return parser
