"""Where a request stands in Pyramid: who waits for it, who hears its errors.

Pyramid says so nowhere; it is read from the stack of its thread locals, and
from Python's own.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from pyramid.threadlocal import get_current_request
from pyramid.threadlocal import manager as threadlocals

from pyramid_sqlasession.transaction import is_managed
from pyramid_sqlasession.transaction import runs_in_this_thread

# pyramid_tm's for the user's name, and the debug toolbar's for everything.
_WHO_ONLY_NOTE = ('tm_tween', 'toolbar_tween')


def runs_alone() -> bool:
    """Return whether one request runs in this thread, and no other waits
    for it.
    """
    return len(threadlocals.stack) == 1


def _is_only_one(request: Any) -> bool:
    # At little cost: nearly all are.
    stack = threadlocals.stack
    return len(stack) == 1 and stack[0].get('request') is request


def running_requests() -> list[Any]:
    """Return all requests that have begun in this thread, outermost first."""
    found = [entry.get('request') for entry in threadlocals.stack]
    return [request for request in found if request is not None]


def outermost(request: Any) -> Any:
    """Return the request that the browser has sent: *request*, or the one
    whose view runs it, or runs that.
    """
    if _is_only_one(request):
        return request
    for running in running_requests():
        # That of a script (``bootstrap()``) is nobody's.
        if running is request or is_being_answered(running):
            return running
    return request


def is_finished(request: Any) -> bool:
    """Return whether Pyramid has done with *request*, which keeps no context:
    its body is sent.
    """
    return not runs_in_this_thread(request)


def outer_of(request: Any) -> Any | None:
    """Return the request that ends the transaction of *request*, its
    subrequest; None if there is none.
    """
    if _is_only_one(request):
        return None
    manager = getattr(request, 'tm', None)
    for outer in running_requests():
        if outer is request:
            return None
        if (
            manager is not None
            and _manager_of(outer) is manager
            and is_managed(outer)
        ):
            return outer
    return None


def is_ended_later(request: Any) -> bool:
    """Return whether somebody ends the transaction that *request* works in:
    its own tween, or that of a request around it.
    """
    return is_managed(request) or outer_of(request) is not None


def _manager_of(request: Any) -> Any | None:
    # Without a call of ``request.tm``, which would make one.
    if 'tm' in request.__dict__:
        return request.tm
    # A test's, which nobody has asked for yet.  (Its own stand-in for a
    # request may have no environ.)
    return getattr(request, 'environ', {}).get('tm.manager')


def caller_of(request: Any) -> Any | None:
    """Return the request whose view runs *request* as a subrequest, None if
    it is none.
    """
    if not is_subrequest(request):
        return None
    caller = None
    for running in running_requests():
        if running is request:
            return caller
        caller = running
    return None


def is_subrequest(request: Any) -> bool:
    """Return whether a view runs *request* by ``invoke_subrequest()``."""
    return _call_for(request, 'invoke_subrequest') is not None


def is_being_answered(request: Any) -> bool:
    """Return whether Pyramid's router works on *request*: that of a script
    or a test (``prepare()``) is nobody's.
    """
    return _call_for(request, 'invoke_request') is not None


def asked_by(request: Any) -> Any:
    """Return the request by whose scheme the browser came: *request*, or one
    of https that runs it as a subrequest, which may know nothing of it.
    """
    if _is_only_one(request):
        return request
    for running in running_requests():
        # A test's own stand-in may have none.
        if getattr(running, 'scheme', None) == 'https':
            return running
    return request


def is_noted(request: Any, transaction: Any) -> bool:
    """Return whether pyramid_tm has just begun *transaction* for *request*,
    and asks for the user before it notes what it is for.
    """
    call = _call_for(request, 'tm_tween')
    return call is not None and call.f_locals.get('t') is transaction


def beginning_subrequest(request: Any) -> Any | None:
    """Return the subrequest of *request* whose tween may be beginning its
    transaction, None if there is none.

    It begins it by aborting the one of *request*, whose view goes on
    afterwards.
    """
    current = _running_subrequest(request)
    if (
        current is not None
        and current.environ.get('tm.active')
        and is_managed(request)
    ):
        return current
    return None


def has_ending_subrequest(request: Any) -> bool:
    """Return whether a subrequest of *request* ends a transaction of its own
    now, or one that nobody else ends.
    """
    current = _running_subrequest(request)
    return current is not None and not is_managed(current)


def _running_subrequest(request: Any) -> Any | None:
    """Return the request that runs now if *request* waits for it, None if it
    runs itself, or has ended.
    """
    current = get_current_request()
    if current is request or is_finished(request):
        return None
    return current


def can_be_answered(request: Any) -> bool:
    """Return whether an error raised now meets an exception view, or has to be
    heard of all the same.

    It meets one if we are called from below Pyramid's tween for them.  Who
    asks above of it, before the view, may decide by the answer what becomes of
    *request*, unless he only notes, or shows, who is there.  After the view
    its page would be lost; a script has none.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == 'excview_tween':
            return True
        if frame.f_code.co_name in _WHO_ONLY_NOTE:
            return False
        frame = frame.f_back
    return 'context' not in request.__dict__ or (
        not is_being_answered(request)
    )


def response_of(request: Any) -> Any | None:
    """Return the response of *request* that Pyramid's router has already, and
    for which no response callback may be called any more; None if there is
    none.
    """
    call = _call_for(request, 'invoke_request')
    return None if call is None else call.f_locals.get('response')


def is_being_finished(request: Any) -> bool:
    """Return whether Pyramid's router ends *request* now, in a finished
    callback: somebody got an answer, as nobody does from a script.
    """
    # Or an error passes by.
    return is_being_answered(request) and sys.exc_info()[1] is None


def _call_for(request: Any, name: str) -> FrameType | None:
    """Return the innermost call of Pyramid's method *name* for *request*,
    None if there is none.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == name and (
            frame.f_locals.get('request') is request
        ):
            break
        frame = frame.f_back
    return frame
