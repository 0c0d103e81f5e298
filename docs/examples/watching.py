"""Subscribers to what the package tells an application."""

import logging

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


def note_suspicious(event: SuspiciousCookie) -> None:
    # Not client_addr: it believes an X-Forwarded-For that anybody can send.
    log.warning('%s: a cookie with a wrong %s',
                event.request.remote_addr, event.reason)


def note_expired(event: SessionsExpired) -> None:
    log.info('%d sessions ran out', event.count)


def includeme(config: Configurator) -> None:
    for kind in (SessionCreated, SessionRotated, SessionInvalidated):
        config.add_subscriber(note_session, kind)
    config.add_subscriber(note_dropped, SessionWriteDropped)
    config.add_subscriber(note_suspicious, SuspiciousCookie)
    config.add_subscriber(note_expired, SessionsExpired)
