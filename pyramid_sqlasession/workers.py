"""What the server does with the processes that it runs the application in.

Knows uWSGI, which is an interpreter of its own, and nothing of databases.
"""

from __future__ import annotations

from collections.abc import Callable
import os
import sys
from typing import Any


def in_child(work: Callable[[], None]) -> None:
    """Have *work* done in each process that is forked from this one."""
    if hasattr(os, 'register_at_fork'):
        os.register_at_fork(after_in_child=work)
    uwsgi = _uwsgi()
    if uwsgi is None:
        return
    # It forks past Python, unless it is told otherwise (py-call-osafterfork).
    try:
        # Has a list of its own, which would replace a single hook.
        from uwsgidecorators import postfork
    # Not there; or a bare Exception, as uWSGI runs without its master.
    except Exception:
        _add_hook(uwsgi, work)
    else:
        postfork(work)


def _add_hook(uwsgi: Any, work: Callable[[], None]) -> None:
    before = getattr(uwsgi, 'post_fork_hook', None)

    def hook() -> None:
        if before is not None:
            before()
        work()

    uwsgi.post_fork_hook = hook


def runs_threads() -> bool:
    """Return whether threads run at all times.

    uWSGI without ``enable-threads`` runs them while a request is worked on,
    and stops them in the middle of whatever they do.
    """
    return bool(getattr(_uwsgi(), 'has_threads', True))


def _uwsgi() -> Any:
    # Not imported: it is there, or what is called so is something else.
    found = sys.modules.get('uwsgi')
    return found if hasattr(found, 'opt') else None
