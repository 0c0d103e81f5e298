"""What a session starts from, and what was done to it since.

Plain values: they can be noted, put aside and come back to.  Nobody asks
them for anything; the session changes them.
"""

from __future__ import annotations

from collections.abc import Iterable
import contextlib
import copy
from dataclasses import dataclass
from dataclasses import replace
import marshal
from typing import Any
from typing import Protocol

from pyramid_sqlasession.changes import DataAndHeads
from pyramid_sqlasession.cookie import Token
from pyramid_sqlasession.expiry import Lifetime
from pyramid_sqlasession.records import Record
from pyramid_sqlasession.serializers import MAX_DEPTH

# The version of marshal whose bytes depend on the values alone.
_WITHOUT_REFERENCES = 2


class Content(Protocol):
    """What the text of a record holds."""

    def copy(self) -> DataAndHeads:
        """Return it anew at each call."""

    def known(self) -> DataAndHeads:
        """Return the same each time; nobody may change it."""


class _Nothing:
    def copy(self) -> DataAndHeads:
        return {}, {}

    known = copy


_NOTHING = _Nothing()


# Not frozen: that makes three times as dear what each request does.
@dataclass(slots=True)
class Base:
    """What a session starts from: a record, or nothing; nobody changes it."""

    record: Record | None = None
    #: The token that came with the request and fits the record.
    token: Token | None = None
    content: Content = _NOTHING
    #: Why the session is dead, although the request goes on: reads are
    #: empty, writes are dropped, no cookie is sent.
    ghost: str | None = None
    #: A record whose data cannot be read: only invalidate() touches it.
    damaged: Record | None = None

    @property
    def has_current_token(self) -> bool:
        """Whether the token is the record's newest (it may be a renewed one,
        within its grace).
        """
        return (
            self.record is not None
            and self.token is not None
            and self.token.secret_hash == self.record.secret_hash
        )


NOTHING = Base()


class Held:
    """Values that somebody may hold, and change inside without a word."""

    __slots__ = ('_before', 'values')

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self._before = _as_bytes(values)

    def is_unchanged(self) -> bool:
        """Return whether they are what they were; False also if that takes a
        closer look.
        """
        before = self._before
        return before is not None and _as_bytes(self.values) == before


def _as_bytes(values: dict[str, Any]) -> bytes | None:
    # Never read back, only compared: ``marshal`` tells ``1`` from ``True``,
    # as ``==`` does not, and costs less than the serializer.
    try:
        return marshal.dumps(values, _WITHOUT_REFERENCES)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a request asks for beside changes of the data."""

    #: A new token.
    rotate: bool = False
    #: And a new beginning of the absolute timeout.
    login: bool = False
    #: By set_expiry().
    lifetime: Lifetime | None = None
    touch: bool = False
    #: What invalidate() left behind, to be deleted.
    ended: Base | None = None

    def plus(self, later: Wishes) -> Wishes:
        """Return these with *later* ones added."""
        if later is NO_WISHES:
            return self
        return Wishes(
            self.rotate or later.rotate, self.login or later.login,
            later.lifetime or self.lifetime, self.touch or later.touch,
            later.ended or self.ended,
        )


NO_WISHES = Wishes()


class Pending:
    """What this request did and nobody has saved yet."""

    # On the class, as most requests do few of them.

    wishes = NO_WISHES
    #: Of a record that is to be created, or of a rotation.
    token: Token | None = None
    #: What somebody may still hold after a save.
    settled: Held | None = None
    #: The same when the save was planned; None if a key was touched since.
    planned: Held | None = None

    def __init__(self) -> None:
        self.touched: set[str] = set()
        self.popped: set[str] = set()
        self.once: list[tuple[str, Any]] = []

    def touch_keys(self, keys: Iterable[str]) -> None:
        """Note keys whose value may be another one now."""
        self.touched.update(keys)
        self.settled = self.planned = None

    def wish(self, **what: Any) -> None:
        """Add to the wishes."""
        self.wishes = replace(self.wishes, **what)

    def add(self, later: Pending) -> None:
        """Add what was done *later*, from the same base."""
        self.touched |= later.touched
        self.popped |= later.popped
        self.once += later.once
        self.wishes = self.wishes.plus(later.wishes)
        if later.wishes.rotate:
            self.token = later.token

    @property
    def is_settled(self) -> bool:
        """Whether the values of the keys are as they were saved."""
        return self.settled is not None and self.settled.is_unchanged()

    def copied(self) -> Pending:
        """Return a copy that shares nothing that changes."""
        found = Pending()
        found.__dict__.update(
            self.__dict__, touched=set(self.touched),
            popped=set(self.popped), once=list(self.once),
            # What is held is not in it: it looks closely.
            settled=None, planned=None,
        )
        return found


@dataclass(frozen=True)
class Snapshot:
    """A session at one moment."""

    base: Base
    data: dict[str, Any]
    pending: Pending


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
