"""Your session, as the database sees it."""

import json
from typing import Any

from pyramid.httpexceptions import HTTPSeeOther
from pyramid.request import Request
from pyramid.view import view_config

SHORT_EXPIRY = 60
# A CSRF token is of no use without the cookie, but a page about somebody's
# session ends up in screenshots.
HIDDEN_KEYS = {'_csrft_': '(hidden)'}
FIELDS = ('user_id', 'user_agent', 'ip')


@view_config(
    route_name='session',
    request_method='GET',
    http_cache=0,
    renderer='demo:templates/session.jinja2',
)
def show(request: Request) -> dict[str, Any]:
    """Show the session and its record.

    A visitor without one is told so, and still has none afterwards.
    """
    session_id = request.session.id
    record = None
    if session_id is not None:
        record = request.session_store.get(session_id)
    if record is None:
        return {'record': None}
    return {
        'record': record,
        'fields': [(name, getattr(record, name, None)) for name in FIELDS],
        'data': readable(record.data),
    }


@view_config(route_name='session_expiry', request_method='POST')
def set_expiry(request: Request) -> HTTPSeeOther:
    """Shorten this session's life, or give it back its usual one.

    Like the usual expiry, the short one counts from the last use.
    """
    if request.POST.get('expiry') == 'soon':
        request.session.set_expiry(SHORT_EXPIRY)
        request.session.flash(
            'This session now ends after one minute without you. Wait that '
            'long, then reload the page.',
            'notice',
        )
    else:
        request.session.set_expiry(None)
        request.session.flash('Back to the usual expiry.', 'success')
    return HTTPSeeOther(request.route_path('session'))


def readable(data: dict[str, Any]) -> str:
    """Return a session's data as text; what JSON lacks is shown in words."""
    shown = {key: HIDDEN_KEYS.get(key, value) for key, value in data.items()}
    return json.dumps(shown, indent=2, ensure_ascii=False, default=str)
