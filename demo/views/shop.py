"""The shelf and the single tea.

These pages are not private, but their head says who is logged in and what
the cart holds. ``http_cache=0`` (``Cache-Control: no-store``) is what keeps
the browser's back button from showing that again after a logout.
"""

from typing import Any

from pyramid.httpexceptions import HTTPNotFound
from pyramid.request import Request
from pyramid.view import view_config
from sqlalchemy import select

from ..models import Tea


@view_config(
    route_name='shelf',
    request_method='GET',
    http_cache=0,
    renderer='demo:templates/shelf.jinja2',
)
def shelf(request: Request) -> dict[str, Any]:
    """Show all teas.

    There is no form on this page, and that is on purpose: a form needs a
    CSRF token, a token needs a session, and a row for each passer-by and
    each crawler is a table full of nothing.
    """
    teas = request.dbsession.scalars(select(Tea).order_by(Tea.id)).all()
    return {'teas': teas}


@view_config(
    route_name='tea',
    request_method='GET',
    http_cache=0,
    renderer='demo:templates/tea.jinja2',
)
def tea(request: Request) -> dict[str, Any]:
    """Show one tea, and the form that puts it into the cart."""
    return {'tea': get_tea(request)}


def get_tea(request: Request) -> Tea:
    """Return the tea of the route; raises ``HTTPNotFound`` without one."""
    slug = request.matchdict['slug']
    wanted = select(Tea).where(Tea.slug == slug)
    found: Tea | None = request.dbsession.scalar(wanted)
    if found is None:
        raise HTTPNotFound('No such tea')
    return found
