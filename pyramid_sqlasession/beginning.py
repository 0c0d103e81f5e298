"""What a new visitor's request has in common with its subrequests: none of
them has a session yet, and what they put in begins one and the same (T9).

Each of them holds one :class:`Beginning`, whose token is that of the record to
be.  Whoever is saved first creates it, and the others are merged onto that, by
the same rules as those of a visitor who has a session: what one commits beside
another is as by another request, and what is not committed yet is their own.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pyramid_sqlasession.base import Base
from pyramid_sqlasession.base import NOTHING
from pyramid_sqlasession.cookie import CookiePolicy
from pyramid_sqlasession.cookie import new_token
from pyramid_sqlasession.cookie import Token
from pyramid_sqlasession.plan import in_order
from pyramid_sqlasession.plan import Outcome
from pyramid_sqlasession.plan import Plan
from pyramid_sqlasession.surroundings import is_being_answered
from pyramid_sqlasession.surroundings import is_subrequest
from pyramid_sqlasession.surroundings import running_requests

#: The attribute of the requests that share one.  (Not in the environ, which
#: the next attempt has, too.)
ATTRIBUTE = 'sqlasession_beginning'


class Beginning:
    """A session that several requests of one browser begin.

    :param token: of its record, as long as nobody rotates.
    :param base: what is committed of it; a ghost if it has ended.
    """

    def __init__(self, token: Token, base: Base | None = None) -> None:
        self.token = token
        self.base = base

    @property
    def has_ended(self) -> bool:
        """Whether somebody has invalidated it."""
        return self.base is not None and self.base.ghost is not None

    def is_ended_by(self, outcome: Outcome) -> bool:
        """Return whether *outcome*, which is committed, has ended it."""
        return outcome.ends_common or outcome.removed == str(self.token.id)

    def accept(self, outcome: Outcome) -> None:
        """Take note of *outcome*, which is committed."""
        record = outcome.base.record
        if self.is_ended_by(outcome):
            self.base = Base(token=self.token, ghost='gone')
        # Of one transaction nobody hears in the order of the writes.
        elif not self.has_ended and record is not None and (
            record.id == self.token.id and (
                self.base is None or outcome.base.is_later_than(self.base)
            )
        ):
            self.base = outcome.base

    def follow(
        self, plan: Plan, uncommitted: Base | None,
        is_login: Callable[[Plan], bool],
    ) -> Plan:
        """Return *plan* as what follows what others have written.

        :param uncommitted: by them, in the same transaction.
        """
        begun = uncommitted or self.base
        if uncommitted is None and begun is not None and (
            begun.token != self.token
        ):
            # To this one it is a login that came in between.
            begun = Base(token=self.token, ghost='rotated')
        ended, token = plan.wishes.ended, plan.token
        if ended is not None and ended.token == self.token and (
            ended.record is None
        ):
            # It ends what they begin: what is there of that, which may be
            # nothing.
            if begun is not None and begun.record is None:
                begun = None
            return replace(plan, wishes=replace(plan.wishes, ended=begun))
        if begun is None or plan.base is not NOTHING or (
            token is None or token.id != self.token.id
        ):
            # There is nothing yet, or it is the plan of another session.
            return plan
        if begun.ghost == 'rotated' and is_login(plan):
            # A session of its own, with nothing of the other's.
            return replace(plan, token=new_token())
        if token == self.token:
            # It was to create what is there by now, or has ended.
            return replace(plan, base=begun)
        # It has rotated what it was to create, and rotates that record.
        return replace(
            plan, base=begun, wishes=replace(plan.wishes, rotate=True),
            changes=replace(plan.changes, drop_csrf=True),
        )


def begun_in(
    outcomes: Iterable[Outcome], is_user: Callable[[Base], bool]
) -> Beginning | None:
    """Return what subrequests have begun by *outcomes*, after they had ended
    the session that they came with; None if there is nothing.

    :param is_user: whether it is the session of a user.
    """
    outcomes = in_order(outcomes)
    last: Base | None = None
    for outcome in outcomes:
        base = outcome.base
        if base.record is not None and (
            outcome.created
            or (last is not None and base.is_later_than(last))
        ):
            last = None if outcome.is_ended(outcomes) else base
    if last is None or last.token is None:
        return None
    # Who comes with another user's cookie puts nothing into it.
    token = new_token(last.token.id) if is_user(last) else last.token
    return Beginning(token, last)


def common_of(request: Any) -> Beginning | None:
    """Return what others begin together with *request*, whether it has ended
    or not.
    """
    found: Beginning | None = request.__dict__.get(ATTRIBUTE)
    return found


def have_met(request: Any, other: Any) -> bool:
    """Return whether two requests, one of which waits for the other, have
    begun a session together.
    """
    # Or several, one after another.
    return ATTRIBUTE in request.__dict__ and ATTRIBUTE in other.__dict__


def meet(
    request: Any, cookies: CookiePolicy, begun_by: Callable[[Any], Beginning]
) -> Beginning | None:
    """Return what the subrequest *request* begins together with those that
    wait for it, None if there are none.

    :param begun_by: returns what the outermost of them begins.
    """
    others = _around(request, cookies)
    if not others:
        return None
    found = common_of(others[0])
    if found is None or found.has_ended:
        found = begun_by(others[0])
    for one in [*others, request]:
        one.__dict__[ATTRIBUTE] = found
    return found


def _around(request: Any, cookies: CookiePolicy) -> list[Any]:
    """Return the requests of the same browser and application that wait for
    the subrequest *request*, outermost first.
    """
    cookie = cookies.read(request.environ)
    found: list[Any] = []
    for running in running_requests():
        if not is_subrequest(running):
            # Of a browser: no other request's, whoever waits for it.
            found.clear()
        if running is request:
            return found
        # A stranger who stands between two keeps them apart.  (A request of
        # the application that this one is mounted in has its own session.)
        if getattr(running, 'registry', None) is request.registry and (
            is_being_answered(running)
            and cookies.read(running.environ) == cookie
        ):
            found.append(running)
        else:
            found.clear()
    return []
