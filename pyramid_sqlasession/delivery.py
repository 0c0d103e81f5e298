"""The way of a session's cookie to its browser: with which response it goes,
and which of the requests around a subrequest have to send it, too.

Of a subrequest's response most views use the body alone; and one that shares
the transaction of the request around it is answered together with that one,
its *outer* request.  What several of them have to say of the same session is
one cookie.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy import exc

from pyramid_sqlasession import beginning
from pyramid_sqlasession.application import Application
from pyramid_sqlasession.attempts import has_cookie_left
from pyramid_sqlasession.base import Base
from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.lifecycle import Binding
from pyramid_sqlasession.lifecycle import binding_of
from pyramid_sqlasession.plan import in_order
from pyramid_sqlasession.plan import Outcome
from pyramid_sqlasession.response import cookie_header
from pyramid_sqlasession.response import ENDED
from pyramid_sqlasession.response import keep_private
from pyramid_sqlasession.response import put_cookie
from pyramid_sqlasession.response import take_cookie
from pyramid_sqlasession.session import SQLASession
from pyramid_sqlasession.surroundings import asked_by
from pyramid_sqlasession.surroundings import caller_of
from pyramid_sqlasession.surroundings import runs_alone


def send_cookie(binding: Binding, response: Any) -> None:
    """Have *response* tell the browser what was committed: something was."""
    outcomes = in_order(binding.carried + binding.outcomes)
    application, request = binding.application, binding.request
    follow = partial(
        cookie_header, application.cookies, outcomes, request,
        application.now(), asked_by(request),
    )
    header, reason = follow(_last_base(binding))
    if header is not None and binding.outcomes and (
        binding.outcomes[-1].is_early
    ):
        header, reason = follow(_base_by_now(binding))
    if header is not None:
        # The response may be a subrequest's, with its cookie.
        put_cookie(
            request, response, header,
            yields=(binding.outer is not None or binding.is_preceded)
            and not _counts_most(binding, outcomes),
        )
        keep_private(response)
        if not runs_alone():
            pass_on(binding, outcomes)
    elif reason is ENDED:
        # It may be the one of a subrequest, with its cookie.
        take_cookie(response, application.cookies, outcomes)
    binding.watcher.decided(header is not None, reason)


def _last_base(binding: Binding) -> Base:
    """Return what the session was found to be at last, by the requests that
    share it, too: the one around a subrequest has gone on.
    """
    common = binding.state.beginning
    if common is not None and common.has_ended:
        assert common.base is not None
        return common.base
    found = None if binding.outer is None else binding_of(binding.outer)
    if found is not None and found.base.ghost:
        return found.base
    return binding.base


def _base_by_now(binding: Binding) -> Base:
    """Return what has become of what was committed some time ago: its cookie
    must not replace that of a login since.
    """
    base, now = binding.base, binding.now()
    if base.record is None or base.token is None:
        return base
    try:
        found = binding.application.database.find_aside(base.record.id, now)
    except (exc.SQLAlchemyError, SessionError):
        # Nobody can tell.
        return base
    if found is None:
        return Base(token=base.token, ghost='gone')
    if found.standing(base.token, now).is_good:
        return base
    return Base(token=base.token, ghost='rotated')


def _counts_most(binding: Binding, outcomes: tuple[Outcome, ...]) -> bool:
    """Return whether no other cookie of the same response may replace the
    one that follows from *outcomes*.
    """
    if binding.outer is not None:
        # What an earlier attempt has left is the outer request's as well,
        # which goes on from there.
        outcomes = outcomes[binding.inherited:]
    return any(
        outcome.removed is not None
        or (outcome.rotated and not _is_overtaken(binding, outcomes))
        # Of two new sessions the outer one is the browser's.
        or (
            outcome.created and binding.outer is None
            and not _is_replaced(binding, outcome.base)
        )
        for outcome in outcomes
    )


def _is_replaced(binding: Binding, base: Base) -> bool:
    """Return whether others who have begun the session of *base*, too, have
    replaced its token since.
    """
    common = beginning.common_of(binding.request)
    last = None if common is None else common.base
    return last is not None and last.is_later_than(base) and (
        last.token != base.token
    )


def _is_overtaken(binding: Binding, outcomes: tuple[Outcome, ...]) -> bool:
    """Return whether others that shared the transaction, or the request
    around this one, have replaced the token that *outcomes* have made.
    """
    bases = [outcome.base for outcome in outcomes]
    tokens = [base.token for base in bases]
    last = [outcome.base for outcome in outcomes if outcome.rotated][-1]
    bases.append(binding.base)
    around = None if binding.outer is None else binding_of(binding.outer)
    if around is not None:
        if around.has_ended(last):
            return True
        bases += [around.base, *(other.base for other in around.carried)]
    for base in bases:
        if base.is_later_than(last):
            last = base
    return last.token not in tokens


def pass_on(binding: Binding, outcomes: tuple[Outcome, ...]) -> None:
    """Have the request that runs this subrequest send the cookie, too."""
    outer = binding.outer
    caller = caller_of(binding.request if outer is None else outer)
    if caller is None or not shares_cookie(binding, caller):
        return
    found = answering_binding_of(caller, binding.application)
    if found is not None and found is not binding:
        found.carried += outcomes
        found.is_preceded = True


def remind_callers(binding: Binding) -> None:
    """Have the requests around this one send the cookie that an earlier
    attempt has left them, though their views may never look.
    """
    outer = binding.outer
    around = caller_of(binding.request) if outer is None else outer
    while around is not None:
        if has_cookie_left(around, binding.application):
            found = answering_binding_of(around, binding.application)
            if found is not None and around is outer:
                found.is_preceded = True
        around = caller_of(around)


def shares_cookie(binding: Binding, outer: Any) -> bool:
    """Return whether the response of *outer* may have the session's cookie.

    Another browser's session, or a stranger's, must not replace the one of
    the browser that is answered.
    """
    if not has_cookie_of(binding, outer):
        return False
    if beginning.have_met(binding.request, outer):
        return True
    # Of two new sessions the outer one is the browser's.  (One of an
    # application that this one is mounted in has a cookie of its own.)
    cookies = binding.application.cookies
    token, _ = cookies.read(outer.environ)
    other = binding_of(outer)
    return token is not None or other is None or (
        other.base.record is None
        or other.application.cookies.key != cookies.key
    )


def has_cookie_of(binding: Binding, other: Any) -> bool:
    """Return whether the request came with the cookie that *other* has."""
    read = binding.application.cookies.read
    return read(binding.request.environ) == read(other.environ)


def answering_binding_of(
    request: Any, application: Application
) -> Binding | None:
    """Return the binding of *request*, which is going to send a cookie,
    whether its view looks or not; None if its sessions are not those of
    *application*.
    """
    # To ask for it makes it, if nobody has asked before.
    if not isinstance(request.session, SQLASession):
        return None
    binding = binding_of(request)
    if binding is None or binding.application is not application:
        return None
    binding.attend()
    return binding
