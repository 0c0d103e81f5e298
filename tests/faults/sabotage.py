"""Guards of the package, to be removed: the cases have to find out.

Each function breaks the package in this process; for demonstrations only.
Processes of their own learn from the environment which one (``wsgi``).
"""

import contextlib

from pyramid_sqlasession import cleaner
from pyramid_sqlasession import dialects
from pyramid_sqlasession.application import Application
from pyramid_sqlasession.records import Records
from pyramid_sqlasession.shortcut import Shortcut
from pyramid_sqlasession.transaction import Route
from pyramid_sqlasession.transaction import SessionDataManager

from ..checker.sabotage import no_version_guard
from ..checker.sabotage import upsert
from ..services.pgrepl import SETTINGS

#: Names the guard that is removed in processes of their own.
VARIABLE = 'FAULTS_SABOTAGE'


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
    connect = Shortcut.connect
    Shortcut.connect = lambda self: _Held(connect(self))


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


def no_election():
    """All workers clean at the same time."""

    @contextlib.contextmanager
    def elected(connection, name):
        yield True

    dialects.elected = elected


def no_fork():
    """A cleaner does not begin anew after a fork."""
    cleaner.Cleaner.restart_in_child = lambda self: None


def no_batches():
    """The cleaner commits each record by itself."""
    guarded = Records.remove_expired

    def remove_expired(self, connection, now, limit, **options):
        count = 0
        while count < limit and guarded(self, connection, now, 1, **options):
            connection.commit()
            connection.begin()
            count += 1
        return count

    Records.remove_expired = remove_expired


def no_standby_wait():
    """An asynchronous standby: the server's guard, not the package's."""
    SETTINGS['synchronous_commit'] = 'local'


GUARDS = {
    function.__name__.replace('_', '-'): function
    for function in (
        apart, no_replacement, no_translation, no_return, no_election,
        no_fork, no_batches, no_standby_wait,
        # What is wrong of them shows under any load.
        no_version_guard, upsert,
    )
}
