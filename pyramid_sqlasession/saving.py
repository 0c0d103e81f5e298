"""One session's save: guarded writes, and what a refused one means.

A write states the version that it read and is refused if that is no longer
the record's (one statement decides, whatever the isolation level, also
between the nodes of a Galera cluster).  A refused write looks again and is
merged, or dropped because the session has ended.  Nothing here changes the
session: the caller takes over the :class:`Outcome` once it is committed.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace
import datetime as dt
import logging
from typing import Any
import uuid

import sqlalchemy as sa

from pyramid_sqlasession import faults
from pyramid_sqlasession.base import Base
from pyramid_sqlasession.base import NOTHING
from pyramid_sqlasession.changes import apply_changes
from pyramid_sqlasession.changes import Changes
from pyramid_sqlasession.changes import conflicting_keys
from pyramid_sqlasession.changes import LOGIN
from pyramid_sqlasession.codec import Codec
from pyramid_sqlasession.codec import Content
from pyramid_sqlasession.codec import DamagedData
from pyramid_sqlasession.cookie import new_token
from pyramid_sqlasession.cookie import Token
from pyramid_sqlasession.errors import SessionConflict
from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.events import DropReason
from pyramid_sqlasession.expiry import BY_SETTINGS
from pyramid_sqlasession.expiry import Expiry
from pyramid_sqlasession.fields import Fields
from pyramid_sqlasession.pending import Wishes
from pyramid_sqlasession.plan import Outcome
from pyramid_sqlasession.plan import Plan
from pyramid_sqlasession.records import Executor
from pyramid_sqlasession.records import Record
from pyramid_sqlasession.records import Records
from pyramid_sqlasession.records import SINGLE
from pyramid_sqlasession.renewal import derived_csrf
from pyramid_sqlasession.renewal import Renewal
from pyramid_sqlasession.renewal import token_columns
from pyramid_sqlasession.settings import Settings

log = logging.getLogger(__name__)

# On servers the second look locks the row, so two attempts are enough.  More
# only where nothing keeps a lock: between the nodes of a Galera cluster, and
# where the application has its connection in autocommit.  Whoever is refused
# there has met another request that was stored: so many may come at once.
_ATTEMPTS = 50

#: From the data to be stored to the additional fields.
Extend = Callable[[Mapping[str, Any]], dict[str, Any]]

#: From a record to what others have left, before the same transaction has
#: written it, for a request around this one, say; to itself if it has not.
Theirs = Callable[[Record], Record]


class WriteRefused(Exception):
    """A guarded write met another one, where only one statement can be
    executed.

    Doing it again in a transaction, in which the second look keeps others
    away, needs two attempts however many requests there are.
    """


@dataclass(slots=True)
class _Save:
    """One save, while it is done."""

    connection: Executor
    plan: Plan
    now: dt.datetime
    extend: Extend
    theirs: Theirs
    outcome: Outcome


class Saver:
    """Saves sessions of one application."""

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
        user = fields.columns.get(settings.user_field)
        self._user_key = '' if user is None else user.key
        unique = {column for group in fields.unique for column in group}
        self._unique_names = {
            name for name, column in fields.columns.items()
            if column in unique
        }

    def save(
        self, connection: Executor, plan: Plan, now: dt.datetime,
        extend: Extend, theirs: Theirs,
    ) -> Outcome:
        """Write *plan* to the database.

        :raises SessionError: for values that cannot be stored.
        :raises SessionConflict: with ``conflict = retry``.
        """
        save = _Save(
            connection, plan, now, extend, theirs, Outcome(plan.base)
        )
        try:
            self._save(save)
        except sa.exc.DBAPIError as error:
            if not faults.is_about_value(error):
                raise
            raise self._refused(error) from error
        return save.outcome

    def _refused(self, error: sa.exc.DBAPIError) -> SessionError:
        """Return what *error*, about a value, says to the application."""
        columns = {
            self._records.table.c.data.name: self._records.table.c.data,
            **self._fields.columns,
        }
        data, *others = columns
        fields = ', '.join(others)
        # Whatever the checks of the fields do not know.
        what, hint = f'a value of the additional fields ({fields})', ''
        named = faults.named_in(error, columns)
        # Or a table that was made by hand.
        if not fields or named == data or (
            faults.is_too_long(error) and named is None
        ):
            own = 'the data of the session'
            what = f'{what}, or {own}' if fields and named is None else own
            hint = (
                f': {data} has to be a TEXT without a limit, on MariaDB and '
                f'MySQL a LONGTEXT'
            )
        if faults.is_about_characters(error) and named is not None and (
            isinstance(columns[named].type, sa.String)
        ):
            hint = (
                ', or the connection: both need the character set utf8mb4, '
                'which is charset=utf8mb4 in the URL of the database'
            )
        return SessionError(
            f'the database refuses {what}: {error.orig}. It does not fit its '
            f'column{hint}'
        )

    def _save(self, save: _Save) -> None:
        plan = save.plan
        ended = plan.wishes.ended
        if ended is not None and self._fields.unique:
            # The new session may have the same value.
            self._end(save, ended)
            ended = None
        if plan.base.ghost:
            assert plan.base.token is not None
            save.outcome.drop(plan.base.token, plan.base.ghost)
        elif plan.base.record is not None:
            self._update(save)
        elif plan.filled:
            self._create(save)
        if ended is not None:
            # After the INSERT: on MariaDB a DELETE that finds nothing locks
            # the gap that two parallel logouts would then insert into.
            self._end(save, ended)

    def _look_again(self, save: _Save, record: Record) -> Record | None:
        """Return the record as it is now, for a second guarded write.

        :raises WriteRefused: if the connection is for one statement.
        """
        connection = save.connection
        if SINGLE in connection.get_execution_options():
            raise WriteRefused
        return self._records.look_again(connection, record.id, save.now)

    # -- invalidate ----------------------------------------------------------

    def _end(self, save: _Save, ended: Base) -> None:
        record, token = ended.record or ended.damaged, ended.token
        assert record is not None
        assert token is not None
        secret_hash = record.secret_hash
        for _ in range(_ATTEMPTS):
            if self._records.delete(save.connection, record.id, secret_hash):
                save.outcome.removed = str(record.id)
                return
            # Removed already, or another request changed the token: after
            # a renewal it is still this session; after a login it is not
            # ours to end.
            found = self._look_again(save, record)
            if found is None and save.plan.has_revoked:
                # "Log out everywhere" and then here: it was this request.
                save.outcome.removed = str(record.id)
            if self._ending_by_others(save, found, token) is not None:
                return
            assert found is not None
            secret_hash = found.secret_hash
        # A logout that did not happen must not look like one.
        raise SessionConflict([])

    # -- create --------------------------------------------------------------

    def _create(self, save: _Save) -> None:
        plan, now, outcome = save.plan, save.now, save.outcome
        token = plan.token or new_token()
        data, heads = apply_changes(plan.changes, {}, {})
        lifetime = plan.wishes.lifetime or BY_SETTINGS
        # By place: by name it takes twice as long.
        record = Record(
            token.id, token.secret_hash, None, 1,
            self._codec.write(data, heads), plan.began or now, now, now, now,
            self._expiry.end(now, now, lifetime), lifetime.seconds,
        )
        values = self._fields.values(save.extend(data), data)
        if self._fields.unique:
            self._make_room(save, values, record.id)
        self._records.insert(
            save.connection, record, self._expiry.sweep(record.expires),
            values,
        )
        outcome.created = True
        outcome.base = self._base(record, token)
        outcome.user = self._user_in(values)

    # -- update --------------------------------------------------------------

    def _update(self, save: _Save) -> None:
        plan, outcome = save.plan, save.outcome
        base = plan.base
        record, token = base.record, base.token
        assert record is not None
        assert token is not None
        for _ in range(_ATTEMPTS):
            values, after, renewed = self._values(save, base)
            if self._takes_unique(plan):
                self._make_room(save, values, record.id)
            if self._records.update(
                save.connection, record.id, record.version, save.now, values,
                extends='expires' in values and not plan.wishes.lifetime,
            ):
                self._note_update(save, record, after, renewed)
                if outcome.rotated or self.is_login(plan):
                    outcome.user = self._user_in(values)
                return
            found = self._look_again(save, record)
            reason = self._ending_by_others(save, found, token)
            if reason is not None:
                self._come_too_late(save, token, reason)
                return
            assert found is not None
            try:
                base = self._merge_onto(save, found, token)
            except DamagedData as error:
                log.error(
                    'session %s cannot be read any more (%s): its row stays '
                    'as it is, a new session is stored beside it',
                    found.id, error,
                )
                self._replace(save)
                return
            record = found
            outcome.merged = True
        raise SessionConflict([])

    def _note_update(
        self, save: _Save, record: Record, after: Record,
        renewed: Token | None,
    ) -> None:
        """Note what an update of *record* to *after* was."""
        plan, outcome = save.plan, save.outcome
        outcome.before = record
        outcome.rotated = plan.wishes.rotate
        outcome.renewed = renewed is not None
        outcome.touched = after.accessed > record.accessed
        outcome.extended = after.expires > record.expires
        token = plan.token if outcome.rotated else plan.base.token
        outcome.base = self._base(after, renewed or token)

    @staticmethod
    def _ending_by_others(
        save: _Save, found: Record | None, token: Token
    ) -> DropReason | None:
        """Return why a write comes too late, or None if it does not."""
        if found is None:
            return 'gone'
        # Of a damaged one nobody can tell.
        if found.data is not None and found.expires <= save.now:
            return 'expired'
        # It was good when the request began, and a renewal is no login; nor
        # does a subrequest that rotates in the same transaction end it.
        if save.theirs(found).standing(token, None).is_good:
            return None
        return 'rotated'

    def _come_too_late(
        self, save: _Save, token: Token, reason: DropReason
    ) -> None:
        """Drop what was to be written, unless it is a login."""
        plan, outcome = save.plan, save.outcome
        if reason == 'rotated' and (
            plan.wishes.rotate and self.is_whole_login(plan)
        ):
            # A session of its own, with nothing of the other's.
            self._replace(save)
            outcome.rotated = True
            return
        outcome.drop(token, reason)
        # Dead for the rest of the request too: no later write may begin a
        # session that overwrites the cookie of a login.
        outcome.base = Base(token=token, ghost=reason)

    def _replace(self, save: _Save) -> None:
        fresh = replace(save.plan, base=NOTHING, token=new_token())
        self._create(replace(save, plan=fresh))
        save.outcome.replaced = True

    def _merge_onto(self, save: _Save, found: Record, token: Token) -> Base:
        """Return the base of a second attempt.

        :raises DamagedData: if somebody damaged the row meanwhile.
        :raises SessionConflict: with ``conflict = retry``.
        """
        if found.data is None:
            raise DamagedData('a column has no value that fits it')
        base = self._base(found, token)
        current, _ = base.content.known()
        if self._settings.conflict == 'retry':
            # What the same transaction has written is no conflict: to repeat
            # both would end in the same place.
            theirs = save.theirs(found)
            if theirs is not found:
                current, _ = self._base(theirs, token).content.known()
            before, _ = save.plan.base.content.known()
            keys = conflicting_keys(
                save.plan.changes, before, current, self._codec.differ
            )
            if keys:
                raise SessionConflict(keys)
        return base

    def _values(
        self, save: _Save, base: Base
    ) -> tuple[dict[str, Any], Record, Token | None]:
        """Return the columns to set, the record that they lead to, and a
        new token if its renewal is due.
        """
        plan, now = save.plan, save.now
        wishes = plan.wishes
        record = base.record
        assert record is not None
        renewed = None
        after = record
        changes = plan.changes
        if not wishes.rotate and self._renewal.is_due(base, now):
            renewed = new_token(record.id)
            after = self._renewal.renewed(after, renewed, now)
            changes = replace(changes, kept_csrf=derived_csrf(base))
        values, text = self._content(save, base, changes)
        if wishes.rotate:
            assert plan.token is not None
            after = self._renewal.rotated(after, plan.token, now)
        if wishes.login or self.is_login(plan):
            after = replace(after, started=now)
        if after.secret_hash != record.secret_hash:
            values.update(token_columns(after))
        if after.started != record.started:
            values['started'] = after.started
        expires = self._expires(record, after.started, wishes, now)
        if expires is not None:
            lifetime = record.lifetime
            if wishes.lifetime is not None:
                lifetime = values['lifetime'] = wishes.lifetime.seconds
            after = replace(
                after, accessed=now, expires=expires, lifetime=lifetime
            )
            values.update(self._expiry.columns(expires, now))
        return values, after.written(text), renewed

    def _content(
        self, save: _Save, base: Base, changes: Changes
    ) -> tuple[dict[str, Any], str | None]:
        """Return the columns of the data and of what follows from them, and
        the text of the data.
        """
        assert base.record is not None
        values: dict[str, Any] = {}
        data, heads = apply_changes(changes, *base.content.known())
        text = base.record.data
        if changes:
            write = self._codec.write
            if not save.plan.changes.is_of_data:
                write = self._codec.write_again
            text = values['data'] = write(data, heads)
        if changes or self._settings.extend_default_fields is not None:
            values.update(
                self._fields.values(save.extend(data), data, changes)
            )
        return values, text

    def _takes_unique(self, plan: Plan) -> bool:
        """Return whether an update may take a value of a unique field: one
        that stays has no rival.
        """
        return bool(self._fields.unique) and (
            self._settings.extend_default_fields is not None
            or not self._unique_names.isdisjoint(plan.changes.assigned)
            or not self._unique_names.isdisjoint(plan.changes.deleted)
        )

    def _make_room(
        self, save: _Save, values: Mapping[str, Any], id: uuid.UUID
    ) -> None:
        """Delete expired records whose unique values are taken again (E1).

        Not where only one statement can be executed: whoever is refused
        there comes again with a transaction.
        """
        if SINGLE not in save.connection.get_execution_options():
            rivals = self._fields.rivals(values)
            if rivals is not None:
                others = self._records.table.c.id != id
                self._records.remove_expired_of(
                    save.connection, save.now, rivals & others,
                    self._expiry.oldest(save.now),
                )

    def _user_in(self, values: Mapping[str, Any]) -> Any:
        """Return whose session it is by the columns that are set, or None."""
        user = values.get(self._user_key)
        # NULL, or whatever else the column has as its default.
        return None if isinstance(user, sa.ClauseElement) else user

    def is_login(self, plan: Plan) -> bool:
        """Return whether the session becomes that of a user, by the key of
        the field alone, or with a rotate() that does not say so.
        """
        return bool(self._user_key) and (
            plan.changes.assigned.get(self._settings.user_field) is not None
        )

    def is_whole_login(self, plan: Plan) -> bool:
        """Return whether what was changed alone is the session of a user.

        What else a request changes as it rotates, at a second factor say, is
        for the user whom it has found in the session: to nobody, and to who
        logs in there next, it means nothing.
        """
        return self._has_user(plan.changes.assigned)

    def is_of_user(self, base: Base) -> bool:
        """Return whether the session of *base* is that of a user."""
        data, _ = base.content.known()
        return self._has_user(data)

    def _has_user(self, data: Mapping[str, Any]) -> bool:
        return data.get(self._settings.user_field) is not None or any(
            f'{LOGIN}{key}' in data for key in data
        )

    # -- expiry --------------------------------------------------------------

    def _expires(
        self, record: Record, started: dt.datetime, wishes: Wishes,
        now: dt.datetime,
    ) -> dt.datetime | None:
        """Return the new expiry of a written record, None to leave it."""
        if wishes.lifetime is not None:
            return self._expiry.end(now, started, wishes.lifetime)
        if not (
            wishes.touch
            or started != record.started
            or self._settings.disable_touch
            or self._expiry.is_touch_due(now, record.accessed, record.lifetime)
        ):
            return None
        return self._expiry.extended(
            record.expires, record.lifetime, started, now
        )

    def _base(self, record: Record, token: Token | None) -> Base:
        assert record.data is not None
        return Base(record, token, Content(self._codec, record.data))
