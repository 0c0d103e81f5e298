"""What is written of a session that nobody changed: its expiry, a new token,
and the end of those that a user has too many.
"""

from __future__ import annotations

from dataclasses import replace
import datetime as dt
from typing import Any

import sqlalchemy as sa

from pyramid_sqlasession.base import Base
from pyramid_sqlasession.changes import apply_changes
from pyramid_sqlasession.changes import Changes
from pyramid_sqlasession.codec import Codec
from pyramid_sqlasession.codec import Content
from pyramid_sqlasession.cookie import new_token
from pyramid_sqlasession.expiry import Expiry
from pyramid_sqlasession.fields import Fields
from pyramid_sqlasession.plan import Outcome
from pyramid_sqlasession.records import Executor
from pyramid_sqlasession.records import Records
from pyramid_sqlasession.renewal import derived_csrf
from pyramid_sqlasession.renewal import Renewal
from pyramid_sqlasession.renewal import token_columns
from pyramid_sqlasession.settings import Settings


class Care:
    """Cares for the sessions of one application."""

    def __init__(
        self, settings: Settings, records: Records, fields: Fields,
        codec: Codec, expiry: Expiry,
    ) -> None:
        self._settings = settings
        self._records = records
        self._fields = fields
        self._codec = codec
        self._expiry = expiry
        self._renewal = Renewal(settings)
        # Each request that reads asks for them.
        self._touches = not settings.disable_touch
        self._renews = settings.renewal_interval is not None

    def is_due(self, base: Base, now: dt.datetime) -> bool:
        """Return whether a request that only read has to write all the same:
        to extend the expiry, or to renew the token.
        """
        record = base.record
        return record is not None and (
            (self._touches and self._expiry.is_touch_due(
                now, record.accessed, record.lifetime
            ))
            or (self._renews and self._renewal.is_due(base, now))
        )

    def touch(
        self, connection: Executor, base: Base, now: dt.datetime
    ) -> Outcome:
        """Extend the expiry, and renew the token, in one statement.

        Silent if another request was there first, or the session has ended.
        """
        record, token = base.record, base.token
        assert record is not None
        after = record
        values: dict[str, Any] = {}
        if self._touches and self._expiry.is_touch_due(
            now, record.accessed, record.lifetime
        ):
            expires = self._expiry.extended(
                record.expires, record.lifetime, record.started, now
            )
            values.update(self._expiry.columns(expires, now))
            after = replace(record, accessed=now, expires=expires)
        renews = self._renewal.is_due(base, now)
        if renews:
            token = new_token(record.id)
            after = self._renewal.renewed(after, token, now).written(
                self._with_csrf(base)
            )
            done = self._records.update(
                connection, record.id, record.version, now,
                {**values, **token_columns(after), 'data': after.data},
                extends='expires' in values,
            )
        else:
            done = self._records.touch(connection, record, now, values)
        if not done:
            return Outcome(base)
        assert after.data is not None
        outcome = Outcome(
            Base(after, token, Content(self._codec, after.data))
        )
        outcome.renewed = renews
        outcome.touched = after.accessed > record.accessed
        outcome.extended = after.expires > record.expires
        return outcome

    def _with_csrf(self, base: Base) -> str:
        """Return the data of *base*, and its CSRF token kept."""
        changes = Changes(kept_csrf=derived_csrf(base))
        known = base.content.known()
        return self._codec.write_again(*apply_changes(changes, *known))

    def end_surplus(
        self, connection: sa.Connection, user: Any, now: dt.datetime
    ) -> None:
        """End the oldest sessions of *user* above the limit.

        After the commit of the newest one, so that of parallel logins the
        last one sees all.  Which ones end depends on their order alone:
        whoever computes it ends the same ones, and never too many.
        """
        limit = self._settings.max_sessions_per_user
        assert limit is not None
        column = self._fields.columns[self._settings.user_field]
        self._records.remove_surplus(connection, now, column == user, limit)
