"""One request's session, from the first look to the last byte.

The way of a request::

    first look    the cookie's token; one SELECT
    in the view   plain dict operations, no SQL; the first change joins the
                  transaction
    exception     an exception view begins with what was loaded: the
                  changes of the view that failed are set aside
    commit        one guarded write, last (transaction.py says when)
    response      what is still unsaved, the touch, the cookie
    end           too late for a change: an error in the log

What becomes of the session's changes is decided by one table:

=============================  ==========================  ================
what happened                  the view's changes          an exception
                                                           view's changes
=============================  ==========================  ================
commit                         stored in the transaction   (there are none)
commit though a view failed    stored in the transaction   stored with them
(commit veto)
abort, veto, doom, failed      gone                        stored in a
COMMIT by pyramid_tm                                       transaction of
                                                           their own
``tm.abort()`` by hand         gone                        gone
pyramid_retry runs it again    gone                        gone
nobody ends the transaction    stored through the          stored through
before the response (tests     application's               it; the view's
with ``tm.active``)            ``dbsession``               changes are gone
no transaction                 stored in a transaction of  the same; the
                               their own                   view's are gone
subrequest in a transaction    left to the outer request   (there are none)
=============================  ==========================  ================

A cookie is sent only for what was really committed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from functools import partial
import logging
from threading import get_ident
from time import perf_counter
from time import sleep
from typing import Any
import uuid

from pyramid.httpexceptions import HTTPNotFound
import sqlalchemy as sa
from sqlalchemy import exc
from transaction.interfaces import NoTransaction

from pyramid_sqlasession import dialects
from pyramid_sqlasession import events
from pyramid_sqlasession.aftercare import end_surplus
from pyramid_sqlasession.aftercare import send_events
from pyramid_sqlasession.aftercare import touch
from pyramid_sqlasession.application import Application
from pyramid_sqlasession.connections import Connections
from pyramid_sqlasession.cookie import Token
from pyramid_sqlasession.errors import SessionConflict
from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.errors import SessionStoreUnavailable
from pyramid_sqlasession.extension import Extension
from pyramid_sqlasession.loading import load
from pyramid_sqlasession.plan import Outcome
from pyramid_sqlasession.plan import Plan
from pyramid_sqlasession.records import Executor
from pyramid_sqlasession.response import cookie_header
from pyramid_sqlasession.response import keep_private
from pyramid_sqlasession.response import NO_REASON
from pyramid_sqlasession.response import put_cookie
from pyramid_sqlasession.response import replace_content
from pyramid_sqlasession.response import vary
from pyramid_sqlasession.session import SQLASession
from pyramid_sqlasession.state import NO_WISHES
from pyramid_sqlasession.state import NOTHING
from pyramid_sqlasession.state import Snapshot
from pyramid_sqlasession.surroundings import beginning_subrequest
from pyramid_sqlasession.surroundings import caller_of
from pyramid_sqlasession.surroundings import can_be_answered
from pyramid_sqlasession.surroundings import is_being_finished
from pyramid_sqlasession.surroundings import is_finished
from pyramid_sqlasession.surroundings import outer_of
from pyramid_sqlasession.surroundings import running_requests
from pyramid_sqlasession.surroundings import runs_alone
from pyramid_sqlasession.transaction import active_transaction
from pyramid_sqlasession.transaction import is_managed
from pyramid_sqlasession.transaction import SessionDataManager
from pyramid_sqlasession.watching import ATTRIBUTE
from pyramid_sqlasession.watching import Found
from pyramid_sqlasession.watching import Watcher

try:
    from pyramid_retry import is_error_retryable
except ImportError:  # pragma: no cover

    def is_error_retryable(request: Any, exc: Any) -> bool:
        """Nothing runs a request again without pyramid_retry."""
        return False


log = logging.getLogger(__name__)


#: The mark of a savepoint that takes nothing back: it was released, or the
#: view that made it has failed.
RELEASED: Any = object()

# Seconds: how long a thread of a view waits before it asks again whether
# another one has joined the transaction, or loaded the session.
_A_MOMENT = 0.001

#: Where an attempt leaves what it committed for the next one.
_CARRIED = 'sqlasession.carried'

#: Where it leaves the id of the session that it had.
_OPENED = 'sqlasession.opened'


class Binding:
    """Ties one request to its session; a ``Source`` and a ``Participant``."""

    # On the class, as most requests meet few of them.

    #: What was loaded, or saved last.
    _base = NOTHING
    _manager: SessionDataManager | None = None
    #: The state to come back to if the transaction is aborted, or a view
    #: without one fails.
    _joined_with: Snapshot | None = None
    #: The changes of the view that failed, while an exception view runs.
    _set_aside: Snapshot | None = None
    _in_exception_view = False
    #: Whether the session holds a change made in a transaction, or in a view.
    _is_changed_by_view = False
    _exception: BaseException | None = None
    #: Kept for the view, if nobody could answer it at the first look.
    _unavailable: SessionStoreUnavailable | None = None
    _is_registered = False
    #: Whether pyramid_tm may have begun a transaction for the request.
    _may_be_managed = False
    _is_loaded = False
    #: The thread that joins or loads.
    _thread_inside: int | None = None
    _is_saving = False
    _is_answered = False
    _is_over = False
    _plan: Plan | None = None
    _extension: Extension | None = None
    _tentative: Outcome | None = None
    _outcomes: tuple[Outcome, ...] = ()
    #: Of an earlier attempt of pyramid_retry that committed by hand, and of
    #: subrequests.
    _carried: tuple[Outcome, ...] = ()
    #: Which session an earlier attempt had.
    _opened: uuid.UUID | None = None
    _is_concluded = False
    #: A subrequest whose transaction the outer request ends.
    _is_deferred = False
    #: The response may have the cookie of a subrequest already.
    _is_preceded = False
    #: Callbacks that are the last of their kind, so far as is known.
    _was_last: frozenset[str] = frozenset()

    def __init__(self, application: Application, request: Any) -> None:
        self.application = application
        self.request = request
        self.session = SQLASession(self)
        self.connections = Connections(application, request)
        #: Told what becomes of the session.
        self.watcher: Watcher = (
            request.__dict__.get(ATTRIBUTE) or application.watcher
        )
        #: Snapshots at SAVEPOINTs of the application's SQLAlchemy session.
        self.savepoints: dict[Any, Any] = {}

    @property
    def _extends(self) -> bool:
        """Whether the application has a word in the additional fields."""
        return self.application.settings.extend_default_fields is not None

    def _extending(self) -> Extension:
        # Not made for those who only read.
        if self._extension is None:
            self._extension = Extension(
                self.application, self.request, self.session
            )
        return self._extension

    # -- Source: called by the session ---------------------------------------

    def now(self) -> dt.datetime:
        """Return the current time, aware UTC."""
        return self.application.now()

    def look(self) -> None:
        """Make sure that the session's content is there."""
        if self._is_saving:
            return
        if not self._is_registered:
            # Not by it: a call is where another thread can get in between.
            self._is_registered = True
            self._register()
        if not self._is_answered:
            if self.request.__dict__.get('exception') is not self._exception:
                self._notice_exception()
            if not self._is_loaded:
                self._join(to_read=True)
            elif self.session._is_altered():
                self._join()
        if not self._is_loaded:
            self._load_once()

    def _register(self) -> None:
        request = self.request
        given = request.__dict__
        self._may_be_managed = 'tm' in given
        # Pyramid takes it away at the end; above of all views it is not there
        # yet, and a transaction may begin.
        if 'context' not in given:
            self._may_be_managed = True
            self._is_over = is_finished(request)
        self._carried = request.environ.pop(_CARRIED, ())
        self._opened = request.environ.pop(_OPENED, None)
        request.add_response_callback(self._respond)
        request.add_finished_callback(self._finish)

    def _load_once(self) -> None:
        if self._unavailable is not None:
            if not self._is_said_to_be_away:
                if not can_be_answered():
                    return
                raise self._unavailable
            # The view has the error; what looks now is told that there is
            # nothing.
            self._unavailable = None
        if not self._enter():
            return
        started = perf_counter()
        try:
            if self._is_loaded:
                # By another thread.
                return
            self._base, found = load(
                self.application, self.request, self.connections,
                self._manager, in_exception_view=self._in_exception_view,
                carried=self._carried, opened=self._opened,
            )
            self.session._load(self._base)
            self._is_loaded = True
            self.watcher.loaded(found, self._base, perf_counter() - started)
        except SessionStoreUnavailable as error:
            self.watcher.loaded(
                Found.UNAVAILABLE, self._base, perf_counter() - started
            )
            if can_be_answered():
                raise
            # pyramid_tm asks for the user, and a toolbar for everything,
            # above of all exception views: nobody is logged in there, and
            # the view gets the error.
            self._unavailable = error
            dict.clear(self.session)
        finally:
            self._thread_inside = None

    def _enter(self) -> bool:
        """Keep other threads of the view out, until ``_thread_inside`` is
        None again; return False if this one does so already.
        """
        me = get_ident()
        # Not by a lock: each request would make one.
        while self._thread_inside is not None:
            if self._thread_inside == me:
                return False
            sleep(_A_MOMENT)
        # No call is made since the last look: no other thread has been here.
        self._thread_inside = me
        return True

    @property
    def _is_said_to_be_away(self) -> bool:
        error = self.request.__dict__.get('exception')
        return isinstance(error, SessionStoreUnavailable)

    def alter(self, *what: str) -> None:
        """Make sure that a change can be saved; say so if it cannot."""
        self.look()
        self.lend()
        if self._unavailable is not None:
            raise self._unavailable
        if self._is_over and not self._is_in_transaction():
            log.error(
                'the session was changed (%s) outside of a request, or after '
                'the response: this is lost. Change it in the view, or in a '
                'response callback', ', '.join(map(str, what)),
            )

    def lend(self) -> None:
        """Look for changes at the end, inside of what is given out now."""
        if not self._is_answered:
            self._join()
        if self._manager is not None:
            self._is_changed_by_view = True
            self._manager.expect_changes()
        elif not self._is_changed_by_view and (
            'context' in self.request.__dict__
        ):
            self._is_changed_by_view = True
            if self.session._is_altered():
                self._joined_with = self.session._snapshot()

    def _notice_exception(self) -> None:
        """Set the view's changes aside once an exception view runs."""
        error = self.request.__dict__.get('exception')
        if error is None or error is self._exception:
            return
        self._exception = error
        # What a tween above of them has changed is not the view's.
        if self._is_loaded and not self._in_exception_view and (
            self._manager is not None or self._is_changed_by_view
        ):
            if self.session._is_altered():
                self.watcher.set_aside(self.session._pending.touched, error)
            self._set_aside = self.session._snapshot()
            self._start_over()
            # They end with the view's transaction.
            self.savepoints = dict.fromkeys(self.savepoints, RELEASED)
        self._in_exception_view = True

    def _start_over(self) -> None:
        if self._joined_with is not None:
            self.session._restore(self._joined_with)
        else:
            self.session._begin(self._base)

    def _join(self, *, to_read: bool = False) -> None:
        """Take part in the transaction, if there is one.

        :param to_read: only if that is needed to read the session.
        """
        manager = self._manager
        if manager is not None and manager.transaction is not None:
            return
        transaction = active_transaction(self.request)
        if transaction is None or (
            to_read and self.connections.is_first_in(transaction)
        ):
            return
        entered = self._enter()
        try:
            # Or another thread has joined meanwhile.
            if self._manager is manager:
                self._join_with_others(transaction)
        finally:
            if entered:
                self._thread_inside = None

    def _join_with_others(self, transaction: Any) -> None:
        for other in self._waiting_bindings():
            if active_transaction(other.request) is transaction:
                other._take_part(transaction)
        self._take_part(transaction)

    def _waiting_bindings(self) -> list[Binding]:
        """Return those of the requests that wait for this subrequest.

        They may hold a connection of the transaction already.
        """
        if runs_alone():
            return []
        # Requests that share a session have one binding.
        found = {
            id(binding): binding for request in running_requests()
            if (binding := binding_of(request)) is not None
        }
        return [
            binding for binding in found.values()
            if binding is not self and binding._is_loaded
            and binding._manager is None and not binding._is_answered
        ]

    def _take_part(self, transaction: Any) -> None:
        self._manager = self.connections.manager_in(transaction)
        self._manager.add(self)
        # What was done before this transaction survives its abort.
        self._joined_with = None
        if self.session._is_altered():
            self._joined_with = self.session._snapshot()
            self._manager.expect_changes()

    def is_joined_with(self, dbsession: Any) -> bool:
        """Return whether *dbsession* is in the session's transaction."""
        return (
            self._manager is not None
            and self.connections.begun_dbsession is dbsession
        )

    # -- Participant: called by the data manager -----------------------------

    @property
    def ends_token(self) -> bool:
        """Whether other writes of the same session have to come first."""
        return self._plan is not None and self._plan.ends_token

    @property
    def is_atomic(self) -> bool:
        """Whether two statements of the write belong together."""
        return self._plan is not None and self._plan.is_atomic

    def prepare(self) -> bool:
        """Find what has to be written; return whether there is anything."""
        self._plan = None
        if self._is_to_be_repeated():
            return False
        if self._set_aside is not None:
            # The commit veto: both are committed.
            view, self._set_aside = self._set_aside, None
            self.session._add_to(view, self.application.codec.encode)
        self._plan = plan = self._make_plan()
        if plan is not None and plan.writes_record and self._extends:
            self._foresee()
        return plan is not None

    def _foresee(self) -> None:
        self._is_saving = True
        try:
            self._extending().foresee()
        finally:
            self._is_saving = False

    def is_rolled_back(self, transaction: Any) -> bool:
        """Return whether the application's part was rolled back by hand."""
        return self.connections.is_rolled_back(transaction)

    def open_connection(self) -> sa.Connection | None:
        """Return the application's connection if one is open already."""
        dbsession = self.connections.begun_dbsession
        if dbsession is None or not dbsession.in_transaction():
            return None
        return self.connections.joined()

    def open(self) -> None:
        """Open the application's connection, and have it committed."""
        with self.application.translated_errors():
            self.connections.joined()
        self.connections.mark_changed()

    def roll_back(self) -> None:
        """Roll back the application's transaction, which is to be aborted."""
        self.connections.roll_back_quietly()

    def write(self, connection: Executor) -> None:
        """Write the record in the transaction that is being committed."""
        if self._plan is not None:
            self._tentative = self._save(connection, self._plan)

    def committed(self) -> None:
        """Go on from what was written."""
        outcome, self._tentative = self._tentative, None
        self._leave()
        self._in_exception_view = False
        if outcome is not None:
            self._accept(outcome)

    def aborted(self) -> None:
        """Take the session back (see the table at the top)."""
        self._tentative = None
        kept = self._in_exception_view and not is_managed(self.request)
        kept = kept or self._is_begun_by_subrequest()
        joined_with = self._joined_with
        self._leave()
        if kept or not self._is_loaded:
            return
        if self.session._is_altered():
            self.watcher.taken_back(self.session._pending.touched)
        # What remains is not the view's.
        self._is_changed_by_view = False
        if joined_with is not None:
            self.session._restore(joined_with)
        else:
            self._start_over()

    def _is_begun_by_subrequest(self) -> bool:
        subrequest = beginning_subrequest(self.request)
        # Once it has looked at its session, it is in the transaction, and
        # the abort is its own.
        return subrequest is not None and not _has_looked(subrequest)

    def _leave(self) -> None:
        self._manager = None
        self._joined_with = None
        self._set_aside = None
        # With what it has foreseen.
        self._extension = None
        self.savepoints.clear()

    def mark(self) -> tuple[BaseException | None, Snapshot]:
        """Return the state, for :meth:`return_to`."""
        self._notice_exception()
        return self._exception, self.session._snapshot()

    def return_to(
        self, mark: tuple[BaseException | None, Snapshot] | None
    ) -> None:
        """Return to a mark; None is the state at joining.

        An exception view has nothing of one that the view has made.
        """
        self._notice_exception()
        if mark is not None and mark[0] is self._exception:
            self.session._restore(mark[1])
        elif self._is_loaded:
            self._start_over()

    # -- saving --------------------------------------------------------------

    def _make_plan(self) -> Plan | None:
        session = self.session
        if not self._is_loaded or not session._is_unsaved():
            return None
        changes = session._changes(self.application.codec.encode)
        pending = session._pending
        if not changes and pending.wishes is NO_WISHES:
            return None
        plan = Plan(
            session._base, pending.wishes, pending.token, changes,
            filled=dict.__len__(session) > 0,
            has_revoked=self._has_revoked,
        )
        if not plan:
            return None
        session._plan()
        return plan

    @property
    def _has_revoked(self) -> bool:
        store = self.request.__dict__.get('session_store')
        return store is not None and bool(store.has_revoked)

    def _save(self, connection: Executor, plan: Plan) -> Outcome:
        self._is_saving = True
        started = perf_counter()
        try:
            outcome = self.application.saver.save(
                connection, plan, self.now(),
                self._extending().fields,
            )
        except SessionConflict as conflict:
            self.watcher.conflicted(conflict.keys)
            raise
        finally:
            self._is_saving = False
        self.watcher.written(plan, outcome, perf_counter() - started)
        return outcome

    def _accept(self, outcome: Outcome) -> None:
        self._outcomes += (outcome,)
        self.watcher.committed(outcome)
        for session_id, reason in outcome.dropped:
            log.warning(
                'session %s: the changes of a request were dropped (%s): %s',
                session_id, reason, events.DROPS[reason],
            )
        self._base = outcome.base
        self.session._saved(
            outcome.base, merged=(
                outcome.merged or outcome.replaced or bool(outcome.dropped)
            ),
        )

    # -- the response --------------------------------------------------------

    def _respond(self, request: Any, response: Any) -> None:
        """Save what is unsaved, touch, send the cookie."""
        if request.response_callbacks and 'respond' not in self._was_last:
            # Other response callbacks may change the session.
            self._was_last |= {'respond'}
            request.add_response_callback(self._respond)
            return
        if self.request.__dict__.get('exception') is not None:
            if self._is_to_be_repeated():
                self._is_answered = True
                return
            self._notice_exception()
        outer = outer_of(self.request)
        if outer is not None and self._is_in_transaction():
            vary(response)
            self._is_deferred = True
            outer.add_response_callback(
                partial(self._respond_with_outer, inner_response=response)
            )
            return
        self._conclude(response)

    def _respond_with_outer(
        self, outer: Any, response: Any, *, inner_response: Any
    ) -> None:
        if 'outer' not in self._was_last:
            # The outer session is saved first: this one may end its token.
            self._was_last |= {'outer'}
            outer.add_response_callback(
                partial(
                    self._respond_with_outer, inner_response=inner_response
                )
            )
            return
        if not self._shares_cookie(outer):
            self._conclude(inner_response)
            return
        binding = binding_of(outer)
        if binding is not None:
            binding._is_preceded = True
        self._conclude(response)

    def _shares_cookie(self, outer: Any) -> bool:
        # Another browser's session, or a stranger's, must not replace the
        # one of the browser that is answered.
        read = self.application.cookies.read
        token, forged = read(self.request.environ)
        if (token, forged) != read(outer.environ):
            return False
        # Of two new sessions the outer one is the browser's.  (One of an
        # application that this one is mounted in has a cookie of its own.)
        binding = binding_of(outer)
        return token is not None or binding is None or (
            binding._base.record is None
            or binding.application.cookies.key != self.application.cookies.key
        )

    def _conclude(self, response: Any) -> None:
        # Before the save, with which the session leaves it.
        is_given = self._is_given
        self._set_aside = None
        if self.session._is_unsaved():
            self._save_rest(response)
        self._is_answered = True
        self._is_concluded = True
        vary(response)
        if self._outcomes:
            end_surplus(
                self.application, self.connections, self._outcomes,
                is_given=is_given,
            )
        self._touch(is_given=is_given)
        if not runs_alone():
            self._remind_caller()
        self._send_cookie(response)
        if self._outcomes:
            self._send_events()

    def _is_to_be_repeated(self) -> bool:
        error = self.request.__dict__.get('exception')
        return error is not None and is_error_retryable(self.request, error)

    def _is_in_transaction(self) -> bool:
        return self._manager is not None and self._manager.is_open

    def _save_rest(self, response: Any) -> None:
        """Save what no transaction has saved."""
        try:
            self.save_now()
        except Exception as error:
            self._part()
            # An exception view begins with what was loaded.
            self.session._begin(self._base)
            if self._in_exception_view:
                # The visitor gets the error page in any case.
                _log_unsaved(self.application, error)
                return
            final = self._final(error)
            if not self._answer_error(response, final):
                if final is error:
                    raise
                raise final from error

    def _final(self, error: Exception) -> Exception:
        """Return *error*, or one after which the request does not run again:
        with its data committed, it would leave two orders.
        """
        if not self._was_managed or not (
            is_error_retryable(self.request, error)
        ):
            return error
        final = SessionError(
            'the session was changed after the transaction of the request '
            'had ended, and by another request at the same time: this is '
            'lost. Change it in the view: then the request can run again'
        )
        final.__cause__ = error
        return final

    @property
    def _is_given(self) -> bool:
        """Whether the transaction outlives the response (T7)."""
        return (
            self._manager is not None
            and self._manager.is_open
            and (
                self.connections.has_dbsession
                # Whatever else is written waits for its locks.
                or self._manager.open_connection() is not None
            )
            and (
                is_managed(self.request) or outer_of(self.request) is not None
            )
        )

    def _save_given(self, plan: Plan) -> None:
        """Save in the transaction that stays open."""
        outcome = self.connections.perform(
            lambda connection: self._save(
                self.connections.inside(connection), plan
            ),
            writes=True,
        )
        self._part()
        self._accept(outcome)

    def _save_alone(self, plan: Plan) -> None:
        """Save in a transaction of its own."""
        self._part()
        self._accept(
            self.connections.alone(
                lambda connection: self._save(connection, plan)
            )
        )

    def _save_beside(self) -> None:
        """Save in a further transaction of ``request.tm``."""
        self._part()
        with contextlib.suppress(NoTransaction):
            # One whose COMMIT has failed is still there.
            self.request.tm.abort()
        with self.request.tm:
            self._join()
            assert self._manager is not None
            self._manager.expect_changes()

    @property
    def _may_use_dbsession(self) -> bool:
        """Whether ``extend_default_fields`` may use ``request.dbsession``,
        which joins nothing but a transaction.
        """
        return (
            self._extends
            and getattr(self.request, 'tm', None) is not None
            and active_transaction(self.request) is None
        )

    @property
    def _was_managed(self) -> bool:
        """Whether a transaction of the request may have been committed."""
        return self._may_be_managed or is_managed(self.request)

    def _part(self) -> None:
        """Leave a transaction that somebody else ends."""
        if self._manager is not None:
            self._manager.remove(self)
        self._leave()

    def _answer_error(self, response: Any, error: Exception) -> bool:
        """Turn *response* into the answer to the error that was raised."""
        try:
            found = self.request.invoke_exception_view(
                (type(error), error, error.__traceback__)
            )
        except (HTTPNotFound, exc.SQLAlchemyError, SessionError):
            return False
        _log_unsaved(self.application, error)
        replace_content(response, found)
        if self.session._is_unsaved():
            try:
                self.save_now()
            except Exception as later:
                self._part()
                self.session._begin(self._base)
                _log_unsaved(self.application, later)
        return True

    def save_now(self) -> Token | None:
        """Save as at the response, without one; return the token."""
        plan = self._make_plan()
        if plan is not None:
            if self._is_given:
                self._save_given(plan)
            elif self._may_use_dbsession:
                self._save_beside()
            else:
                self._save_alone(plan)
        return self._base.token

    # -- touch, cookie, events -----------------------------------------------

    def _touch(self, *, is_given: bool) -> None:
        """Extend the expiry of a session that was only read."""
        for outcome in self._outcomes:
            if outcome.created or outcome.updated:
                return
        base = self.session._base
        if base.record is None or base.ghost:
            return
        now = self.application.now()
        if not self.application.saver.is_care_due(base, now):
            return
        error = self.request.__dict__.get('exception')
        if error is not None and dialects.is_in_vain(error):
            # The visitor has waited once already.
            return
        started = perf_counter()
        touched = touch(
            self.application, self.connections, base, now, is_given=is_given
        )
        if touched is not None:
            self.watcher.cared(touched, perf_counter() - started)
            self._outcomes += (touched,)
            self._base = self.session._base = touched.base

    def _send_cookie(self, response: Any) -> None:
        outcomes = self._carried + self._outcomes
        if not outcomes:
            self.watcher.decided(False, NO_REASON)
            return
        header, reason = cookie_header(
            self.application.cookies, outcomes, self.request, self.now()
        )
        if header is not None:
            if self._is_deferred or self._is_preceded:
                put_cookie(
                    response, header,
                    yields=not self._counts_most(outcomes),
                )
            else:
                response.headerlist.append(('Set-Cookie', header))
            keep_private(response)
            if not runs_alone():
                self._pass_on(outcomes)
        self.watcher.decided(header is not None, reason)

    def _counts_most(self, outcomes: tuple[Outcome, ...]) -> bool:
        """Return whether no other cookie of the same response may replace
        the one that follows from *outcomes*.
        """
        return any(
            outcome.rotated or outcome.removed is not None
            # Of two new sessions the outer one is the browser's.
            or (outcome.created and not self._is_deferred)
            for outcome in outcomes
        )

    def _pass_on(self, outcomes: tuple[Outcome, ...]) -> None:
        """Have the request that runs this subrequest send the cookie, too:
        of the response most views use the body alone.
        """
        caller = caller_of(self.request)
        if caller is None or not self._shares_cookie(caller):
            return
        binding = _answering_binding_of(caller)
        if binding is None or binding is self or (
            binding.application is not self.application
        ):
            return
        binding._carried += outcomes
        binding._is_preceded = True

    def _remind_caller(self) -> None:
        """Have the request that runs this subrequest send the cookie that an
        earlier attempt has left it, though its view may never look.
        """
        caller = caller_of(self.request)
        if caller is not None and _CARRIED in caller.environ:
            _answering_binding_of(caller)

    def _send_events(self) -> None:
        outcomes, self._outcomes = self._outcomes, ()
        send_events(self.application, self.request, outcomes)

    # -- the end -------------------------------------------------------------

    def _finish(self, request: Any) -> None:
        """Note that every change is too late from now on."""
        if request.finished_callbacks and 'finish' not in self._was_last:
            # Changes of other finished callbacks are noticed too.
            self._was_last |= {'finish'}
            request.add_finished_callback(self._finish)
            return
        self._is_over = True
        if self.session._is_unsaved():
            self._complain_of_changes()
        if not self._is_concluded and (self._carried or self._outcomes):
            # The next attempt goes on from what is committed, and sends its
            # cookie.
            self.request.environ[_CARRIED] = self._carried + self._outcomes
        base = self._base
        if not self._is_concluded and base.token is not None and (
            base.record is not None or base.ghost not in (None, 'unavailable')
        ):
            # If it has ended by then, the next attempt begins no other one.
            self.request.environ[_OPENED] = base.token.id
        if self._manager is not None and outer_of(self.request) is None:
            self._part()
        if self._outcomes:
            self._send_events()

    def _complain_of_changes(self) -> None:
        if not self._is_answered and not is_being_finished(self.request):
            return
        if self._is_deferred or self._is_to_be_repeated():
            return
        try:
            plan = self._make_plan()
        except SessionError as error:
            log.error(
                'the session was changed after the response: this is lost '
                '(%s)', error,
            )
            return
        if plan and not plan.base.ghost:
            log.error(
                'the session was changed (%s) after the response: this is '
                'lost. Change it in the view, or in a response callback',
                ', '.join(plan.changes.keys) or 'no key',
            )


def binding_of(request: Any) -> Binding | None:
    """Return the binding of *request* if its session was made."""
    session = request.__dict__.get('session')
    if isinstance(session, SQLASession):
        source = session._source
        if isinstance(source, Binding):
            return source
    return None


def _answering_binding_of(request: Any) -> Binding | None:
    """Return the binding of *request*, which is going to send a cookie,
    whether its view looks or not.
    """
    if not isinstance(request.session, SQLASession):
        return None
    binding = binding_of(request)
    if binding is not None and not binding._is_registered:
        binding._is_registered = True
        binding._register()
    return binding


def _log_unsaved(application: Application, error: Exception) -> None:
    # A database that is away was warned of; each request meets it.
    is_away = isinstance(error, SessionStoreUnavailable)
    log.log(
        logging.ERROR if not is_away or application.losses.is_due()
        else logging.DEBUG,
        'the session could not be saved%s',
        ': the database does not answer' if is_away else '',
        exc_info=None if is_away else error,
    )


def _has_looked(request: Any) -> bool:
    binding = binding_of(request)
    return binding is not None and binding._is_loaded
