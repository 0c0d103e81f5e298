"""What the log says once, of what the first requests show to be wrong.

Each is a silent trap: the request is answered as it should be, and nobody
would look for it.  By the logger of all advice, so that one level silences
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zope.sqlalchemy

from pyramid_sqlasession.advice import log
from pyramid_sqlasession.plan import Outcome
from pyramid_sqlasession.settings import Settings
from pyramid_sqlasession.transaction import sqlalchemy_managers

_ON_LOGIN = (
    'a stored session became that of a user (%r) and kept its token: whoever '
    'had planted the cookie before the login is logged in too (session '
    'fixation). Log in by remember() of SessionAuthenticationHelper, or call '
    'session.rotate() with it'
)

_ON_OTHERS = (
    'request.%s, which sessions would be stored with, is not there, but '
    'another SQLAlchemy session takes part in the transaction: they are '
    'stored in one of their own. Set sqlasession.dbsession to the name of its '
    'request attribute%s, or give sessions a database of their own with '
    'sqlasession.url'
)

# In the place of its name, where no attribute has it.
_OF_GLOBAL = (
    ' (a global DBSession gets one by config.add_request_method(lambda '
    "request: DBSession, 'dbsession', reify=True))"
)

_ON_UNREGISTERED = (
    'request.%s has begun a transaction that request.tm does not know of: '
    'sessions are stored in one of their own, which is neither committed nor '
    'rolled back with it, and on SQLite waits for its lock. Register it where '
    'it is made, with zope.sqlalchemy.register(dbsession, '
    'transaction_manager=request.tm)'
)


class Notices:
    """What one application is told once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._told: set[str] = set()

    def login(self, outcomes: Sequence[Outcome]) -> None:
        """Tell of a login that has left the visitor the token of before."""
        for outcome in outcomes:
            if outcome.user is not None and outcome.updated:
                break
        else:
            return
        # By another save of the request.
        if any(outcome.created or outcome.rotated for outcome in outcomes):
            return
        self._tell(_ON_LOGIN, self._settings.user_field)

    def others(self, request: Any, transaction: Any) -> None:
        """Tell of a ``request.dbsession`` that has another name.

        Two transactions where one was meant may wait for each other, too.
        """
        others = [
            manager.session for manager in sqlalchemy_managers(transaction)
        ]
        if not others:
            return
        names = [
            name for name, value in request.__dict__.items()
            if any(value is other for other in others)
        ]
        self._tell(
            _ON_OTHERS, self._settings.dbsession,
            f' ({", ".join(names)})' if names else _OF_GLOBAL,
        )

    def unregistered(self, dbsession: Any) -> None:
        """Tell of a ``request.dbsession`` that takes no part in the
        transaction.

        On SQLite the session waits for its lock, and "database is locked"
        does not tell anybody why.
        """
        if dbsession.in_transaction() and not _is_registered(dbsession):
            self._tell(_ON_UNREGISTERED, self._settings.dbsession)

    def _tell(self, text: str, *words: object) -> None:
        if text not in self._told:
            self._told.add(text)
            log.warning(text, *words)


def _is_registered(dbsession: Any) -> bool:
    """Return whether zope.sqlalchemy has *dbsession* join transactions."""
    events = zope.sqlalchemy.ZopeTransactionEvents
    return any(
        isinstance(getattr(listener, '__self__', None), events)
        for listener in dbsession.dispatch.after_begin
    )
