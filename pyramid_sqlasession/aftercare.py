"""What follows once a session is stored, or need not be: its touch, the limit
of its user's sessions, the events.

The page is done and its data are committed: that nothing more can be done is
no reason to lose it.
"""

from __future__ import annotations

from collections.abc import Iterable
import datetime as dt
from functools import partial
import logging
from typing import Any
import uuid

from sqlalchemy import exc

from pyramid_sqlasession import events
from pyramid_sqlasession import faults
from pyramid_sqlasession.application import Application
from pyramid_sqlasession.base import Base
from pyramid_sqlasession.connections import Connections
from pyramid_sqlasession.errors import reason_for
from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.errors import SessionStoreUnavailable
from pyramid_sqlasession.plan import Outcome

log = logging.getLogger(__name__)


def touch(
    application: Application, connections: Connections, base: Base,
    now: dt.datetime, *, is_given: bool,
) -> Outcome | None:
    """Extend the expiry of a session that was only read, and renew its token;
    return None if that failed.

    :param is_given: the transaction outlives the response (T7).
    """
    work = partial(application.care.touch, base=base, now=now)
    try:
        if is_given:
            return connections.perform(work, writes=True)
        return application.database.write_aside(work)
    # (AssertionPool asserts that nobody has its one connection.)
    except (exc.SQLAlchemyError, SessionError, AssertionError) as error:
        if is_given:
            # What broke is the transaction that goes on.
            raise
        # A database that is away was warned of; and whoever was in the way
        # has extended it, too (two nodes of a cluster).
        is_known = isinstance(error, SessionStoreUnavailable) or (
            faults.fault_of(error) is faults.Fault.CONFLICT
        )
        log.log(
            logging.DEBUG if is_known else logging.WARNING,
            'the expiry was not extended: %s',
            faults.said_by(reason_for(error)),
        )
        return None


def end_surplus(
    application: Application, connections: Connections,
    outcomes: Iterable[Outcome], *, is_given: bool,
) -> None:
    """Hold ``max_sessions_per_user`` after a login.

    :param is_given: the transaction outlives the response (T7).
    """
    if not application.settings.max_sessions_per_user:
        return
    for user in {outcome.user for outcome in outcomes} - {None}:
        end = partial(
            application.care.end_surplus, user=user, now=application.now()
        )
        try:
            if is_given:
                connections.perform(end, writes=True)
            else:
                connections.alone(end)
        # The login itself is committed.
        except (exc.SQLAlchemyError, SessionError) as error:
            if is_given:
                raise
            log.warning(
                'surplus sessions were not ended: %s',
                faults.said_by(reason_for(error)),
            )


def send_events(
    application: Application, request: Any, outcomes: Iterable[Outcome]
) -> None:
    """Tell the subscribers of the application what was committed."""
    for outcome in outcomes:
        record = outcome.base.record
        if outcome.removed is not None:
            _send(
                application, request, events.SessionInvalidated,
                outcome.removed,
            )
        if outcome.created and record is not None:
            _send(application, request, events.SessionCreated, record.id)
        if outcome.rotated and record is not None:
            _send(application, request, events.SessionRotated, record.id)
        for session_id, reason in outcome.dropped:
            application.notify(
                events.SessionWriteDropped(request, session_id, reason)
            )


def _send(
    application: Application, request: Any, kind: Any,
    session_id: uuid.UUID | str,
) -> None:
    if application.has_subscriber(kind):
        application.notify(kind(request, str(session_id)))
