"""``psessions INI expire``: delete the expired sessions now."""

from __future__ import annotations

import argparse
from typing import Any

from pyramid_sqlasession.application import Application
from pyramid_sqlasession.events import SessionsExpired
from pyramid_sqlasession.scripts.batches import Deletion
from pyramid_sqlasession.scripts.options import add_command
from pyramid_sqlasession.scripts.output import plural
from pyramid_sqlasession.scripts.output import put


def add_to(commands: Any) -> None:
    """Add the command to *commands*, argparse's."""
    add_command(commands, 'expire', 'delete the expired sessions now', run)


def run(application: Application, args: argparse.Namespace) -> int:
    """Delete all that has expired."""
    # Not by sweep, as the cleaner: it was rounded up by what the setting
    # expiration was then, so that nothing but expires tells of all.
    deletion = Deletion(
        application, ~application.live(), application.records.table.c.sweep
    )
    try:
        deletion.run()
    finally:
        # After Ctrl-C, too.
        if deletion.count:
            application.notify(SessionsExpired(deletion.count))
    what = plural(
        deletion.count, 'expired session was', 'expired sessions were'
    )
    put(f'{what} deleted')
    return 0
