"""The part of one request's session in one transaction: what it writes there,
and what it comes back to if that does not count.

It begins when the session joins and ends with the transaction, or before, if
the session is saved without waiting for the end.
"""

from __future__ import annotations

from typing import Any
from typing import Protocol

import sqlalchemy as sa

from pyramid_sqlasession.application import Application
from pyramid_sqlasession.attempts import is_to_be_repeated
from pyramid_sqlasession.base import Base
from pyramid_sqlasession.connections import Connections
from pyramid_sqlasession.connections import is_connected
from pyramid_sqlasession.datamanager import SessionDataManager
from pyramid_sqlasession.pending import is_unchanged
from pyramid_sqlasession.plan import Outcome
from pyramid_sqlasession.plan import Plan
from pyramid_sqlasession.records import Executor
from pyramid_sqlasession.records import Record
from pyramid_sqlasession.state import Snapshot
from pyramid_sqlasession.state import State
from pyramid_sqlasession.submission import Submission
from pyramid_sqlasession.transaction import is_managed

#: The mark of a savepoint that takes nothing back: it was released, or the
#: view that made it has failed.
RELEASED: Any = object()

Mark = tuple[BaseException | None, Snapshot]


class Holder(Protocol):
    """What ties a request to the session that takes part."""

    application: Application
    request: Any
    connections: Connections
    state: State
    #: What the view has raised, while an exception view runs.
    exception: BaseException | None
    #: Whether another request's view runs this one.
    is_subrequest: bool
    #: Whether somebody has looked.
    is_loaded: bool
    #: Whether what the session was loaded as holds only if the transaction is
    #: committed.
    is_doubtful: bool

    @property
    def is_gone(self) -> bool:
        """Whether nobody holds the session any more."""

    @property
    def outlives_abort(self) -> bool:
        """Whether what is done to the session is none of what an abort ends.
        """

    def notice_exception(self) -> None:
        """Set the view's changes aside once an exception view runs."""

    def start_over(self) -> None:
        """Take back what was done since the session took part."""

    def make_plan(self) -> Plan | None:
        """Return what has to be saved, None if there is nothing."""

    def reunite(self, view: Snapshot) -> None:
        """Put what was done since on top of what a view did that failed."""

    @property
    def extends(self) -> bool:
        """Whether the application has a word in the additional fields."""

    @property
    def submission(self) -> Submission:
        """What the request hands in to be saved."""

    def accept(self, outcome: Outcome) -> None:
        """Go on from *outcome*, which is committed."""

    def has_opened(self, found: Record) -> bool:
        """Return whether *found* is the record of the session, whose token is
        good there: nobody but those who take part has logged in since.
        """

    def follow(self, writer: Any) -> None:
        """Go on from what another holder has made of the same session."""

    def part_ended(self) -> None:
        """Called once the part has ended."""

    def come_back(self, part: Participation) -> None:
        """Take back what was done in *part*, which was aborted."""


class Participation:
    """What one session does in one transaction; a ``Participant``.

    :param outside: what the session was to come back to before, and whether
        a view had changed it.
    """

    def __init__(
        self, holder: Holder, manager: SessionDataManager,
        outside: tuple[Snapshot | None, bool],
    ) -> None:
        self._holder = holder
        #: Whether the transaction is about to be aborted, with its savepoints.
        self.is_ending = False
        #: The state to come back to if the transaction is aborted; None is the
        #: session as it was loaded.
        self.before: Snapshot | None = None
        #: The changes of the view that failed, while an exception view runs.
        self._set_aside: Snapshot | None = None
        #: Whether they are to be committed with the exception view's (the
        #: veto).
        self._is_reunited = False
        self._plan: Plan | None = None
        self._tentative: Outcome | None = None
        self.manager = manager
        self.outside = outside
        #: Snapshots at SAVEPOINTs of the application's SQLAlchemy session.
        self.savepoints: dict[Any, Any] = {}

    @property
    def is_open(self) -> bool:
        """Whether the transaction has not ended yet."""
        return self.manager.is_open

    @property
    def exception(self) -> BaseException | None:
        """What the view has raised, while an exception view runs."""
        return self._holder.exception

    @property
    def is_subrequest(self) -> bool:
        """Whether another request's view runs the one of the session."""
        return self._holder.is_subrequest

    def set_aside(self) -> None:
        """Keep what the view has done that failed, in case it is committed
        all the same.
        """
        self._set_aside = self._holder.state.snapshot()
        before, was_changed = self.outside
        if was_changed:
            # What was there when it joined is the view's, too: it has gone on
            # after a transaction that was replaced.
            self.before = before
        # They end with the view's transaction.
        self.savepoints = dict.fromkeys(self.savepoints, RELEASED)

    def forget_view(self) -> None:
        """Note that what a view did that failed cannot count any more."""
        self._set_aside = None

    # -- before the commit ---------------------------------------------------

    def prepare(self) -> bool:
        """Find what has to be written; return whether there is anything."""
        self._plan = None
        holder = self._holder
        if is_to_be_repeated(holder.request):
            return False
        if self._set_aside is not None:
            # The commit veto: both are committed.
            view, self._set_aside = self._set_aside, None
            self._is_reunited = True
            holder.reunite(view)
        self._plan = plan = holder.make_plan()
        if holder.extends and plan is not None and plan.writes_record:
            holder.submission.foresee()
        return plan is not None

    def plan_again(self) -> None:
        """Plan what was changed since, too."""
        holder = self._holder
        # Not what the application has to be asked for: its SQLAlchemy session
        # cannot be used any more.
        if (
            holder.extends or self._is_as_planned
            or is_to_be_repeated(holder.request)
        ):
            return
        self._plan = holder.make_plan()

    @property
    def _is_as_planned(self) -> bool:
        plan, state = self._plan, self._holder.state
        if plan is None:
            return not state.is_unsaved
        pending = state.pending
        return pending.wishes is plan.wishes and is_unchanged(pending.planned)

    # -- the application's part ----------------------------------------------

    def is_rolled_back(self, transaction: Any) -> bool:
        """Return whether the application's part was rolled back by hand."""
        return self._holder.connections.is_rolled_back(transaction)

    @property
    def dbsession(self) -> Any:
        """The application's SQLAlchemy session, if it was used."""
        return self._holder.connections.begun_dbsession

    def open_connection(
        self, *, to_read: bool = False
    ) -> sa.Connection | None:
        """Return the application's connection if its transaction has begun.

        :param to_read: and if something may have been sent in it.
        """
        dbsession = self.dbsession
        if dbsession is None or not dbsession.in_transaction() or (
            to_read and not is_connected(dbsession)
        ):
            return None
        return self._holder.connections.joined()

    def open(self) -> None:
        """Open the application's connection, and have it committed."""
        with self._holder.application.database.translated_errors():
            self._holder.connections.joined()
        self._holder.connections.mark_changed()

    def roll_back(self) -> None:
        """Roll back the application's transaction, which is to be aborted."""
        self._holder.connections.roll_back_quietly()

    # -- the write -----------------------------------------------------------

    @property
    def place(self) -> int:
        """The place of the write among those of the same session: one that
        ends its token comes after the others.
        """
        return 0 if self._plan is None else self._holder.state.place

    @property
    def is_atomic(self) -> bool:
        """Whether two statements of the write belong together."""
        return self._plan is not None and self._plan.is_atomic

    def write(self, connection: Executor) -> None:
        """Write the record in the transaction that is being committed."""
        if self._plan is not None:
            self._tentative = self._holder.submission.save(
                connection, self._plan, self.manager
            )

    @property
    def written(self) -> tuple[Record, Record] | None:
        """The record that was updated, and not committed yet: as it was, and
        as it is.
        """
        outcome = self._tentative
        if outcome is None or outcome.before is None:
            return None
        assert outcome.base.record is not None
        return outcome.before, outcome.base.record

    @property
    def uncommitted(self) -> Base | None:
        """What the write has led to, and is not committed yet."""
        return None if self._tentative is None else self._tentative.base

    # -- the end -------------------------------------------------------------

    def committed(self) -> None:
        """Go on from what was written."""
        if self._tentative is not None:
            self._tentative.is_early = is_managed(self._holder.request)
        self._end()

    def end_with(self, outcome: Outcome) -> None:
        """Leave the transaction to who ends it, with *outcome* in it."""
        self._tentative = outcome
        self.manager.release(self)
        self._end()

    def _end(self) -> None:
        outcome, self._tentative = self._tentative, None
        self._holder.is_doubtful = False
        self._holder.part_ended()
        if outcome is not None:
            self._holder.accept(outcome)

    def has_opened(self, found: Record) -> bool:
        """Return whether *found* is the record of the session, whose token is
        good there: nobody but those who take part has logged in since.
        """
        return self._holder.has_opened(found)

    def follow(self, writer: Participation) -> None:
        """Go on from what *writer* has made of the same session."""
        self._holder.follow(writer._holder)

    def aborted(self) -> None:
        """Take the session back."""
        self._tentative = None
        holder = self._holder
        # Not if both were to be committed, and the COMMIT has failed.
        is_kept = not self._is_reunited and (
            holder.outlives_abort or self.manager.is_replaced
        )
        holder.part_ended()
        if not is_kept:
            holder.come_back(self)

    # -- savepoints ----------------------------------------------------------

    def mark(self) -> Mark | None:
        """Return the state, for :meth:`return_to`."""
        holder = self._holder
        holder.notice_exception()
        if not holder.is_loaded:
            # It takes part for a subrequest: what is loaded later stays.
            return None
        return holder.exception, holder.state.snapshot()

    def return_to(self, mark: Mark | None) -> None:
        """Return to a mark; None is the state at joining.

        An exception view has nothing of one that the view has made.
        """
        holder = self._holder
        if holder.is_gone:
            # Of a request that is over, while its transaction goes on.
            return
        holder.notice_exception()
        if mark is not None and mark[0] is holder.exception:
            holder.state.restore(mark[1])
        else:
            holder.start_over()
