"""The short way to one record: its statement by the driver alone.

Beside the request's transaction, on a connection of the same pool, or inside
of it, on the application's connection.  Whatever is unusual takes the long
way, SQLAlchemy's: another driver, somebody who listens to the engine's
statements (a toolbar, tracing, SQL echo) or to the driver's, by a class of his
own for its connections or cursors or by what wraps them, a type that is not a
record's own, a damaged record.
"""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
import datetime as dt
import logging
from typing import Any
import uuid

import sqlalchemy as sa
from sqlalchemy import exc

from pyramid_sqlasession import dialects
from pyramid_sqlasession import faults
from pyramid_sqlasession import pooling
from pyramid_sqlasession.dialects import MOST_LOST
from pyramid_sqlasession.drivers import Driver
from pyramid_sqlasession.drivers import driver_of
from pyramid_sqlasession.liveness import is_closed_by_server
from pyramid_sqlasession.records import Record
from pyramid_sqlasession.records import Records
from pyramid_sqlasession.records import SINGLE
from pyramid_sqlasession.statements import Compiled
from pyramid_sqlasession.statements import Uncommon

log = logging.getLogger(__name__)

# They say nothing about a single statement.
_HARMLESS = {'isolation_level', *dialects.STREAMING}

# Of additional fields with a default, those that a session has no value for
# are left out: with some of them there is no end of statements.  (So many are
# prepared by psycopg on a connection, which has them all.)
_MOST_STATEMENTS = 100


class Written:
    """What a statement gives that returns no rows."""

    def __init__(self, rowcount: int) -> None:
        self.rowcount = rowcount


class Shortcut:
    """The short way to one table, over one engine."""

    def __init__(self, records: Records, engine: sa.Engine) -> None:
        self.engine = engine
        self._dialect = engine.dialect
        self._find = records.find_statement
        self._known = {id(one) for one in records.statements}
        self._compiled: dict[Any, Compiled | None] = {}
        self._compiled_find: Compiled | None = None
        self._driver: Driver | None = None
        if not pooling.has_one_connection(engine):
            with contextlib.suppress(Uncommon):
                self._driver = driver_of(engine)

    def find(self, id: uuid.UUID, now: dt.datetime) -> Record | None:
        """Return the live record *id*, or None.

        :raises Uncommon: if the long way has to be taken.
        """
        driver = self.driver()
        values = {'__id': id, '__now': now}
        compiled = self._compiled_find
        if compiled is None:
            compiled = self._compiled_find = self.compile(self._find, values)
        # An error of this is final: nobody shall wait for two timeouts.
        pooled = pooling.lease(self.engine)
        try:
            row = driver.fetch(pooled, compiled, values, inside=False)
        except Uncommon:
            pooled.give_back_reset()
            raise
        # What Python cannot read: a damaged record, by a good connection.
        except (ValueError, TypeError, OverflowError) as error:
            pooled.give_back_reset()
            raise Uncommon from error
        except BaseException as error:
            waited = self._waited(error, compiled, pooled)
            if waited is not None:
                pooled.give_back_reset()
                raise waited from error
            # The long way meets the same error and says what it means; it
            # replaces a connection that the server has closed, too.
            pooled.give_back_lost()
            if not isinstance(error, Exception):
                raise
            log.debug('reading by the driver alone failed: %s', error)
            raise Uncommon from error
        pooled.give_back()
        return None if row is None else _record(id, row)

    def find_inside(
        self, connection: sa.Connection, id: uuid.UUID, now: dt.datetime
    ) -> Record | None:
        """Return the live record *id* as *connection*'s transaction sees it.

        :raises Uncommon: if the long way has to be taken.
        """
        driver = self.driver()
        values = {'__id': id, '__now': now}
        compiled = self.compile(self._find, values)
        pooled = _pooled_of(connection)
        try:
            row = driver.fetch(pooled, compiled, values, inside=True)
        except self._dialect.loaded_dbapi.Error as error:
            raise self.failed(connection, error, compiled, pooled) from error
        # What Python cannot read: a damaged record.
        except (ValueError, TypeError, OverflowError) as error:
            raise Uncommon from error
        return None if row is None else _record(id, row)

    def inside(self, connection: sa.Connection) -> Inside:
        """Return what executes in *connection*'s transaction.

        :raises Uncommon: if the long way has to be taken.
        """
        return Inside(self, self.driver(), connection)

    def bare(self) -> Bare:
        """Return what executes one statement and commits it at once.

        :raises Uncommon: if the long way has to be taken.
        """
        return Bare(self, self.driver())

    def driver(self) -> Driver:
        """Return the driver.

        :raises Uncommon: if somebody wants to see the statements.
        """
        driver, engine = self._driver, self.engine
        if driver is None or (
            # Private; if it goes, there is no short way any more.
            getattr(engine, '_has_events', True)
            or getattr(self._dialect, '_has_events', True)
            or engine.get_execution_options()
            # SQL echo, by the engine's own flag or by its logger's level.
            or engine.logger.isEnabledFor(logging.INFO)
        ):
            raise Uncommon
        return driver

    def compile(
        self, statement: Any, values: Mapping[str, Any]
    ) -> Compiled:
        """Return *statement* with these parameters.

        :raises Uncommon: if there is no short way for it.
        """
        key = (id(statement), *values)
        try:
            found = self._compiled[key]
        except KeyError:
            found = self._compile_first(key, statement, values)
        if found is None:
            raise Uncommon
        return found

    def _compile_first(
        self, key: Any, statement: Any, values: Mapping[str, Any]
    ) -> Compiled | None:
        # Or nobody would ask: see driver().
        assert self._driver is not None
        if id(statement) not in self._known:
            # Made for these values (SQL expressions); another one may get
            # its address.
            return None
        if len(self._compiled) >= _MOST_STATEMENTS:
            return None
        found = None
        with contextlib.suppress(Uncommon):
            found = self._driver.compile(statement, values)
        self._compiled[key] = found
        return found

    def translated(
        self, error: Any, compiled: Compiled, pooled: Any
    ) -> Exception:
        """Return *error* of the driver as SQLAlchemy raises it."""
        dialect = self._dialect
        translated: Exception = exc.DBAPIError.instance(
            compiled.words, {}, error, dialect.loaded_dbapi.Error,
            hide_parameters=True, dialect=dialect,
            connection_invalidated=dialect.is_disconnect(
                error, pooled.dbapi_connection, None
            ),
        )
        return translated

    def _waited(
        self, error: BaseException, compiled: Compiled, pooled: Any
    ) -> Exception | None:
        """Return *error* as SQLAlchemy raises it, if the long way would only
        wait for it once more.
        """
        if not isinstance(error, self._dialect.loaded_dbapi.Error):
            return None
        translated = self.translated(error, compiled, pooled)
        return translated if faults.has_waited(translated) else None

    def failed(
        self, connection: sa.Connection, error: Any, compiled: Compiled,
        pooled: Any,
    ) -> Exception:
        """Return *error* as *connection* raises it, which knows of it."""
        translated = self.translated(error, compiled, pooled)
        if getattr(translated, 'connection_invalidated', False):
            # Or the ROLLBACK fails too, and its error is what is answered;
            # and others of the pool were lost with it.
            pooling.invalidate_all(connection, error)
        return translated

    def lease_good(self) -> pooling.Lease:
        """Return a connection of the pool that the server has not closed.

        After a restart of the server all of them are closed (D1).

        :raises Uncommon: if too many were.
        """
        if self._dialect.name == 'sqlite':
            return pooling.lease(self.engine)
        for _ in range(MOST_LOST):
            pooled = pooling.lease(self.engine)
            try:
                is_good = not is_closed_by_server(pooled.dbapi_connection)
            except BaseException:
                pooled.give_back_lost()
                raise
            if is_good:
                return pooled
            log.debug('a connection was closed by the server')
            pooled.give_back_lost()
        raise Uncommon


class Bare:
    """Executes one statement, as a ``sqlalchemy.Connection`` would, and
    commits it at once.
    """

    def __init__(self, shortcut: Shortcut, driver: Driver) -> None:
        self._shortcut = shortcut
        self._driver = driver
        self._is_used = False
        self.dialect = shortcut.engine.dialect

    def get_execution_options(self) -> Mapping[str, Any]:
        """Say that it is for one statement."""
        return {SINGLE: True}

    def execute(self, statement: Any, values: Mapping[str, Any]) -> Written:
        """Execute a write.

        :raises Uncommon: before anything was executed.
        :raises sqlalchemy.exc.DBAPIError: as a ``Connection`` does.
        """
        assert not self._is_used
        compiled = self._shortcut.compile(statement, values)
        pooled = self._shortcut.lease_good()
        try:
            count = self._driver.write(
                pooled, compiled, values, inside=False
            )
        except Uncommon:
            pooled.give_back_reset()
            raise
        except self.dialect.loaded_dbapi.Error as error:
            is_lost = True
            try:
                translated = self._shortcut.translated(
                    error, compiled, pooled
                )
                is_lost = faults.is_lost(translated)
            finally:
                if is_lost:
                    pooled.give_back_lost()
                else:
                    pooled.give_back_reset()
            raise translated from error
        except BaseException:
            # Nobody knows in which state it is.
            pooled.give_back_lost()
            raise
        pooled.give_back()
        self._is_used = True
        return Written(count)


class Inside:
    """Executes in the transaction of a ``sqlalchemy.Connection``, which it
    stands for.
    """

    def __init__(
        self, shortcut: Shortcut, driver: Driver, connection: sa.Connection
    ) -> None:
        self._shortcut = shortcut
        self._driver = driver
        self._connection = connection
        self.dialect = connection.dialect

    def get_execution_options(self) -> Mapping[str, Any]:
        """Return those of the connection."""
        return self._connection.get_execution_options()

    def execute(self, statement: Any, values: Mapping[str, Any]) -> Any:
        """Execute what is built once by the driver, all else as usual."""
        if not getattr(statement, 'is_dml', False):
            return self._connection.execute(statement, values)
        try:
            compiled = self._shortcut.compile(statement, values)
            pooled = _pooled_of(self._connection)
            return Written(
                self._driver.write(pooled, compiled, values, inside=True)
            )
        except Uncommon:
            return self._connection.execute(statement, values)
        except self.dialect.loaded_dbapi.Error as error:
            raise self._shortcut.failed(
                self._connection, error, compiled, pooled
            ) from error


def _pooled_of(connection: sa.Connection) -> Any:
    # Options may change what a statement says (schema_translate_map), or who
    # is told of it.
    if getattr(connection, '_has_events', True) or (
        connection.get_execution_options().keys() - _HARMLESS
    ):
        raise Uncommon
    return connection.connection


def _record(id: uuid.UUID, row: tuple[Any, ...]) -> Record:
    (secret_hash, retired, version, data, created, started, rotated,
     accessed, expires, lifetime) = row
    if (
        type(secret_hash) is not bytes
        or type(version) is not int
        or type(data) is not str
        or None in (created, started, accessed, expires, rotated)
        or not (retired is None or type(retired) is bytes)
        or not (lifetime is None or (
            type(lifetime) is int and 0 <= lifetime < 2**31
        ))
    ):
        # SQLite keeps any value in any column.
        raise Uncommon
    return Record(id, *row)
