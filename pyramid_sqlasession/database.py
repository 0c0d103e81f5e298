"""The sessions' database, and the ways to it: beside a request's transaction,
and inside of it.

Those beside it raise the errors of :meth:`Database.translated_errors`.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
from contextlib import AbstractContextManager
from contextlib import contextmanager
import datetime as dt
from functools import cached_property
import logging
import threading
from typing import Any
from typing import TypeVar
import uuid
import weakref

import sqlalchemy as sa
from sqlalchemy import exc

from pyramid_sqlasession import dialects
from pyramid_sqlasession import faults
from pyramid_sqlasession import pooling
from pyramid_sqlasession.engine import check_binds
from pyramid_sqlasession.engine import find_engine
from pyramid_sqlasession.liveness import is_closed_by_server
from pyramid_sqlasession.records import Executor
from pyramid_sqlasession.records import Record
from pyramid_sqlasession.records import Records
from pyramid_sqlasession.records import SINGLE
from pyramid_sqlasession.settings import Settings
from pyramid_sqlasession.shortcut import Shortcut
from pyramid_sqlasession.statements import Uncommon
from pyramid_sqlasession.translation import Seldom
from pyramid_sqlasession.translation import Translation

log = logging.getLogger(__name__)

# Of an application that makes one for each request (a test suite).
_MOST_ENGINES = 8

Result = TypeVar('Result')


class _StaleConnection(Exception):
    """A connection of the pool turned out to be lost when it was used."""

    def __init__(self, original: exc.DBAPIError) -> None:
        super().__init__(str(original.orig))
        self.original = original


class Database:
    """The database of one application's sessions."""

    def __init__(
        self, registry: Any, settings: Settings, model: type[Any],
        records: Records,
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._records = records
        #: What a SQLAlchemy session is asked for its bind with.  A statement
        #: that writes, as one that sends reads to standbys looks at that.
        self.bind_arguments: dict[str, Any] = {
            'mapper': sa.inspect(model), 'clause': sa.update(model),
        }
        self._engine: sa.Engine | None = None
        # Re-entrant: a function that gives the engine may ask for it itself.
        self._lock = threading.RLock()
        self._shortcuts: dict[int, Shortcut] = {}
        table, is_given = records.table.fullname, settings.model is not None
        self._translation = Translation(table, is_given, Seldom())
        self._quiet_translation = Translation(table, is_given, None)

    @property
    def engine(self) -> sa.Engine:
        """The engine for what runs outside of the request's transaction.

        :raises ConfigurationError: if there is none.
        """
        return self._engine or self._find_engine()

    def _find_engine(self) -> sa.Engine:
        with self._lock:
            if self._engine is None:
                self._engine = engine = find_engine(
                    self._registry, self._settings, self.bind_arguments
                )
                if pooling.is_in_memory(engine) and (
                    engine in pooling.own_engines()
                ):
                    # With the application its database ends; left to the
                    # collector, sqlite3 warns of it from Python 3.13 on.
                    weakref.finalize(self, engine.dispose)
            return self._engine

    def check_binds(self) -> None:
        """Check that ``request.dbsession`` finds the sessions' engine.

        :raises ConfigurationError: if it does not.
        """
        check_binds(self._registry, self.bind_arguments)

    @cached_property
    def has_one_connection(self) -> bool:
        """Whether all work on the engine shares a connection."""
        return pooling.has_one_connection(self.engine)

    @cached_property
    def rollback_can_fail(self) -> bool:
        """Whether a ROLLBACK may answer with an error."""
        return dialects.rollback_can_fail(self.engine.dialect)

    def create_table(self) -> list[str]:
        """Create the table and its indexes if they are missing; return the
        names of the columns that one lacks which is there.
        """
        missing = []

        def is_there(connection: sa.Connection) -> bool:
            if not self._records.is_there(connection):
                return False
            # Nothing depends on it.
            with contextlib.suppress(exc.SQLAlchemyError):
                missing.extend(self._records.missing_columns(connection))
            return True

        dialects.create_once(
            self.engine, self._records.create_table, is_there,
            self._records.table.fullname,
        )
        return missing

    def shortcut(self, engine: sa.Engine) -> Shortcut:
        """Return the short way over *engine*."""
        # It keeps the engine, so that no other one gets its address.
        found = self._shortcuts.get(id(engine))
        if found is None:
            if len(self._shortcuts) >= _MOST_ENGINES:
                self._shortcuts.clear()
            found = self._shortcuts[id(engine)] = Shortcut(
                self._records, engine
            )
        return found

    @cached_property
    def _own_shortcut(self) -> Shortcut:
        return self.shortcut(self.engine)

    def read_aside(
        self, read: Callable[[sa.Connection], Result],
        engine: sa.Engine | None = None,
    ) -> Result:
        """Return what *read* reads with a connection of its own.

        A stale connection of the pool is replaced without an error (D1):
        reading twice does no harm.  A database that cannot be reached is
        tried once: nobody shall wait for two timeouts.

        :param engine: not the application's, but that of its SQLAlchemy
            session.
        """
        engine = engine or self.engine
        with self.translated_errors():
            try:
                return self._aside(read, engine)
            except _StaleConnection as error:
                log.debug('a stale connection is replaced: %s', error)
            try:
                return self._aside(read, engine)
            except _StaleConnection as error:
                raise error.original from error

    def find_aside(
        self, id: uuid.UUID, now: dt.datetime, engine: sa.Engine | None = None
    ) -> Record | None:
        """Return the live record *id*, read with a connection of its own."""
        # By hand: two blocks cost what the cookie costs.
        try:
            if engine is None:
                return self._own_shortcut.find(id, now)
            return self.shortcut(engine).find(id, now)
        except Uncommon:
            pass
        except (exc.DBAPIError, exc.TimeoutError):
            with self.translated_errors():
                raise
        return self.read_aside(
            lambda connection: self._records.find(connection, id, now), engine
        )

    def find_inside(
        self, connection: sa.Connection, id: uuid.UUID, now: dt.datetime
    ) -> Record | None:
        """Return the live record *id* as *connection*'s transaction sees it.
        """
        with contextlib.suppress(Uncommon):
            return self.shortcut(connection.engine).find_inside(
                connection, id, now
            )
        with dialects.borrowed(connection):
            return self._records.find(connection, id, now)

    def inside(self, connection: sa.Connection) -> Executor:
        """Return what executes in *connection*'s transaction."""
        with contextlib.suppress(Uncommon):
            return self.shortcut(connection.engine).inside(connection)
        return connection

    def write_aside(self, write: Callable[[Executor], Result]) -> Result:
        """Return what *write*, one guarded statement, did, committed.

        Never done twice: nobody knows whether a lost connection did it.
        """
        # By hand, as above.
        try:
            return write(self._own_shortcut.bare())
        except Uncommon:
            pass
        except (exc.DBAPIError, exc.TimeoutError):
            with self.translated_errors():
                raise
        with self.translated_errors():
            if not dialects.has_cheap_autocommit(self.engine):
                with self.own_transaction() as connection:
                    return write(connection)
            try:
                return self._aside(
                    lambda connection: write(
                        connection.execution_options(**{SINGLE: True})
                    ),
                    self.engine,
                )
            except _StaleConnection as error:
                raise error.original from error

    @staticmethod
    def _aside(
        work: Callable[[sa.Connection], Result], engine: sa.Engine
    ) -> Result:
        with (
            dialects.connect(engine) as connection,
            dialects.committed_at_once(connection),
        ):
            try:
                dialects.discard_leftovers(connection)
                with dialects.wrapped_errors(engine):
                    return work(connection)
            except exc.DBAPIError as error:
                if not (faults.is_lost(error) or faults.is_stale(error)):
                    raise
                dialects.discard(connection, error)
                raise _StaleConnection(error) from error

    @contextmanager
    def own_transaction(self) -> Iterator[sa.Connection]:
        """Give a connection in a transaction of its own, and commit it."""
        with (
            self.translated_errors(),
            dialects.connect(self.engine) as connection,
            dialects.in_transaction(connection),
        ):
            dialects.discard_leftovers(connection)
            with dialects.replaced_if_stale(connection):
                yield connection
            dialects.commit(connection)

    def replace_closed(self, engine: sa.Engine) -> None:
        """Have the pool of *engine* replace the connections that the server
        has closed, so far as can be told without asking it (D1).
        """
        source: Any = engine.pool
        # Another pool makes each connection anew, or asks it, or has somebody
        # told.
        if engine.dialect.name == 'sqlite' or pooling.wants_proxy(source):
            return
        # Each of them: nobody knows which one comes next.
        for _ in range(min(source.checkedin(), dialects.MOST_LOST)):
            pooled = pooling.lease(engine)
            if is_closed_by_server(pooled.dbapi_connection):
                pooled.give_back_lost()
            else:
                pooled.give_back()

    def connect(self) -> sa.Connection:
        """Return a connection of the own engine."""
        with self.translated_errors():
            return dialects.connect(self.engine)

    def translated_errors(
        self, *, warns: bool = True
    ) -> AbstractContextManager[None]:
        """Say in our words what an error of the database means.

        :param warns: the log hears of a database that is away.
        :raises SessionStoreUnavailable: if nobody answers, or others have
            locked what is needed for longer than the server lets one wait.
        :raises SessionError: if the table or a column is missing.
        """
        return self._translation if warns else self._quiet_translation
