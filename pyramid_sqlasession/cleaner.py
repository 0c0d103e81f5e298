"""The thread that deletes expired records, one for each application.

Started when the application is created.  Expired sessions are refused at
read whether or not it runs; it only keeps the table small.
"""

from __future__ import annotations

from collections.abc import Iterator
import logging
import os
import random
import threading
from time import perf_counter
import weakref

import sqlalchemy as sa

from pyramid_sqlasession import dialects
from pyramid_sqlasession import events
from pyramid_sqlasession import faults
from pyramid_sqlasession import pooling
from pyramid_sqlasession import workers
from pyramid_sqlasession.application import Application
from pyramid_sqlasession.errors import reason_for
from pyramid_sqlasession.faults import Fault

log = logging.getLogger(__name__)

#: Records deleted in one transaction.  Few, and then a rest: on a small
#: machine a server that deletes without a pause is what requests wait for
#: (docs, "Performance").
BATCH = 200

# Times what the batch before took.  So one request in eleven meets a batch:
# with twice, one in three did, and the slowest in a hundred took four times
# as long.  Some thousand records in a second are deleted all the same.
_REST = 10.0

# A batch is tried so often before the tick is given up.  On Galera each node
# has a cleaner of its own, and of two that delete one record the cluster
# refuses the later one, which then finds that it is gone.
_ATTEMPTS = 5

# Seconds, doubled with each attempt: a lock that somebody holds for a moment
# shall not end the tick.  Three seconds in all.
_PATIENCE = 0.1

# So often the interval is doubled while the database is down: to eight times
# itself.
_MOST_DOUBLINGS = 3


class _Pace:
    """How a tick goes on after a batch."""

    def __init__(self) -> None:
        #: Whether nothing is left to delete.
        self.is_done = False
        #: How often the batch was tried.
        self.attempts = 0
        #: Seconds until the next attempt.
        self.rest = 0.0
        self._begun = 0.0

    @property
    def is_lost(self) -> bool:
        """Whether the batch was tried often enough."""
        return self.attempts == _ATTEMPTS

    def begin(self) -> None:
        """Called before an attempt."""
        self.attempts += 1
        self._begun = perf_counter()

    def deleted(self, count: int) -> None:
        """Called after a batch of *count* records."""
        self.is_done = count < BATCH
        self.attempts = 0
        self.rest = _REST * (perf_counter() - self._begun)

    def failed(self) -> None:
        """Called after an attempt that others were in the way of."""
        self.rest = max(
            _REST * (perf_counter() - self._begun),
            _PATIENCE * 2**self.attempts,
        )


class Cleaner:
    """Deletes expired records every ``check_expiration_interval`` seconds."""

    def __init__(self, application: Application) -> None:
        # Weak, so that an application that nobody uses any more ends, and
        # its thread with it.
        self._application = weakref.ref(application)
        self._interval = application.settings.check_expiration_interval
        self._name = (
            f'{application.engine.url.render_as_string()} '
            f'{application.records.table.fullname}'
        )
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._lock = threading.Lock()
        self._finalizer: weakref.finalize[..., Application] | None = None
        _cleaners.add(self)

    @property
    def is_running(self) -> bool:
        """Whether the thread runs in this process."""
        return (
            self._thread is not None
            and self._pid == os.getpid()
            and self._thread.is_alive()
        )

    def start(self) -> None:
        """Start the thread, if it does not run."""
        with self._lock:
            if not self.is_running:
                self._start()

    def _start(self) -> None:
        # A thread does not survive fork(), and an event that it waits for
        # may be locked for ever in the child.
        self._stop = stop = threading.Event()
        application = self._application()
        if application is None:
            return
        if not workers.runs_threads():
            log.warning(
                'expired sessions are not deleted: uWSGI would stop the '
                'cleaner in the middle of a transaction. Set enable-threads, '
                'or sqlasession.check_expiration_interval = 0 and run '
                '"psessions INI expire" by cron'
            )
            return
        self._forget_application()
        self._finalizer = weakref.finalize(application, stop.set)
        self._pid = os.getpid()
        self._thread = threading.Thread(
            target=_run,
            args=(weakref.ref(self), self._application, stop, self._interval),
            name='sqlasession-cleaner', daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; it ends within a second."""
        with self._lock:
            self._stop.set()
            self._forget_application()
            thread, self._thread = self._thread, None
        if (
            thread is not None
            and self._pid == os.getpid()
            and thread is not threading.current_thread()
        ):
            thread.join(0.9)

    def _forget_application(self) -> None:
        if self._finalizer is not None:
            self._finalizer.detach()

    def restart_in_child(self) -> None:
        """Start anew after a fork, if the parent's thread ran."""
        # Another thread may have held it.
        self._lock = threading.Lock()
        if self._thread is not None and not self._stop.is_set():
            self.start()

    def clean(self, stop: threading.Event | None = None) -> int:
        """Delete what has expired, in batches; return how many records.

        Does nothing while another worker does it.
        """
        application = self._application()
        if application is None:
            return 0
        total, started = 0, perf_counter()
        try:
            for count in self._batches(application, stop or threading.Event()):
                total += count
        finally:
            # Also of a tick that ends with an error.
            if total:
                log.info(
                    '%d expired session%s deleted', total,
                    ' was' if total == 1 else 's were',
                )
                application.watcher.cleaned(total, perf_counter() - started)
                application.notify(events.SessionsExpired(total))
        return total

    def _batches(
        self, application: Application, stop: threading.Event
    ) -> Iterator[int]:
        """Delete batch after batch; yield how many records each had."""
        pace = _Pace()
        # What it says itself is enough.
        with application.database.translated_errors(warns=False):
            while not (pace.is_done or stop.is_set()):
                with pooling.private_connection(
                    application.engine
                ) as connection:
                    yield from self._batches_with(
                        connection, application, stop, pace
                    )
                if not pace.is_done:
                    stop.wait(pace.rest)

    def _batches_with(
        self, connection: sa.Connection, application: Application,
        stop: threading.Event, pace: _Pace,
    ) -> Iterator[int]:
        """Do the same with one connection; where a fork waits for that, one
        batch.
        """
        if not pace.attempts and _has_nothing_to_do(application, connection):
            pace.is_done = True
            return
        dialects.read_committed(connection)
        passing = {Fault.CONFLICT}
        if dialects.is_refused_at_once(connection.dialect):
            passing.add(Fault.LOCKED)
        while not stop.is_set():
            pace.begin()
            try:
                count = self._clean_batch(application, connection)
            except sa.exc.DBAPIError as error:
                if pace.is_lost or faults.fault_of(error) not in passing:
                    raise
                pace.failed()
            else:
                yield count
                pace.deleted(count)
            if pace.is_done or pooling.keeps_forks_waiting(
                application.engine
            ):
                return
            stop.wait(pace.rest)

    def _clean_batch(
        self, application: Application, connection: sa.Connection
    ) -> int:
        with connection.begin(), dialects.elected(
            connection, self._name
        ) as is_elected:
            if not is_elected:
                return 0
            return application.records.remove_expired(
                connection, application.now(), BATCH
            )


def _has_nothing_to_do(
    application: Application, connection: sa.Connection
) -> bool:
    """Return whether nothing has expired, as at most ticks.

    One statement instead of four; where that costs more, nobody asks.
    """
    if not dialects.has_cheap_autocommit(application.engine):
        return False
    with dialects.committed_at_once(connection):
        return not application.records.has_expired(
            connection, application.now()
        )


def _run(
    cleaner: weakref.ref[Cleaner],
    application: weakref.ref[Application],
    stop: threading.Event,
    interval: float,
) -> None:
    """Clean at intervals, until *stop* is set or the application is gone."""
    failures = 0
    # Jitter: many workers that start together shall not clean together.  The
    # first wait is any part of an interval: no worker may live for a whole one
    # (gunicorn's --max-requests), and then nobody would ever clean.
    jitter = 0.05, 1.0
    while True:
        part = random.uniform(*jitter)  # noqa: S311 - no secret
        if stop.wait(interval * 2**failures * part):
            return
        jitter = 0.8, 1.2
        if (working := cleaner()) is None or application() is None:
            return
        try:
            working.clean(stop)
        # Whatever it is, the next interval is another chance.
        except Exception as error:
            _tell_of(error, is_first=not failures)
            failures = min(failures + 1, _MOST_DOUBLINGS)
        else:
            if failures:
                log.info('expired sessions are deleted again')
            failures = 0
        del working


def _tell_of(error: Exception, *, is_first: bool) -> None:
    """Say in the log why nothing was deleted."""
    if isinstance(error, sa.exc.IntegrityError):
        # Each time: it does not pass.
        log.error(
            'expired sessions cannot be deleted, as a row of another table '
            'refers to one. Its foreign key needs ON DELETE CASCADE or SET '
            'NULL: %s', faults.said_by(error),
        )
    elif is_first:
        log.warning(
            'expired sessions could not be deleted, the next attempts follow: '
            '%s: %s', type(error).__name__, faults.said_by(reason_for(error)),
        )


_cleaners: weakref.WeakSet[Cleaner] = weakref.WeakSet()


def running_cleaners() -> list[Cleaner]:
    """Return the cleaners of this process whose thread runs."""
    return [cleaner for cleaner in list(_cleaners) if cleaner.is_running]


def _restart_after_fork() -> None:
    for cleaner in list(_cleaners):
        cleaner.restart_in_child()


workers.in_child(_restart_after_fork)

