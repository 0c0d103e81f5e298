"""Give the cookie another name, and log nobody out."""

from collections.abc import Callable
from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

OLD, NEW = 'session', '__Host-session'


def tween_factory(
    handler: Callable[[Request], Response], registry: Any
) -> Callable[[Request], Response]:
    def take_old_cookie(request: Request) -> Response:
        cookies = request.cookies
        if OLD in cookies and NEW not in cookies:
            request.environ['HTTP_COOKIE'] += f'; {NEW}={cookies[OLD]}'
            # Sends the cookie, by its new name.
            request.session.touch()
        return handler(request)

    return take_old_cookie


def includeme(config: Configurator) -> None:
    # Before anybody asks who is logged in.
    config.add_tween(
        f'{__name__}.tween_factory', over='pyramid_tm.tm_tween_factory'
    )
