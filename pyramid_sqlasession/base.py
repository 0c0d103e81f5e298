"""What a session starts from: a record, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace

from pyramid_sqlasession.changes import DataAndHeads
from pyramid_sqlasession.codec import Content
from pyramid_sqlasession.cookie import Token
from pyramid_sqlasession.events import DropReason
from pyramid_sqlasession.records import Record


class _Nothing(Content):
    """What there is without a record."""

    __slots__ = ()

    def __init__(self) -> None:
        pass

    def copy(self) -> DataAndHeads:
        return {}, {}

    known = copy


_NOTHING = _Nothing()


# Not frozen: that makes three times as dear what each request does.
@dataclass(slots=True)
class Base:
    """What a session starts from: a record, or nothing; nobody changes it."""

    record: Record | None = None
    #: The one that came with the request, or that a save has made since.
    token: Token | None = None
    content: Content = _NOTHING
    #: Why the session is dead, although the request goes on: reads are
    #: empty, writes are dropped, no cookie is sent.  There is no record then.
    ghost: DropReason | None = None
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

    def is_later_than(self, other: Base) -> bool:
        """Return whether it is a later version of the record of *other*."""
        record, before = self.record, other.record
        return (
            record is not None and before is not None
            and record.id == before.id and record.version > before.version
        )

    def with_newest(self, token: Token | None) -> Base:
        """Return the same with *token* if that is the record's newest."""
        other = replace(self, token=token)
        return other if other.has_current_token else self


NOTHING = Base()
