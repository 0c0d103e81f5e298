"""One session from the inside: what it holds, what it started from, and what
was done to it since.

Asks nobody for anything: the session and its binding call it.  What was
changed is found by comparing the keys that were touched with what was loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
import copy
from dataclasses import dataclass
from dataclasses import replace
import datetime as dt
from decimal import Decimal
from typing import Any
import uuid
from weakref import ref

from pyramid_sqlasession.base import Base
from pyramid_sqlasession.base import NOTHING
from pyramid_sqlasession.beginning import Beginning
from pyramid_sqlasession.changes import apply_changes
from pyramid_sqlasession.changes import Changes
from pyramid_sqlasession.changes import CSRF
from pyramid_sqlasession.changes import find_changes
from pyramid_sqlasession.changes import NO_CHANGES
from pyramid_sqlasession.codec import Codec
from pyramid_sqlasession.cookie import new_token
from pyramid_sqlasession.cookie import Token
from pyramid_sqlasession.pending import Held
from pyramid_sqlasession.pending import is_unchanged
from pyramid_sqlasession.pending import NO_WISHES
from pyramid_sqlasession.pending import Pending
from pyramid_sqlasession.plan import Plan
from pyramid_sqlasession.serializers import MAX_DEPTH

#: A value of one of these types cannot change behind our back.
IMMUTABLE = frozenset({
    str, int, float, bool, type(None), bytes, dt.datetime, dt.date, dt.time,
    dt.timedelta, Decimal, uuid.UUID,
})


@dataclass(frozen=True)
class Snapshot:
    """A session at one moment."""

    base: Base
    data: dict[str, Any]
    pending: Pending


class State:
    """The state of one session.

    :param codec: tells whether a value has changed.
    """

    #: The session, which holds the data, and this state.  Weakly: two that
    #: hold each other wait for the garbage collector.
    session: ref[dict[str, Any]]

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        #: What the session starts from.
        self.base = NOTHING
        #: When the session began that has no record yet (aware UTC), once
        #: somebody has asked: it does not move.
        self.began: dt.datetime | None = None
        #: What others begin, too, as long as there is no record.
        self.beginning: Beginning | None = None
        self.pending = Pending()

    @property
    def data(self) -> dict[str, Any]:
        """The session itself, which is a dict with methods that ask before
        they give anything; here it is used past them.
        """
        session = self.session()
        # It, or who holds it, has called.
        assert session is not None
        return session

    @property
    def is_altered(self) -> bool:
        """Whether something was done that may have to be saved."""
        pending = self.pending
        return bool(pending.touched) or pending.wishes is not NO_WISHES

    @property
    def is_unsaved(self) -> bool:
        """Whether something has to be saved, as far as can be told at little
        cost.
        """
        pending = self.pending
        if pending.touched and not is_unchanged(pending.settled):
            return True
        return pending.wishes is not NO_WISHES

    # -- where it starts -----------------------------------------------------

    def load(self, base: Base) -> None:
        """Start from *base*, before anything was done."""
        self.base = base
        data = self.data
        dict.clear(data)
        if base.record is not None:
            dict.update(data, base.content.copy()[0])

    def begin(self, base: Base) -> None:
        """Start from *base*, with nothing done yet."""
        self.pending = Pending()
        self.load(base)

    def snapshot(self) -> Snapshot:
        """Return the state, to come back to."""
        return Snapshot(
            self.base, copied(self.plain()), self.pending.copied()
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Come back to *snapshot*, which stays usable."""
        self.base = snapshot.base
        self.pending = snapshot.pending.copied()
        self.fill(copied(snapshot.data))

    def add_to(self, earlier: Snapshot) -> None:
        """Put what was done since the base on top of what was done in
        *earlier*, which began with the same one.
        """
        if self.pending.wishes.ended is not None or (
            # What a dead session was given is lost; a login from there is not.
            earlier.base.ghost and not self.base.ghost
        ):
            return
        base, later, after = self.base, self._changes(), self.pending
        self.restore(earlier)
        if earlier.pending.wishes.ended is not None:
            self._add_to_new(base, later, after)
            return
        if earlier.pending.wishes.rotate:
            # Whoever has planted the token before can derive it.
            later = replace(later, csrf=None)
        # With what is taken from the queues already.
        _, heads = apply_changes(self._changes(), *base.content.known())
        data, _ = apply_changes(later, self.plain(), heads)
        if later.csrf is not None:
            # The later page is the one that is sent.
            data[CSRF] = later.csrf
        self.fill(data)
        self.pending.add(after)

    def _add_to_new(
        self, ended: Base, later: Changes, after: Pending
    ) -> None:
        """Put on top of a new session what was done to the one before it,
        *ended*: only what is new, as the rest may be another user's.
        """
        known, _ = ended.content.known()
        data, _ = apply_changes(
            Changes(
                {
                    key: value for key, value in later.assigned.items()
                    if key not in known
                },
                flash={
                    key: replace(change, taken=0)
                    for key, change in later.flash.items()
                },
            ),
            self.plain(), {},
        )
        self.fill(data)
        self.pending.add(after)
        if after.wishes.rotate:
            # Its token is of the one before.
            self.rotate(login=False)

    def plain(self) -> dict[str, Any]:
        """Return a plain dict with the same values."""
        return dict(dict.items(self.data))

    def fill(self, data: Mapping[str, Any]) -> None:
        """Have the session hold *data*, whatever was done to it."""
        dict.clear(self.data)
        dict.update(self.data, data)

    # -- what is done to it --------------------------------------------------

    def end(self) -> None:
        """Have the record deleted; what comes after it is a new session."""
        base = self.base
        ended, common = self.pending.wishes.ended, self._common_token
        if base.record is not None or base.damaged is not None:
            ended = base
        elif common is not None:
            # Whatever the others have put in, or are going to.
            ended = Base(token=common)
        self.base = NOTHING
        self.began = None
        self.pending = Pending()
        self.pending.is_apart = self.beginning is not None
        if ended is not None:
            self.pending.wish(ended=ended)
        dict.clear(self.data)

    def rotate(self, *, login: bool) -> None:
        """Have a new token; the CSRF token goes with the old one."""
        if self.base.ghost:
            # The dead token opened an empty session; this is a new one.
            self.base = NOTHING
        pending, record = self.pending, self.base.record
        if record is not None:
            pending.wish(rotate=True, login=login or pending.wishes.login)
            pending.token = new_token(record.id)
        elif (common := self._common_token) is not None:
            pending.token = new_token(common.id)
        elif pending.token is not None or self.base.damaged is not None:
            # By it alone, not by the one that came, a CSRF token is made.
            pending.token = new_token()
        dict.pop(self.data, CSRF, None)

    def first_csrf(self) -> str:
        """Return the CSRF token of a session that holds none."""
        pending, base = self.pending, self.base
        if pending.token is None and base.token is not None:
            _, heads = base.content.known()
            kept: str = heads.get(CSRF) or base.token.csrf_token()
            return kept
        if pending.token is None:
            pending.token = self._common_token or new_token()
        return pending.token.csrf_token()

    @property
    def _common_token(self) -> Token | None:
        """The token that the record is going to have, if others begin it,
        too.
        """
        if self.beginning is None or self.pending.is_apart or (
            self.base is not NOTHING
        ):
            return None
        return self.beginning.token

    @property
    def rotates(self) -> bool:
        """Whether the token that others have, or are going to have, is dead
        after the save.
        """
        if self.pending.wishes.rotate:
            return True
        token, common = self.pending.token, self._common_token
        return token is not None and common is not None and token != common

    @property
    def place(self) -> int:
        """The place of the save among those of others who have the session,
        or begin it, too: what is written after its token has ended would be
        dropped.
        """
        ended = self.pending.wishes.ended
        if ended is not None and ended.record is None and (
            ended.damaged is None
        ):
            # What somebody has still to begin, also if that is a login.
            return 2
        return int(ended is not None or self.rotates)

    # -- what is to be saved -------------------------------------------------

    def plan(self, *, has_revoked: bool) -> Plan | None:
        """Return what has to be saved, None if there is nothing.

        :param has_revoked: whether the request has revoked sessions.
        :raises SessionNotSerializable: for a value that cannot be stored.
        """
        changes, pending = self._changes(), self.pending
        wishes = pending.wishes
        if not changes and wishes is NO_WISHES:
            return None
        filled = dict.__len__(self.data) > 0
        if not filled and self.base.record is None and wishes.ended is None:
            return None
        plan = Plan(
            self.base, wishes, pending.token or self._common_token, changes,
            filled, has_revoked, self.began,
        )
        # The flush of the COMMIT, say, may change the session once more.
        pending.planned = Held(self._lent())
        return plan

    def _lent(self) -> dict[str, Any]:
        """Return what somebody may hold, and change inside."""
        touched = self.pending.touched
        return {
            key: value for key, value in dict.items(self.data)
            if type(value) not in IMMUTABLE and key in touched
        }

    def saved(self, base: Base, *, merged: bool) -> None:
        """Go on from *base*, which holds what was just saved.

        :param merged: another request's changes are in it, too.
        """
        touched, planned = self.pending.touched, self.pending.planned
        if merged:
            self.begin(base)
            if planned is not None:
                self._hold_on_to(planned.values)
            return
        self.base, self.pending = base, Pending()
        # Whoever holds a list out of the session may change it later.
        if planned is None:
            self.pending.touched = touched
        else:
            self.pending.touched = set(planned.values)
            self.pending.settled = planned

    def go_on(self, base: Base) -> None:
        """Go on from *base*, a later version of the same record.

        What was changed and nobody has saved is merged with it when it is.
        """
        try:
            is_changed = self._changes() or (
                self.pending.wishes is not NO_WISHES
            )
        # What cannot be stored is an error of the save.
        except Exception:
            is_changed = True
        if is_changed:
            self.base = replace(self.base, token=base.token)
            return
        held = self._lent()
        self.begin(base)
        self._hold_on_to(held)

    def _hold_on_to(self, held: Mapping[str, Any]) -> None:
        """Have the session hold the same objects as before, so far as they
        are what was stored: whoever holds them may change them later.
        """
        data = self.data

        def is_stored(key: str, value: Any) -> bool:
            if key not in dict.keys(data):
                return False
            try:
                return not self._codec.differ(
                    {key: value}, {key: dict.get(data, key)}
                )
            # What cannot be stored any more is an error of the next save.
            except Exception:
                return True

        kept = Held({
            key: value for key, value in held.items() if is_stored(key, value)
        })
        dict.update(data, kept.values)
        self.pending.touched = set(kept.values)
        self.pending.settled = kept

    def _changes(self) -> Changes:
        pending = self.pending
        rotates = pending.wishes.rotate
        if not rotates and (
            not pending.touched or is_unchanged(pending.settled)
        ):
            return NO_CHANGES
        base, heads = self.base.content.known()
        found = find_changes(
            base, heads, self.plain(), touched=pending.touched,
            popped=pending.popped, once=pending.once,
            derived_csrf=(
                self.first_csrf() if CSRF in pending.touched else None
            ),
            differ=self._codec.differ,
        )
        return replace(found, drop_csrf=True) if rotates else found


def copied(value: Any, depth: int = 0) -> Any:
    """Return *value* with its containers copied, and nothing else.

    What cannot be stored (a file, a lock, a cycle) may not be copyable, and
    has to survive until the error that names it.
    """
    if depth > MAX_DEPTH:
        return value
    kind = type(value)
    if kind is dict:
        return {key: copied(item, depth + 1) for key, item in value.items()}
    if kind is list or kind is tuple:
        return kind(copied(item, depth + 1) for item in value)
    if kind is set:
        return set(value)
    if isinstance(value, dict | list | tuple | set):
        # defaultdict, OrderedDict, a named tuple: each is made in its own
        # way.
        with contextlib.suppress(Exception):
            return copy.deepcopy(value)
    return value
