"""Carry the old sessions over, each at the first request of its visitor."""

from collections.abc import Callable
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
) -> None:
    """Read each session of *old_factory* once.

    :param old_cookie: the name of its cookie, not the new one's.
    :param keys: what is carried over: old key to new key.
    """

    def read_once(event: NewRequest) -> None:
        request = event.request
        if old_cookie not in request.cookies:
            return
        session = request.session
        found = {}
        if MARK not in session:
            old = old_factory(request)
            found = {keys[key]: old[key] for key in keys if key in old}
        if found:
            session.update({**found, MARK: True})
            # As at a login: a new token, and the absolute timeout begins.
            session.rotate(login=True)

        def drop(request: Request, response: Response) -> None:
            # Stored, or nothing to store. After an abort the mark is gone,
            # the cookie stays, and the next request tries again.
            if not found or MARK in request.session:
                response.delete_cookie(old_cookie)

        request.add_response_callback(drop)

    config.add_subscriber(read_once, NewRequest)
