"""What an error of the database means to the application, in our words; and
how often the log hears of what all requests meet.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
import logging
import math
import time
from typing import Any

from sqlalchemy import exc

from pyramid_sqlasession import faults
from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.errors import SessionStoreUnavailable
from pyramid_sqlasession.faults import Fault

log = logging.getLogger(__name__)

# Seconds.
_BETWEEN_WARNINGS = 60.0

# What to do about a missing table.  Alembic fails on one that something else
# has created.
_OF_A_MODEL = (
    'It is one of the models (sqlasession.model): run the migrations of the '
    'application, "alembic upgrade head" for one, or without any, '
    '"psessions <your.ini> table"'
)
_OF_THE_SETTINGS = (
    'Run "psessions <your.ini> table" to create the table, or migrate an '
    'existing one (the docs have a page on Alembic)'
)


class Seldom:
    """Whether to say once more what all requests meet: once in a minute."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def is_due(self, what: str) -> bool:
        """Return whether it is time for *what*; whoever asks says it then."""
        now = time.monotonic()
        if now - self._said.get(what, -math.inf) < _BETWEEN_WARNINGS:
            return False
        self._said[what] = now
        return True


class Translation(AbstractContextManager[None]):
    """Raises our own errors for those of the database; used by all threads.

    :param table: its name.
    :param is_given: the model is one of the application's.
    :param warnings: how often the log hears that the database is away; None
        for never, and then a wait for a lock stays what it is, too.
    """

    def __init__(
        self, table: str, is_given: bool, warnings: Seldom | None
    ) -> None:
        self._table = table
        self._hint = _OF_A_MODEL if is_given else _OF_THE_SETTINGS
        self._warnings = warnings

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if not isinstance(error, exc.DBAPIError | exc.TimeoutError):
            return
        fault = faults.fault_of(error)
        if fault is Fault.UNAVAILABLE:
            self._warn_of_outage(error)
            raise SessionStoreUnavailable() from error
        if fault is Fault.LOCKED and self._warnings is not None:
            if self._warnings.is_due('locked'):
                log.warning(
                    'a session has waited for a lock in vain: %s',
                    faults.said_by(error),
                )
            raise SessionStoreUnavailable() from error
        if fault is Fault.MISSING:
            raise SessionError(
                f'the session table {self._table!r}, or one of its columns, '
                f'is missing in the database. {self._hint}. The database '
                f'says: {getattr(error, "orig", error)}'
            ) from error

    def _warn_of_outage(self, error: Any) -> None:
        if self._warnings is None:
            return
        if isinstance(error, exc.TimeoutError):
            if self._warnings.is_due('full'):
                log.warning(
                    'no connection of the pool is free for a session: %s',
                    faults.said_by(error),
                )
        # Each cause: after a view that idled for too long the end of the
        # server has to be told, too.
        elif self._warnings.is_due(f'away: {faults.cause_of(error)}'):
            log.warning(
                'the database of the sessions does not answer: %s',
                faults.said_by(error),
            )
