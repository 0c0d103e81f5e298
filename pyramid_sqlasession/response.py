"""What a session adds to the response: its cookie, and words for caches."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
import datetime as dt
import logging
from secrets import token_bytes
from typing import Any

from pyramid_sqlasession.base import Base
from pyramid_sqlasession.cookie import CookiePolicy
from pyramid_sqlasession.plan import Outcome
from pyramid_sqlasession.surroundings import is_subrequest
from pyramid_sqlasession.surroundings import outermost

log = logging.getLogger(__name__)

# The attribute of a response with what was added to it, and of a request with
# its number.
_OURS = '_sqlasession'

NO_REASON = 'nothing to update'
ENDED = 'the session ended while the request ran'


def cookie_header(
    cookies: CookiePolicy, outcomes: Collection[Outcome], request: Any,
    now: dt.datetime, asked: Any, last: Base,
) -> tuple[str | None, str]:
    """Return the Set-Cookie value that follows from *outcomes*, or None,
    and the reason in words.

    All of them are committed.  A dropped write sends none, as it could
    overwrite the cookie of a login that came first.

    :param asked: the request whose scheme counts.
    :param last: what the session was found to be at last: it may have ended,
        and nothing was written since.
    """
    base: Base | None = None
    is_removed = False
    reason = NO_REASON
    for outcome in outcomes:
        if outcome.removed is not None:
            base, is_removed = None, True
            reason = 'the session was invalidated'
        if outcome.dropped:
            reason = ENDED
            if base is not None and _ends(outcome.base, base, outcomes):
                base = None
        if (
            cause := _cause(cookies, outcome, request)
        ) and not outcome.is_ended(outcomes):
            base, is_removed, reason = outcome.base, False, cause
    if base is not None and last.ghost and _ends(last, base, outcomes):
        base, reason = None, ENDED
    if base is not None and base.record is not None and base.token is not None:
        left = base.record.expires - now
        header = cookies.set_header(base.token, asked, left.total_seconds())
        return header, reason
    return (cookies.removal_header(asked) if is_removed else None), reason


def _ends(ghost: Base, base: Base, outcomes: Iterable[Outcome]) -> bool:
    """Return whether the token of *base*, which the request has committed
    itself, opens nothing any more, as *ghost* was met after it.
    """
    dead, token = ghost.token, base.token
    if dead is None or token is None or dead.id != token.id or (
        ghost.ghost == 'unavailable'
    ):
        return False
    # A login ends all tokens before it, those that a subrequest has renewed,
    # too.  The new one is the browser's if it was a subrequest that logged
    # in: nobody else has had a token to do it with.
    return dead == token or ghost.ghost != 'rotated' or not any(
        outcome.created or outcome.rotated for outcome in outcomes
        if outcome.base.token is not None
        and outcome.base.token.id == token.id
    )


def _cause(
    cookies: CookiePolicy, outcome: Outcome, request: Any
) -> str | None:
    """Return why *outcome* needs a cookie, None if it does not."""
    if outcome.created:
        return 'the session is new'
    if outcome.rotated:
        return 'the session has a new token'
    if outcome.renewed:
        return 'the token was renewed'
    base = outcome.base
    # A token in its grace must not overwrite its successor.
    if not base.has_current_token or base.token is None:
        return None
    if cookies.slides(outcome.touched, outcome.extended):
        return 'the session lives longer'
    if outcome.touched and cookies.is_outdated(request.environ, base.token):
        return 'the cookie is signed with an older secret'
    return None


def put_cookie(
    request: Any, response: Any, header: str, *, yields: bool
) -> None:
    """Add the Set-Cookie value *header* in place of one of the same cookie.

    :param yields: such a one stays, and *header* is not added.
    """
    sender = outermost(request)
    number = _number_of(sender)
    known = getattr(response, '__dict__', None)
    if known is None or is_subrequest(sender):
        # A thread of a view runs the subrequest: whose it is, nobody knows.
        known = {}
    ours = known.get(_OURS)
    if ours is None:
        # Of two threads that both find none, one makes it for both.
        ours = known.setdefault(_OURS, _Ours(number))
    if ours.owner != number:
        ours.take_out(request, response)
        return
    headers = response.headerlist
    for other in [*headers]:
        name, value = other
        if name.lower() == 'set-cookie' and (
            _cookie_in(value) == _cookie_in(header)
        ):
            if yields:
                return
            headers.remove(other)
    ours.values += (header,)
    headers.append(('Set-Cookie', header))
    if ours.owner != number:
        # Another one has got the response meanwhile.
        ours.take_out(request, response)


def _number_of(request: Any) -> bytes:
    """Return what no other request has, of another process neither."""
    given: dict[str, Any] = request.__dict__
    found: bytes = given.get(_OURS) or given.setdefault(
        _OURS, token_bytes(8)
    )
    return found


def take_foreign_cookies(event: Any) -> None:
    """Take cookies that are for another request out of a response that an
    application returns to many; called with Pyramid's ``NewResponse``.
    """
    take_foreign(event.request, event.response)


def take_foreign(request: Any, response: Any) -> None:
    """Do the same with *response*, which answers *request*."""
    ours = getattr(response, '__dict__', {}).get(_OURS)
    if ours is not None and ours.owner != _number_of(outermost(request)):
        ours.take_out(request, response)


class _Ours:
    """The Set-Cookie values that were added to a response.

    :param owner: the number of the browser's request that they are for.
    """

    __slots__ = ('owner', 'values')

    def __init__(self, owner: bytes) -> None:
        # Not the request itself: such a response may be there for ever, and
        # may be pickled.
        self.owner: bytes | None = owner
        self.values: tuple[str, ...] = ()

    def take_out(self, request: Any, response: Any) -> None:
        """Take them out of *response*, for good: of two requests at the same
        time nobody knows whom it goes to.
        """
        is_known = self.owner is None
        self.owner = None
        response.headerlist[:] = [
            (name, value) for name, value in response.headerlist
            if value not in self.values
        ]
        if is_known:
            return
        log.error(
            'one response object is returned to several requests (%r, for '
            'one): no cookie of a session goes with it, as others would get '
            'it, too. Make a response for each request',
            request.environ.get('PATH_INFO'),
        )


def take_cookie(
    response: Any, cookies: CookiePolicy, outcomes: Iterable[Outcome]
) -> None:
    """Take the Set-Cookie of the session of *outcomes* out again, which has
    ended since it was added.
    """
    dead = {
        cookies.pair(outcome.base.token) for outcome in outcomes
        if outcome.base.token is not None
    }
    headers = response.headerlist
    headers[:] = [
        (name, value) for name, value in headers
        if name.lower() != 'set-cookie'
        or value.partition(';')[0] not in dead
    ]


def _cookie_in(header: str) -> tuple[str, str]:
    """Return by what a browser tells the cookie from others."""
    # All attributes from the path on are the same for each of ours.
    return header.partition('=')[0], header.partition('; Path=')[2]


def vary(response: Any) -> None:
    """Tell caches that the response depends on the cookie."""
    value = _header_or_add(response, 'vary', ('Vary', 'Cookie'))
    if value is None:
        return
    names = [name.strip().lower() for name in value.split(',')]
    if 'cookie' not in names and '*' not in names:
        response.headers['Vary'] = f'{value}, Cookie'


def _header_or_add(
    response: Any, name: str, header: tuple[str, str]
) -> str | None:
    """Return the value of the header *name*; if there is none, add *header*
    and return None.
    """
    # Past WebOb's MultiDict: each request does this.
    headers = response.headerlist
    found = []
    for key, value in headers:
        if key.lower() == name:
            found.append(value)
    if any(found):
        return ', '.join(found)
    headers.append(header)
    return None


def keep_private(response: Any) -> None:
    """Keep shared caches from storing *response* (RFC 9111, section 7.3)."""
    value = _header_or_add(
        response, 'cache-control', ('Cache-Control', 'private')
    )
    if value is None:
        return
    names = {
        part.partition('=')[0].strip().lower() for part in value.split(',')
    }
    if not names & {'public', 'private', 'no-store', 's-maxage'}:
        response.headers['Cache-Control'] = f'{value}, private'


def replace_content(request: Any, response: Any, other: Any) -> None:
    """Turn *response*, which is on its way already, into *other*."""
    take_foreign(request, other)
    response.status = other.status
    response.headers.clear()
    response.headers.extend(other.headers.items())
    response.app_iter = other.app_iter
