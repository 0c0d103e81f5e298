"""From the cookie of a request to what its session starts from."""

from __future__ import annotations

from collections.abc import Sequence
import datetime as dt
import logging
from typing import Any

from pyramid_sqlasession import events
from pyramid_sqlasession import faults
from pyramid_sqlasession.application import Application
from pyramid_sqlasession.base import Base
from pyramid_sqlasession.base import NOTHING
from pyramid_sqlasession.codec import Content
from pyramid_sqlasession.codec import DamagedData
from pyramid_sqlasession.connections import Connections
from pyramid_sqlasession.cookie import Token
from pyramid_sqlasession.datamanager import SessionDataManager
from pyramid_sqlasession.errors import SessionStoreUnavailable
from pyramid_sqlasession.plan import Outcome
from pyramid_sqlasession.plan import token_after
from pyramid_sqlasession.records import Record
from pyramid_sqlasession.retired import ROTATED
from pyramid_sqlasession.retired import Standing
from pyramid_sqlasession.retired import WRONG
from pyramid_sqlasession.watching import Found

log = logging.getLogger(__name__)

# The applications that were told of a cookie: one that is mounted in another
# has its environ, and a cookie of its own.
_SUSPICIOUS = 'sqlasession.suspicious'

# What nearly all requests find; to look into an enum takes Python 3.11 ten
# times as long.
_ABSENT, _CURRENT = Found.ABSENT, Found.CURRENT


def load(
    application: Application, request: Any, connections: Connections,
    manager: SessionDataManager | None, *, in_exception_view: bool,
    carried: Sequence[Outcome], opened: Base | None,
) -> tuple[Base, Found]:
    """Return what the session of *request* starts from, and why.

    :param manager: of the transaction that the request works in, if any.
    :param carried: what was committed, and no browser has heard of: by an
        earlier attempt of pyramid_retry, by subrequests, or by hand.
    :param opened: what an earlier attempt went on from: the request is still
        in flight, and writes nothing if that session has ended.
    :raises SessionStoreUnavailable: if the database does not answer, unless
        an exception view runs: the page that says so may look at the
        session, and finds it empty.
    """
    token, is_forged = application.cookies.read(request.environ)
    if carried:
        # The browser has not heard of it yet.
        token = token_after(carried, token)
    if token is None:
        return NOTHING, Found.FORGED if is_forged else _ABSENT
    now = application.now()
    if is_said_to_be_away(request):
        return Base(token=token, ghost='unavailable'), Found.STILL_UNAVAILABLE
    try:
        record = connections.find(
            token.id, now, manager, may_be_broken=in_exception_view
        )
    except SessionStoreUnavailable:
        if in_exception_view:
            return Base(token=token, ghost='unavailable'), Found.UNAVAILABLE
        raise
    if opened is not None and (
        opened.token is None or opened.token.id != token.id
    ):
        # It was another session.
        opened = None
    return _judged(application, token, record, opened, now)


def is_said_to_be_away(request: Any) -> bool:
    """Return whether the view was told already that the database is away; one
    that waited for a lock in vain can still be read from.
    """
    error = request.__dict__.get('exception')
    return isinstance(error, SessionStoreUnavailable) and (
        faults.fault_of(error) is not faults.Fault.LOCKED
    )


def _judged(
    application: Application, token: Token, record: Record | None,
    opened: Base | None, now: dt.datetime,
) -> tuple[Base, Found]:
    """Return what *token* opens of *record*, the one of its id."""
    if record is None or application.expiry.is_over(record.started, now):
        if opened is None:
            return NOTHING, Found.UNKNOWN
        reason = _ending(opened, record, now)
        return Base(token=token, ghost=reason), Found.UNKNOWN
    standing = record.standing(token, now)
    if standing is WRONG and opened is not None:
        # Its grace is over meanwhile.
        standing = _standing_again(opened, token, record)
    if standing is WRONG:
        return NOTHING, Found.WRONG_SECRET
    if standing is ROTATED:
        log.debug('session %s: a token that was rotated out', record.id)
        return Base(token=token, ghost='rotated'), Found.ROTATED
    try:
        if record.data is None:
            raise DamagedData('a column has no value that fits it')
        first = application.codec.read(record.data)
    except DamagedData as error:
        log.error(
            'session %s cannot be read and is taken as empty (%s). The row '
            'stays as it is; a new session is stored beside it',
            record.id, error,
        )
        return Base(damaged=record, token=token), Found.DAMAGED
    content = Content(application.codec, record.data, first)
    return Base(record, token, content), _CURRENT


def _standing_again(opened: Base, token: Token, record: Record) -> Standing:
    """Return what *token* is to the attempt after one that had *opened*."""
    if opened.token != token:
        return ROTATED
    standing = record.standing(token, None)
    return ROTATED if standing is WRONG else standing


def _ending(
    opened: Base, record: Record | None, now: dt.datetime
) -> events.DropReason:
    """Return why there is no session any more that an earlier attempt had.

    :param record: what there is of it.
    """
    if record is not None:
        return 'expired'
    before = opened.record
    if before is not None and before.expires <= now:
        return 'expired'
    return opened.ghost or 'gone'


def suspect(application: Application, request: Any, found: Found) -> None:
    """Tell of a cookie that is badly signed, or whose secret is wrong.

    Once the session is there: whoever is told may look at it, and change it.
    """
    # Once for a request, however often pyramid_retry runs it.
    told = request.environ.setdefault(_SUSPICIOUS, set())
    if application in told:
        return
    told.add(application)
    reason: events.Suspicion = (
        'signature' if found is Found.FORGED else 'secret'
    )
    log.log(
        # Anybody can send as many as he likes; metrics count them.
        logging.WARNING if application.suspicions.is_due(reason)
        else logging.DEBUG,
        'a cookie with a wrong %s was refused', reason,
    )
    application.watcher.suspected(reason)
    application.notify(events.SuspiciousCookie(request, reason))
