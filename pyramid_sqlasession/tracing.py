"""What becomes of one request's session, kept for people to read.

Holds no token, no secret and no value.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field
import re
from typing import Any

from pyramid_sqlasession import events
from pyramid_sqlasession.base import Base
from pyramid_sqlasession.changes import FLASH
from pyramid_sqlasession.changes import FlashChange
from pyramid_sqlasession.plan import Outcome
from pyramid_sqlasession.plan import Plan
from pyramid_sqlasession.records import Record
from pyramid_sqlasession.watching import Found
from pyramid_sqlasession.watching import kind_of
from pyramid_sqlasession.watching import listed
from pyramid_sqlasession.watching import Watcher

FOUND = {
    Found.ABSENT: 'No cookie came, or none that is well formed.',
    Found.FORGED: 'The cookie is badly signed. The database was not asked.',
    Found.CURRENT: 'The session was loaded.',
    Found.UNKNOWN: (
        'The cookie names a session that has expired, was ended, or never '
        'was.'
    ),
    Found.WRONG_SECRET: 'The cookie names a session, with a wrong secret.',
    Found.ROTATED: (
        'The token of the cookie was replaced a moment ago by a login. The '
        'session is empty, and what is put into it is dropped.'
    ),
    Found.DAMAGED: (
        'The data of the record cannot be read (see the log). The session '
        'is empty; the record stays.'
    ),
    Found.UNAVAILABLE: 'The database does not answer.',
    Found.STILL_UNAVAILABLE: 'The database does not answer.',
}

KINDS = {
    'create': 'A new session was inserted',
    'rotate': 'The session was updated and has a new token',
    'update': 'The session was updated',
    'remove': 'The session was deleted',
    'drop': 'The changes were dropped',
}


@dataclass
class Statement:
    """One statement on the sessions' table."""

    sql: str
    milliseconds: float
    #: How many rows it changed, or what the database said.
    result: str


@dataclass
class Write:
    """One write of the session, in words."""

    title: str
    milliseconds: float
    session_id: str = ''
    keys_set: list[str] = field(default_factory=list)
    keys_deleted: list[str] = field(default_factory=list)
    flash: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_dropped: bool = False
    is_committed: bool = False


class Trace(Watcher):
    """What becomes of the session of one request."""

    def __init__(self, following: Watcher, table: str) -> None:
        #: Is told the same.
        self._following = following
        self._pattern = re.compile(
            rf'\b(?:FROM|INTO|UPDATE|JOIN|TABLE)\s+(?:[\w."`\[\]]+\.)?'
            rf'["`\[]?{re.escape(table)}(?!\w)',
            re.IGNORECASE,
        )
        #: None as long as nobody has looked at the session.
        self.found: str | None = None
        self.milliseconds: float | None = None
        self.record: dict[str, Any] | None = None
        self.writes: list[Write] = []
        self.losses: list[str] = []
        self.cookie: tuple[bool, str] | None = None
        self.statements: list[Statement] = []

    # -- Watcher -------------------------------------------------------------

    def loaded(self, found: Found, base: Base, seconds: float) -> None:
        self.note_base(found, base)
        if found.asked_the_database:
            self.milliseconds = seconds * 1000
        self._following.loaded(found, base, seconds)

    def note_base(self, found: Found, base: Base) -> None:
        """Note what the session starts from."""
        self.found = FOUND[found]
        record = base.record
        self.record = None if record is None else _facts(record)

    def set_aside(self, keys: Iterable[str], error: BaseException) -> None:
        self.losses.append(
            f'The view raised {type(error).__name__}: what it did to the '
            f'session ({listed(keys)}) counts only if the transaction is '
            f'committed all the same.'
        )
        self._following.set_aside(keys, error)

    def taken_back(self, keys: Iterable[str]) -> None:
        self.losses.append(
            f'The transaction was aborted: what was done to the session in '
            f'it ({listed(keys)}) is gone.'
        )
        self._following.taken_back(keys)

    def written(self, plan: Plan, outcome: Outcome, seconds: float) -> None:
        self.writes.append(_write(plan, outcome, seconds))
        self._following.written(plan, outcome, seconds)

    def conflicted(self, keys: Iterable[str]) -> None:
        self.losses.append(
            f'Another request changed the same keys ({listed(keys)}). With '
            f'sqlasession.conflict = retry this one has to run again.'
        )
        self._following.conflicted(keys)

    def committed(self, outcome: Outcome) -> None:
        if self.writes:
            self.writes[-1].is_committed = True
        self._following.committed(outcome)

    def cared(self, outcome: Outcome, seconds: float) -> None:
        if outcome.touched or outcome.renewed:
            write = Write('The session was touched', seconds * 1000)
            write.is_committed = True
            if outcome.renewed:
                write.title = 'The token was renewed'
            if outcome.base.record is not None:
                write.session_id = str(outcome.base.record.id)
                write.notes.append(f'expires {outcome.base.record.expires}')
            self.writes.append(write)
        self._following.cared(outcome, seconds)

    def decided(self, is_sent: bool, reason: str) -> None:
        self.cookie = is_sent, reason
        self._following.decided(is_sent, reason)

    # -- SQL -----------------------------------------------------------------

    def executed(self, sql: str, seconds: float, result: str) -> None:
        """Note a statement, if it is about the sessions' table."""
        if self._pattern.search(sql):
            self.statements.append(Statement(sql, seconds * 1000, result))

    @property
    def summary(self) -> str:
        """What became of the session, in a word; '' if nobody looked."""
        if self.found is None:
            return ''
        written = [write for write in self.writes if write.is_committed]
        if any(write.is_dropped for write in written):
            return 'dropped'
        if self.losses and not written:
            return 'taken back'
        if written:
            return 'saved'
        return 'empty' if self.record is None else 'read'


def _facts(record: Record) -> dict[str, Any]:
    return {
        'id': str(record.id),
        'new': False,
        'created': record.created,
        'logged in or created': record.started,
        'accessed': record.accessed,
        'expires': record.expires,
        'version': record.version,
    }


def _write(plan: Plan, outcome: Outcome, seconds: float) -> Write:
    changes, record = plan.changes, outcome.base.record
    return Write(
        KINDS[kind_of(outcome)], seconds * 1000,
        session_id='' if record is None else str(record.id),
        keys_set=sorted(map(str, changes.assigned)),
        keys_deleted=sorted(map(str, changes.deleted)),
        flash=[
            _flashed(queue, change)
            for queue, change in changes.flash.items()
        ],
        notes=list(_notes(plan, outcome)),
        is_dropped=bool(outcome.dropped),
    )


def _notes(plan: Plan, outcome: Outcome) -> Iterator[str]:
    record, sets_expiry = outcome.base.record, plan.wishes.lifetime is not None
    if record is not None and (
        outcome.extended or outcome.created or sets_expiry
    ):
        yield f'expires {record.expires}'
    if plan.changes.csrf is not None:
        yield 'first CSRF token'
    if plan.changes.drop_csrf:
        yield 'new CSRF token at its next use'
    if sets_expiry:
        yield 'set_expiry()'
    if outcome.renewed:
        yield 'the token was renewed'
    if outcome.removed is not None:
        yield f'session {outcome.removed} was deleted'
    if outcome.merged:
        yield 'another request saved meanwhile: the changes were merged'
    if outcome.replaced:
        yield (
            'the session before took nothing, as another request logged in, '
            'or its data cannot be read: this one holds the changes alone'
        )
    for session_id, reason in outcome.dropped:
        yield f'session {session_id} took nothing: {events.DROPS[reason]}'


def _flashed(key: str, change: FlashChange) -> str:
    added = len(change.appended)
    said = [f'{added} added'] if added else []
    if change.popped:
        said.append('taken')
    queue = key.removeprefix(FLASH) or '(default)'
    return f'{queue}: {", ".join(said) or "changed"}'
