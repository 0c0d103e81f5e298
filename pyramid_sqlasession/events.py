"""What the package tells an application: interfaces and event classes.

Subscribe with ``config.add_subscriber(function, SessionCreated)``.  Events
about a request's session are sent after the transaction committed, that about
its cookie at the first look; an error in a subscriber is logged and does no
harm to the response.
"""

from __future__ import annotations

from typing import Any

from zope.interface import Attribute
from zope.interface import implementer
from zope.interface import Interface


class ISessionCreated(Interface):
    """A session was stored for the first time."""

    request = Attribute('The request.')
    session_id = Attribute('The public id of the session (str).')


class ISessionRotated(Interface):
    """A session has a new token; the old one is dead."""

    request = Attribute('The request.')
    session_id = Attribute('The public id of the session (str).')


class ISessionInvalidated(Interface):
    """A session was removed by ``session.invalidate()``."""

    request = Attribute('The request.')
    session_id = Attribute('The public id of the session (str).')


class ISessionsExpired(Interface):
    """The cleaner, or ``psessions <your.ini> expire``, deleted expired
    sessions.
    """

    count = Attribute('How many (int, never 0).')


class ISessionWriteDropped(Interface):
    """A request's changes were dropped: its session has ended meanwhile, or
    was not there to be changed.
    """

    request = Attribute('The request.')
    session_id = Attribute('The public id of the session (str).')
    reason = Attribute(
        "``'gone'`` (ended by another request), ``'expired'``, ``'rotated'`` "
        "(another request logged in) or ``'unavailable'`` (it could not be "
        "read; only what an exception view says is dropped so)."
    )


class ISuspiciousCookie(Interface):
    """A cookie that is signed wrongly, or whose secret is wrong.

    A browser may have one of before a login, or a periodic renewal, whose
    answer was lost, or of before a change of ``secret``; most others are made
    up.  Sent at the first look at the session, which a subscriber can use.
    """

    request = Attribute('The request.')
    reason = Attribute("``'signature'`` or ``'secret'``.")


#: What the reasons of :class:`ISessionWriteDropped` mean.
DROPS = {
    'gone': 'its row is gone (logout, revocation, a deleted account)',
    'expired': 'it has expired meanwhile',
    'rotated': 'another request logged in and replaced the token',
    'unavailable': 'it could not be read when the request looked',
}


class _AboutSession:
    def __init__(self, request: Any, session_id: str) -> None:
        self.request = request
        self.session_id = session_id

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.session_id}>'


@implementer(ISessionCreated)
class SessionCreated(_AboutSession):
    """See :class:`ISessionCreated`."""


@implementer(ISessionRotated)
class SessionRotated(_AboutSession):
    """See :class:`ISessionRotated`."""


@implementer(ISessionInvalidated)
class SessionInvalidated(_AboutSession):
    """See :class:`ISessionInvalidated`."""


@implementer(ISessionsExpired)
class SessionsExpired:
    """See :class:`ISessionsExpired`."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __repr__(self) -> str:
        return f'<SessionsExpired {self.count}>'


@implementer(ISessionWriteDropped)
class SessionWriteDropped(_AboutSession):
    """See :class:`ISessionWriteDropped`."""

    def __init__(self, request: Any, session_id: str, reason: str) -> None:
        super().__init__(request, session_id)
        self.reason = reason


@implementer(ISuspiciousCookie)
class SuspiciousCookie:
    """See :class:`ISuspiciousCookie`."""

    def __init__(self, request: Any, reason: str) -> None:
        self.request = request
        self.reason = reason

    def __repr__(self) -> str:
        return f'<SuspiciousCookie {self.reason}>'
