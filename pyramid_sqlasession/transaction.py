"""What can be known of the transaction that a request works in, and of what
pyramid_tm and pyramid_retry do with it.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from pyramid.threadlocal import manager as threadlocals
from transaction.interfaces import NoTransaction
from zope.interface import alsoProvides

try:
    from pyramid_retry import IBeforeRetry
    from pyramid_retry import IRetryableError
    from pyramid_retry import is_error_retryable
except ImportError:  # pragma: no cover
    # Nothing runs a request again.
    IBeforeRetry = IRetryableError = is_error_retryable = None

#: What pyramid_retry tells before it runs a request again, None without it.
BEFORE_RETRY = IBeforeRetry


def active_transaction(request: Any) -> Any | None:
    """Return the transaction that *request* works in, or None.

    Begins none that nobody ends: it would swallow writes.
    """
    manager = getattr(request, 'tm', None)
    if manager is None:
        return None
    if getattr(manager, 'explicit', False):
        try:
            found = manager.get()
        except NoTransaction:
            return None
    else:
        # get() of an implicit manager would begin one.
        found = getattr(
            getattr(manager, 'manager', manager), '_txn', None
        )
        # The application's next statement begins one, too; that of a further
        # thread is ended by nobody.
        if found is None and is_managed(request) and (
            runs_in_this_thread(request)
        ):
            found = manager.get()
    # Status.ACTIVE or DOOMED; joining a committing one is an error.
    if found is None or found.status not in ('Active', 'Doomed'):
        return None
    return found


def resources_of(transaction: Any) -> list[Any] | None:
    """Return the data managers that take part in *transaction*, None if
    that cannot be known.
    """
    # Private, as nothing public tells.
    return getattr(transaction, '_resources', None)


def sqlalchemy_managers(transaction: Any) -> list[Any]:
    """Return zope.sqlalchemy's data managers in *transaction*: each has a
    SQLAlchemy ``session``, and ``tx``, what that had begun when it joined.
    """
    return [
        resource for resource in resources_of(transaction) or ()
        # One of the application's own may have a session, too.
        if hasattr(resource, 'session') and hasattr(resource, 'tx')
    ]


def is_replaced(transaction: Any) -> bool:
    """Return whether *transaction* is being aborted by the ``begin()`` of a
    manager that begins them by itself, and nothing but one data manager is in
    it: for the application there was none.
    """
    resources = resources_of(transaction)
    if transaction.description or resources is None or len(resources) != 1:
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code, frame = frame.f_code, frame.f_back
        if code.co_name == 'abort':
            return frame is not None and frame.f_code.co_name == 'begin'
    return False


def runs_in_this_thread(request: Any) -> bool:
    """Return whether Pyramid works on *request* in this thread: not in a
    further thread of its view, nor once Pyramid has done with it.
    """
    return any(
        entry.get('request') is request for entry in threadlocals.stack
    )


def is_managed(request: Any) -> bool:
    """Return whether somebody ends the transaction of *request* later."""
    environ = request.environ
    return bool(environ.get('tm.active') or 'repoze.tm.active' in environ)


def has_commit_veto(request: Any) -> bool:
    """Return whether pyramid_tm may commit what a view did that has failed."""
    settings = request.registry.settings or {}
    return any(
        settings.get(f'{prefix}.commit_veto')
        for prefix in ('tm', 'pyramid_tm')
    )


def mark_retryable(error: BaseException) -> None:
    """Tell pyramid_retry to run the request again after *error*."""
    if IRetryableError is not None:
        alsoProvides(error, IRetryableError)


def runs_again(request: Any, error: BaseException) -> bool:
    """Return whether pyramid_retry runs *request* again after *error*."""
    return is_error_retryable is not None and bool(
        is_error_retryable(request, error)
    )
