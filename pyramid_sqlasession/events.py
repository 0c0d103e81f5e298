"""What the package tells an application: interfaces and event classes.

Subscribe with ``config.add_subscriber(function, SessionCreated)``.  Events
about a request's session are sent after the transaction committed, that about
its cookie at the first look; an error in a subscriber is logged and does no
harm to the response.
"""

from __future__ import annotations

from typing import Any
from typing import Literal

from zope.interface import Attribute
from zope.interface import implementer
from zope.interface import Interface

#: Why the changes of a request were dropped.
DropReason = Literal['gone', 'expired', 'rotated', 'unavailable']

#: What is wrong with a cookie.
Suspicion = Literal['signature', 'secret']

#: What the reasons of :class:`SessionWriteDropped` mean.
DROPS: dict[DropReason, str] = {
    'gone': 'its row is gone (logout, revocation, a deleted account)',
    'expired': 'it has expired meanwhile',
    'rotated': 'another request logged in and replaced the token',
    'unavailable': 'it could not be read when the request looked',
}


class ISessionCreated(Interface):
    """See :class:`SessionCreated`."""

    request = Attribute('The request.')
    session_id = Attribute('The public id of the session.')


class ISessionRotated(Interface):
    """See :class:`SessionRotated`."""

    request = Attribute('The request.')
    session_id = Attribute('The public id of the session.')


class ISessionInvalidated(Interface):
    """See :class:`SessionInvalidated`."""

    request = Attribute('The request.')
    session_id = Attribute('The public id of the session.')


class ISessionsExpired(Interface):
    """See :class:`SessionsExpired`."""

    count = Attribute('How many.')


class ISessionWriteDropped(Interface):
    """See :class:`SessionWriteDropped`."""

    request = Attribute('The request.')
    session_id = Attribute('The public id of the session.')
    reason = Attribute('Why, in a word.')


class ISuspiciousCookie(Interface):
    """See :class:`SuspiciousCookie`."""

    request = Attribute('The request.')
    reason = Attribute('Why, in a word.')


class _AboutSession:
    def __init__(self, request: Any, session_id: str) -> None:
        self.request = request
        self.session_id = session_id

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.session_id}>'


@implementer(ISessionCreated)
class SessionCreated(_AboutSession):
    """A session was stored for the first time.

    .. attribute:: request

       The request.

    .. attribute:: session_id

       The public id of the session (str).
    """


@implementer(ISessionRotated)
class SessionRotated(_AboutSession):
    """A session has a new token; the old one is dead.

    .. attribute:: request

       The request.

    .. attribute:: session_id

       The public id of the session (str).
    """


@implementer(ISessionInvalidated)
class SessionInvalidated(_AboutSession):
    """A session was removed by ``session.invalidate()``.

    .. attribute:: request

       The request.

    .. attribute:: session_id

       The public id of the session (str).
    """


@implementer(ISessionsExpired)
class SessionsExpired:
    """The cleaner, or ``psessions <your.ini> expire``, deleted expired
    sessions.

    .. attribute:: count

       How many (int, never 0).
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __repr__(self) -> str:
        return f'<SessionsExpired {self.count}>'


@implementer(ISessionWriteDropped)
class SessionWriteDropped(_AboutSession):
    """A request's changes were dropped: its session has ended meanwhile, or
    was not there to be changed.

    .. attribute:: request

       The request.

    .. attribute:: session_id

       The public id of the session (str).

    .. attribute:: reason

       ``'gone'`` (ended by another request), ``'expired'``, ``'rotated'``
       (another request logged in) or ``'unavailable'`` (it could not be read;
       only what an exception view says is dropped so).
    """

    def __init__(
        self, request: Any, session_id: str, reason: DropReason
    ) -> None:
        super().__init__(request, session_id)
        self.reason = reason


@implementer(ISuspiciousCookie)
class SuspiciousCookie:
    """A cookie that is signed wrongly, or whose secret is wrong.

    A browser may have one of before a login, or a periodic renewal, whose
    answer was lost, or of before a change of ``secret``; most others are made
    up.  Sent at the first look at the session, which a subscriber can use.

    .. attribute:: request

       The request.

    .. attribute:: reason

       ``'signature'`` or ``'secret'``.
    """

    def __init__(self, request: Any, reason: Suspicion) -> None:
        self.request = request
        self.reason = reason

    def __repr__(self) -> str:
        return f'<SuspiciousCookie {self.reason}>'
