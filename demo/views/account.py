"""Logging in and out, and signing up."""

import re
from typing import Any

from pyramid.httpexceptions import HTTPSeeOther
from pyramid.request import Request
from pyramid.security import forget
from pyramid.security import remember
from pyramid.view import view_config
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from ..errors import NameTaken
from ..models import User
from ..security import find_user
from ..security import hash_password
from ..seed import ACCOUNTS

NAME = re.compile(r'[a-z][a-z0-9]{1,39}')
SHORTEST_PASSWORD = 8
# Long enough for any pass phrase, short enough that hashing it is nothing.
LONGEST_PASSWORD = 200


@view_config(
    route_name='login',
    request_method='GET',
    http_cache=0,
    renderer='demo:templates/login.jinja2',
)
def login_form(request: Request) -> dict[str, Any] | HTTPSeeOther:
    """Show the form; who is logged in already goes on."""
    came_from = local_path(request.GET.get('came_from'))
    if request.is_authenticated:
        return HTTPSeeOther(came_from)
    return {
        'accounts': ACCOUNTS,
        'came_from': came_from,
        'name': '',
        'error': None,
    }


@view_config(
    route_name='login',
    request_method='POST',
    http_cache=0,
    renderer='demo:templates/login.jinja2',
)
def login(request: Request) -> dict[str, Any] | HTTPSeeOther:
    """Check name and password, and log in. The cart comes along."""
    came_from = local_path(request.POST.get('came_from'))
    name = request.POST.get('name', '').strip().lower()
    password = request.POST.get('password', '')[:LONGEST_PASSWORD]
    user = find_user(request, name, password) if NAME.fullmatch(name) else None
    if user is None:
        request.response.status_int = 422
        return {
            'accounts': ACCOUNTS,
            'came_from': came_from,
            'name': name,
            'error': 'That name and password do not belong together.',
        }
    headers = remember(request, user.id)
    request.session.flash(f'Welcome back, {user.name}.', 'success')
    return HTTPSeeOther(came_from, headers=headers)


@view_config(route_name='logout', request_method='POST')
def logout(request: Request) -> HTTPSeeOther:
    """Log out. The good-bye is the first word of a new session."""
    headers = forget(request)
    request.session.flash('You are logged out. Come again!', 'success')
    return HTTPSeeOther(request.route_path('shelf'), headers=headers)


@view_config(
    route_name='signup',
    request_method='GET',
    http_cache=0,
    renderer='demo:templates/signup.jinja2',
)
def signup_form(request: Request) -> dict[str, Any] | HTTPSeeOther:
    """Show the form for a new account."""
    if request.is_authenticated:
        return HTTPSeeOther(request.route_path('shelf'))
    return {'name': '', 'errors': {}}


@view_config(
    route_name='signup',
    request_method='POST',
    http_cache=0,
    renderer='demo:templates/signup.jinja2',
)
def signup(request: Request) -> dict[str, Any] | HTTPSeeOther:
    """Open an account and log in to it."""
    name = request.POST.get('name', '').strip().lower()
    password = request.POST.get('password', '')
    errors = check_signup(request, name, password)
    if errors:
        request.response.status_int = 422
        return {'name': name, 'errors': errors}
    user = User(name=name, password=hash_password(password))
    request.dbsession.add(user)
    try:
        request.dbsession.flush()
    except IntegrityError as error:
        # Free when looked up, taken when written.
        raise NameTaken(taken(name), 'signup') from error
    headers = remember(request, user.id)
    request.session.flash(f'Welcome, {name}. The kettle is on.', 'success')
    return HTTPSeeOther(request.route_path('shelf'), headers=headers)


def check_signup(request: Request, name: str, password: str) -> dict[str, str]:
    """Return what is wrong with the form, by the field's name."""
    errors = {}
    if not NAME.fullmatch(name):
        errors['name'] = (
            'A name is 2 to 40 letters (a to z) and digits, a letter first.'
        )
    elif request.dbsession.scalar(select(User.id).where(User.name == name)):
        errors['name'] = taken(name)
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        errors['password'] = (
            f'A password has at least {SHORTEST_PASSWORD} characters'
            f' (and at most {LONGEST_PASSWORD}).'
        )
    return errors


def taken(name: str) -> str:
    """Return the words for a name that somebody else has."""
    return f'Somebody is called {name} already. Another name, please.'


def local_path(came_from: str | None) -> str:
    """Return a path on this site, whatever the form or the URL says.

    Browsers read ``//host`` and ``/\\host`` as another site, and drop
    control characters before they look.
    """
    path = came_from or '/'
    is_local = path.startswith('/') and path[1:2] not in ('/', '\\')
    return path if is_local and path.isprintable() else '/'
