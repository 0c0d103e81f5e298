"""When the sessions of a transaction of ``request.tm`` are written, and with
which connection.

One data manager for each transaction and application; subrequests share it.
A record is written last, after all flushes and just before COMMIT, so that no
lock on it is held while a view runs.  What is written is the affair of those
who take part (:class:`Participant`).

=======  =================================  ===========  ====================
route    when                               written in   committed
=======  =================================  ===========  ====================
joined   something of the application       commit()     by zope.sqlalchemy,
         takes part in the transaction                   with its data
alone    nothing else takes part, or it     tpc_vote()   at once: saves making
         was rolled back by hand: there is               a SQLAlchemy session,
         nothing to commit together with                 BEGIN and COMMIT
apart    they do not use the application's  tpc_begin()  in tpc_vote(), after
         connection: they have a database                all others
         of their own, or the application
         has no ``request.dbsession``
=======  =================================  ===========  ====================
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from contextlib import AbstractContextManager
import enum
import logging
from operator import attrgetter
import sys
from typing import Any
from typing import NamedTuple
from typing import Protocol
from typing import TypeVar
import weakref

import sqlalchemy as sa
from transaction.interfaces import IDataManagerSavepoint
from transaction.interfaces import ISavepointDataManager
from zope.interface import implementer

from pyramid_sqlasession import dialects
from pyramid_sqlasession import faults
from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.transaction import is_replaced
from pyramid_sqlasession.transaction import mark_retryable
from pyramid_sqlasession.transaction import resources_of
from pyramid_sqlasession.transaction import sqlalchemy_managers

log = logging.getLogger(__name__)

# Of a COMMIT of the own engine that the database refused.
_ATTEMPTS = 5

Result = TypeVar('Result')


class Participant(Protocol):
    """A session in a transaction."""

    #: Set when the transaction is about to be aborted, with its savepoints.
    is_ending: bool

    @property
    def is_subrequest(self) -> bool:
        """Whether another request's view runs the one of the session."""

    @property
    def place(self) -> int:
        """The place of the write among those of the same session: one that
        ends its token comes after the others.
        """

    @property
    def is_atomic(self) -> bool:
        """Whether two statements of the write belong together."""

    @property
    def written(self) -> tuple[Any, Any] | None:
        """The record that was updated, and not committed yet: as it was, and
        as it is.
        """

    @property
    def uncommitted(self) -> Any:
        """The base that the write has led to, and that is not committed yet;
        None if there is none.
        """

    def prepare(self) -> bool:
        """Before the commit: return whether something will be written."""

    def plan_again(self) -> None:
        """Have what was changed since :meth:`prepare` be written, too."""

    def is_rolled_back(self, transaction: Any) -> bool:
        """Return whether the application's part was rolled back by hand."""

    @property
    def dbsession(self) -> Any:
        """The application's SQLAlchemy session, if it was used."""

    def open_connection(
        self, *, to_read: bool = False
    ) -> sa.Connection | None:
        """Return the application's connection if its transaction has begun.

        :param to_read: and if something may have been sent in it.
        """

    def open(self) -> None:
        """Open the application's connection, and have it committed."""

    def roll_back(self) -> None:
        """Roll back the application's transaction, which is to be aborted."""

    def write(self, connection: Any) -> None:
        """Write the record.

        :param connection: a ``Connection``, or what executes less.
        """

    def committed(self) -> None:
        """What was written counts."""

    def has_opened(self, found: Any) -> bool:
        """Return whether *found* is the record of the session, whose token is
        good there: nobody but those who take part has logged in since.

        :param found: the record before those who take part have written it.
        """

    def follow(self, writer: Any) -> None:
        """Go on from what *writer*, who was committed, too, has written last
        of the same session.
        """

    def aborted(self) -> None:
        """Nothing of this transaction counts."""

    def mark(self) -> Any:
        """Return the state, for :meth:`return_to`."""

    def return_to(self, mark: Any) -> None:
        """Return to a mark; None is the state at joining."""


class Other(NamedTuple):
    """What the application has open in a transaction, in a request that may
    not have looked at its session.
    """

    dbsession: Any
    connection: sa.Connection


class Route(enum.Enum):
    """With which connection the records are written; see the table above."""

    #: Whoever only reads needs none.
    UNDECIDED = 'undecided'
    JOINED = 'joined'
    ALONE = 'alone'
    APART = 'apart'


# To look into an enum takes Python 3.11 ten times as long.
UNDECIDED, JOINED, ALONE, APART = Route


class Gate(Protocol):
    """Opens connections that are not the application's."""

    @property
    def has_dbsession(self) -> bool:
        """Whether the sessions use the application's connection."""

    @property
    def is_ended_later(self) -> bool:
        """Whether somebody ends the transactions that are begun now."""

    @property
    def rollback_can_fail(self) -> bool:
        """Whether a ROLLBACK may answer with an error."""

    @property
    def waits_for_others(self) -> bool:
        """Whether one connection keeps all others from writing."""

    def notice_others(self, transaction: Any) -> None:
        """Called before sessions are written apart from *transaction*, of
        which something else may be in the same database.
        """

    def notice_unregistered(self) -> None:
        """Called before sessions are written alone, as nothing else has
        joined.
        """

    def open_others(self, transaction: Any) -> Sequence[Other]:
        """Open the connections to the same database that others have begun
        to use in *transaction*, have them committed, and return them.
        """

    def connect(self) -> sa.Connection:
        """Return a connection; whoever asks for it commits and closes."""

    def inside(self, connection: sa.Connection) -> Any:
        """Return what executes in the transaction of *connection*."""

    def translated_errors(self) -> AbstractContextManager[None]:
        """Say in our words what an error of the database means."""

    def alone(
        self, work: Callable[[Any], None], *, atomic: bool
    ) -> None:
        """Do *work* and commit it.

        :param atomic: it is more than one statement.
        """


@implementer(ISavepointDataManager)
class SessionDataManager:
    """Joins the sessions of one application to one transaction.

    :param key: what identifies the application in the transaction.
    :param gate: opens connections that are not the application's.
    """

    def __init__(self, transaction: Any, key: object, gate: Gate) -> None:
        self.transaction = transaction
        #: Whether the transaction has not ended yet.
        self.is_open = True
        self._gate = gate
        self._route = UNDECIDED
        self._connection: sa.Connection | None = None
        self._participants: list[Participant] = []
        #: Whether requests run whose sessions need not take part.
        self._may_have_others = False
        #: What they had open when the commit was prepared.
        self._others: Sequence[Other] = ()
        #: Those that have written, of one attempt.
        self._done: list[Participant] = []
        #: What those have written whom :meth:`release` has let go, as long as
        #: others are still there.
        self._released: list[Any] = []
        #: What was written with the own connection before the records are.
        self._works: list[Callable[[sa.Connection], object]] = []
        self._has_hook = False
        #: Whether the first of them joined while somebody, pyramid_tm say, was
        #: to end the transaction.
        self.was_managed = gate.is_ended_later
        #: Of the preparations for the commit.
        self._failure: Exception | None = None
        self._has_work = False
        #: Whether it is aborted, as the application begins another one, where
        #: it knows of none.
        self.is_replaced = False
        #: Whether what was written is committed.  Others may fail after it:
        #: a mail server, say, in tpc_finish().
        self._is_committed = False
        #: Errors that are conflicts, although only we can know it.
        self._conflicts: list[BaseException] = []
        #: An error after which the request must not run again, whatever has
        #: caused it.
        self._final: BaseException | None = None
        # Part of IDataManager, though nobody asks for it.
        self.transaction_manager = getattr(transaction, '_manager', None)
        transaction.join(self)
        transaction.set_data(key, self)
        transaction.addBeforeAbortHook(self._before_abort)

    @classmethod
    def found_in(
        cls, transaction: Any, key: object
    ) -> SessionDataManager | None:
        """Return the data manager of *transaction* if it has one."""
        # Usually so, and at a tenth of the cost of the answer below.
        if resources_of(transaction) == []:
            return None
        try:
            found = transaction.data(key)
        except KeyError:
            return None
        return found if isinstance(found, cls) and found.is_open else None

    def own_connection(self) -> sa.Connection:
        """Return the connection of the own engine, opened by the first call.

        Only if the sessions are apart.
        """
        if self._connection is None:
            self._connection = self._gate.connect()
        return self._connection

    def perform(
        self, work: Callable[[sa.Connection], Result], *, writes: bool
    ) -> Result:
        """Return what *work* did with the connection of the own engine.

        :param writes: it has to be done again if the COMMIT is repeated.
        """
        connection = self.own_connection()
        with dialects.borrowed(connection):
            done = work(connection)
        if writes:
            self._works.append(work)
        return done

    def open_connection(self) -> sa.Connection | None:
        """Return a connection that one of the requests has open, to read with
        it, or None.
        """
        if not self._gate.has_dbsession:
            return self._connection
        _, connection = self._opened(to_read=True)
        return connection

    def _opened(
        self, others: Sequence[Other] = (), *, to_read: bool = False
    ) -> tuple[Participant | Other | None, sa.Connection | None]:
        """Return who has a connection of the application open, and it.

        Several, if a subrequest has a dbsession of its own: one that keeps
        the others from writing comes first.
        """
        opened: list[tuple[Participant | Other, sa.Connection]] = [
            (participant, connection)
            for participant in self._participants
            if (connection := participant.open_connection(to_read=to_read))
            is not None
        ]
        opened += [(other, other.connection) for other in others]
        for owner, connection in opened:
            if dialects.is_writing(connection):
                return owner, connection
        return opened[0] if opened else (None, None)

    def add(self, participant: Participant, *, alone: bool) -> None:
        """Let *participant* take part.

        :param alone: no other request waits for its request.
        """
        self._participants.append(participant)
        if not alone:
            self._may_have_others = True

    def expect_changes(self) -> None:
        """Look for changes when the transaction is committed.

        Whoever only reads has nothing to look for.
        """
        if not self._has_hook and self.is_open:
            self._has_hook = True
            self.transaction.addBeforeCommitHook(self._before_commit)

    def theirs(self, record: Any) -> Any:
        """Return *record* as others have left it: before those who take part,
        or took part, have written it; itself if its last write is none of
        theirs.
        """
        for written in reversed([
            *self._released,
            *(participant.written for participant in self._done),
        ]):
            if written is not None:
                before, after = written
                if (after.id, after.version) == (record.id, record.version):
                    record = before
        return record

    def place_of(self, participant: Participant) -> int:
        """Return how many joined before *participant*, and are still there.
        """
        others = enumerate(self._participants)
        return next((n for n, other in others if other is participant), 0)

    def release(self, participant: Participant) -> None:
        """Let *participant* go, who has written and does not wait for the
        commit.
        """
        self._released.append(participant.written)
        self.remove(participant)

    def uncommitted_of(self, id: object) -> Any:
        """Return what those who take part have made of a record, None if
        none of them has written it.
        """
        for participant in reversed(self._done):
            base = participant.uncommitted
            if base is not None and base.record is not None and (
                base.record.id == id
            ):
                return base
        return None

    def remove(self, participant: Participant) -> None:
        """Let *participant* go; the transaction is no affair of it."""
        self._participants = [
            other for other in self._participants if other is not participant
        ]
        if not self._participants:
            self._released.clear()

    # -- IDataManager --------------------------------------------------------

    def _before_commit(self) -> None:
        if not self.is_open:
            return
        # One that comes later may change the session once more.
        self._has_hook = False
        if self._has_later_hooks():
            # Hooks of the application that were added later may change the
            # session: ours comes after them.
            self.expect_changes()
            return
        # Raised again in commit(): an error in a before-commit hook would
        # leave the transaction open.
        try:
            self._prepare()
        except Exception as error:
            self._failure = error

    def _has_later_hooks(self) -> bool:
        hooks = [*self.transaction.getBeforeCommitHooks()]
        for hook, _, _ in reversed(hooks):
            owner = getattr(hook, '__self__', None)
            if owner is self:
                break
            # Another application's sessions in the same transaction: each
            # would wait for the other one for ever.
            if not isinstance(owner, SessionDataManager):
                return True
        return False

    def _prepare(self) -> None:
        self._failure = None
        writers = [p for p in self._participants if p.prepare()]
        self._has_work = bool(writers)
        self._route = JOINED if self._gate.has_dbsession else APART
        if not writers:
            return
        if self._route is APART:
            self._gate.notice_others(self.transaction)
            return
        # Only we have joined: nothing has to be committed with the session.
        resources = resources_of(self.transaction)
        if resources is not None and len(resources) == 1:
            self._gate.notice_unregistered()
            self._route = ALONE
            return
        if any(
            p.is_rolled_back(self.transaction) for p in self._participants
        ):
            self._route = ALONE
            return
        self._open(writers, len(resources or ()))

    def _open(self, writers: list[Participant], count: int) -> None:
        """Open the connection to write with.

        A subrequest may have a dbsession of its own.  All sessions are
        written with one connection: two would wait for each other.  It may
        be that of a request which has not looked at its session.

        :param count: how many data managers take part.
        """
        opened = [
            p for p in self._participants if p.open_connection() is not None
        ]
        self._others = ()
        # Usually there are ours and the dbsession's.
        if count > (2 if opened else 1) and (
            self._may_have_others or self._gate.waits_for_others
        ):
            self._others = self._gate.open_others(self.transaction)
        if not opened and not self._others:
            opened = writers[:1]
        for participant in opened:
            participant.open()

    def _before_abort(self) -> None:
        # Not called when a savepoint is rolled back: that calls abort() of
        # who has joined since.
        self.is_replaced = self.is_open and is_replaced(self.transaction)
        for participant in self._participants:
            participant.is_ending = True
        if self._gate.rollback_can_fail or self._leaves_open():
            for participant in self._participants:
                participant.roll_back()

    def _leaves_open(self) -> bool:
        """Return whether an abort leaves a database transaction open, and its
        locks with it: a write beside it would wait for them.
        """
        return any(
            getattr(manager, 'keep_session', False)
            for manager in sqlalchemy_managers(self.transaction)
        )

    def tpc_begin(self, transaction: Any) -> None:
        """Write what is apart, while the application's sessions can be used:
        in commit() those that have nothing to commit have ended.
        """
        if self._failure is None and self._has_work and (
            self._route is APART
        ):
            connection = self.own_connection()
            self._write_inside(connection, connection)

    def commit(self, transaction: Any) -> None:
        """Write all records, unless they are written alone.

        :raises SessionError: if ``request.dbsession`` is a new one each time;
            and what went wrong when the commit was prepared.
        """
        if self._failure is not None:
            raise self._failure
        if self._has_work:
            if self._route is JOINED:
                self._write_joined()
        elif self._gate.has_dbsession:
            for participant in self._participants:
                if (dbsession := participant.dbsession) is not None:
                    _await_commit(dbsession, self)

    def _write_joined(self) -> None:
        # Listeners to the flush may have changed it once more.  (A session
        # with nothing to write before is saved beside the transaction.)
        for participant in self._participants:
            participant.plan_again()
        writer, connection = self._opened(self._others)
        if connection is None:
            raise SessionError(
                'request.dbsession (sqlasession.dbsession) is another '
                'SQLAlchemy session each time: make it once for a request, '
                'as config.add_request_method(..., reify=True) does'
            )
        self._write_inside(connection, self._gate.inside(connection))
        assert writer is not None
        _await_commit(writer.dbsession, self)

    def _write_inside(self, connection: sa.Connection, executor: Any) -> None:
        # Who writes alone has to see the error of a connection that is to be
        # replaced.
        with self._gate.translated_errors(), dialects.borrowed(connection):
            self._write(executor)

    def _write(self, connection: Any) -> None:
        try:
            participants = self._participants
            if len(participants) > 1:
                # Stable: otherwise in the order of joining.
                participants = sorted(
                    participants, key=attrgetter('place')
                )
            self._done = []
            for participant in participants:
                participant.write(connection)
                self._done.append(participant)
        except sa.exc.IntegrityError as error:
            if faults.fault_of(error) is faults.Fault.DUPLICATE:
                # Two first inserts at once; the next attempt finds a row.
                self._conflicts.append(error)
            raise

    def notice_commit(self) -> None:
        """Note that all that was written is committed, or what others have,
        if nothing was.
        """
        if self.is_open:
            self._is_committed = True

    def tpc_vote(self, transaction: Any) -> None:
        """Commit what the application's connection does not commit."""
        if self._route is ALONE:
            participants = self._participants
            self._gate.alone(
                self._write,
                atomic=len(participants) != 1 or participants[0].is_atomic,
            )
            self._is_committed = True
        elif self._connection is not None:
            self._commit_apart()

    def _commit_apart(self) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                connection = self.own_connection()
                if attempt > 1:
                    with dialects.borrowed(connection):
                        for work in self._works:
                            work(connection)
                    self._write_inside(connection, connection)
                dialects.commit(connection)
                self._is_committed = True
                self._close()
                return
            except (sa.exc.DBAPIError, SessionError) as error:
                self._close()
                # The application's data are committed by now: the request
                # must not run again, only this write may.
                if attempt == _ATTEMPTS or not faults.is_repeatable(error):
                    self._final = SessionError(
                        'the data of the application were committed, but '
                        'the session, which has a transaction of its own '
                        '(there is no request.dbsession that it could use, '
                        'or sqlasession.url is set), could not be'
                    )
                    raise self._final from error

    def tpc_finish(self, transaction: Any) -> None:
        """Everything is committed."""
        following = self._following() if len(self._participants) > 1 else []
        for participant in self._end():
            participant.committed()
        for participant, writer in following:
            participant.follow(writer)

    def _following(self) -> list[tuple[Participant, Participant]]:
        """Return who goes on from what another one has written of the same
        session, and that one.
        """
        last = {}
        for writer in self._done:
            base = writer.uncommitted
            if base is not None and base.record is not None:
                # As it was before all of them; what they have begun, as it is.
                last[base.record.id] = writer, self.theirs(base.record)
        return [
            (participant, writer) for writer, found in last.values()
            for participant in self._participants
            # Not an application that a view calls, as another browser would.
            if (participant.is_subrequest or writer.is_subrequest)
            and participant is not writer and participant.has_opened(found)
        ]

    def abort(self, transaction: Any) -> None:
        """Nothing of the transaction counts."""
        self._close()
        # _before_abort() is not called when a commit has failed.  (A savepoint
        # that is rolled back aborts who has joined since, and nothing else.)
        stays_open = (
            self.is_open and transaction.status == 'Committing'
            and self._leaves_open()
        )
        for participant in self._end():
            if stays_open:
                participant.roll_back()
            participant.aborted()

    def tpc_abort(self, transaction: Any) -> None:
        """The commit failed, of one of those that take part."""
        if self._is_committed:
            self.tpc_finish(transaction)
            return
        # pyramid_tm asks should_retry only about errors of the view; one of
        # the commit itself has to be marked while it passes by.
        error = sys.exc_info()[1]
        if error is not None and self.should_retry(error):
            mark_retryable(error)
        self.abort(transaction)

    def should_retry(self, error: BaseException) -> bool:
        """Return whether *error* is a conflict (``transaction`` asks)."""
        # What is committed would be done twice.
        if error is self._final or self._is_committed:
            return False
        return error in self._conflicts or faults.is_retryable(error)

    def sortKey(self) -> str:
        """Return the place in the order of commits."""
        if self._route is JOINED:
            # Just before zope.sqlalchemy's own, "~sqlalchemy:1234".
            return '~sqlalchemy!'
        # After everything else: if that fails, no session is stored.
        return '~~sqlasession'

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sa.exc.DBAPIError as error:
                log.warning('closing the connection failed: %s', error)

    def _end(self) -> list[Participant]:
        participants, self._participants = self._participants, []
        self._done = []
        self._others = ()
        self.transaction = None
        self.is_open = False
        return participants

    # -- ISavepointDataManager -----------------------------------------------

    def savepoint(self) -> SessionSavepoint:
        """Return what the sessions can come back to."""
        return SessionSavepoint(
            self, [(p, p.mark()) for p in self._participants]
        )

    def rollback_to(self, marks: list[tuple[Participant, Any]]) -> None:
        """Return all sessions to *marks*."""
        known = [participant for participant, _ in marks]
        for participant, mark in marks:
            participant.return_to(mark)
        for participant in self._participants:
            if not any(participant is other for other in known):
                participant.return_to(None)


@implementer(IDataManagerSavepoint)
class SessionSavepoint:
    """The sessions at a savepoint."""

    def __init__(
        self, manager: SessionDataManager,
        marks: list[tuple[Participant, Any]],
    ) -> None:
        self._manager = manager
        self._marks = marks

    def rollback(self) -> None:
        """Return the sessions to the savepoint."""
        self._manager.rollback_to(self._marks)


#: Where a SQLAlchemy session has, in its ``info``, who waits for its COMMIT:
#: weakly, as there may be none.
_WAITING = 'sqlasession.waiting'


def _await_commit(dbsession: Any, manager: SessionDataManager) -> None:
    """Have *manager* told once *dbsession* is committed."""
    info = dbsession.info
    waiting = [
        other for other in info.get(_WAITING, ())
        if (found := other()) is not None and found.is_open
    ]
    info[_WAITING] = [*waiting, weakref.ref(manager)]


def committed(dbsession: Any) -> None:
    """Tell those who wait for it that *dbsession* is committed."""
    for waiting in dbsession.info.pop(_WAITING, ()):
        if (manager := waiting()) is not None:
            manager.notice_commit()
