"""What the table of sessions holds beside the session itself."""

from collections.abc import Mapping
from typing import Any

from pyramid.request import Request


def device_fields(
    defaults: dict[str, Any], session: Mapping[str, Any], request: Request
) -> dict[str, Any]:
    return {
        **defaults,
        'user_agent': (request.user_agent or '')[:256],
        'ip': request.remote_addr,
    }
