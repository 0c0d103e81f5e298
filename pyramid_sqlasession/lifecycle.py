"""One request's session, from the first look to the commit.

The way of a request::

    first look    the cookie's token; one SELECT
    in the view   plain dict operations, no SQL; the first change joins the
                  transaction
    exception     an exception view begins with what was loaded: the
                  changes of the view that failed are set aside
    commit        one guarded write, last (datamanager.py says when)
    response      what is still unsaved, the touch, the cookie (answering.py)
    end           too late for a change: an error in the log

What becomes of the session's changes is decided by one table:

=============================  ==========================  ================
what happened                  the view's changes          an exception
                                                           view's changes
=============================  ==========================  ================
commit                         stored in the transaction   (there are none)
commit though a view failed    stored in the transaction   stored with them
(commit veto)
commit, and an error after     stored in the transaction   stored in a
COMMIT (a mail server's)                                   transaction of
                                                           their own
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

What the requests of a new visitor put in who run within each other begins one
session (beginning.py).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import datetime as dt
from functools import partial
import logging
from threading import get_ident
from time import perf_counter
from time import sleep
from types import MappingProxyType
from typing import Any

from pyramid_sqlasession import attempts
from pyramid_sqlasession import beginning
from pyramid_sqlasession import events
from pyramid_sqlasession.application import Application
from pyramid_sqlasession.base import Base
from pyramid_sqlasession.base import NOTHING
from pyramid_sqlasession.beginning import Beginning
from pyramid_sqlasession.connections import Connections
from pyramid_sqlasession.cookie import new_token
from pyramid_sqlasession.datamanager import SessionDataManager
from pyramid_sqlasession.errors import name_of
from pyramid_sqlasession.errors import SessionStoreUnavailable
from pyramid_sqlasession.expiry import Lifetime
from pyramid_sqlasession.extension import refusal_of
from pyramid_sqlasession.loading import is_said_to_be_away
from pyramid_sqlasession.loading import load
from pyramid_sqlasession.loading import suspect
from pyramid_sqlasession.participation import Participation
from pyramid_sqlasession.plan import Outcome
from pyramid_sqlasession.plan import Plan
from pyramid_sqlasession.records import Executor
from pyramid_sqlasession.records import Record
from pyramid_sqlasession.session import source_of
from pyramid_sqlasession.session import SQLASession
from pyramid_sqlasession.state import Snapshot
from pyramid_sqlasession.state import State
from pyramid_sqlasession.submission import Submission
from pyramid_sqlasession.surroundings import beginning_subrequest
from pyramid_sqlasession.surroundings import can_be_answered
from pyramid_sqlasession.surroundings import has_ending_subrequest
from pyramid_sqlasession.surroundings import is_finished
from pyramid_sqlasession.surroundings import running_requests
from pyramid_sqlasession.surroundings import runs_alone
from pyramid_sqlasession.transaction import active_transaction
from pyramid_sqlasession.transaction import is_managed
from pyramid_sqlasession.watching import ATTRIBUTE
from pyramid_sqlasession.watching import Found
from pyramid_sqlasession.watching import Watcher

log = logging.getLogger(__name__)

# Each request asks, and to look into an enum takes Python 3.11 ten times as
# long.
_FORGED, _WRONG_SECRET = Found.FORGED, Found.WRONG_SECRET

# Seconds: how long a thread of a view waits before it asks again whether
# another one has joined the transaction, or loaded the session.
_A_MOMENT = 0.001


class _Nowhere:
    """Stands for a request that is over, and that nobody holds."""

    environ: Mapping[str, Any] = MappingProxyType({})


_NOWHERE = _Nowhere()


class Binding:
    """Ties one request to its session; a ``Source`` and a ``Holder``.

    :param answering: called with the binding once somebody looks: what
        answers for the session from the response on.
    """

    # Nearly all are set for each request, though most meet few of them: Python
    # 3.11 finds what is on the class at three times the cost.  First what was
    # loaded.

    #: Whether somebody has looked.
    is_loaded: bool
    #: What the cookie led to; None as long as nobody has looked.
    found: Found | None
    #: What was loaded, or saved last; invalidate() leaves it, and empties
    #: ``state.base``.
    base: Base
    #: Whether the session was looked for after the request had ended some,
    #: this one perhaps, which an abort takes back.
    is_doubtful: bool
    #: The error of the first look, kept for the view if nobody could answer
    #: it there.
    _unavailable: SessionStoreUnavailable | None
    #: The thread that joins or loads.
    _thread_inside: int | None

    # What is committed.

    #: What was committed, and nobody was told of yet.
    outcomes: tuple[Outcome, ...]
    #: The same of an earlier attempt of pyramid_retry that committed by hand,
    #: and of subrequests.
    carried: tuple[Outcome, ...]
    #: How many of ``carried`` an earlier attempt has left; they come first.
    inherited: int
    #: What an earlier attempt went on from.
    _opened: Base | None
    #: Not made for those who only read.
    _submission: Submission | None

    # The transaction, and what comes after a view that has failed.

    #: In the transaction that the session takes part in.
    participation: Participation | None
    #: Whether the session holds a change made in a transaction, or in a view.
    _is_changed_by_view: bool
    #: The state to come back to if a view without a transaction fails.
    _before: Snapshot | None
    #: What the view has raised, while an exception view runs.
    exception: BaseException | None
    #: Whether somebody, pyramid_tm say, was to end the transaction of the view
    #: when it raised that.
    _was_managed = False
    #: Whether the view has failed: what looks now is an exception view, or a
    #: tween above of it.
    in_exception_view: bool

    # Where the request stands.

    #: Whether pyramid_tm may have begun a transaction for the request.
    may_be_managed: bool
    #: Whether another request's view runs this one.
    is_subrequest = False
    #: The request that ends the transaction of this one, a subrequest, and is
    #: answered together with it.
    outer: Any
    #: The response may have the cookie of a subrequest already.
    is_preceded: bool
    #: Whether somebody answers for the session, and for its end.
    _is_attended: bool
    #: Whether it was saved for the response: it joins no transaction any more.
    is_answered: bool
    #: Whether the request has ended: a change is an error in the log.
    is_over: bool

    def __init__(
        self, application: Application, request: Any,
        answering: Callable[[Binding], object],
    ) -> None:
        self.application = application
        self.request = request
        self._answering = answering
        self.base = NOTHING
        self.is_loaded = self.is_doubtful = self._is_attended = False
        self.is_answered = self.is_over = self.may_be_managed = False
        self.in_exception_view = self._is_changed_by_view = False
        self.is_preceded = False
        self.outcomes = self.carried = ()
        self.inherited = 0
        self.found = self.exception = self._unavailable = self._before = None
        self._submission = self.participation = self._opened = None
        self._thread_inside = self.outer = None
        self.state = State(application.codec)
        #: The SQLASession; None once it was let go.
        self.session: Any = SQLASession(self, self.state)
        self.connections = Connections(application, request)
        #: Told what becomes of the session.
        self.watcher: Watcher = (
            request.__dict__.get(ATTRIBUTE) or application.watcher
        )

    @property
    def extends(self) -> bool:
        """Whether the application has a word in the additional fields."""
        return self.application.settings.extend_default_fields is not None

    @property
    def submission(self) -> Submission:
        """What the request hands in to be saved."""
        if self._submission is None:
            self._submission = Submission(
                self.application, self.request, self.state, self.connections,
                self.watcher,
            )
        return self._submission

    # -- Source: called by the session ---------------------------------------

    def now(self) -> dt.datetime:
        """Return the current time, aware UTC."""
        return self.application.now()

    def expiry(self, lifetime: Lifetime) -> dt.datetime:
        """Return when the session expires with this lifetime (aware UTC)."""
        now = self.now()
        record, started = self.state.base.record, now
        if record is not None and not self.state.pending.wishes.login:
            started = record.started
        return self.application.expiry.end(now, started, lifetime)

    def look(self, *, to_change: bool = False) -> None:
        """Make sure that the session's content is there.

        :param to_change: it is going to be changed.
        """
        if self._submission is not None and self._submission.is_under_way:
            return
        if not self._is_attended:
            # Not by attend(): a call is where another thread gets in between.
            self._is_attended = True
            self._attend()
        if not self.is_answered:
            if self.request.__dict__.get('exception') is not self.exception:
                self.notice_exception()
            if not self.is_loaded:
                # A change takes part in any case: at once, if nothing is read
                # before it.
                self.join(to_read=not to_change or self._may_have_record)
            elif self.state.is_altered:
                self.join()
        if not self.is_loaded:
            self._load_once()

    def attend(self) -> None:
        """Have the session answered for, whether anybody looks or not."""
        if not self._is_attended:
            self._is_attended = True
            self._attend()

    def _attend(self) -> None:
        request = self.request
        given = request.__dict__
        self.may_be_managed = 'tm' in given
        # Pyramid takes it away at the end; above of all views it is not there
        # yet, and a transaction may begin.
        if 'context' not in given:
            self.may_be_managed = True
            self.is_over = is_finished(request)
        # Asked here, as most requests are first attempts.
        if attempts.HANDED_ON in request.environ:
            earlier = attempts.earlier(request, self.application)
            if earlier is not None:
                self.carried, self._opened = earlier.carried, earlier.opened
                self.inherited = len(earlier.carried)
        self._answering(self)

    @property
    def _may_have_record(self) -> bool:
        """Whether the request has come with a cookie, or has begun a session.
        """
        return 'HTTP_COOKIE' in self.request.environ or bool(
            self.carried or self.outcomes
        )

    def _load_once(self) -> None:
        if self._unavailable is not None and self._waits_for_view():
            return
        if self.participation is not None and self._may_have_record:
            self.connections.make_dbsession()
        if not self._enter():
            # Somebody who is called on the way looks: a filter of the log.
            dict.clear(self.state.data)
            return
        started = perf_counter()
        # The binding may let go of it meanwhile.
        request = self.request
        try:
            if self.is_loaded:
                # By another thread.
                return
            self.base, self.found = load(
                self.application, request, self.connections,
                None if self.participation is None
                else self._to_read_in(self.participation.manager),
                in_exception_view=self.in_exception_view,
                carried=self.carried + self.outcomes, opened=self._opened,
            )
            self.state.load(self.base)
            self.is_loaded = True
            if self.base is NOTHING:
                self._begin_with_others()
                self.is_doubtful = self._has_revoked
            self.watcher.loaded(
                self.found, self.base, perf_counter() - started
            )
        except SessionStoreUnavailable as error:
            if not self._keep_for_view(error, perf_counter() - started):
                raise
        finally:
            self._thread_inside = None
        # Asked without a record only, as most reads find one.
        if self.base.record is None and (
            self.found is _FORGED or self.found is _WRONG_SECRET
        ):
            suspect(self.application, request, self.found)

    def _keep_for_view(
        self, error: SessionStoreUnavailable, seconds: float
    ) -> bool:
        """Note that nothing was loaded; return whether *error* is kept for
        the view, as it cannot be answered here.
        """
        self.found = Found.UNAVAILABLE
        self.watcher.loaded(self.found, self.base, seconds)
        if can_be_answered(self.request):
            return False
        # pyramid_tm asks for the user, and a toolbar for everything, above of
        # all exception views: nobody is logged in there.
        self._unavailable = error
        dict.clear(self.state.data)
        return True

    def _waits_for_view(self) -> bool:
        """Return whether the error that is kept for the view waits for it:
        what looks now, above of it, finds nothing.

        :raises SessionStoreUnavailable: that error, once it can be answered.
        """
        assert self._unavailable is not None
        if is_said_to_be_away(self.request):
            # The view has had it; what looks now is told that there is
            # nothing.
            self._unavailable = None
            return False
        if can_be_answered(self.request):
            raise self._unavailable
        return True

    def _to_read_in(
        self, manager: SessionDataManager
    ) -> SessionDataManager | None:
        """Return *manager*, or None to read beside its transaction."""
        if (
            manager.is_open and self.in_exception_view and self._has_revoked
            and self.connections.is_to_be_aborted(manager.transaction)
        ):
            # The sessions that the view has ended live again once it is.
            return None
        return manager

    def _begin_with_others(self) -> None:
        """Have what this request puts in begin the same session as what the
        requests around it do (T9).
        """
        found = beginning.common_of(self.request)
        if found is None and not runs_alone():
            found = beginning.meet(
                self.request, self.application.cookies,
                partial(_begun_by, self.application),
            )
        self.state.beginning = found

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

    def alter(self, *what: str) -> None:
        """Make sure that a change can be saved; say so if it cannot.

        :raises SessionError: for a change by ``extend_default_fields``.
        """
        self.look(to_change=True)
        if self._submission is not None and self._submission.is_asking:
            raise refusal_of(what)
        self.lend()
        if self._unavailable is not None:
            raise self._unavailable
        if self.is_over and not self.is_in_transaction:
            log.error(
                'the session was changed (%s) outside of a request, or after '
                'the response: this is lost. Change it in the view, or in a '
                'response callback', ', '.join(map(name_of, what)),
            )

    def lend(self) -> None:
        """Look for changes at the end, inside of what is given out now."""
        if self._submission is not None and self._submission.is_asking:
            # What extend_default_fields is given is a copy.
            return
        if not self.is_answered:
            self.join()
        if self.participation is not None:
            self._is_changed_by_view = True
            self.participation.manager.expect_changes()
        elif not self._is_changed_by_view and (
            'context' in self.request.__dict__
        ):
            self._is_changed_by_view = True
            if self.state.is_altered:
                self._before = self.state.snapshot()

    def notice_exception(self) -> None:
        """Set the view's changes aside once an exception view runs."""
        error = self.request.__dict__.get('exception')
        if error is None or error is self.exception:
            return
        self.exception = error
        self._was_managed = is_managed(self.request)
        part = self.participation
        # What a tween above of them has changed is not the view's.
        if self.is_loaded and not self.in_exception_view and (
            part is not None or self._is_changed_by_view
        ):
            if self.state.is_altered:
                self.watcher.set_aside(self.state.pending.touched, error)
            # Of what was in no transaction there is no commit, by a veto.
            if part is not None:
                part.set_aside()
            self.start_over()
            self._look_again_if_doubtful()
        self.in_exception_view = True

    def start_over(self) -> None:
        """Take back what was done since the session took part, or since the
        view began.
        """
        part = self.participation
        before = self._before if part is None else part.before
        if before is not None:
            self.state.restore(before)
        elif self.is_loaded:
            self.state.begin(self.base)

    def _look_again_if_doubtful(self) -> None:
        if self.is_doubtful:
            self.is_loaded = self.is_doubtful = False

    def join(self, *, to_read: bool = False) -> None:
        """Take part in the transaction, if there is one.

        :param to_read: only if that is needed to read the session.
        """
        part = self.participation
        if part is not None and part.is_open:
            return
        transaction = active_transaction(self.request)
        if transaction is None or (
            to_read and self.connections.is_first_in(transaction)
        ):
            return
        entered = self._enter()
        try:
            # Or another thread has joined meanwhile.
            if self.participation is part:
                self._join_with_others(transaction)
        finally:
            if entered:
                self._thread_inside = None

    def _join_with_others(self, transaction: Any) -> None:
        alone = runs_alone()
        if not alone:
            for other in self._waiting_bindings():
                if active_transaction(other.request) is transaction:
                    # What a view has left that failed stays out of it.
                    other.notice_exception()
                    other._take_part(transaction, alone=False)
        self._take_part(transaction, alone=alone)

    def _waiting_bindings(self) -> list[Binding]:
        """Return those of the requests that wait for this subrequest.

        They may hold a connection of the transaction already.
        """
        # Requests that share a session have one binding.
        found = {
            id(binding): binding for request in running_requests()
            if (binding := binding_of(request)) is not None
        }
        return [
            binding for binding in found.values()
            if binding is not self and binding.is_loaded
            and binding.participation is None and not binding.is_answered
        ]

    def _take_part(self, transaction: Any, *, alone: bool) -> None:
        manager = self.connections.manager_in(transaction)
        self.participation = part = Participation(
            self, manager, (self._before, self._is_changed_by_view)
        )
        manager.add(part, alone=alone)
        self._before = None
        if self.state.is_altered:
            # What was done before this transaction survives its abort.
            part.before = self.state.snapshot()
            manager.expect_changes()

    def join_unseen(self, rotated: tuple[Outcome, ...]) -> None:
        """Take part in the transaction of a subrequest that rotates, before
        anybody has looked.

        :param rotated: what it has committed already.
        """
        if not self.is_loaded:
            self.carried += rotated
            self.join()

    # -- Holder: called by the participation ---------------------------------

    @property
    def is_gone(self) -> bool:
        """Whether nobody holds the session any more."""
        return self.session is None

    @property
    def outlives_abort(self) -> bool:
        """Whether what is done to the session is none of what an abort ends.
        """
        # By pyramid_tm, that is, above of the exception view.
        return (
            self._was_managed and not is_managed(self.request)
        ) or self._is_begun_by_subrequest()

    def _is_begun_by_subrequest(self) -> bool:
        subrequest = beginning_subrequest(self.request)
        # Once it has looked at its session, it is in the transaction, and
        # the abort is its own.
        return subrequest is not None and not _has_looked(subrequest)

    def part_ended(self) -> None:
        """Called once the part has ended."""
        self.participation = self._before = None
        if self._submission is not None:
            self._submission.forget_foreseen()

    def come_back(self, part: Participation) -> None:
        """Take back what was done in *part*, which was aborted."""
        if not self.is_loaded:
            return
        if self.state.is_altered:
            self.watcher.taken_back(self.state.pending.touched)
        # What remains is not the view's, unless it was changed before.
        self._before, self._is_changed_by_view = part.outside
        if part.before is not None:
            self.state.restore(part.before)
            return
        self.state.begin(self.base)
        self._look_again_if_doubtful()
        submission = self._submission
        if submission is not None and submission.is_outdated:
            # A loop in the view (``request.tm.attempts()``) would meet the
            # same conflict again and again.
            self.is_loaded = submission.is_outdated = False
            self._opened = self.base

    def reunite(self, view: Snapshot) -> None:
        """Put what was done since on top of what a view did that failed."""
        self.is_loaded = True
        self.state.add_to(view)

    def has_opened(self, found: Record) -> bool:
        """Return whether *found* is the record of the session, whose token is
        good there: nobody but those who take part has logged in since.
        """
        token = self.state.base.token
        common = beginning.common_of(self.request)
        if common is not None and self.base is NOTHING and (
            common.token.id == found.id and not self.state.pending.is_apart
        ):
            return not has_ending_subrequest(self.request)
        if not self.is_loaded:
            token, _ = self.application.cookies.read(self.request.environ)
        elif self.state.base.record is None:
            return False
        return token is not None and token.id == found.id and (
            found.standing(token, None).is_good
        )

    def follow(self, writer: Binding) -> None:
        """Go on from what *writer* has made of the same session: a rotation
        in the same transaction is no login of somebody else.
        """
        common = beginning.common_of(self.request)
        if common is not None and common.has_ended and self.base is NOTHING:
            # Yet another one has ended it.
            return
        if not self.is_loaded:
            # To be looked at with the token that is good now.
            self.carried += writer.outcomes[-1:]
            return
        self.base = base = writer.base.with_newest(self.base.token)
        self.state.go_on(base)

    # -- saving --------------------------------------------------------------

    def make_plan(self) -> Plan | None:
        """Return what has to be saved, None if there is nothing.

        :raises SessionError: for a value that cannot be stored.
        """
        if not self.is_loaded:
            return None
        return self.state.plan(has_revoked=self._has_revoked)

    @property
    def _has_revoked(self) -> bool:
        store = self.request.__dict__.get('session_store')
        return store is not None and bool(store.has_revoked)

    def save(self, connection: Executor, plan: Plan) -> Outcome:
        """Write *plan*; what became of it counts once it is committed.

        :raises SessionError: for what cannot be stored.
        :raises sqlalchemy.exc.DBAPIError: of the database.
        """
        part = self.participation
        return self.submission.save(
            connection, plan, None if part is None else part.manager
        )

    def accept(self, outcome: Outcome) -> None:
        """Go on from *outcome*, which is committed."""
        self.outcomes += (outcome,)
        self.watcher.committed(outcome)
        for session_id, reason in outcome.dropped:
            log.warning(
                'session %s: the changes of a request were dropped (%s): %s',
                session_id, reason, events.DROPS[reason],
            )
        self.base = outcome.base
        common = beginning.common_of(self.request)
        if common is not None:
            common.accept(outcome)
            if common.is_ended_by(outcome):
                # What it puts in now is a session of its own.
                self.state.beginning = None
        self.state.saved(outcome.base, merged=(
            outcome.merged or outcome.shared or outcome.replaced
            or bool(outcome.dropped)
        ))

    # -- for whoever answers -------------------------------------------------

    @property
    def is_in_transaction(self) -> bool:
        """Whether the session takes part in a transaction now."""
        return self.participation is not None and self.participation.is_open

    def has_ended(self, base: Base) -> bool:
        """Return whether the request has ended the session of *base*, with
        which it came.
        """
        own, other = self.base.record, base.record
        return self.found is Found.CURRENT and not self.base.ghost and (
            own is None or other is None or own.id != other.id
        )

    def leave(self) -> None:
        """Leave a transaction that somebody else ends."""
        part = self.participation
        if part is not None:
            part.manager.remove(part)
        self.part_ended()

    def take_back(self, error: BaseException) -> None:
        """Drop what was done, as an abort would.

        :param error: of the view that has run this subrequest.
        """
        if self.state.is_altered:
            self.watcher.set_aside(self.state.pending.touched, error)
            self.start_over()

    def give_up(self) -> None:
        """Drop what could not be saved: an exception view begins with what
        was loaded.
        """
        self.leave()
        self.state.begin(self.base)

    def drop_unsaved(self) -> None:
        """Drop what a view that failed has left in a transaction that goes
        on.
        """
        if self.state.is_unsaved:
            self.give_up()

    def go_on_from(self, touched: Outcome) -> None:
        """Go on from a touch, which is committed and changed no data."""
        self.outcomes += (touched,)
        self.base = self.state.base = touched.base

    def let_go(self) -> None:
        """Hold neither the request nor its session any more, if nothing can
        be done with it but to read what was loaded.

        Each holds the other: all that hangs on the request, its body and the
        application's SQLAlchemy session, would wait for the garbage
        collector.
        """
        if (
            self.is_answered and self.is_loaded
            and self.participation is None and self.session is not None
        ):
            self.request = _NOWHERE
            # Not the same one with another request: it may serve the others
            # in a transaction that goes on.
            self.connections = Connections(self.application, _NOWHERE)
            self.session = self._submission = None

    def leave_to_next_attempt(self, request: Any) -> None:
        """Leave what *request* has to know if it runs again."""
        base = self.base
        # It goes on from what is committed, and sends its cookie; if the
        # session has ended by then, it begins no other one.
        has_opened = base.token is not None and (
            base.record is not None or base.ghost not in (None, 'unavailable')
        )
        attempts.leave(request, self.application, attempts.Attempt(
            self.carried + self.outcomes, base if has_opened else None
        ))


def binding_of(request: Any) -> Binding | None:
    """Return the binding of *request* if its session was made."""
    session = request.__dict__.get('session')
    if isinstance(session, SQLASession):
        source = source_of(session)
        if isinstance(source, Binding):
            return source
    return None


def _has_looked(request: Any) -> bool:
    binding = binding_of(request)
    return binding is not None and binding.is_loaded


def _begun_by(application: Application, outer: Any) -> Beginning:
    """Return what *outer* begins, the outermost of several requests."""
    binding, base = binding_of(outer), NOTHING
    begun = None if binding is None else beginning.begun_in(
        binding.carried[binding.inherited:], application.saver.is_of_user
    )
    if begun is not None:
        return begun
    if binding is not None and binding.is_loaded:
        base, state = binding.base, binding.state
        if base is NOTHING and state.beginning is None:
            state.beginning = Beginning(state.pending.token or new_token())
            return state.beginning
    else:
        earlier = attempts.earlier(outer, application)
        if earlier is not None and earlier.carried:
            base = earlier.carried[-1].base
    token, _ = application.cookies.read(outer.environ)
    # Only one that did not come with the cookie.
    if base.record is not None and base.token is not None and (
        token is None or token.id != base.record.id
    ):
        return Beginning(base.token, base)
    return Beginning(new_token())
