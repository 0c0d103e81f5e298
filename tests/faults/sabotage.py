"""Guards of the package, to be removed: the cases have to find out.

Each function breaks the package in this process; for demonstrations only.
"""

import contextlib

from pyramid_sqlasession import shortcut
from pyramid_sqlasession.application import Application
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
    kept = []

    def fetch(pooled, statement, values):
        try:
            row = guarded(_Held(pooled), statement, values)
        except BaseException:
            kept.append(pooled)
            raise
        pooled.close()
        return row

    guarded, shortcut._fetch = shortcut._fetch, fetch


class _Held:
    """A pooled connection that does not leave its owner."""

    def __init__(self, pooled):
        self.driver_connection = pooled.driver_connection

    def invalidate(self):
        pass

    def close(self):
        pass


GUARDS = {
    function.__name__.replace('_', '-'): function
    for function in (apart, no_replacement, no_translation, no_return)
}
