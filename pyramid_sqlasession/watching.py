"""Who is told what becomes of sessions: the log, metrics, the debug toolbar.

Nobody here decides anything, and nobody is told a token or a value.
"""

from __future__ import annotations

from collections.abc import Iterable
import enum
import logging
import uuid

from pyramid_sqlasession.base import Base
from pyramid_sqlasession.errors import name_of
from pyramid_sqlasession.events import Suspicion
from pyramid_sqlasession.plan import Outcome
from pyramid_sqlasession.plan import Plan

log = logging.getLogger(__name__)

#: Where the debug toolbar puts the watcher of one request: an attribute of it.
ATTRIBUTE = 'sqlasession_watcher'


class Found(enum.StrEnum):
    """What a cookie led to."""

    #: There is none, or none that is well formed.
    ABSENT = 'absent'
    #: Badly signed; the database was not asked.
    FORGED = 'forged'
    CURRENT = 'current'
    #: Deleted or expired, or never there.
    UNKNOWN = 'unknown'
    WRONG_SECRET = 'wrong_secret'  # noqa: S105 - no password
    #: A login replaced the token a moment ago.
    ROTATED = 'rotated'
    #: The record's data cannot be read.
    DAMAGED = 'damaged'
    #: The database does not answer.
    UNAVAILABLE = 'unavailable'
    #: It did not answer this request before, and was not asked again.
    STILL_UNAVAILABLE = 'still unavailable'

    @property
    def asked_the_database(self) -> bool:
        """Whether it took a look into the database to know."""
        return self not in (
            Found.ABSENT, Found.FORGED, Found.STILL_UNAVAILABLE
        )


class Watcher:
    """Tells the log.  Others who want to know derive from it."""

    def loaded(self, found: Found, base: Base, seconds: float) -> None:
        """Note what a session starts from."""
        # Asked first, as each request comes by: a call less.
        if not log.isEnabledFor(logging.DEBUG):
            return
        record = base.record
        if record is None:
            log.debug('an empty session, the cookie is %s', found)
        else:
            log.debug('session %s was loaded', record.id)

    def set_aside(self, keys: Iterable[str], error: BaseException) -> None:
        """Note that a view failed, after it had changed these keys."""
        log.debug(
            'the view raised %s, its changes of the session (%s) are set '
            'aside', type(error).__name__, listed(keys),
        )

    def taken_back(self, keys: Iterable[str]) -> None:
        """Note that a transaction was aborted that had changed these keys."""
        log.debug(
            'the transaction was aborted, the changes of the session (%s) '
            'are taken back', listed(keys),
        )

    def written(self, plan: Plan, outcome: Outcome, seconds: float) -> None:
        """Note a write that is not committed yet."""
        if outcome.merged:
            log.debug(
                'session %s: another request saved meanwhile, the changes '
                'were merged', _id_of(outcome),
            )

    def conflicted(self, keys: Iterable[str]) -> None:
        """Note a write that was refused (``conflict = retry``)."""
        log.debug(
            'another request changed the same keys of the session (%s)',
            listed(keys),
        )

    def committed(self, outcome: Outcome) -> None:
        """Note that a write counts."""
        if outcome.removed is not None:
            log.debug('session %s was removed', outcome.removed)
        if (outcome.created or outcome.updated) and (
            log.isEnabledFor(logging.DEBUG)
        ):
            log.debug(
                'session %s was %sd', _id_of(outcome), kind_of(outcome)
            )

    def cared(self, outcome: Outcome, seconds: float) -> None:
        """Note a touch, or the renewal of a token, or both."""
        if outcome.touched:
            log.debug('session %s was touched', _id_of(outcome))
        if outcome.renewed:
            log.debug('session %s: the token was renewed', _id_of(outcome))

    def decided(self, is_sent: bool, reason: str) -> None:
        """Note whether the response has a Set-Cookie, and why."""
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                '%s: %s', 'Set-Cookie' if is_sent else 'no cookie', reason
            )

    def suspected(self, reason: Suspicion) -> None:
        """Note a cookie whose signature or secret is wrong."""

    def cleaned(self, count: int, seconds: float) -> None:
        """Note that the cleaner deleted *count* expired records."""


def kind_of(outcome: Outcome) -> str:
    """Return what a save was, in a word."""
    return kinds_of(outcome)[0]


def kinds_of(outcome: Outcome) -> tuple[str, ...]:
    """Return all that a save was: a new session may follow an end."""
    ends = () if outcome.removed is None else ('remove',)
    if outcome.created:
        return ('create', *ends)
    if outcome.rotated:
        return ('rotate', *ends)
    if outcome.updated:
        return ('update', *ends)
    return ends or ('drop',)


def _id_of(outcome: Outcome) -> uuid.UUID | None:
    # Made a text only if somebody reads it.
    record = outcome.base.record
    return None if record is None else record.id


def listed(keys: Iterable[str]) -> str:
    """Return the names of keys, for a text."""
    return ', '.join(sorted(map(name_of, keys))) or 'no key'
