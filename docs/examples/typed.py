"""A request that type checkers know."""

from pyramid.request import Request

from pyramid_sqlasession import SessionStore
from pyramid_sqlasession import SQLASession


class AppRequest(Request):  # type: ignore[misc]
    session: SQLASession  # pyright: ignore
    session_store: SessionStore


def log_out_elsewhere(request: AppRequest) -> dict[str, int]:
    ended = request.session_store.revoke_where(
        user_id=request.session['user_id'], except_id=request.session.id,
    )
    return {'ended': ended}
