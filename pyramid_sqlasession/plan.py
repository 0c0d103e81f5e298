"""What one request wants to have saved, and what became of it."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import replace
import datetime as dt
from itertools import count
from operator import attrgetter
from typing import Any

from pyramid_sqlasession.base import Base
from pyramid_sqlasession.changes import Changes
from pyramid_sqlasession.cookie import Token
from pyramid_sqlasession.events import DropReason
from pyramid_sqlasession.pending import NO_WISHES
from pyramid_sqlasession.pending import Wishes
from pyramid_sqlasession.records import Record


# Not frozen: that makes three times as dear what each save does.
@dataclass(slots=True)
class Plan:
    """What one request wants to have saved; nobody changes it.

    Made only of a session that was changed, or of a wish, and has a record to
    be written or to be ended.
    """

    base: Base
    wishes: Wishes
    #: Of the record that is to be created, or of a rotation, if there is one.
    token: Token | None
    changes: Changes
    #: Whether there is any data; an empty new session is not stored.
    filled: bool
    #: Whether the request has revoked sessions, this one perhaps.
    has_revoked: bool
    #: When a session without a record began (aware UTC), if it was asked.
    began: dt.datetime | None

    @property
    def is_atomic(self) -> bool:
        """Whether two statements of it belong together."""
        # What an end is followed by can only be a new session.
        return self.wishes.ended is not None and self.filled

    @property
    def writes_record(self) -> bool:
        """Whether a record is to be written, and not only one to be ended."""
        return not self.base.ghost and (
            self.base.record is not None or self.filled
        )

    def without(self, keys: Collection[str]) -> Plan | None:
        """Return the same without these keys, None if nothing is left."""
        changes = self.changes
        rest = replace(
            changes, deleted=changes.deleted.difference(keys), assigned={
                key: value for key, value in changes.assigned.items()
                if key not in keys
            },
        )
        if not rest and self.wishes is NO_WISHES:
            return None
        return replace(self, changes=rest)


#: Of outcomes, in the order of time.
_numbers = count()


class Outcome:
    """What a save did, to be believed once it is committed."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.created = False
        self.rotated = False
        self.renewed = False
        #: The last access was noted.
        self.touched = False
        #: The expiry is later than before.
        self.extended = False
        #: The record that an update began from, if it was one.
        self.before: Record | None = None
        #: Whose sessions may be too many now (``max_sessions_per_user``).
        self.user: Any = None
        self.merged = False
        #: Another request of the same browser has begun the record meanwhile.
        self.shared = False
        #: What others were to begin has ended, whether it was there or not.
        self.ends_common = False
        #: A new record holds the changes, and nothing of the one before.
        self.replaced = False
        #: The view has committed it by hand, and went on: others may have
        #: logged in since.
        self.is_early = False
        #: Keys that keep another request's values, as this one cannot run
        #: again (``conflict = retry``).
        self.yielded: tuple[str, ...] = ()
        #: Id of the record that was deleted.
        self.removed: str | None = None
        #: (id, reason) of changes that came too late.
        self.dropped: tuple[tuple[str, DropReason], ...] = ()
        #: Its place in the order of time, among those of this process.
        self.number = next(_numbers)

    def drop(self, token: Token, reason: DropReason) -> None:
        """Note that changes of the session of *token* came too late."""
        self.dropped += ((str(token.id), reason),)

    @property
    def updated(self) -> bool:
        """Whether a record was updated, and not only cared for."""
        return self.before is not None

    def is_ended(self, outcomes: Iterable[Outcome]) -> bool:
        """Return whether one of *outcomes*, a subrequest's say, has removed
        the record of this one.
        """
        record = self.base.record
        for other in outcomes:
            if other.removed is not None and record is not None and (
                other.removed == str(record.id)
            ):
                return True
        return False


def in_order(outcomes: Iterable[Outcome]) -> tuple[Outcome, ...]:
    """Return *outcomes* in the order of time: of subrequests one may hear
    later than of what came after them.
    """
    found = tuple(outcomes)
    if len(found) > 1:
        found = tuple(sorted(found, key=attrgetter('number')))
    return found


def token_after(
    outcomes: Collection[Outcome], token: Token | None
) -> Token | None:
    """Return the token that *outcomes*, which are committed, have made of
    *token*.
    """
    for outcome in in_order(outcomes):
        if outcome.removed is not None:
            token = None
        if (
            outcome.created or outcome.rotated or outcome.renewed
        ) and not outcome.is_ended(outcomes):
            token = outcome.base.token
    return token
