"""What the visitor sees when something cannot be done.

The pages here leave the session alone: nobody should get a row for a wrong
address, and a page about a missing database must not need one.
"""

import logging
from typing import Any

from pyramid.csrf import BadCSRFToken
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.request import Request
from pyramid.view import exception_view_config
from pyramid.view import forbidden_view_config
from pyramid.view import notfound_view_config
from sqlalchemy.exc import OperationalError

from pyramid_sqlasession import SessionConflict
from pyramid_sqlasession import SessionStoreUnavailable

from ..errors import ShopError

log = logging.getLogger(__name__)

PAGE = 'demo:templates/error.jinja2'


@exception_view_config(ShopError)
def shop_error(request: Request) -> HTTPSeeOther:
    """Say what happened, while all the rest is rolled back.

    What the view itself had flashed is not shown; these words are saved, in
    a short transaction of their own.
    """
    error = request.exception
    request.session.flash(error.message, 'error')
    return HTTPSeeOther(request.route_path(error.route))


@forbidden_view_config()
def forbidden(request: Request) -> HTTPSeeOther:
    """Ask for a login, and come back afterwards."""
    request.session.flash('Please log in first.', 'notice')
    # A form that was sent cannot be sent again by a redirect.
    came_from = request.path_qs if request.method == 'GET' else '/'
    query = {'came_from': came_from}
    return HTTPSeeOther(request.route_path('login', _query=query))


@notfound_view_config(renderer=PAGE)
def notfound(request: Request) -> dict[str, Any]:
    """Answer an address that leads nowhere."""
    request.response.status_int = 404
    return {
        'title': 'No such page',
        'text': 'This address leads to an empty spot on the shelf.',
    }


@exception_view_config(BadCSRFToken, renderer=PAGE)
def bad_csrf_token(request: Request) -> dict[str, Any]:
    """Answer a form from a session that has ended, or from elsewhere."""
    request.response.status_int = 400
    return {
        'title': 'That form has gone cold',
        'text': 'It belongs to a session that has ended, or to one from '
        'before you logged in. Nothing was changed. Open the page again and '
        'send it once more.',
    }


@exception_view_config(SessionConflict, renderer=PAGE)
def conflict(request: Request) -> dict[str, Any]:
    """Answer a request that lost each time pyramid_retry ran it.

    The answers to the attempts before the last one are thrown away.
    """
    request.response.status_int = 409
    return {
        'title': 'One at a time, please',
        'text': 'Another tab of yours changed the same thing at the same '
        'moment. Nothing of this request was kept: please send it again.',
    }


@exception_view_config(SessionStoreUnavailable, renderer=PAGE)
@exception_view_config(OperationalError, renderer=PAGE)
def unavailable(request: Request) -> dict[str, Any]:
    """Answer while the database does not."""
    log.error('The database does not answer', exc_info=request.exception)
    request.response.status_int = 503
    request.response.headers['Retry-After'] = '30'
    request.response.cache_control.no_store = True
    return {
        'title': 'Back in a moment',
        'text': 'Our ledger cannot be reached just now. Your cart is safe in '
        'it. Please try again in half a minute.',
    }
