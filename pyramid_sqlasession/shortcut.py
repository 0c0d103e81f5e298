"""The short way to one record: its statement by the driver alone.

Only beside the request's transaction, on a connection of the same pool, and
only one statement.  Whatever is unusual takes the long way: another driver,
somebody who listens to the engine's statements (a toolbar, tracing, SQL
echo), a type that is not a record's own, a damaged record.
"""

from __future__ import annotations

from collections.abc import Mapping
import datetime as dt
import logging
from typing import Any
import uuid

import sqlalchemy as sa
from sqlalchemy import exc

from pyramid_sqlasession import dialects
from pyramid_sqlasession.drivers import Compiled
from pyramid_sqlasession.drivers import Driver
from pyramid_sqlasession.drivers import driver_of
from pyramid_sqlasession.drivers import Uncommon
from pyramid_sqlasession.records import Record
from pyramid_sqlasession.records import Records

log = logging.getLogger(__name__)

# The logger that SQL echo goes to.
_echo = logging.getLogger('sqlalchemy.engine')

# So many connections of a pool may have been closed by the server at once.
_MOST_LOST = 64


class Written:
    """What a statement gives that returns no rows."""

    def __init__(self, rowcount: int) -> None:
        self.rowcount = rowcount


class Shortcut:
    """Runs the statements of one table with the driver of one engine."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._known = {id(one) for one in records.statements}
        #: One engine; for a second one (a test's) all is compiled anew.
        self._engine: sa.Engine | None = None
        self._driver: Driver | None = None
        self._compiled: dict[Any, Compiled | None] = {}

    def find(
        self, engine: sa.Engine, id: uuid.UUID, now: dt.datetime
    ) -> Record | None:
        """Return the live record *id*, or None.

        :raises Uncommon: if the long way has to be taken.
        """
        driver = self._driver_of(engine)
        values = {'_id': id, '_now': now}
        compiled = self._compile(self._records.find_statement, values)
        # An error of this is final: nobody shall wait for two timeouts.
        pooled = _checked_out(engine, driver)
        try:
            row = driver.fetch(pooled, compiled, values)
        except Uncommon:
            raise
        # The long way meets the same error and says what it means.
        except Exception as error:
            log.debug('reading by the driver alone failed: %s', error)
            pooled.invalidate()
            raise Uncommon from error
        finally:
            pooled.close()
        return None if row is None else _record(row)

    def bare(self, engine: sa.Engine) -> Bare:
        """Return what executes one statement and commits it at once.

        :raises Uncommon: if the long way has to be taken.
        """
        driver = self._driver_of(engine)
        if dialects.has_one_connection(engine):
            raise Uncommon
        return Bare(self, engine, driver)

    def _driver_of(self, engine: sa.Engine) -> Driver:
        if self._engine is not engine:
            self._driver, self._compiled = None, {}
            self._engine, self._driver = engine, driver_of(engine)
        driver = self._driver
        if driver is None or (
            # Private; if it goes, there is no short way any more.
            getattr(engine, '_has_events', True)
            or getattr(engine.dialect, '_has_events', True)
            or engine.get_execution_options()
            or engine.echo
            or _echo.isEnabledFor(logging.INFO)
        ):
            raise Uncommon
        return driver

    def _compile(
        self, statement: Any, values: Mapping[str, Any]
    ) -> Compiled:
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
        if id(statement) not in self._known or self._driver is None:
            # Made for these values (SQL expressions); another one may get
            # its address.
            return None
        try:
            found = self._driver.compile(statement, values)
        except Uncommon:
            found = None
        self._compiled[key] = found
        return found


class Bare:
    """Executes one statement, as a ``sqlalchemy.Connection`` would, and
    commits it at once.
    """

    def __init__(
        self, shortcut: Shortcut, engine: sa.Engine, driver: Driver
    ) -> None:
        self._shortcut = shortcut
        self._engine = engine
        self._driver = driver
        self._is_used = False
        self.dialect = engine.dialect

    def get_execution_options(self) -> Mapping[str, Any]:
        """Say that no lock outlives a statement."""
        return {'isolation_level': 'AUTOCOMMIT'}

    def execute(self, statement: Any, values: Mapping[str, Any]) -> Written:
        """Execute a write.

        :raises Uncommon: before anything was executed.
        :raises sqlalchemy.exc.DBAPIError: as a ``Connection`` does.
        """
        assert not self._is_used
        compiled = self._shortcut._compile(statement, values)
        pooled = _checked_out(self._engine, self._driver)
        try:
            count = self._driver.write(pooled, compiled, values)
        except self.dialect.loaded_dbapi.Error as error:
            raise self._translated(pooled, error, compiled) from error
        finally:
            pooled.close()
        self._is_used = True
        return Written(count)

    def _translated(
        self, pooled: Any, error: Any, compiled: Compiled
    ) -> Exception:
        is_lost = self.dialect.is_disconnect(
            error, pooled.dbapi_connection, None
        )
        translated: Exception = exc.DBAPIError.instance(
            str(compiled.text), {}, error, self.dialect.loaded_dbapi.Error,
            hide_parameters=True, connection_invalidated=is_lost,
            dialect=self.dialect,
        )
        fault = dialects.fault_of(translated)
        if is_lost or fault is dialects.Fault.UNAVAILABLE:
            pooled.invalidate()
        return translated


def _checked_out(engine: sa.Engine, driver: Driver) -> Any:
    """Return a connection of the pool that the server has not closed.

    After a restart of the server all of them are closed (D1).
    """
    for _ in range(_MOST_LOST):
        pooled = dialects.pooled_connection(engine, engine.pool)
        if not driver.is_lost(pooled):
            return pooled
        log.debug('a connection was closed by the server')
        pooled.invalidate()
        pooled.close()
    raise Uncommon


def _record(row: tuple[Any, ...]) -> Record:
    id, secret_hash, retired, version, data, *times = row
    created, started, accessed, expires, lifetime, rotated = times
    if (
        type(secret_hash) is not bytes
        or type(version) is not int
        or type(data) is not str
        or None in (created, started, accessed, expires, rotated)
        or not (retired is None or type(retired) is bytes)
        or not (lifetime is None or (type(lifetime) is int and lifetime >= 0))
    ):
        # SQLite keeps any value in any column.
        raise Uncommon
    return Record(
        id, secret_hash, retired, version, data, created, started, accessed,
        expires, lifetime, rotated,
    )
