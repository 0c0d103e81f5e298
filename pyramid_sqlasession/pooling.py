"""Connections of an engine's pool: one for a statement, one past the pool, and
the first one of all.

Knows neither statements nor databases.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
import threading
from typing import Any
import weakref

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy import pool

_ONE_CONNECTION = (pool.StaticPool, pool.SingletonThreadPool)


def has_one_connection(engine: sa.Engine) -> bool:
    """Return whether all work shares a connection (SQLite in memory).

    Then nothing may run beside the request: it would find itself in the
    request's transaction.
    """
    return isinstance(engine.pool, _ONE_CONNECTION)


# -- for one statement -------------------------------------------------------


def take(engine: sa.Engine, source: pool.Pool) -> Any:
    """Return a connection of *source*, a pool of *engine*.

    For one statement; :func:`give_back` and its sisters take it.  Usually it
    is the pool's own entry, without the proxy that watches whether it is given
    back: that costs as much as all of the cookie.

    :raises sqlalchemy.exc.DBAPIError: not the bare error of the driver.
    :raises sqlalchemy.exc.TimeoutError: if all are in use.
    """
    try:
        return _entry(source) if _can_be_lean(source) else source.connect()
    except engine.dialect.loaded_dbapi.Error as error:
        raise _translated(engine, error) from error


def _entry(source: Any) -> Any:
    entry = source._do_get()
    try:
        entry.get_connection()
    except BaseException as error:
        entry.invalidate(error)
        source._do_return_conn(entry)
        raise
    return entry


def _can_be_lean(source: Any) -> bool:
    # What is private here is the same in SQLAlchemy 2.0 and 2.1; a pool that
    # has it no more, or is told of each connection, works as usual.
    if type(source) is not pool.QueuePool:
        return False
    try:
        told = source.dispatch
        return not (
            source._pre_ping or told.checkout or told.checkin or told.reset
            or source._should_log_debug()
        )
    except AttributeError:  # pragma: no cover
        return False


def has_idle_connection(engine: sa.Engine) -> bool:
    """Return whether the pool has a connection that nobody uses just now.

    A place in it may be empty: to ask for that one would connect.
    """
    source: Any = engine.pool
    if not _can_be_lean(source) or not source.checkedin():
        return False
    try:
        entry = source._do_get()
    # Others have taken all of them meanwhile, and there is no other one.
    except (exc.TimeoutError, engine.dialect.loaded_dbapi.Error):
        return False
    is_connected = entry.dbapi_connection is not None
    source._do_return_conn(entry)
    return is_connected


def give_back(source: Any, taken: Any) -> None:
    """Give back a connection that is in no transaction."""
    if isinstance(taken, pool.ConnectionPoolEntry):
        source._do_return_conn(taken)
        return
    # Without the pool's ROLLBACK, which costs the driver some microseconds
    # although it sends nothing.  Private, too.
    check_in = getattr(taken, '_checkin', None)
    if check_in is None:
        taken.close()
    else:
        check_in(transaction_was_reset=True)


def give_back_reset(source: Any, taken: Any) -> None:
    """Give back a connection that may be in a transaction."""
    if not isinstance(taken, pool.ConnectionPoolEntry):
        taken.close()
        return
    try:
        if taken.dbapi_connection is not None:
            taken.dbapi_connection.rollback()
    except Exception as error:
        taken.invalidate(error)
    source._do_return_conn(taken)


def give_back_lost(source: Any, taken: Any) -> None:
    """Give back a place in the pool whose connection is of no use."""
    taken.invalidate()
    if isinstance(taken, pool.ConnectionPoolEntry):
        source._do_return_conn(taken)
    else:
        taken.close()


# -- past the pool -----------------------------------------------------------


@contextmanager
def private_connection(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Give a connection that is not one of the engine's pool.

    The pool may be used up, and what is put back into it would be shared
    with child processes after fork().
    """
    if has_one_connection(engine):
        # To close it would end the database.
        with engine.connect() as connection:
            yield connection
        return
    _first_connections.make(engine)
    private = engine.pool.recreate()
    try:
        with sa.Connection(
            engine, connection=_connect(engine, private)
        ) as connection:
            yield connection
    finally:
        private.dispose()


# At most so many seconds a fork waits for a first connection.
_FORK_WAITS = 10.0


class _FirstConnections:
    """Has an engine's own pool connect before any other pool of it.

    SQLAlchemy finds out about the server with the first connection, once, and
    others of the same pool wait until that is done.  Those of another pool do
    not: they would go on with a dialect that is not ready.  Nor is it ever
    ready in a child process that was forked meanwhile: a fork waits.
    """

    def __init__(self) -> None:
        self._engines: weakref.WeakSet[sa.Engine] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._is_held = False

    def make(self, engine: sa.Engine) -> None:
        """Connect, if nobody here has."""
        with self._lock:
            if engine in self._engines:
                return
            try:
                pooled = _connect(engine, engine.pool)
            except exc.TimeoutError:
                # They are all in use: it has connected.
                pass
            else:
                # Not left in the pool, which child processes get a copy of.
                pooled.invalidate()
                pooled.close()
            self._engines.add(engine)

    def hold(self) -> None:
        """Before a fork: wait for whoever is at it."""
        self._is_held = self._lock.acquire(timeout=_FORK_WAITS)

    def release(self) -> None:
        """After a fork, in the parent."""
        if self._is_held:
            self._is_held = False
            self._lock.release()

    def start_anew(self) -> None:
        """After a fork, in the child, which has no other thread."""
        self._is_held = False
        self._lock = threading.Lock()


_first_connections = _FirstConnections()
if hasattr(os, 'register_at_fork'):
    os.register_at_fork(
        before=_first_connections.hold,
        after_in_parent=_first_connections.release,
        after_in_child=_first_connections.start_anew,
    )


def _connect(engine: sa.Engine, source: pool.Pool) -> Any:
    try:
        return source.connect()
    except engine.dialect.loaded_dbapi.Error as error:
        raise _translated(engine, error) from error


def _translated(engine: sa.Engine, error: Any) -> exc.DBAPIError:
    # As engine.connect() does it.
    dialect = engine.dialect
    translated: exc.DBAPIError = exc.DBAPIError.instance(
        None, None, error, dialect.loaded_dbapi.Error, dialect=dialect
    )
    return translated
