"""Guards of the package, to be removed: the cases have to find out.

Each function breaks the package in this process; for demonstrations only.
"""

import contextlib

from pyramid_sqlasession.application import Application
from pyramid_sqlasession.shortcut import Shortcut
from pyramid_sqlasession.transaction import Route
from pyramid_sqlasession.transaction import SessionDataManager


def apart():
    """The session is committed just before the application's data are."""
    guarded = SessionDataManager._prepare

    def prepare(self):
        guarded(self)
        if self._route is Route.JOINED:
            self._route = Route.ALONE

    SessionDataManager._prepare = prepare


def no_replacement():
    """A stale connection of the pool is not replaced by a fresh one."""

    def read_aside(self, read, engine=None):
        with self.translated_errors():
            with (engine or self.engine).connect() as connection:
                return read(connection)

    Application.read_aside = read_aside


def no_translation():
    """Errors of the database pass as they are."""

    @contextlib.contextmanager
    def translated_errors(self):
        yield

    Application.translated_errors = translated_errors


def no_return():
    """A connection that failed is not given back to the pool."""
    check_out = Shortcut.checked_out
    Shortcut.checked_out = lambda self, driver: _Held(check_out(self, driver))


class _Held:
    """A pooled connection that stays with its owner once it failed."""

    _kept = []

    def __init__(self, pooled):
        self._pooled = pooled

    def __getattr__(self, name):
        return getattr(self._pooled, name)

    def invalidate(self):
        self._kept.append(self._pooled)

    def close(self):
        if self._pooled not in self._kept:
            self._pooled.close()


GUARDS = {
    function.__name__.replace('_', '-'): function
    for function in (apart, no_replacement, no_translation, no_return)
}
