"""Which connection a request's session is read and written with.

Through the application's own ``request.dbsession`` wherever there is one: one
connection, one COMMIT.  Beside it only what is a single statement, or has
nothing to be committed with, and only while the request holds no connection
that could be used.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextlib import suppress
import datetime as dt
from functools import cached_property
import logging
from typing import Any
from typing import TypeVar
import uuid

from pyramid.decorator import reify
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.orm import scoped_session
from sqlalchemy.orm import Session
import zope.sqlalchemy

from pyramid_sqlasession import dialects
from pyramid_sqlasession import faults
from pyramid_sqlasession import pooling
from pyramid_sqlasession.application import Application
from pyramid_sqlasession.datamanager import Other
from pyramid_sqlasession.datamanager import SessionDataManager
from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.errors import shown
from pyramid_sqlasession.records import Executor
from pyramid_sqlasession.records import Record
from pyramid_sqlasession.saving import WriteRefused
from pyramid_sqlasession.surroundings import is_ended_later
from pyramid_sqlasession.surroundings import is_noted
from pyramid_sqlasession.surroundings import runs_alone
from pyramid_sqlasession.transaction import active_transaction
from pyramid_sqlasession.transaction import has_commit_veto
from pyramid_sqlasession.transaction import sqlalchemy_managers

log = logging.getLogger(__name__)

#: The cookiecutter's tests put their SQLAlchemy session here.
_TEST_DBSESSION = 'app.dbsession'

# What they have made is in the request's own __dict__; a plain property may
# keep it anywhere.
_KEPT = (reify, cached_property)

# Of a write in a transaction of its own that another one got in the way of,
# which was stored: so many may come at once.
_REPETITIONS = 50

Result = TypeVar('Result')


def is_connected(dbsession: Any) -> bool:
    """Return whether *dbsession*, in a transaction, has a connection for it.

    ``add()`` begins one, too, but takes none: nothing was sent that another
    connection would not see.  And of all in the pool it could take one that
    the server has closed, with nobody to replace it (D1).
    """
    if not dbsession.is_active:
        # A flush has failed: it was rolled back, and gives nobody another.
        return False
    # Private, but the same in SQLAlchemy 2.0 and 2.1.  The outermost one has
    # what its savepoints have.
    held = getattr(dbsession.get_transaction(), '_connections', None)
    return held is None or bool(held)


class Connections:
    """The connections of one request."""

    #: Whether the application's ``request.dbsession`` is being made.
    _is_making_dbsession = False

    def __init__(self, application: Application, request: Any) -> None:
        self._application = application
        self._request = request
        self._name = application.settings.dbsession

    @property
    def has_dbsession(self) -> bool:
        """Whether the sessions use the application's connection, by its
        SQLAlchemy session.

        The attribute is not evaluated: that would make one.
        """
        return not self._application.has_own_database and (
            self._name in self._request.__dict__
            or hasattr(type(self._request), self._name)
        )

    @property
    def begun_dbsession(self) -> Any | None:
        """The application's SQLAlchemy session if it was used already."""
        found = self._request.__dict__.get(self._name)
        if found is None:
            if self._is_kept():
                return None
            found = getattr(self._request, self._name)
        if found is None or (
            isinstance(found, scoped_session) and not found.registry.has()
        ):
            return None
        return self._session_in(found)

    def _is_kept(self) -> bool:
        """Return whether each request has, or may have, it in its __dict__."""
        application = self._application
        if application.keeps_dbsession is None:
            made = getattr(type(self._request), self._name, None)
            if made is None:
                # This one's alone: another request may have one.
                return True
            application.keeps_dbsession = isinstance(made, _KEPT)
        return application.keeps_dbsession

    @property
    def _dbsession(self) -> Any:
        """The application's SQLAlchemy session."""
        return self._session_in(getattr(self._request, self._name))

    def _session_in(self, found: Any) -> Any:
        """Return the SQLAlchemy session that the attribute leads to.

        :raises SessionError: if it is what makes one, or none at all.
        """
        if isinstance(found, scoped_session):
            return found()
        if not hasattr(found, 'connection'):
            raise SessionError(
                f'request.{self._name} (sqlasession.dbsession) is '
                f'{shown(found, repr)}, no SQLAlchemy session: have '
                f'config.add_request_method(..., reify=True) make one for '
                f'each request'
            )
        return found

    def is_rolled_back(self, transaction: Any) -> bool:
        """Return whether the application's dbsession was rolled back, by hand
        or by a flush that has failed, and that the view goes on without.

        zope.sqlalchemy can only commit what it has joined with: it ends such
        a dbsession without a word, unless it knows of changes: by a flush
        before that, or as somebody marks it.
        """
        dbsession = self.begun_dbsession
        if dbsession is None:
            return False
        current = dbsession.get_transaction()
        return any(
            manager.session is dbsession
            and (manager.tx is not current or not dbsession.is_active)
            for manager in sqlalchemy_managers(transaction)
        )

    def open_others(self, transaction: Any) -> list[Other]:
        """Open the connections to the same database that others have begun
        to use in *transaction*, have them committed, and return them.
        """
        found = []
        for manager in sqlalchemy_managers(transaction):
            dbsession = manager.session
            if (
                not isinstance(dbsession, Session)
                # It was rolled back by hand: what begins now is not committed.
                or dbsession.get_transaction() is not manager.tx
                # A flush has failed, and the view goes on without it.
                or not dbsession.is_active
            ):
                continue
            engine = None
            # That of another database may know nothing of the sessions.
            with suppress(Exception):
                engine = self._bind_of(dbsession).engine
            if engine is not self._bind_of(self._dbsession).engine:
                continue
            try:
                zope.sqlalchemy.mark_changed(dbsession, self._request.tm)
            except AssertionError:
                # It was registered as one that only reads.
                continue
            arguments = self._application.database.bind_arguments.copy()
            connection = dbsession.connection(bind_arguments=arguments)
            found.append(Other(dbsession, connection))
        return found

    def _bind_of(self, dbsession: Any) -> Any:
        """Return what *dbsession* writes sessions with: an engine, or a
        connection that somebody has given it.
        """
        return dbsession.get_bind(**self._application.database.bind_arguments)

    # -- the application's ---------------------------------------------------

    def joined(self) -> sa.Connection:
        """Return the connection of the application's transaction."""
        application = self._application
        try:
            connection: sa.Connection = self._dbsession.connection(
                bind_arguments=application.database.bind_arguments.copy()
            )
        except OSError:
            # By hand: a block costs what the rest does.
            with dialects.wrapped_errors(application.engine):
                raise
        if _TEST_DBSESSION not in self._request.environ:
            application.whereabouts.compare(connection, application.engine)
        return connection

    def mark_changed(self) -> None:
        """Have the application's transaction committed."""
        # zope.sqlalchemy rolls back what it does not know of (T1).
        zope.sqlalchemy.mark_changed(self._dbsession, self._request.tm)

    def roll_back_quietly(self) -> None:
        """Roll back now what would raise in the middle of an abort, or what
        an abort would leave open.

        An error there reaches nobody who could repeat the request, as the
        transaction has gone already.
        """
        dbsession = self.begun_dbsession
        if dbsession is None or not dbsession.in_transaction():
            return
        try:
            dbsession.rollback()
        except exc.DBAPIError as error:
            log.debug('the ROLLBACK was answered with %s', error)

    # -- the sessions' own: Gate ----------------------------------------------

    @property
    def is_ended_later(self) -> bool:
        """Whether somebody ends the transactions that are begun now."""
        return is_ended_later(self._request)

    @property
    def rollback_can_fail(self) -> bool:
        """Whether a ROLLBACK may answer with an error."""
        return self._application.database.rollback_can_fail

    @property
    def waits_for_others(self) -> bool:
        """Whether one connection keeps all others from writing."""
        # If the dbsession is new each time, it is not that of another request
        # which is found, and somebody has to be told.
        return self._is_kept() and (
            not dialects.locks_rows(self._application.engine.dialect)
        )

    def notice_others(self, transaction: Any) -> None:
        """Say in the log, once, that ``request.dbsession`` has another name
        than the settings say.
        """
        application = self._application
        if not application.has_own_database and runs_alone():
            application.notices.others(self._request, transaction)

    def notice_unregistered(self) -> None:
        """Say in the log, once, that ``request.dbsession`` takes no part in
        the transaction.
        """
        dbsession = self.begun_dbsession
        if dbsession is not None:
            self._application.notices.unregistered(dbsession)

    def connect(self) -> sa.Connection:
        """Return a connection; whoever asks for it commits and closes."""
        return self._application.database.connect()

    def inside(self, connection: sa.Connection) -> Executor:
        """Return what executes in the transaction of *connection*."""
        return self._application.database.inside(connection)

    def translated_errors(self) -> AbstractContextManager[None]:
        """Say in our words what an error of the database means."""
        return self._application.database.translated_errors()

    def alone(
        self, work: Callable[[Executor], Result], *, atomic: bool = True
    ) -> Result:
        """Return what *work* did, committed.

        :param atomic: it is more than one statement.
        """
        application, failures = self._application, 0
        while True:
            try:
                if not atomic:
                    return application.database.write_aside(work)
                with application.database.own_transaction() as connection:
                    return work(connection)
            except WriteRefused:
                # It needs more than one statement.
                atomic = True
            except exc.DBAPIError as error:
                if not atomic and application.fields.unique and (
                    isinstance(error, exc.IntegrityError)
                ):
                    # What is in the way may have expired.
                    atomic = True
                    continue
                failures += 1
                # Above READ COMMITTED the database refuses the second of
                # two writers; nothing but this has to be done again.
                if failures == _REPETITIONS or not faults.is_repeatable(error):
                    raise

    # -- which one -----------------------------------------------------------

    def manager_in(self, transaction: Any) -> SessionDataManager:
        """Return the application's data manager in *transaction*."""
        application = self._application
        return SessionDataManager.found_in(transaction, application) or (
            SessionDataManager(transaction, application, self)
        )

    def is_first_in(self, transaction: Any) -> bool:
        """Return whether nobody has used the database in *transaction*.

        A session that is only read then takes no part in it: its SELECT goes
        beside it, and neither its commit nor its abort means anything to it.
        """
        application = self._application
        return (
            self._name not in self._request.__dict__
            and (application.keeps_dbsession or self._is_kept())
            and not self._is_begun_by_others(transaction)
            # Those of other requests may hold a connection of it.
            and runs_alone()
            and SessionDataManager.found_in(transaction, application) is None
            and not application.database.has_one_connection
            # Its abort is something to take part in.
            and not application.database.rollback_can_fail
        )

    def find(
        self, id: uuid.UUID, now: dt.datetime,
        manager: SessionDataManager | None, *, may_be_broken: bool,
    ) -> Record | None:
        """Return the live record *id*, or None; one statement.

        :param manager: of the transaction that the request works in, if any.
        :param may_be_broken: the application's transaction may have failed;
            another connection can still read (T4).
        """
        database = self._application.database
        if manager is None or not manager.is_open:
            return database.find_aside(id, now)
        engine = None
        try:
            with database.translated_errors():
                found = self._way_to_read(manager)
                if not isinstance(found, sa.Engine):
                    return database.find_inside(found, id, now)
                engine = found
        except (exc.SQLAlchemyError, SessionError) as error:
            if not may_be_broken and not self._is_busy(error):
                raise
        return database.find_aside(id, now, engine)

    def _is_busy(self, error: Exception) -> bool:
        """Return whether the application's SQLAlchemy session gives nobody its
        connection now: it is about to get one, and a listener to its
        ``after_begin``, which tells the database of the user, say, looks at
        the session.

        Another connection can be had.
        """
        # Neither broken (T4) nor without an engine, which are classes of
        # their own.
        return type(error) is exc.InvalidRequestError and (
            not self._application.database.has_one_connection
        )

    def _engine_beside_stream(
        self, connection: sa.Connection, manager: SessionDataManager
    ) -> sa.Engine | None:
        """Return the engine to read with if the view has rows of *connection*
        still to fetch, and another one sees the same session.
        """
        if not dialects.is_streaming(connection) or (
            self._is_begun_by_others(manager.transaction)
        ):
            return None
        dbsession = self.begun_dbsession
        if dbsession is None:
            return None
        # A connection is in a transaction of whoever has given it.
        bind = self._bind_of(dbsession)
        return bind if isinstance(bind, sa.Engine) else None

    def _way_to_read(
        self, manager: SessionDataManager
    ) -> sa.Connection | sa.Engine:
        """Return the connection to read with, or the engine to read beside
        the transaction with.
        """
        connection = manager.open_connection()
        if connection is not None:
            # It sees what the request has written with it.
            return self._engine_beside_stream(connection, manager) or (
                connection
            )
        if self._is_making_dbsession:
            return self._application.engine
        if self.has_dbsession:
            return self._engine_beside(manager) or self.joined()
        if self._application.database.has_one_connection:
            return manager.own_connection()
        return self._application.engine

    def make_dbsession(self) -> None:
        """Have ``request.dbsession`` made where the session is read with it in
        any case: there is one connection for everything.

        Not while the session is being read: what makes it may want to know
        the user, and looks at the session.
        """
        if self._is_making_dbsession or not (
            self._application.database.has_one_connection
            and self.has_dbsession
        ):
            return
        self._is_making_dbsession = True
        try:
            getattr(self._request, self._name)
        finally:
            self._is_making_dbsession = False

    def _engine_beside(self, manager: SessionDataManager) -> sa.Engine | None:
        """Return the engine to read with, None for the joined connection.

        Beside the transaction, one SELECT is one round trip, and no
        connection is held while a view runs that needs no database.  But
        only where that sees the same data, and never a second connection at
        a time.
        """
        dbsession = self.begun_dbsession
        bind: Any = self._application.engine
        if dbsession is None and self._is_begun_by_others(
            manager.transaction
        ):
            dbsession = self._dbsession
        if dbsession is not None:
            if dbsession.in_transaction() and (
                is_connected(dbsession)
                or self._is_begun_by_others(manager.transaction)
            ):
                return None
            bind = self._bind_of(dbsession)
            # SQLAlchemy 2.1: it says more to its connections than its engine.
            if getattr(dbsession, 'execution_options', None):
                return None
        if not isinstance(bind, sa.Engine) or (
            pooling.has_one_connection(bind)
        ):
            return None
        return bind

    def is_to_be_aborted(self, transaction: Any) -> bool:
        """Return whether *transaction* is certainly aborted after an exception
        view, and another connection sees what was there before it.
        """
        return not (
            has_commit_veto(self._request)
            or self._is_begun_by_others(transaction)
            or self._application.database.has_one_connection
        )

    def _is_begun_by_others(self, transaction: Any) -> bool:
        """Return whether something may have been written to the transaction
        before the request began (T7).
        """
        return (
            _TEST_DBSESSION in self._request.environ
            # pyramid_tm notes the path of what it begins.
            or (not transaction.description and not is_noted(
                self._request, transaction
            ))
            or transaction.status != 'Active'
        )

    def perform(
        self, work: Callable[[sa.Connection], Result], *, writes: bool
    ) -> Result:
        """Return what *work* did in the transaction of the request, or in one
        of its own if there is none.

        :param writes: it has to be committed, and may be done again.
        """
        application = self._application
        transaction = active_transaction(self._request)
        if transaction is None:
            with application.database.own_transaction() as connection:
                return work(connection)
        with application.database.translated_errors():
            # It knows which errors are conflicts (C7), for which pyramid_tm
            # asks those that take part.
            manager = self.manager_in(transaction)
            if not self.has_dbsession:
                return manager.perform(work, writes=writes)
            self._replace_closed()
            connection = self.joined()
            with dialects.borrowed(connection):
                done = work(connection)
            if writes:
                self.mark_changed()
            return done

    def _replace_closed(self) -> None:
        """Have the pool replace what the server has closed, if the
        application's SQLAlchemy session has still to take a connection.
        """
        dbsession = self._dbsession
        if not (dbsession.in_transaction() and is_connected(dbsession)):
            bind = self._bind_of(dbsession)
            if isinstance(bind, sa.Engine):
                self._application.database.replace_closed(bind)

    def perform_for_view(
        self, work: Callable[[sa.Connection], Result], *, writes: bool
    ) -> Result:
        """Do the same, for what a view asks for.

        What it has added, and not flushed, is written first, as for a query of
        its own: at the COMMIT, too, the sessions' rows come after those of the
        application, and two orders would be a deadlock (T6).
        """
        if writes and self.has_dbsession and (
            active_transaction(self._request) is not None
        ):
            dbsession = self._dbsession
            # Not from within a flush: nor does SQLAlchemy itself, by this
            # attribute, which is private.
            if dbsession.autoflush and not getattr(
                dbsession, '_flushing', False
            ):
                dbsession.flush()
        return self.perform(work, writes=writes)
