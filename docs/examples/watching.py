"""Subscribers to what the package tells an application."""

import logging
import time

from pyramid.config import Configurator

from pyramid_sqlasession import SessionCreated
from pyramid_sqlasession import SessionInvalidated
from pyramid_sqlasession import SessionRotated
from pyramid_sqlasession import SessionsExpired
from pyramid_sqlasession import SessionWriteDropped
from pyramid_sqlasession import SuspiciousCookie

log = logging.getLogger(__name__)


def note_session(
    event: SessionCreated | SessionRotated | SessionInvalidated
) -> None:
    # The id is public: it works as no cookie, and may be logged.
    log.info('%s %s', type(event).__name__, event.session_id)


def note_dropped(event: SessionWriteDropped) -> None:
    log.info('%s came too late (%s)', event.request.path, event.reason)


class NoteSuspicious:
    """Warns once in a minute: anybody can send as many as he likes."""

    next_time = 0.0

    def __call__(self, event: SuspiciousCookie) -> None:
        if time.monotonic() < self.next_time:
            return
        self.next_time = time.monotonic() + 60
        # Not client_addr: it believes an X-Forwarded-For that anybody can
        # send.
        log.warning('%s: a cookie with a wrong %s',
                    event.request.remote_addr, event.reason)


def note_expired(event: SessionsExpired) -> None:
    log.info('%d sessions ran out', event.count)


def includeme(config: Configurator) -> None:
    for kind in (SessionCreated, SessionRotated, SessionInvalidated):
        config.add_subscriber(note_session, kind)
    config.add_subscriber(note_dropped, SessionWriteDropped)
    config.add_subscriber(NoteSuspicious(), SuspiciousCookie)
    config.add_subscriber(note_expired, SessionsExpired)
