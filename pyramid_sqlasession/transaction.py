"""What can be known of the transaction that a request works in, and of what
pyramid_tm and pyramid_retry do with it.
"""

from __future__ import annotations

from typing import Any

from transaction.interfaces import NoTransaction
from zope.interface import alsoProvides

try:
    from pyramid_retry import IRetryableError
    from pyramid_retry import is_error_retryable
except ImportError:  # pragma: no cover
    # Nothing runs a request again.
    IRetryableError = is_error_retryable = None


def active_transaction(request: Any) -> Any | None:
    """Return the transaction that *request* works in, or None.

    Never begins one: a transaction that nobody ends would swallow writes.
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


def is_managed(request: Any) -> bool:
    """Return whether somebody ends the transaction of *request* later."""
    environ = request.environ
    return bool(environ.get('tm.active') or 'repoze.tm.active' in environ)


def mark_retryable(error: BaseException) -> None:
    """Tell pyramid_retry to run the request again after *error*."""
    if IRetryableError is not None:
        alsoProvides(error, IRetryableError)


def runs_again(request: Any, error: BaseException) -> bool:
    """Return whether pyramid_retry runs *request* again after *error*."""
    return is_error_retryable is not None and bool(
        is_error_retryable(request, error)
    )
