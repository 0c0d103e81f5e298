"""Carry the old sessions over, each at the first request of its visitor."""

from collections.abc import Callable
from operator import methodcaller
from typing import Any

from pyramid.config import Configurator
from pyramid.events import NewRequest
from pyramid.request import Request
from pyramid.response import Response

MARK = 'carried_over'


def carry_over(
    config: Configurator,
    old_factory: Callable[[Request], Any],
    old_cookie: str,
    keys: dict[str, str],
    end: Callable[[Any], object] = methodcaller('invalidate'),
) -> None:
    """Read each session of *old_factory* once, then end it.

    :param old_cookie: the name of its cookie, not the new one's.
    :param keys: what is carried over: old key to new key.
    :param end: removes an old session from its store.
    """
    # A session that somebody has logged in to, or that is in use otherwise,
    # takes nothing: the old cookie may be another user's.
    taken = {MARK, *keys.values()}

    def is_in_use(session: Any) -> bool:
        # The helper notes a login under such a key.
        return any(
            key in taken or key.startswith('_login_') for key in session
        )

    def read_once(event: NewRequest) -> None:
        request = event.request
        if old_cookie not in request.cookies:
            return
        # A copy, so that nothing of the old store gets into our response.
        request_of_old = request.copy_get()
        request_of_old.registry = request.registry
        old = old_factory(request_of_old)
        session = request.session
        found = {}
        if not is_in_use(session):
            found = {keys[key]: old[key] for key in keys if key in old}
        if found:
            session.update({**found, MARK: True})
            # As at a login: a new token, and the absolute timeout begins.
            session.rotate(login=True)

        def drop(request: Request, response: Response) -> None:
            # Stored, or nothing to store. After an abort the mark is gone,
            # the old session stays, and the next request tries again.
            if not found or MARK in request.session:
                end(old)
                response.delete_cookie(old_cookie)

        request.add_response_callback(drop)

    config.add_subscriber(read_once, NewRequest)
