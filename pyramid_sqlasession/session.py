"""The session that a view sees: a dict that knows what was done to it.

Knows neither SQL nor HTTP.  Each method first asks its source (the binding
of the request) whether something has to be loaded; what was changed is found
later, by comparing the keys that were touched with what was loaded.
"""

from __future__ import annotations

from collections.abc import ItemsView
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import KeysView
from collections.abc import ValuesView
import copy
import datetime as dt
from decimal import Decimal
import secrets
from typing import Any
from typing import Protocol
import uuid

from pyramid.interfaces import ISession
from zope.interface import implementer

from pyramid_sqlasession.changes import apply_changes
from pyramid_sqlasession.changes import Changes
from pyramid_sqlasession.changes import CSRF
from pyramid_sqlasession.changes import Encode
from pyramid_sqlasession.changes import find_changes
from pyramid_sqlasession.changes import FLASH
from pyramid_sqlasession.changes import NO_CHANGES
from pyramid_sqlasession.cookie import new_token
from pyramid_sqlasession.expiry import lifetime_of
from pyramid_sqlasession.state import Base
from pyramid_sqlasession.state import copied
from pyramid_sqlasession.state import Held
from pyramid_sqlasession.state import NO_WISHES
from pyramid_sqlasession.state import NOTHING
from pyramid_sqlasession.state import Pending
from pyramid_sqlasession.state import Snapshot

# A value of one of these types cannot change behind our back.
_IMMUTABLE = frozenset({
    str, int, float, bool, type(None), bytes, dt.datetime, dt.date, dt.time,
    dt.timedelta, Decimal, uuid.UUID,
})

_NOT_LOADED = type('_NotLoaded', (), {'__repr__': lambda self: '...'})()


class Source(Protocol):
    """Where a session gets its content from."""

    def look(self) -> None:
        """Called before each access to the content."""

    def alter(self, *what: str) -> None:
        """Called before each change of *what*, keys or a method."""

    def lend(self) -> None:
        """Called before a value is given out that may be changed inside."""

    def now(self) -> dt.datetime:
        """Return the current time, aware UTC."""


@implementer(ISession)
class SQLASession(dict[str, Any]):
    """The ``request.session`` of an application (``ISession``).

    A ``dict`` in every respect.  Nothing is loaded before the first access
    and nothing is written before the transaction commits.
    """

    def __init__(self, source: Source) -> None:
        # C code that takes an empty dict for empty without asking (json)
        # has to ask for its items, which loads them.
        dict.__setitem__(self, _NOT_LOADED, None)
        self._source = source
        self._base = NOTHING
        self._pending = Pending()

    # -- state, for the binding ----------------------------------------------

    def _load(self, base: Base) -> None:
        """Start from *base*, before anything was done."""
        self._base = base
        dict.clear(self)
        if base.record is not None:
            dict.update(self, base.content.copy()[0])

    def _begin(self, base: Base) -> None:
        """Start from *base*, with nothing done yet."""
        self._pending = Pending()
        self._load(base)

    def _snapshot(self) -> Snapshot:
        """Return the state, to come back to."""
        return Snapshot(
            self._base, copied(dict(dict.items(self))),
            self._pending.copied(),
        )

    def _restore(self, snapshot: Snapshot) -> None:
        """Come back to *snapshot*, which stays usable."""
        self._base = snapshot.base
        self._pending = snapshot.pending.copied()
        dict.clear(self)
        dict.update(self, copied(snapshot.data))

    def _add_to(self, earlier: Snapshot, encode: Encode) -> None:
        """Put what was done since the base on top of what was done in
        *earlier*, which began with the same one.
        """
        if self._pending.wishes.ended is not None:
            return
        later, after = self._changes(encode), self._pending
        _, heads = self._base.content.known()
        self._restore(earlier)
        data, _ = apply_changes(later, dict(dict.items(self)), heads)
        if later.csrf is not None:
            # The later page is the one that is sent.
            data[CSRF] = later.csrf
        dict.clear(self)
        dict.update(self, data)
        self._pending.add(after)

    def _plan(self) -> None:
        """Note that what was done up to now is going to be saved.

        The flush of the COMMIT, say, may change the session once more.
        """
        touched = self._pending.touched
        self._pending.planned = Held({
            key: value for key, value in dict.items(self)
            if type(value) not in _IMMUTABLE and key in touched
        })

    def _saved(self, base: Base, *, merged: bool) -> None:
        """Go on from *base*, which holds what was just saved."""
        touched, planned = self._pending.touched, self._pending.planned
        self._begin_after(base, merged=merged)
        if merged:
            return
        # Whoever holds a list out of the session may change it later.
        self._pending.touched = touched
        if planned is not None:
            self._pending.touched = set(planned.values)
            self._pending.settled = planned

    def _begin_after(self, base: Base, *, merged: bool) -> None:
        self._base = base
        self._pending = Pending()
        if merged:
            # Another request's changes are in it too.
            dict.clear(self)
            dict.update(self, base.content.copy()[0])

    def _changes(self, encode: Encode) -> Changes:
        """Return what this request changed in the data.

        :raises SessionNotSerializable: for a value that cannot be stored.
        """
        pending = self._pending
        rotates = pending.wishes.rotate
        if not rotates and (not pending.touched or pending.is_settled):
            return NO_CHANGES
        base, heads = self._base.content.known()
        found = find_changes(
            base, heads, dict(dict.items(self)), touched=pending.touched,
            popped=pending.popped, once=pending.once,
            derived_csrf=(
                self._first_csrf() if CSRF in pending.touched else None
            ),
            encode=encode,
        )
        if rotates:
            return Changes(
                found.assigned, found.deleted, found.flash, found.csrf,
                drop_csrf=True,
            )
        return found

    def _is_altered(self) -> bool:
        """Return whether something was done that may have to be saved."""
        pending = self._pending
        return bool(pending.touched) or pending.wishes is not NO_WISHES

    def _is_unsaved(self) -> bool:
        """Return whether something has to be saved, as far as can be told at
        little cost.
        """
        pending = self._pending
        if pending.touched and not pending.is_settled:
            return True
        return pending.wishes is not NO_WISHES

    def _hand_out(self, key: str, value: Any) -> Any:
        if type(value) not in _IMMUTABLE:
            self._lend(key)
        return value

    def _hand_out_all(self) -> None:
        for key, value in dict.items(self):
            if type(value) not in _IMMUTABLE:
                self._lend(key)

    def _lend(self, key: str) -> None:
        if key not in self._pending.touched:
            self._source.lend()
            self._pending.touch_keys((key,))

    def _alter(self, key: str) -> None:
        self._source.alter(key)
        self._pending.touch_keys((key,))

    # -- ISession ------------------------------------------------------------

    @property
    def id(self) -> str | None:
        """The public id, or None until there is a record."""
        self._source.look()
        record = self._base.record
        return None if record is None else str(record.id)

    @property
    def new(self) -> bool:
        """Whether there is no record yet."""
        self._source.look()
        return self._base.record is None

    @property
    def created(self) -> int:
        """When the session began, in seconds since the epoch."""
        self._source.look()
        record = self._base.record
        if record is None:
            return int(self._source.now().timestamp())
        return int(record.created.timestamp())

    @property
    def accessed(self) -> dt.datetime | None:
        """When the expiry was last extended (aware UTC), None if new."""
        self._source.look()
        record = self._base.record
        return None if record is None else record.accessed

    @property
    def expires(self) -> dt.datetime | None:
        """When the record expires (aware UTC), None if new."""
        self._source.look()
        record = self._base.record
        return None if record is None else record.expires

    def changed(self) -> None:
        """Have every key compared at the end.

        Never needed: changes inside of values are found without it.
        """
        self._source.alter('changed()')
        self._pending.touch_keys(dict.keys(self))

    def invalidate(self) -> None:
        """End this session: its record is removed, its token is dead.

        What is put in afterwards belongs to a new session.
        """
        self._source.alter('invalidate()')
        base = self._base
        ended = self._pending.wishes.ended
        if base.record is not None or base.damaged is not None:
            ended = base
        self._base = NOTHING
        self._pending = Pending()
        if ended is not None:
            self._pending.wish(ended=ended)
        dict.clear(self)

    def flash(
        self, msg: Any, queue: str = '', allow_duplicate: bool = True
    ) -> None:
        """Append *msg* to a queue of messages for the next page."""
        key = FLASH + queue
        self._alter(key)
        messages = dict.setdefault(self, key, [])
        if allow_duplicate or msg not in messages:
            messages.append(msg)
            if not allow_duplicate:
                self._pending.once.append((key, msg))

    def pop_flash(self, queue: str = '') -> list[Any]:
        """Take all messages out of a queue and return them."""
        key = FLASH + queue
        self._source.look()
        if not dict.__contains__(self, key):
            return []
        self._alter(key)
        self._pending.popped.add(key)
        messages: list[Any] = dict.pop(self, key)
        return messages

    def peek_flash(self, queue: str = '') -> list[Any]:
        """Return the messages of a queue, which stay there."""
        self._source.look()
        queued: list[Any] = copied(dict.get(self, FLASH + queue, []))
        return queued

    def new_csrf_token(self) -> str:
        """Set and return a new random CSRF token."""
        token = secrets.token_hex(32)
        self[CSRF] = token
        return token

    def get_csrf_token(self) -> str:
        """Return the CSRF token; the first one is set by this call."""
        self._source.look()
        token = dict.get(self, CSRF)
        # An empty one would let an empty form field pass.
        if not isinstance(token, str) or not token:
            self._alter(CSRF)
            token = self._first_csrf()
            dict.__setitem__(self, CSRF, token)
        return token

    def _first_csrf(self) -> str:
        """Return the CSRF token of a session that holds none."""
        pending, base = self._pending, self._base
        if pending.token is None and base.token is not None:
            _, heads = base.content.known()
            kept: str = heads.get(CSRF) or base.token.csrf_token()
            return kept
        if pending.token is None:
            pending.token = new_token()
        return pending.token.csrf_token()

    # -- beyond ISession -----------------------------------------------------

    def rotate(self, *, login: bool = False) -> None:
        """Give the session a new token; the data stay.

        Call it whenever the rights of the visitor change, most of all at
        login (OWASP ASVS 5.0, 7.2.4).  The old token is dead from the
        commit on, and the CSRF token is a new one at its next use.

        :param login: the absolute timeout counts from now on.
        """
        self._source.alter('rotate()')
        if self._base.ghost:
            # The dead token opened an empty session; this is a new one.
            self._base = NOTHING
        record = self._base.record
        if record is not None:
            self._pending.wish(
                rotate=True, login=login or self._pending.wishes.login
            )
            self._pending.token = new_token(record.id)
        elif self._pending.token is not None:
            self._pending.token = new_token()
        dict.pop(self, CSRF, None)

    def set_expiry(
        self, value: dt.timedelta | dt.datetime | float | None
    ) -> None:
        """Set how long this session lives, whatever the settings say.

        A timedelta or seconds slide with each use, an aware datetime is a
        fixed end, None goes back to the settings.  Never beyond the
        absolute timeout.

        :raises TypeError: for another type.
        :raises ValueError: for what would end the session at once.
        """
        lifetime = lifetime_of(value, self._source.now())
        self._source.alter('set_expiry()')
        self._pending.wish(lifetime=lifetime)

    def touch(self) -> None:
        """Extend the expiry with this request, whatever the interval."""
        self._source.alter('touch()')
        self._pending.wish(touch=True)

    # -- dict: reading -------------------------------------------------------

    def __getitem__(self, key: str) -> Any:
        self._source.look()
        return self._hand_out(key, dict.__getitem__(self, key))

    def get(self, key: str, default: Any = None) -> Any:
        self._source.look()
        if not dict.__contains__(self, key):
            return default
        return self._hand_out(key, dict.__getitem__(self, key))

    def __contains__(self, key: object) -> bool:
        self._source.look()
        return dict.__contains__(self, key)

    def __iter__(self) -> Iterator[str]:
        self._source.look()
        return dict.__iter__(self)

    def __reversed__(self) -> Iterator[str]:
        self._source.look()
        return dict.__reversed__(self)

    def __len__(self) -> int:
        self._source.look()
        return dict.__len__(self)

    def __bool__(self) -> bool:
        return len(self) > 0

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        self._source.look()
        return dict.keys(self)

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        self._source.look()
        self._hand_out_all()
        return dict.values(self)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        self._source.look()
        self._hand_out_all()
        return dict.items(self)

    def copy(self) -> dict[str, Any]:
        """Return a plain dict with the same values."""
        return dict(self.items())

    def __copy__(self) -> dict[str, Any]:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return copy.deepcopy(self.copy(), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The content, never the request that it belongs to.
        return dict, (self.copy(),)

    @classmethod
    def fromkeys(  # type: ignore[override]
        cls, iterable: Iterable[str], value: Any = None
    ) -> dict[str, Any]:
        """Return a plain dict: a session comes from a request."""
        return dict.fromkeys(iterable, value)

    def __repr__(self) -> str:
        try:
            self._source.look()
        # What shows the local variables of a traceback must not fail for
        # the reason that it is about to show.
        except Exception as error:
            return f'<SQLASession that cannot be read: {type(error).__name__}>'
        return dict.__repr__(self)

    def __eq__(self, other: object) -> bool:
        self._source.look()
        return dict.__eq__(self, _plain(other))

    def __ne__(self, other: object) -> bool:
        self._source.look()
        return dict.__ne__(self, _plain(other))

    __hash__ = None

    def __or__(self, other: Any) -> dict[str, Any]:  # type: ignore[override]
        if not isinstance(other, dict):
            return NotImplemented
        plain: dict[str, Any] = _plain(other)
        return self.copy() | plain

    def __ror__(self, other: Any) -> dict[str, Any]:  # type: ignore[override]
        if not isinstance(other, dict):
            return NotImplemented
        plain: dict[str, Any] = _plain(other)
        return plain | self.copy()

    # -- dict: writing -------------------------------------------------------

    def __setitem__(self, key: str, value: Any) -> None:
        self._alter(key)
        dict.__setitem__(self, key, value)

    def __delitem__(self, key: str) -> None:
        self._source.look()
        if not dict.__contains__(self, key):
            raise KeyError(key)
        self._alter(key)
        self._note_removal(key)
        dict.__delitem__(self, key)

    def setdefault(self, key: str, default: Any = None) -> Any:
        self._source.look()
        if not dict.__contains__(self, key):
            self[key] = default
        return self._hand_out(key, dict.__getitem__(self, key))

    def pop(self, key: str, *default: Any) -> Any:
        if len(default) > 1:
            raise TypeError(
                f'pop expected at most 2 arguments, got {len(default) + 1}'
            )
        self._source.look()
        if not dict.__contains__(self, key):
            return dict.pop(self, key, *default)
        self._alter(key)
        self._note_removal(key)
        return dict.pop(self, key)

    def popitem(self) -> tuple[str, Any]:
        self._source.look()
        if not dict.__len__(self):
            raise KeyError('popitem(): the session is empty')
        key = next(dict.__reversed__(self))
        return key, self.pop(key)

    def clear(self) -> None:
        self._source.look()
        if not dict.__len__(self):
            return
        self._source.alter('clear()')
        self._pending.touch_keys(dict.keys(self))
        for key in dict.keys(self):
            self._note_removal(key)
        dict.clear(self)

    def update(self, /, *args: Any, **kwargs: Any) -> None:
        given = dict(*map(_plain, args), **kwargs)
        if given:
            self._source.alter(*given)
            self._pending.touch_keys(given)
            dict.update(self, given)
        else:
            self._source.look()

    def __ior__(self, other: Any) -> SQLASession:  # type: ignore[override]
        self.update(other)
        return self

    def _note_removal(self, key: str) -> None:
        if isinstance(key, str) and key.startswith(FLASH):
            self._pending.popped.add(key)


def _plain(other: Any) -> Any:
    # dict's own methods read another dict past its overridden methods, and
    # would see a session that is not loaded yet as empty.
    return other.copy() if isinstance(other, SQLASession) else other
