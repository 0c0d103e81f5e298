"""Tokens that were replaced lately: what the column ``retired`` of a record
holds, and what a token is to a record.
"""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
from dataclasses import dataclass
from dataclasses import field
import datetime as dt
import enum
import struct


class Standing(enum.Enum):
    """What a token's secret is to a record."""

    CURRENT = 'current'
    #: Replaced by a periodic renewal, still within its grace; to a request
    #: in flight, beyond it too.
    RENEWED = 'renewed'
    #: Replaced by a rotation (a login), still within its grace.
    ROTATED = 'rotated'
    WRONG = 'wrong'

    @property
    def is_good(self) -> bool:
        """Whether nobody has logged in since the token was made: a renewal is
        no login.
        """
        return self is CURRENT or self is RENEWED


# To look into an enum takes Python 3.11 ten times as long.
CURRENT, RENEWED, ROTATED, WRONG = Standing


@dataclass(frozen=True)
class Retired:
    """A token that was replaced lately."""

    secret_hash: bytes = field(repr=False)
    until: dt.datetime
    standing: Standing


_ENTRY = struct.Struct('>32sqB')
_KINDS = {1: ROTATED, 2: RENEWED}
# Fits the column; nobody rotates that often within a grace period.
_MOST_RETIRED = 16
# Requests in flight are judged by renewed tokens whose grace is over, and one
# that began with a token in its grace may meet the next renewal soon.
_MOST_OVER = 2
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


def pack_retired(entries: Sequence[Retired], now: dt.datetime) -> bytes | None:
    """Return the column value for those *entries*, oldest first, that still
    count.
    """
    last = entries[-_MOST_OVER:]
    kinds = {standing: number for number, standing in _KINDS.items()}
    packed = [
        _ENTRY.pack(
            entry.secret_hash, (entry.until - _EPOCH) // _MICROSECOND,
            kinds[entry.standing],
        )
        for entry in entries
        if entry.until > now
        # A rotated one is as dead as an unknown one.
        or (entry.standing is RENEWED and entry in last)
    ]
    return b''.join(packed[-_MOST_RETIRED:]) or None


def unpack_retired(packed: bytes | None) -> tuple[Retired, ...]:
    """Return the entries of a column value; a damaged one has none."""
    if not isinstance(packed, bytes) or len(packed) % _ENTRY.size:
        return ()
    found = []
    for secret_hash, until, kind in _ENTRY.iter_unpack(packed):
        with contextlib.suppress(KeyError, OverflowError):
            moment = _EPOCH + until * _MICROSECOND
            found.append(Retired(secret_hash, moment, _KINDS[kind]))
    return tuple(found)
