"""The read of one record with the driver alone, where that is safe.

Three quarters of the time of a single SELECT are SQLAlchemy's: result
metadata, row and context objects that one row by its key has no use for.  On
PostgreSQL with psycopg, and only beside the request's transaction, the same
statement goes to the driver's cursor, on a connection of the same pool.

Whatever is unusual takes the long way: another driver, somebody who listens
to the engine's statements (a toolbar, tracing, SQL echo), any error, a value
of an unexpected type.
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any
import uuid

import sqlalchemy as sa

from pyramid_sqlasession import dialects
from pyramid_sqlasession.records import Record
from pyramid_sqlasession.records import Records

log = logging.getLogger(__name__)

#: There is no short way for this one; a Record or None is an answer.
MISSED: Any = object()


class Shortcut:
    """Finds records of one table with the driver's cursor."""

    def __init__(self, records: Records) -> None:
        self._records = records
        #: One engine; a second one (a test's) is compiled for anew.
        self._compiled: tuple[sa.Engine, str] | None = None

    def find(
        self, engine: sa.Engine, id: uuid.UUID, now: dt.datetime
    ) -> Record | None:
        """Return the live record *id*, None, or MISSED."""
        if not _is_open(engine):
            return MISSED  # type: ignore[no-any-return]
        # An error of this is final: nobody shall wait for two timeouts.
        pooled = dialects.pooled_connection(engine, engine.pool)
        try:
            row = _fetch(
                pooled, self._statement(engine), {'_id': id, '_now': now}
            )
        # The long way meets the same error and says what it means.
        except Exception as error:
            log.debug('reading by the driver alone failed: %s', error)
            return MISSED  # type: ignore[no-any-return]
        return None if row is None else _record(row)

    def _statement(self, engine: sa.Engine) -> str:
        if self._compiled is None or self._compiled[0] is not engine:
            text = str(
                self._records.find_statement.compile(dialect=engine.dialect)
            )
            self._compiled = (engine, text)
        return self._compiled[1]


def _is_open(engine: sa.Engine) -> bool:
    return (
        engine.dialect.name == 'postgresql'
        and engine.dialect.driver == 'psycopg'
        # Private; if it goes, there is no short way any more.
        and not getattr(engine, '_has_events', True)
        and not getattr(engine.dialect, '_has_events', True)
        and not engine.get_execution_options()
        and not engine.echo
        and not logging.getLogger('sqlalchemy.engine').isEnabledFor(
            logging.INFO
        )
    )


def _fetch(
    pooled: Any, statement: str, values: dict[str, Any]
) -> tuple[Any, ...] | None:
    try:
        driver = pooled.driver_connection
        # Without BEGIN: one round trip.
        before = driver.autocommit
        driver.autocommit = True
        try:
            row: tuple[Any, ...] | None = driver.execute(
                statement, values
            ).fetchone()
        finally:
            driver.autocommit = before
    except BaseException:
        # Perhaps lost; the pool makes another one.
        pooled.invalidate()
        raise
    finally:
        pooled.close()
    return row


def _record(row: tuple[Any, ...]) -> Record:
    id, secret_hash, retired, version, data, *times = row
    created, started, accessed, expires, lifetime, rotated = times
    moments = (created, started, accessed, expires, rotated)
    if (
        type(secret_hash) is not bytes
        or type(version) is not int
        or type(data) is not str
        or not all(
            type(moment) is dt.datetime and moment.tzinfo is not None
            for moment in moments
        )
        or not (retired is None or type(retired) is bytes)
        or not (lifetime is None or (type(lifetime) is int and lifetime >= 0))
    ):
        return MISSED  # type: ignore[no-any-return]
    return Record(
        id, secret_hash, retired, version, data,
        created.astimezone(dt.UTC), started.astimezone(dt.UTC),
        accessed.astimezone(dt.UTC), expires.astimezone(dt.UTC),
        lifetime, rotated.astimezone(dt.UTC),
    )
