"""The session that a view sees: a dict that knows what was done to it.

Knows neither SQL nor HTTP.  Each method first asks its source (the binding
of the request) whether something has to be loaded; what is done is noted in
the session's state.
"""

from __future__ import annotations

from collections.abc import ItemsView
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import KeysView
from collections.abc import ValuesView
import datetime as dt
import secrets
from typing import Any
from typing import Protocol
from weakref import ref

from pyramid.interfaces import ISession
from zope.interface import implementer

from pyramid_sqlasession.changes import CSRF
from pyramid_sqlasession.changes import FLASH
from pyramid_sqlasession.expiry import Lifetime
from pyramid_sqlasession.expiry import lifetime_of
from pyramid_sqlasession.state import copied
from pyramid_sqlasession.state import IMMUTABLE
from pyramid_sqlasession.state import State


class _NotLoaded:
    """The key of a session that nobody has looked into."""

    def __repr__(self) -> str:
        return '...'

    def __str__(self) -> str:
        # ujson, say, has none but texts as keys.
        raise TypeError(
            'what reads a session past its methods does not load it: give it '
            'dict(session)'
        )


_NOT_LOADED: Any = _NotLoaded()


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

    def expiry(self, lifetime: Lifetime) -> dt.datetime:
        """Return when a session of this lifetime expires, if it is used now
        (aware UTC).
        """


@implementer(ISession)
class SQLASession(dict[str, Any]):
    """The ``request.session`` of an application (``ISession``).

    A ``dict`` in every respect.  Nothing is loaded before the first access
    and nothing is written before the transaction commits.  So whatever looks
    at it may raise :exc:`SessionStoreUnavailable`, and what cannot be stored
    is an error of the commit (:exc:`SessionNotSerializable`,
    :exc:`SessionTooLarge`, :exc:`SessionFieldError`).

    What reads a dict past its methods (``orjson``, ``ujson``) does not load it
    and raises ``TypeError``: give it ``dict(session)``.
    """

    def __init__(self, source: Source, state: State) -> None:
        # C code that takes an empty dict for empty without asking (json)
        # has to ask for its items, which loads them.
        dict.__setitem__(self, _NOT_LOADED, None)
        self._source = source
        self._state = state
        state.session = ref(self)

    def _hand_out(self, key: str) -> Any:
        value = dict.__getitem__(self, key)
        if type(value) not in IMMUTABLE:
            self._lend(key)
        return value

    def _hand_out_all(self) -> None:
        for key, value in dict.items(self):
            if type(value) not in IMMUTABLE:
                self._lend(key)

    def _lend(self, key: str) -> None:
        if key not in self._state.pending.touched:
            self._source.lend()
            self._state.pending.touch_keys((key,))

    def _alter(self, key: str) -> None:
        self._source.alter(key)
        self._state.pending.touch_keys((key,))

    # -- ISession ------------------------------------------------------------

    @property
    def id(self) -> str | None:
        """The public id, or None until there is a record."""
        self._source.look()
        record = self._state.base.record
        return None if record is None else str(record.id)

    @property
    def new(self) -> bool:
        """Whether there is no record yet."""
        self._source.look()
        return self._state.base.record is None

    @property
    def created(self) -> int:
        """When the session began, in seconds since the epoch."""
        self._source.look()
        state = self._state
        record = state.base.record
        if record is not None:
            return int(record.created.timestamp())
        if state.began is None:
            state.began = self._source.now()
        return int(state.began.timestamp())

    @property
    def accessed(self) -> dt.datetime | None:
        """When the expiry was last extended (aware UTC), None if new."""
        self._source.look()
        record = self._state.base.record
        return None if record is None else record.accessed

    @property
    def expires(self) -> dt.datetime | None:
        """When the record expires (aware UTC), None if new; after
        :meth:`set_expiry`, what that leads to by all that is known so far.
        """
        self._source.look()
        lifetime = self._state.pending.wishes.lifetime
        if lifetime is not None:
            return self._source.expiry(lifetime)
        record = self._state.base.record
        return None if record is None else record.expires

    def changed(self) -> None:
        """Have every key compared at the end.

        Never needed: changes inside of values are found without it.
        """
        self._source.alter('changed()')
        self._state.pending.touch_keys(dict.keys(self))

    def invalidate(self) -> None:
        """End this session: its record is removed, its token is dead.

        What is put in afterwards belongs to a new session.
        """
        self._source.alter('invalidate()')
        self._state.end()

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
                self._state.pending.once += ((key, msg),)

    def pop_flash(self, queue: str = '') -> list[Any]:
        """Take all messages out of a queue and return them."""
        messages: list[Any] = self.pop(FLASH + queue, [])
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
            token = self._state.first_csrf()
            dict.__setitem__(self, CSRF, token)
        return token

    # -- beyond ISession -----------------------------------------------------

    def rotate(self, *, login: bool = False) -> None:
        """Give the session a new token; the data stay.

        Call it whenever the rights of the visitor change, most of all at
        login (OWASP ASVS 5.0, 7.2.4).  The old token is dead from the
        commit on, and the CSRF token is a new one at its next use.

        :param login: the absolute timeout counts from now on.
        """
        self._source.alter('rotate()')
        self._state.rotate(login=login)

    def set_expiry(
        self, value: dt.timedelta | dt.datetime | float | None
    ) -> None:
        """Set how long this session lives, whatever the settings say.

        A timedelta or seconds slide with its use, an aware datetime is a
        fixed end, None goes back to the settings.  Never beyond the
        absolute timeout.

        :raises TypeError: for another type, infinity and NaN.
        :raises ValueError: for what would end the session at once, a naive
            datetime, and more than 2147483647 seconds.
        """
        lifetime = lifetime_of(value, self._source.now())
        self._source.alter('set_expiry()')
        self._state.pending.wish(lifetime=lifetime)

    def touch(self) -> None:
        """Extend the expiry with this request, whatever the interval."""
        self._source.alter('touch()')
        self._state.pending.wish(touch=True)

    # -- dict: reading -------------------------------------------------------

    def __getitem__(self, key: str) -> Any:
        self._source.look()
        return self._hand_out(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._source.look()
        if not dict.__contains__(self, key):
            return default
        return self._hand_out(key)

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

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The content, never the request that it belongs to; the module copy
        # asks for it, too.
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
        return self._hand_out(key)

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
        self._state.pending.touch_keys(dict.keys(self))
        for key in dict.keys(self):
            self._note_removal(key)
        dict.clear(self)

    def update(self, /, *args: Any, **kwargs: Any) -> None:
        given = dict(*map(_plain, args), **kwargs)
        if given:
            self._source.alter(*given)
            self._state.pending.touch_keys(given)
            dict.update(self, given)
        else:
            self._source.look()

    def __ior__(self, other: Any) -> SQLASession:  # type: ignore[override]
        self.update(other)
        return self

    def _note_removal(self, key: str) -> None:
        if isinstance(key, str) and key.startswith(FLASH):
            self._state.pending.popped |= {key}


def source_of(session: SQLASession) -> Source:
    """Return where *session* gets its content from."""
    return session._source


def _plain(other: Any) -> Any:
    # dict's own methods read another dict past its overridden methods, and
    # would see a session that is not loaded yet as empty.
    return other.copy() if isinstance(other, SQLASession) else other
