"""Give the cookie another name, and log nobody out."""

from collections.abc import Callable
import re
from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

OLD, NEW = 'session', '__Host-session'


def tween_factory(
    handler: Callable[[Request], Response], registry: Any
) -> Callable[[Request], Response]:
    def take_old_cookie(request: Request) -> Response:
        header = request.environ.get('HTTP_COOKIE', '')
        # All of the name: another application may set one, too.
        found = re.findall(rf'(?:^|;)[ \t]*{OLD}=([^;]*)', header)
        if found and NEW not in request.cookies:
            for value in found:
                request.environ['HTTP_COOKIE'] += f'; {NEW}={value}'
            # Sends the cookie, by its new name.
            request.session.touch()
        return handler(request)

    return take_old_cookie


def includeme(config: Configurator) -> None:
    # Before anybody asks who is logged in.
    config.add_tween(
        f'{__name__}.tween_factory', over='pyramid_tm.tm_tween_factory'
    )
