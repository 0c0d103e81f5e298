"""A panel of pyramid_debugtoolbar: what became of a request's session.

``debugtoolbar.includes = pyramid_sqlasession.debugtoolbar`` adds it.  It
listens and never asks: the session is neither loaded nor changed by it, and
what it keeps holds no token, no secret and no value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
import re
from time import perf_counter
from typing import Any

from pyramid.threadlocal import get_current_request
from pyramid_debugtoolbar.panels import DebugPanel
import sqlalchemy as sa

from pyramid_sqlasession import events
from pyramid_sqlasession.application import found_in
from pyramid_sqlasession.base import Base
from pyramid_sqlasession.changes import FLASH
from pyramid_sqlasession.changes import FlashChange
from pyramid_sqlasession.declarations import Field
from pyramid_sqlasession.durations import spoken
from pyramid_sqlasession.lifecycle import binding_of
from pyramid_sqlasession.plan import Outcome
from pyramid_sqlasession.plan import Plan
from pyramid_sqlasession.records import Record
from pyramid_sqlasession.serializers import JSONSerializer
from pyramid_sqlasession.settings import Settings
from pyramid_sqlasession.values import PREFIX
from pyramid_sqlasession.watching import ATTRIBUTE
from pyramid_sqlasession.watching import Found
from pyramid_sqlasession.watching import kind_of
from pyramid_sqlasession.watching import listed
from pyramid_sqlasession.watching import Watcher

_STARTED = 'sqlasession.started'

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
        """What became of the session, in a word; '' if nothing."""
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


class SQLASessionPanel(DebugPanel):
    """What became of the session of a request."""

    name = 'sqlasession'
    title = 'Session in the database'
    nav_title = 'SQLA session'
    # A path, no asset specification: where our pytest plugin is installed,
    # pytest loads this package, and pkg_resources (which Pyramid asks) does
    # not know its loader.
    template = str(Path(__file__).parent / 'templates' / 'session.dbtmako')

    def __init__(self, request: Any) -> None:
        self._trace: Trace | None = None
        application = found_in(request.registry)
        if application is None:
            return
        self._settings = application.settings
        self._trace = trace = Trace(
            application.watcher, application.records.table.name
        )
        request.__dict__[ATTRIBUTE] = trace
        binding = binding_of(request)
        if binding is not None:
            # Made by a tween above of the toolbar.
            binding.watcher = trace
            base = binding.state.base
            trace.note_base(
                Found.ABSENT if base.record is None else Found.CURRENT, base
            )

    @property
    def has_content(self) -> bool:
        """Whether the application includes the package."""
        return self._trace is not None

    @property
    def nav_subtitle(self) -> str:
        """What became of the session, in a word."""
        return '' if self._trace is None else self._trace.summary

    def render_vars(self, request: Any) -> dict[str, Any]:
        """Return what the template shows: the trace as it is by now.

        The record is written and the cookie is set after
        ``process_response``.
        """
        return {'trace': self._trace, 'settings': _shown(self._settings)}


def _shown(settings: Settings) -> list[tuple[str, str, bool]]:
    """Return (key, value, whether it is the default) of all settings."""
    defaults = _written(Settings())
    return [
        (PREFIX + name, value, value == defaults[name])
        for name, value in _written(settings).items()
    ]


def _written(settings: Settings) -> dict[str, str]:
    """Return name to value, as one would write them in an ini file."""
    written = {
        'engine.*' if name == 'engine_options' else name: _words(value)
        for name, value in settings.masked().items()
    }
    if settings.cookie_follows_expiry:
        written['cookie_max_age'] = 'as expiration'
    elif settings.cookie_max_age is None:
        written['cookie_max_age'] = 'session'
    if type(settings.serializer) is JSONSerializer:
        written['serializer'] = 'json'
    written['max_size'] = _size(settings.max_size)
    return written


def _words(value: Any) -> str:
    if value in (None, (), ''):
        return 'none'
    if isinstance(value, tuple):
        return ', '.join(map(_words, value))
    if isinstance(value, Field):
        return _field(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        # All of them are durations.
        days, rest = divmod(value, 86400)
        return spoken(value) if rest or days < 2 else f'{days:g}d'
    if isinstance(value, str | int):
        return str(value)
    named = value if hasattr(value, '__qualname__') else type(value)
    return f'{named.__module__}.{named.__qualname__}'


def _field(field: Field) -> str:
    kind = _words(field.type)
    if field.args or field.kwargs:
        arguments = [
            *map(repr, field.args),
            *(f'{name}={value!r}' for name, value in field.kwargs),
        ]
        kind += f'({", ".join(arguments)})'
    flags = (
        ('index', field.index), ('unique', field.unique),
        ('not null', not field.nullable),
    )
    words = [kind, *(word for word, is_set in flags if is_set)]
    return f'{field.name}: {" ".join(words)}'


def _size(count: int) -> str:
    for unit, length in (('MiB', 1024**2), ('KiB', 1024)):
        if count % length == 0:
            return f'{count // length}{unit}'
    return str(count)


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
    changes = plan.changes
    write = Write(
        KINDS[kind_of(outcome)], seconds * 1000,
        keys_set=sorted(map(str, changes.assigned)),
        keys_deleted=sorted(map(str, changes.deleted)),
        flash=[
            _flashed(queue, change)
            for queue, change in changes.flash.items()
        ],
    )
    record = outcome.base.record
    if record is not None:
        write.session_id = str(record.id)
        if outcome.extended or outcome.created or (
            plan.wishes.lifetime is not None
        ):
            write.notes.append(f'expires {record.expires}')
    if changes.csrf is not None:
        write.notes.append('first CSRF token')
    if changes.drop_csrf:
        write.notes.append('new CSRF token at its next use')
    if plan.wishes.lifetime is not None:
        write.notes.append('set_expiry()')
    if outcome.renewed:
        write.notes.append('the token was renewed')
    if outcome.removed is not None:
        write.notes.append(f'session {outcome.removed} was deleted')
    if outcome.merged:
        write.notes.append(
            'another request saved meanwhile: the changes were merged'
        )
    if outcome.replaced:
        write.notes.append(
            'the session before took nothing, as another request logged in, '
            'or its data cannot be read: this one holds the changes alone'
        )
    for session_id, reason in outcome.dropped:
        write.is_dropped = True
        write.notes.append(
            f'session {session_id} took nothing: {events.DROPS[reason]}'
        )
    return write


def _flashed(key: str, change: FlashChange) -> str:
    added = len(change.appended)
    said = [f'{added} added'] if added else []
    if change.popped:
        said.append('taken')
    queue = key.removeprefix(FLASH) or '(default)'
    return f'{queue}: {", ".join(said) or "changed"}'


# -- the statements ----------------------------------------------------------


def _current_trace() -> Trace | None:
    request = get_current_request()
    found = None if request is None else request.__dict__.get(ATTRIBUTE)
    return found if isinstance(found, Trace) else None


def _before(
    connection: sa.Connection, cursor: Any, sql: str, *rest: Any
) -> None:
    if _current_trace() is not None:
        connection.info[_STARTED] = perf_counter()


def _after(
    connection: sa.Connection, cursor: Any, sql: str, *rest: Any
) -> None:
    trace = _current_trace()
    if trace is not None:
        count = cursor.rowcount
        rows = '' if count < 0 else f'{count} row' + 's' * (count != 1)
        trace.executed(sql, _seconds(connection), rows)


def _failed(context: sa.engine.ExceptionContext) -> None:
    trace = _current_trace()
    if trace is None or context.statement is None:
        return
    seconds = 0.0 if context.connection is None else (
        _seconds(context.connection)
    )
    trace.executed(
        context.statement, seconds, type(context.original_exception).__name__
    )


def _seconds(connection: sa.Connection) -> float:
    if connection.invalidated or connection.closed:
        return 0.0
    started: float | None = connection.info.pop(_STARTED, None)
    return 0.0 if started is None else perf_counter() - started


def includeme(config: Any) -> None:
    """Add the panel to the debug toolbar.

    For the setting ``debugtoolbar.includes``.  All engines of the process
    are listened to: what is no statement on the sessions' table of a request
    that the toolbar watches is not kept.
    """
    config.add_debugtoolbar_panel(SQLASessionPanel)
    if not sa.event.contains(sa.Engine, 'before_cursor_execute', _before):
        sa.event.listen(sa.Engine, 'before_cursor_execute', _before)
        sa.event.listen(sa.Engine, 'after_cursor_execute', _after)
        sa.event.listen(sa.Engine, 'handle_error', _failed)
