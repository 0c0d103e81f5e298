"""Connections of an engine's pool: one for a statement, one past the pool, the
first one of all, and those that a child process has inherited.

Knows neither statements nor databases.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
import contextlib
from contextlib import contextmanager
import logging
import os
import threading
from typing import Any
import weakref

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy import pool

from pyramid_sqlasession import workers

_ONE_CONNECTION = (pool.StaticPool, pool.SingletonThreadPool)


def has_one_connection(engine: sa.Engine) -> bool:
    """Return whether all work shares a connection (SQLite in memory).

    Then nothing may run beside the request: it would find itself in the
    request's transaction.
    """
    return isinstance(engine.pool, _ONE_CONNECTION)


# -- for one statement -------------------------------------------------------


class Lease(abc.ABC):
    """A connection of a pool, for one statement.

    Has to be given back, in one of three ways; whatever comes after that is
    another one's affair.
    """

    __slots__ = ('_held',)

    _held: Any

    @property
    def dbapi_connection(self) -> Any:
        """The driver's, as no driver of the short way is adapted."""
        return self._held.dbapi_connection

    @property
    def info(self) -> dict[Any, Any]:
        """What lives as long as the connection."""
        found: dict[Any, Any] = self._held.info
        return found

    @abc.abstractmethod
    def give_back(self) -> None:
        """Give back a connection that is in no transaction."""

    @abc.abstractmethod
    def give_back_reset(self) -> None:
        """Give back a connection that may be in a transaction."""

    @abc.abstractmethod
    def give_back_lost(self) -> None:
        """Give back the place of a connection that is of no use."""


def lease(engine: sa.Engine) -> Lease:
    """Return a connection of the engine's pool.

    Usually it is the pool's own entry, without the proxy that listeners are
    told of: that costs as much as all of the cookie.

    :raises sqlalchemy.exc.DBAPIError: not the bare error of the driver.
    :raises sqlalchemy.exc.TimeoutError: if all are in use.
    """
    source = engine.pool
    try:
        if wants_proxy(source):
            return _Proxy(source.connect())
        found = _Entry(source)
    except engine.dialect.loaded_dbapi.Error as error:
        raise _translated(engine, error) from error
    return found


# What is private here is the same in SQLAlchemy 2.0 and 2.1; a pool that has
# it no more, or is told of each connection, works as usual.
_HAS_ENTRIES = all(
    hasattr(pool.QueuePool, name) for name in ('_do_get', '_do_return_conn')
)


def wants_proxy(source: Any) -> bool:
    """Return whether a pool's own entries are not to be used: it is another
    kind of pool, or asks or tells somebody at each use.
    """
    if type(source) is not pool.QueuePool or not _HAS_ENTRIES:
        return True
    try:
        told = source.dispatch
        return bool(
            source._pre_ping or told.checkout or told.checkin or told.reset
            or source.logger.isEnabledFor(logging.DEBUG)
        )
    except AttributeError:  # pragma: no cover
        return True


class _Entry(Lease):
    """One of the pool's own entry."""

    __slots__ = ('_source',)

    def __init__(self, source: Any) -> None:
        self._source = source
        self._held = source._do_get()
        try:
            # One that is neither too old nor known as lost.
            self._held.get_connection()
        except BaseException:
            self.give_back_lost()
            raise

    def give_back(self) -> None:
        entry, self._held = self._held, None
        self._source._do_return_conn(entry)

    def give_back_reset(self) -> None:
        try:
            self._held.dbapi_connection.rollback()
        except BaseException as error:
            self.give_back_lost()
            if not isinstance(error, Exception):
                raise
        else:
            self.give_back()

    def give_back_lost(self) -> None:
        try:
            self._held.invalidate()
        finally:
            self.give_back()

    def __del__(self) -> None:
        # Somebody raised from outside, a signal's handler say, where nobody
        # could give it back.
        if getattr(self, '_held', None) is not None:
            self.give_back_lost()


class _Proxy(Lease):
    """One of what the pool gives to everybody."""

    __slots__ = ()

    def __init__(self, proxy: Any) -> None:
        self._held = proxy

    def give_back(self) -> None:
        # Without the pool's ROLLBACK, which costs the driver some
        # microseconds although it sends nothing.  Private, too.
        check_in = getattr(self._held, '_checkin', None)
        if check_in is None:
            self._held.close()
        else:
            check_in(transaction_was_reset=True)

    def give_back_reset(self) -> None:
        self._held.close()

    def give_back_lost(self) -> None:
        try:
            self._held.invalidate()
        finally:
            self._held.close()


def invalidate_all(connection: sa.Connection, error: Exception) -> None:
    """Have the pool replace *connection*, and all that are as old.

    SQLAlchemy does so itself where it knows that a connection is lost.
    """
    # Private, but the same in SQLAlchemy 2.0 and 2.1.
    invalidate = getattr(connection.engine.pool, '_invalidate', None)
    if invalidate is not None:
        invalidate(connection.connection, error, _checkin=False)
    connection.invalidate(error)


# -- past the pool -----------------------------------------------------------


def is_in_memory(engine: sa.Engine) -> bool:
    """Return whether the database ends with its last connection."""
    url = engine.url
    return has_one_connection(engine) or (engine.dialect.name == 'sqlite' and (
        'memory' in url.query.get('mode', ())
        or ':memory:' in (url.database or ':memory:')
        or 'mode=memory' in (url.database or '')
    ))


@contextmanager
def private_connection(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Give a connection that is not one of the engine's pool.

    The pool may be used up, and what is put back into it would be shared
    with child processes after fork().
    """
    if is_in_memory(engine):
        # To close it would end the database.
        with engine.connect() as connection:
            yield connection
        return
    _first_connections.make(engine)
    private = engine.pool.recreate()
    with _undisturbed if keeps_forks_waiting(engine) else _AS_IT_IS:
        try:
            with sa.Connection(
                engine, connection=_connect(engine, private)
            ) as connection:
                yield connection
        finally:
            private.dispose()


def keeps_forks_waiting(engine: sa.Engine) -> bool:
    """Return whether no process should be forked while a private connection
    is open, which then shall not be so for long.

    SQLite notes in the memory of a process what it has locked of a file.  A
    child has the notes, and not the locks: it would write without any, and
    into a log that the parent, who takes itself for the last user, deletes.
    """
    return engine.dialect.name == 'sqlite'


# At most so many seconds a fork waits.
_FORK_WAITS = 10.0


class _Undisturbed:
    """Blocks of code, several at a time, that a fork waits for."""

    def __init__(self) -> None:
        self._start_anew()
        if hasattr(os, 'register_at_fork'):
            os.register_at_fork(
                before=self._hold, after_in_parent=self._release
            )
        workers.in_child(self._start_anew)

    def __enter__(self) -> None:
        with self._changed:
            self._count += 1

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def _hold(self) -> None:
        """Before a fork: wait, and let nobody in."""
        self._changed.acquire()
        self._changed.wait_for(lambda: self._count <= 0, _FORK_WAITS)

    def _release(self) -> None:
        """After a fork, in the parent."""
        self._changed.release()

    def _start_anew(self) -> None:
        """At first, and in a child, which has no other thread."""
        self._changed = threading.Condition()
        self._count = 0


_undisturbed = _Undisturbed()
_AS_IT_IS = contextlib.nullcontext()


class _FirstConnections:
    """Has an engine's own pool connect before any other pool of it.

    SQLAlchemy finds out about the server with the first connection, once, and
    others of the same pool wait until that is done.  Those of another pool do
    not: they would go on with a dialect that is not ready.  Nor is it ever
    ready in a child process that was forked meanwhile: a fork waits.
    """

    def __init__(self) -> None:
        self._engines: weakref.WeakSet[sa.Engine] = weakref.WeakSet()
        self._start_anew()
        workers.in_child(self._start_anew)

    def make(self, engine: sa.Engine) -> None:
        """Connect, if nobody here has."""
        with _undisturbed, self._lock:
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

    def _start_anew(self) -> None:
        # A fork that has waited in vain finds it locked.
        self._lock = threading.Lock()


_first_connections = _FirstConnections()


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


# -- after a fork ------------------------------------------------------------

# Those that the package makes: of the others, whoever makes them decides.
_own_engines: weakref.WeakSet[sa.Engine] = weakref.WeakSet()

# Some drivers tell the server goodbye when a connection is collected, and
# then the parent, whose it is, has lost it.
_of_the_parent: list[pool.Pool] = []


def add_own(engine: sa.Engine) -> None:
    """Have child processes connect anew: two on one connection read each
    other's answers.
    """
    _own_engines.add(engine)


def own_engines() -> list[sa.Engine]:
    """Return the engines that the package has made, which somebody has."""
    return list(_own_engines)


def _connect_anew() -> None:
    """After a fork, in the child."""
    for engine in own_engines():
        # A database in memory has been copied, and would be lost.
        if not is_in_memory(engine):
            _of_the_parent.append(engine.pool)
            engine.dispose(close=False)


workers.in_child(_connect_anew)
