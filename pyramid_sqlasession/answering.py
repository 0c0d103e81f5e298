"""What a session adds to the response, and after it.

What is still unsaved is saved, the expiry is extended, the cookie goes with
the response, with those of the requests around it, too; then come the
events, and an error in the log for a change that is too late.  A cookie is
sent only for what was really committed.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from functools import partial
import logging
from time import perf_counter
from types import MappingProxyType
from typing import Any

from pyramid.httpexceptions import HTTPNotFound
from pyramid.response import Response
from sqlalchemy import exc

from pyramid_sqlasession import faults
from pyramid_sqlasession.aftercare import end_surplus
from pyramid_sqlasession.aftercare import send_events
from pyramid_sqlasession.aftercare import touch
from pyramid_sqlasession.application import Application
from pyramid_sqlasession.attempts import is_to_be_repeated
from pyramid_sqlasession.delivery import answering_binding_of
from pyramid_sqlasession.delivery import has_cookie_of
from pyramid_sqlasession.delivery import pass_on
from pyramid_sqlasession.delivery import remind_callers
from pyramid_sqlasession.delivery import send_cookie
from pyramid_sqlasession.delivery import shares_cookie
from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.errors import SessionStoreUnavailable
from pyramid_sqlasession.latesaving import abort_what_is_left
from pyramid_sqlasession.latesaving import final
from pyramid_sqlasession.latesaving import is_given
from pyramid_sqlasession.latesaving import save_now
from pyramid_sqlasession.lifecycle import Binding
from pyramid_sqlasession.lifecycle import binding_of
from pyramid_sqlasession.plan import Outcome
from pyramid_sqlasession.response import NO_REASON
from pyramid_sqlasession.response import replace_content
from pyramid_sqlasession.response import vary
from pyramid_sqlasession.surroundings import caller_of
from pyramid_sqlasession.surroundings import is_being_finished
from pyramid_sqlasession.surroundings import outer_of
from pyramid_sqlasession.surroundings import response_of
from pyramid_sqlasession.surroundings import runs_alone
from pyramid_sqlasession.transaction import active_transaction
from pyramid_sqlasession.transaction import runs_again
from pyramid_sqlasession.watching import listed

log = logging.getLogger(__name__)

# Of callbacks that add others; two that want to be the last would take turns
# for ever.
_MOST_TURNS = 100


class Answer:
    """The part of one request's session in its response."""

    # On the class, as most requests do not meet them.

    #: What the view of the outer request had raised by then: an exception view
    #: ran the subrequest.
    _outer_error: BaseException | None = None
    #: How often its callbacks, by their kind, have made way for others.
    _made_way: Mapping[str, int] = MappingProxyType({})

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._is_concluded = False
        request = binding.request
        request.add_response_callback(self._respond)
        request.add_finished_callback(self._finish)
        if not request.environ.get('tm.active'):
            # Above of all views, or after them: a subscriber to NewResponse,
            # say, looks when nobody calls back any more.
            response = response_of(request)
            if response is not None:
                vary(response)
        # Whom no request waits for then, none waits for at the end.
        self._is_alone = runs_alone()
        if not self._is_alone:
            self._have_callers_vary()

    def _have_callers_vary(self) -> None:
        """Have the responses vary that are made of what this subrequest reads,
        or of the error that it ends with (R5).
        """
        caller = caller_of(self._binding.request)
        self._binding.is_subrequest = caller is not None
        while caller is not None:
            if has_cookie_of(self._binding, caller):
                caller.add_response_callback(
                    lambda request, response: vary(response)
                )
            caller = caller_of(caller)

    def _makes_way(self, kind: str, callbacks: Iterable[Any]) -> bool:
        """Return whether *callbacks*, which are still to be called, come
        first.

        The first time all of them do.  Later on those that one of them has
        added: what is no session's, or of a session to be saved before.
        """
        turns = self._made_way.get(kind, 0)
        if turns == _MOST_TURNS or (
            turns and not any(map(self._comes_first, callbacks))
        ):
            return False
        self._made_way = {**self._made_way, kind: turns + 1}
        return True

    def _comes_first(self, callback: Any) -> bool:
        other = _answer_of(callback)
        return other is None or other._place < self._place

    @property
    def _place(self) -> tuple[bool, int, int]:
        """The place among those that share a transaction which stays open: as
        at a commit, with touches after it.
        """
        binding = self._binding
        part = binding.participation
        if part is None:
            return False, 0, 0
        return (
            not binding.state.is_unsaved,
            binding.state.place,
            part.manager.place_of(part),
        )

    # -- the response --------------------------------------------------------

    def _respond(self, request: Any, response: Any) -> None:
        """Save what is unsaved, touch, send the cookie."""
        if request.response_callbacks and self._makes_way(
            'respond', request.response_callbacks
        ):
            # Other response callbacks may change the session.
            request.add_response_callback(self._respond)
            return
        binding = self._binding
        if binding.request.__dict__.get('exception') is not None:
            if is_to_be_repeated(binding.request):
                binding.is_answered = True
                return
            binding.notice_exception()
        if binding.is_in_transaction:
            outer = outer_of(binding.request)
            if outer is not None:
                vary(response)
                self._have_callers_follow()
                self._answer_with(outer, response)
                return
        self._conclude(response)

    def _answer_with(self, outer: Any, response: Any | None) -> None:
        """Leave the answer to *outer*, which ends the transaction.

        :param response: None of a request that has failed.
        """
        self._binding.outer = outer
        self._outer_error = outer.__dict__.get('exception')
        outer.add_response_callback(
            partial(self._respond_with_outer, inner_response=response)
        )
        outer.add_finished_callback(self._finish_with_outer)

    def _have_callers_follow(self) -> None:
        """Have the requests that share the transaction hear of a new token,
        if nobody looks at their sessions before theirs is dead, too.
        """
        binding = self._binding
        rotated = tuple(
            outcome for outcome in binding.outcomes if outcome.rotated
        )
        if not rotated and not binding.state.rotates:
            return
        caller = binding.request
        transaction = active_transaction(caller)
        while (caller := caller_of(caller)) is not None:
            if active_transaction(caller) is transaction and (
                shares_cookie(binding, caller)
            ):
                found = answering_binding_of(caller, binding.application)
                if found is not None:
                    found.join_unseen(rotated)

    def _respond_with_outer(
        self, outer: Any, response: Any, *, inner_response: Any
    ) -> None:
        if is_to_be_repeated(outer):
            # Nobody gets this response.
            return
        if self._makes_way('outer', outer.response_callbacks):
            outer.add_response_callback(
                partial(
                    self._respond_with_outer, inner_response=inner_response
                )
            )
            return
        inner = self._binding
        error = outer.__dict__.get('exception')
        if error is not None:
            abort_what_is_left(inner.application, outer, binding_of(outer))
            if error is not self._outer_error and (
                inner.is_in_transaction or inner.state.is_unsaved
            ):
                # Of a test's transaction, which nobody aborts (T7), or of one
                # that a subrequest of the exception view has replaced.
                inner.take_back(error)
        if inner_response is None:
            inner.drop_unsaved()
            inner_response = Response()
        if not shares_cookie(inner, outer):
            self._conclude(inner_response)
            return
        around = binding_of(outer)
        if around is not None:
            around.is_preceded = True
        self._conclude(response)

    def _conclude(self, response: Any) -> None:
        binding = self._binding
        if binding.in_exception_view:
            abort_what_is_left(binding.application, binding.request, binding)
            if binding.participation is not None:
                binding.participation.forget_view()
        # Before the save, with which the session leaves it.
        given = binding.participation is not None and is_given(binding)
        if binding.state.is_unsaved:
            self._save_rest(response)
        binding.is_answered = True
        self._is_concluded = True
        vary(response)
        # Subrequests have held the limit themselves.
        committed = binding.carried[:binding.inherited] + binding.outcomes
        if committed:
            end_surplus(
                binding.application, binding.connections, committed,
                is_given=given,
            )
        self._touch(is_given=given)
        if binding.outer is not None or not self._is_alone:
            remind_callers(binding)
        if binding.carried or binding.outcomes:
            send_cookie(binding, response)
        else:
            binding.watcher.decided(False, NO_REASON)
        if binding.outcomes:
            self._send_events()

    def _save_rest(self, response: Any) -> None:
        """Save what no transaction has saved."""
        binding = self._binding
        if binding.in_exception_view:
            self._save_last_word()
            return
        try:
            save_now(binding)
        except Exception as error:
            binding.give_up()
            said = final(binding, error)
            # The page of one that runs again would be sent to nobody, while
            # its words were stored.
            if runs_again(binding.request, said) or (
                not self._answer_error(response, said)
            ):
                if said is error:
                    raise
                raise said from error

    def _answer_error(self, response: Any, error: Exception) -> bool:
        """Turn *response* into the answer to the error that was raised."""
        binding = self._binding
        try:
            found = binding.request.invoke_exception_view(
                (type(error), error, error.__traceback__)
            )
        except (HTTPNotFound, exc.SQLAlchemyError, SessionError):
            return False
        _log_unsaved(binding.application, error)
        replace_content(binding.request, response, found)
        if binding.state.is_unsaved:
            self._save_last_word()
        return True

    def _save_last_word(self) -> None:
        """Save what an exception view did: the visitor gets its page in any
        case, and the request does not run again.
        """
        binding = self._binding
        binding.submission.is_last_word = True
        try:
            save_now(binding)
        except Exception as error:
            binding.give_up()
            _log_unsaved(binding.application, error)
            return
        for outcome in binding.outcomes:
            if outcome.yielded:
                log.error(
                    'an exception view changed keys of the session (%s) that '
                    'another request changed at the same time: this is lost, '
                    'as the request cannot run again. All else that it '
                    'changed was stored', listed(outcome.yielded),
                )

    def _touch(self, *, is_given: bool) -> None:
        """Extend the expiry of a session that was only read."""
        binding = self._binding
        for outcome in binding.outcomes:
            if outcome.created or outcome.updated:
                return
        base = binding.state.base
        if base.record is None:
            return
        application = binding.application
        now = application.now()
        if not application.care.is_due(base, now):
            return
        error = binding.request.__dict__.get('exception')
        if error is not None and faults.is_in_vain(error):
            # The visitor has waited once already.
            return
        started = perf_counter()
        touched = touch(
            application, binding.connections, base, now, is_given=is_given
        )
        if touched is not None:
            binding.watcher.cared(touched, perf_counter() - started)
            binding.go_on_from(touched)

    # -- the end -------------------------------------------------------------

    def _send_events(self) -> None:
        binding = self._binding
        outcomes, binding.outcomes = binding.outcomes, ()
        binding.application.notices.login(binding.carried + outcomes)
        send_events(binding.application, binding.request, outcomes)

    def _finish(self, request: Any) -> None:
        """Note that every change is too late from now on."""
        if request.finished_callbacks and self._makes_way(
            'finish', request.finished_callbacks
        ):
            # Changes of other finished callbacks are noticed too.
            request.add_finished_callback(self._finish)
            return
        binding = self._binding
        binding.is_over = True
        if not binding.is_answered and binding.outer is None and (
            binding.is_in_transaction
        ):
            # It has failed; what it has changed is committed all the same if
            # the view around it handles that.
            outer = outer_of(binding.request)
            if outer is not None:
                self._answer_with(outer, None)
        if binding.state.is_unsaved:
            self._complain_of_changes()
        if not self._is_concluded:
            binding.leave_to_next_attempt(request)
            committed = binding.carried + binding.outcomes
            if committed and binding.outer is None:
                # It has failed, and the view that runs it may handle that.
                pass_on(binding, committed)
        if binding.participation is not None and (
            outer_of(binding.request) is None
        ):
            binding.leave()
        if binding.outer is None:
            # Otherwise that one answers, and ends, this one, too.
            if binding.outcomes:
                self._send_events()
            binding.let_go()

    def _finish_with_outer(self, outer: Any) -> None:
        """Leave to the next attempt of the request around this one what its
        view has committed by hand, and no response has told a browser of.
        """
        binding = self._binding
        committed = binding.carried + binding.outcomes
        if not self._is_concluded and committed:
            self._leave_to_outer(outer, committed)
        # The transaction may go on, and be committed.
        binding.leave()
        binding.outer = None
        binding.let_go()

    def _leave_to_outer(
        self, outer: Any, committed: tuple[Outcome, ...]
    ) -> None:
        binding = self._binding
        if shares_cookie(binding, outer):
            found = answering_binding_of(outer, binding.application)
            if found is not None:
                found.carried += committed
            else:
                binding.leave_to_next_attempt(outer)
        if binding.outcomes:
            self._send_events()

    def _complain_of_changes(self) -> None:
        binding = self._binding
        if not binding.is_answered and not is_being_finished(binding.request):
            return
        if binding.outer is not None or is_to_be_repeated(binding.request):
            return
        try:
            plan = binding.make_plan()
        except SessionError as error:
            log.error(
                'the session was changed after the response: this is lost '
                '(%s)', error,
            )
            return
        if plan is not None and not plan.base.ghost:
            log.error(
                'the session was changed (%s) after the response: this is '
                'lost. Change it in the view, or in a response callback',
                ', '.join([*plan.changes.keys, *plan.wishes.names]),
            )


def _answer_of(callback: Any) -> Answer | None:
    bound = callback.func if isinstance(callback, partial) else callback
    answer = getattr(bound, '__self__', None)
    return answer if isinstance(answer, Answer) else None


def _log_unsaved(application: Application, error: Exception) -> None:
    # A database that is away was warned of; each request meets it.
    is_away, why = isinstance(error, SessionStoreUnavailable), ''
    if is_away:
        why = ': the database does not answer'
        if faults.fault_of(error) is faults.Fault.LOCKED:
            why = ': it has waited for a lock in vain'
    log.log(
        logging.ERROR if not is_away or application.losses.is_due(why)
        else logging.DEBUG,
        'the session could not be saved%s', why,
        exc_info=None if is_away else error,
    )
