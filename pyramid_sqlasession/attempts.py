"""The attempts of a request that pyramid_retry repeats: whether there is one
more, and what each leaves to the next.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from pyramid_sqlasession.application import Application
from pyramid_sqlasession.base import Base
from pyramid_sqlasession.plan import Outcome
from pyramid_sqlasession.transaction import runs_again

#: Where they are left in the environ, which is all that attempts have in
#: common; by the application: one that is mounted in another has a copy of it.
HANDED_ON = 'sqlasession.attempts'

# WebOb's: the form that was read from the body.
_FORM = 'webob._parsed_post_vars'


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an attempt of a request leaves to the next one."""

    #: What was committed, and no browser has heard of.
    carried: tuple[Outcome, ...]
    #: What the session went on from, if there was one.
    opened: Base | None


def is_to_be_repeated(request: Any) -> bool:
    """Return whether *request* runs again after the error of its view."""
    error = request.__dict__.get('exception')
    return error is not None and runs_again(request, error)


def leave(request: Any, application: Application, attempt: Attempt) -> None:
    """Leave *attempt*, if it has anything to tell."""
    if not attempt.carried and attempt.opened is None:
        return
    environ = request.environ
    # A new one, as a copy of the request has the one before, too.
    environ[HANDED_ON] = {**environ.get(HANDED_ON, {}), application: attempt}


def earlier(request: Any, application: Application) -> Attempt | None:
    """Return what the attempt of *request* before this one has left."""
    found: Attempt | None = request.environ.get(HANDED_ON, {}).get(application)
    return found


def has_cookie_left(request: Any, application: Application) -> bool:
    """Return whether an earlier attempt of *request* has left a cookie."""
    found = earlier(request, application)
    return found is not None and bool(found.carried)


def rewind(event: Any) -> None:
    """Have the next attempt read the body as the browser has sent it; called
    with pyramid_retry's ``BeforeRetry``.

    It has the environ of this one, and in it the body at its end and the
    form without what a view has taken out: an upload would be stored empty.
    """
    # One that was closed, or that the application has replaced by another
    # kind, cannot be read again.
    with contextlib.suppress(Exception):
        event.request.make_body_seekable()
        event.environ.pop(_FORM, None)
