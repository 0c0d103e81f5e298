"""What a request did to its session, and nobody has saved yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import replace
import marshal
from typing import Any

from pyramid_sqlasession.base import Base
from pyramid_sqlasession.cookie import Token
from pyramid_sqlasession.expiry import Lifetime

# The version of marshal whose bytes depend on the values alone.
_WITHOUT_REFERENCES = 2


class Held:
    """Values that somebody may hold, and change inside without a word."""

    __slots__ = ('before', 'values')

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        #: What they were; None if that takes a closer look.
        self.before = _as_bytes(values)


def is_unchanged(held: Held | None) -> bool:
    """Return whether *held* is there, and for sure what it was."""
    if held is None or held.before is None:
        return False
    return _as_bytes(held.values) == held.before


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

    @property
    def names(self) -> list[str]:
        """The methods of the session that were called, for messages."""
        called = {
            'invalidate()': self.ended is not None, 'rotate()': self.rotate,
            'set_expiry()': self.lifetime is not None, 'touch()': self.touch,
        }
        return [name for name, is_called in called.items() if is_called]

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

    def __init__(self) -> None:
        self.touched: set[str] = set()
        self.wishes = NO_WISHES
        #: Of a record that is to be created, or of a rotation.
        self.token: Token | None = None
        #: What somebody may still hold, as a save has stored it; None if a key
        #: was touched since.
        self.settled: Held | None = None
        #: The same, as it was when the save was planned.
        self.planned: Held | None = None
        #: Whether it is of a session after one that was ended, which no other
        #: request begins with this one.
        self.is_apart = False
        #: Flash keys whose queue was taken away at some time.
        self.popped: frozenset[str] = frozenset()
        #: (flash key, message) of messages without duplicates.
        self.once: tuple[tuple[str, Any], ...] = ()

    def touch_keys(self, keys: Iterable[str]) -> None:
        """Note that the values of *keys* may be other ones now."""
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

    def copied(self) -> Pending:
        """Return a copy that shares nothing that changes."""
        found = Pending()
        found.__dict__.update(
            self.__dict__, touched=set(self.touched),
            # What is held is not in it: it looks closely.
            settled=None, planned=None,
        )
        return found
