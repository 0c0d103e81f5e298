"""A panel of pyramid_debugtoolbar: what became of a request's session.

``debugtoolbar.includes = pyramid_sqlasession.debugtoolbar`` adds it.  It
listens and never asks: the session is neither loaded nor changed by it, and
what it keeps holds no token, no secret and no value.
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

from pyramid.threadlocal import get_current_request
from pyramid_debugtoolbar.panels import DebugPanel
import sqlalchemy as sa

from pyramid_sqlasession.application import found_in
from pyramid_sqlasession.lifecycle import binding_of
from pyramid_sqlasession.spelling import spelled
from pyramid_sqlasession.tracing import Trace
from pyramid_sqlasession.watching import ATTRIBUTE

_STARTED = 'sqlasession.started'


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
            if binding.found is not None:
                trace.note_base(binding.found, binding.state.base)

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
        return {'trace': self._trace, 'settings': spelled(self._settings)}


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
