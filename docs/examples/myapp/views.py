"""Login, logout, and what an account's owner can do about sessions."""

from datetime import timedelta
from typing import Any

from pyramid.authorization import Allow
from pyramid.authorization import Authenticated
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPForbidden
from pyramid.httpexceptions import HTTPNotFound
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.request import Request
from pyramid.security import forget
from pyramid.security import remember
from sqlalchemy import select

from .models import User


class Account:
    """The context of all pages that need a login."""

    __acl__ = [(Allow, Authenticated, 'account')]

    def __init__(self, request: Request) -> None:
        pass


def home(request: Request) -> dict[str, Any]:
    return {
        'user': request.authenticated_userid,
        'csrf_token': request.session.get_csrf_token(),
        'messages': request.session.pop_flash(),
    }


# begin login
def login(request: Request) -> HTTPSeeOther | dict[str, str]:
    user = request.dbsession.scalar(
        select(User).where(User.name == request.POST['name'])
    )
    if user is None or not user.check_password(request.POST['password']):
        request.response.status_int = 422
        return {'error': 'That name and password do not belong together.'}
    headers = remember(request, user.id)
    request.session.set_expiry(
        timedelta(days=30) if request.POST.get('remember_me') else None
    )
    return HTTPSeeOther('/', headers=headers)


def logout(request: Request) -> HTTPSeeOther:
    headers = forget(request)
    request.session.flash('Good-bye.')
    return HTTPSeeOther('/', headers=headers)
# end login


# begin sudo
def confirm(request: Request) -> HTTPSeeOther:
    if not request.identity.check_password(request.POST['password']):
        raise HTTPForbidden()
    remember(request, request.authenticated_userid)
    return HTTPSeeOther('/')


def delete_account(request: Request) -> HTTPSeeOther:
    if not request.is_fresh(timedelta(minutes=15)):
        # In a browser: a redirect to a page that asks for the password.
        raise HTTPForbidden('Please confirm your password.')
    request.session_store.revoke_where(user_id=request.authenticated_userid)
    request.dbsession.delete(request.identity)
    forget(request)
    return HTTPSeeOther('/')
# end sudo


# begin password
def change_password(request: Request) -> HTTPSeeOther:
    user = request.identity
    if not user.check_password(request.POST['old']):
        raise HTTPForbidden()
    user.set_password(request.POST['new'])
    request.session.rotate()
    ended = request.session_store.revoke_where(
        user_id=user.id, except_id=request.session.id
    )
    request.session.flash(f'Changed. Logged out elsewhere: {ended}.')
    return HTTPSeeOther('/')
# end password


# begin everywhere
def logout_everywhere(request: Request) -> HTTPSeeOther:
    request.session_store.revoke_where(user_id=request.authenticated_userid)
    return HTTPSeeOther('/', headers=forget(request))


def logout_elsewhere(request: Request) -> HTTPSeeOther:
    request.session_store.revoke_where(
        user_id=request.authenticated_userid, except_id=request.session.id
    )
    return HTTPSeeOther('/devices')
# end everywhere


# begin devices
def devices(request: Request) -> dict[str, Any]:
    found = request.session_store.find(user_id=request.authenticated_userid)
    return {
        'devices': [
            {
                'id': record.id,
                'browser': record.user_agent,
                'address': record.ip,
                'first_seen': record.created.isoformat(),
                'last_seen': record.accessed.isoformat(),
                'is_this_one': record.id == request.session.id,
            }
            for record in found
        ]
    }


def logout_device(request: Request) -> HTTPSeeOther:
    record = request.session_store.get(request.POST['id'])
    if record is None or record.user_id != request.authenticated_userid:
        # Somebody else's is answered like one that never was.
        raise HTTPNotFound()
    request.session_store.revoke(record.id)
    return HTTPSeeOther('/devices')
# end devices


def includeme(config: Configurator) -> None:
    def add(
        name: str, view: Any, factory: Any = None, **options: Any
    ) -> None:
        path = '/' if name == 'home' else f'/{name}'
        config.add_route(name, path, factory=factory)
        config.add_view(view, route_name=name, renderer='json', **options)

    add('home', home)
    add('login', login, request_method='POST')
    add('logout', logout, request_method='POST')
    for view in (
        confirm, delete_account, change_password, logout_everywhere,
        logout_elsewhere, logout_device,
    ):
        add(
            view.__name__, view, Account, permission='account',
            request_method='POST',
        )
    add('devices', devices, Account, permission='account')
