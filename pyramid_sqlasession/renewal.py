"""New tokens for a record: at a rotation, and by a periodic renewal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
import datetime as dt
from typing import Any

from pyramid_sqlasession.base import Base
from pyramid_sqlasession.cookie import Token
from pyramid_sqlasession.records import Record
from pyramid_sqlasession.retired import pack_retired
from pyramid_sqlasession.retired import RENEWED
from pyramid_sqlasession.retired import Retired
from pyramid_sqlasession.retired import ROTATED
from pyramid_sqlasession.retired import Standing
from pyramid_sqlasession.retired import unpack_retired
from pyramid_sqlasession.settings import Settings


class Renewal:
    """What the settings say of new tokens."""

    def __init__(self, settings: Settings) -> None:
        self._interval = settings.renewal_interval
        self._grace = dt.timedelta(seconds=settings.renewal_grace)

    def is_due(self, base: Base, now: dt.datetime) -> bool:
        """Return whether this request hands out a new token.

        Not to one who came with a token that was renewed already.
        """
        return (
            self._interval is not None
            and base.record is not None
            and base.has_current_token
            and (now - base.record.rotated).total_seconds() >= self._interval
        )

    def renewed(
        self, record: Record, token: Token, now: dt.datetime
    ) -> Record:
        """Return *record* with the new token of a periodic renewal."""
        earlier = unpack_retired(record.retired)
        return self._replaced(record, token, now, earlier, RENEWED)

    def rotated(
        self, record: Record, token: Token, now: dt.datetime
    ) -> Record:
        """Return *record* with the new token of a rotation."""
        # All older ones of this session are dead with it: whoever holds
        # one is not the one who has just logged in.
        earlier = [
            replace(entry, standing=ROTATED)
            for entry in unpack_retired(record.retired)
        ]
        return self._replaced(record, token, now, earlier, ROTATED)

    def _replaced(
        self, record: Record, token: Token, now: dt.datetime,
        earlier: Iterable[Retired], standing: Standing,
    ) -> Record:
        last = Retired(record.secret_hash, now + self._grace, standing)
        return replace(
            record, secret_hash=token.secret_hash,
            retired=pack_retired([*earlier, last], now), rotated=now,
        )


def token_columns(record: Record) -> dict[str, Any]:
    """Return what a new token changes in the row."""
    return {
        name: getattr(record, name)
        for name in ('secret_hash', 'retired', 'rotated')
    }


def derived_csrf(base: Base) -> str:
    """Return the CSRF token to keep when the token of *base* goes: requests
    that still come with it derive the same one (C6).
    """
    assert base.token is not None
    return base.token.csrf_token()
