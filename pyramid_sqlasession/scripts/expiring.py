"""``psessions INI expire``: delete the expired sessions now."""

from __future__ import annotations

import argparse
from typing import Any

from pyramid_sqlasession.application import Application
from pyramid_sqlasession.events import SessionsExpired
from pyramid_sqlasession.scripts.batches import count
from pyramid_sqlasession.scripts.batches import Deletion
from pyramid_sqlasession.scripts.options import add_command
from pyramid_sqlasession.scripts.output import plural
from pyramid_sqlasession.scripts.output import put
from pyramid_sqlasession.scripts.output import say


def add_to(commands: Any) -> None:
    """Add the command to *commands*, argparse's."""
    add_command(commands, 'expire', 'delete the expired sessions now', run)


def run(application: Application, args: argparse.Namespace) -> int:
    """Delete all that has expired."""
    # Not by sweep, as the cleaner: it was rounded up by what the setting
    # expiration was then, so that nothing but expires tells of all.
    expired = ~application.live()
    deletion = Deletion(
        application, expired, application.records.table.c.sweep,
        skips_locked=True,
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
    if deletion.has_left_some and (left := count(application, expired)):
        is_in_use = plural(left, 'more is', 'more are')
        say(f'{is_in_use} locked by other transactions; run it again later')
    return 0
