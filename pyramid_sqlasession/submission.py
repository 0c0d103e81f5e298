"""What one request hands in to be saved: its plan, with the fields that the
application adds, after what others have made of the same session.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from pyramid_sqlasession.application import Application
from pyramid_sqlasession.connections import Connections
from pyramid_sqlasession.datamanager import SessionDataManager
from pyramid_sqlasession.errors import SessionConflict
from pyramid_sqlasession.extension import Extension
from pyramid_sqlasession.plan import Outcome
from pyramid_sqlasession.plan import Plan
from pyramid_sqlasession.records import Executor
from pyramid_sqlasession.records import Record
from pyramid_sqlasession.state import State
from pyramid_sqlasession.watching import Watcher


class Submission:
    """Saves what one request has done to its session."""

    #: Whether what is saved now is of an exception view whose request does
    #: not run again.
    is_last_word = False
    #: Whether the record is another one than what was loaded.
    is_outdated = False

    def __init__(
        self, application: Application, request: Any, state: State,
        connections: Connections, watcher: Watcher,
    ) -> None:
        #: Whether a save is under way: what looks at the session meanwhile
        #: sees it as it is.
        self.is_under_way = False
        self._application = application
        self._state = state
        self._watcher = watcher
        self._fields = application.fields.defaults
        #: None if the application has no word in its fields.
        self._extension: Extension | None = None
        if application.settings.extend_default_fields is not None:
            self._extension = Extension(
                application, request, state, connections.roll_back_quietly
            )
            self._fields = self._extension.fields

    @property
    def is_asking(self) -> bool:
        """Whether the application is asked for its fields now."""
        return self._extension is not None and self._extension.is_asking

    def foresee(self) -> None:
        """Ask the application for its fields, before the commit."""
        assert self._extension is not None
        self.is_under_way = True
        try:
            self._extension.foresee()
        finally:
            self.is_under_way = False

    def forget_foreseen(self) -> None:
        """Ask again for the next commit."""
        if self._extension is not None:
            self._extension.forget()

    def save(
        self, connection: Executor, plan: Plan,
        manager: SessionDataManager | None,
    ) -> Outcome:
        """Write *plan*; what became of it counts once it is committed.

        :param manager: of the transaction that the session takes part in.
        :raises SessionError: for what cannot be stored.
        :raises sqlalchemy.exc.DBAPIError: of the database.
        """
        self.is_under_way = True
        started = perf_counter()
        application, planned = self._application, plan
        if self._state.beginning is not None:
            plan = self._following(plan, manager)
        try:
            outcome = application.saver.save(
                connection, plan, application.now(), self._fields,
                _itself if manager is None else manager.theirs,
            )
        except SessionConflict as conflict:
            self._watcher.conflicted(conflict.keys)
            rest = self._without_conflict(plan, conflict)
            if rest is None:
                self.is_outdated = True
                raise
            outcome = self.save(connection, rest, manager)
            outcome.yielded += tuple(conflict.keys)
            return outcome
        finally:
            self.is_under_way = False
        if plan is not planned:
            outcome.shared = True
            outcome.ends_common = plan.wishes.ended is not planned.wishes.ended
        self._watcher.written(plan, outcome, perf_counter() - started)
        return outcome

    def _following(
        self, plan: Plan, manager: SessionDataManager | None
    ) -> Plan:
        """Return *plan* after what others have made of the session that they
        begin with this one.
        """
        common, uncommitted = self._state.beginning, None
        assert common is not None
        if manager is not None:
            uncommitted = manager.uncommitted_of(common.token.id)
        return common.follow(
            plan, uncommitted, self._application.saver.is_whole_login
        )

    def _without_conflict(
        self, plan: Plan, conflict: SessionConflict
    ) -> Plan | None:
        """Return what of *plan* is to be saved in spite of *conflict*, None
        if there is nothing.
        """
        if not self.is_last_word or not conflict.keys or (
            # Not half of a login: one user's keys beside another's.
            plan.wishes.rotate or self._application.saver.is_login(plan)
        ):
            return None
        return plan.without(conflict.keys)


def _itself(record: Record) -> Record:
    return record
