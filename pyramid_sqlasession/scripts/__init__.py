"""The command ``psessions``: look at the sessions in the database, end them.

It starts the application, as Pyramid's own commands do: only then are known
what ``main()`` sets, the engine in ``registry['dbsession_factory']`` and the
application's own model.  Its cleaner does not start.

Each command is a module with ``add_to``, its arguments, and ``run``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
import sys
import traceback
import warnings

with warnings.catch_warnings():
    # Pyramid imports it; at each call of the command there would be two
    # lines about that.
    warnings.filterwarnings('ignore', 'pkg_resources is deprecated')
    from pyramid_sqlasession.scripts.arguments import parser
    from pyramid_sqlasession.scripts.starting import started

from pyramid_sqlasession.scripts.failures import code_of
from pyramid_sqlasession.scripts.failures import explained
from pyramid_sqlasession.scripts.failures import line
from pyramid_sqlasession.scripts.output import say

__all__ = ['main']


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``psessions``; return its exit code.

    0: done; 1: the database, the application or the session is not as it
    must be; 2: called in a wrong way; 130: interrupted by Ctrl-C.

    :param argv: the arguments, without the name of the command.
    """
    _replace_closed_streams()
    args = argparse.Namespace()
    try:
        # Into ours: --traceback counts for what is wrong behind it, too.
        parser().parse_args(argv, args)
        code = _run(args)
        # Here, where an error of it can still be told.
        sys.stdout.flush()
        return code
    except SystemExit as ended:
        # --help, --version; or a subscriber of the application.
        if ended.code:
            say(f'the application has ended the command ({ended.code!r})')
            return 1
        return 0
    except BrokenPipeError:
        # "psessions … | head"
        _give_up_stdout()
        return 1
    except KeyboardInterrupt as error:
        say(line('interrupted', *getattr(error, '__notes__', ())))
        return 130
    except Exception as error:
        if args.traceback:
            traceback.print_exception(error)
        say(explained(error, args.ini))
        _give_up_stdout()
        return code_of(error)


def _replace_closed_streams() -> None:
    """Open those standard streams that are closed, to where nothing is.

    Python has None in their place, and the first look for a terminal would
    end the work.
    """
    for name, mode in (('stdin', 'r'), ('stdout', 'w'), ('stderr', 'w')):
        if getattr(sys, name) is None:
            # Never closed: it lives as long as the process.
            stream = open(os.devnull, mode, encoding='utf-8')  # noqa: SIM115
            setattr(sys, name, stream)


def _run(args: argparse.Namespace) -> int:
    args.check(args)
    with started(args) as application:
        code: int = args.run(application, args)
        return code


def _give_up_stdout() -> None:
    """Keep Python from saying at its end that nobody takes the output."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
