"""An application that declares what its requests have; mypy reads it.

A line with ``# type: ignore[...]`` is one that mypy has to refuse.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import datetime as dt
from typing import Any
from typing import assert_type
import uuid

from pyramid.request import Request as PyramidRequest
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column

import pyramid_sqlasession
from pyramid_sqlasession import includeme
from pyramid_sqlasession import session_model
from pyramid_sqlasession import SessionConflict
from pyramid_sqlasession import SessionFieldError
from pyramid_sqlasession import SessionMixin
from pyramid_sqlasession import SessionsExpired
from pyramid_sqlasession import SessionStore
from pyramid_sqlasession import SessionTooLarge
from pyramid_sqlasession import SessionWriteDropped
from pyramid_sqlasession import SQLASession
from pyramid_sqlasession import start_expiring_sessions
from pyramid_sqlasession import stop_expiring_sessions
from pyramid_sqlasession import SuspiciousCookie
from pyramid_sqlasession.authentication import SessionAuthenticationHelper


class Request(PyramidRequest):  # type: ignore[misc]
    """What views of this application get."""

    session: SQLASession
    session_store: SessionStore


class Base(DeclarativeBase):
    pass


class UserSession(SessionMixin, Base):
    __tablename__ = 'user_sessions'

    user_id: Mapped[int | None] = mapped_column(index=True)


generated = session_model(Base.metadata, table_name='sessions')


def cart(request: Request) -> dict[str, int]:
    """The session is a dict with str keys."""
    session = request.session
    session['cart'] = {'tea': 1}
    session.setdefault('seen', 0)
    session |= {'seen': 1}
    del session['seen']
    session[1] = 'one'  # type: ignore[index]
    found: dict[str, int] = session.get('cart', {})
    assert_type(session.pop('cart', None), Any)
    return found


def device(request: Request) -> str:
    """What a session knows about itself."""
    session = request.session
    assert_type(session.id, str | None)
    assert_type(session.new, bool)
    assert_type(session.created, int)
    assert_type(session.accessed, dt.datetime | None)
    assert_type(session.expires, dt.datetime | None)
    if session.id is None:
        return 'new'
    return session.id


def life(request: Request) -> None:
    """What can be done to a session."""
    session = request.session
    session.changed()
    session.invalidate()
    session.rotate()
    session.touch()
    session.set_expiry(dt.timedelta(days=30))
    session.set_expiry(3600)
    session.set_expiry(dt.datetime.now(dt.UTC))
    session.set_expiry(None)
    session.set_expiry('1h')  # type: ignore[arg-type]
    session.id = 'x'  # type: ignore[misc]


def messages(request: Request) -> list[Any]:
    """Flash messages and CSRF tokens."""
    session = request.session
    session.flash('hello', queue='news', allow_duplicate=False)
    assert_type(session.peek_flash(), list[Any])
    assert_type(session.get_csrf_token(), str)
    assert_type(session.new_csrf_token(), str)
    return session.pop_flash('news')


def devices(request: Request, ids: Sequence[uuid.UUID]) -> list[str]:
    """The store."""
    store = request.session_store
    assert_type(store.count(), int)
    store.get(request.session.id)
    store.revoke(request.session.id)
    found = store.get('0199')
    if found is not None:
        assert_type(found.created, dt.datetime)
        assert_type(found.data, dict[str, Any])
    assert_type(store.revoke_where(user_id=7, except_id='0199'), int)
    assert_type(store.revoke_all(except_id=None), int)
    for row in ids:
        store.get(row)
        store.revoke(row)
        store.revoke_where(user_id=7, except_id=row)
        store.revoke_all(row)
    assert_type(store.delete_expired(), int)
    store.revoke(7)  # type: ignore[arg-type]
    return [record.id for record in store.find(user_id=7)]


def misspelled() -> Any:
    """A name that there is none of."""
    return pyramid_sqlasession.SQLASesssion  # type: ignore[attr-defined]


def fields(
    defaults: dict[str, Any], session: Mapping[str, Any], request: Request
) -> dict[str, Any]:
    """For ``extend_default_fields``."""
    return {**defaults, 'ip': request.remote_addr}


def dropped(event: SessionWriteDropped) -> str:
    """A subscriber."""
    match event.reason:
        case 'gone' | 'expired':
            return f'{event.session_id} has ended'
        case 'rotated' | 'unavailable':
            return f'{event.session_id}: {event.reason}'


def suspicious(event: SuspiciousCookie) -> bool:
    """What is wrong with a cookie."""
    return event.reason == 'signatur'  # type: ignore[comparison-overlap]


def expired(event: SessionsExpired) -> int:
    """Another one."""
    return event.count


def sorry(error: Exception) -> str:
    """What errors tell."""
    if isinstance(error, SessionConflict):
        assert_type(error.keys, list[str])
        return ', '.join(error.keys)
    if isinstance(error, SessionTooLarge):
        return f'{error.size} above {error.limit}'
    if isinstance(error, SessionFieldError):
        return f'{error.field}: {error.type}'
    return ''


class Policy:
    """A security policy."""

    def __init__(self) -> None:
        self.helper = SessionAuthenticationHelper()

    def authenticated_userid(self, request: Request) -> int | None:
        userid = self.helper.authenticated_userid(request)
        return userid if isinstance(userid, int) else None

    def remember(
        self, request: Request, userid: int, **kw: Any
    ) -> list[tuple[str, str]]:
        return self.helper.remember(request, userid, **kw)

    def is_recent(self, request: Request) -> bool:
        return self.helper.fresh(request, '15m')


def main(config: Any) -> None:
    """Set up."""
    includeme(config)
    start_expiring_sessions(config)
    stop_expiring_sessions(config)
