"""Guards of the package, to be removed: the cases have to find out.

Each function breaks the package in this process; for demonstrations only.
Processes of their own learn from the environment which one (``wsgi``).
"""

import contextlib

from pyramid_sqlasession import cleaner
from pyramid_sqlasession import dialects
from pyramid_sqlasession import pooling
from pyramid_sqlasession.database import Database
from pyramid_sqlasession.datamanager import Route
from pyramid_sqlasession.datamanager import SessionDataManager
from pyramid_sqlasession.records import Records

from ..checker.sabotage import no_version_guard
from ..checker.sabotage import upsert
from ..services.pgrepl import SETTINGS

#: Names the guard that is removed in processes of their own.
VARIABLE = 'FAULTS_SABOTAGE'


def _replace(owner, name, function):
    # One that has got another name would break nothing any more.
    assert hasattr(owner, name), f'{owner} has no {name}'
    setattr(owner, name, function)


def apart():
    """The session is committed just before the application's data are."""
    guarded = SessionDataManager._prepare

    def prepare(self):
        guarded(self)
        if self._route is Route.JOINED:
            self._route = Route.ALONE

    _replace(SessionDataManager, '_prepare', prepare)


def no_replacement():
    """A stale connection of the pool is not replaced by a fresh one."""

    def read_aside(self, read, engine=None):
        with self.translated_errors():
            with (engine or self.engine).connect() as connection:
                return read(connection)

    _replace(Database, 'read_aside', read_aside)


def no_translation():
    """Errors of the database pass as they are."""

    @contextlib.contextmanager
    def translated_errors(self, **options):
        yield

    _replace(Database, 'translated_errors', translated_errors)


def no_return():
    """A connection that failed is not given back to the pool."""
    for kind in (pooling._Entry, pooling._Proxy):
        _replace(kind, 'give_back_lost', _kept.append)


_kept = []


def no_election():
    """All workers clean at the same time."""

    @contextlib.contextmanager
    def elected(connection, name):
        yield True

    _replace(dialects, 'elected', elected)


def no_fork():
    """A cleaner does not begin anew after a fork."""
    _replace(cleaner.Cleaner, 'restart_in_child', lambda self: None)


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

    _replace(Records, 'remove_expired', remove_expired)


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
