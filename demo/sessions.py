"""What the shop adds to the table of sessions.

``development.ini`` names the columns (``sqlasession.additional_fields``) and
this function (``sqlasession.extend_default_fields``).
"""

from collections.abc import Mapping
from typing import Any

from pyramid.request import Request

# As wide as the columns: a browser may send any amount of text, and a field
# that does not fit is an error, not a shorter field.
USER_AGENT_LENGTH = 256
IP_LENGTH = 45


def device_fields(
    defaults: dict[str, Any], session: Mapping[str, Any], request: Request
) -> dict[str, Any]:
    """Return the columns of a session's record, called at every save.

    ``defaults`` holds what the columns get without this function; that is
    right for ``user_id``, which a login puts into the session.

    The address is the one the server saw. WebOb's ``client_addr`` would
    believe an ``X-Forwarded-For`` that anybody can send. Behind a proxy,
    waitress puts the right one into ``remote_addr`` if it is given
    ``trusted_proxy`` and ``trusted_proxy_headers = x-forwarded-for
    x-forwarded-proto``.
    """
    return {
        **defaults,
        'user_agent': (request.user_agent or '')[:USER_AGENT_LENGTH],
        'ip': (request.remote_addr or '')[:IP_LENGTH],
    }
