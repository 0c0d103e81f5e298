"""Who is logged in: a security policy on the session."""

from typing import Any

from pyramid.authorization import ACLHelper
from pyramid.authorization import Authenticated
from pyramid.authorization import Everyone
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.request import RequestLocalCache

from pyramid_sqlasession.authentication import SessionAuthenticationHelper

from .models import User


class SecurityPolicy:
    def __init__(self) -> None:
        self.helper = SessionAuthenticationHelper()
        self.users = RequestLocalCache()
        self.acl = ACLHelper()

    def load_user(self, request: Request) -> Any:
        userid = self.helper.authenticated_userid(request)
        if userid is None:
            return None
        return request.dbsession.get(User, userid)

    def identity(self, request: Request) -> Any:
        user = self.users.get(request)
        if user is not RequestLocalCache.NO_VALUE:
            return user
        user = self.load_user(request)
        # Nobody is no answer to keep: it may be that of a database that is
        # away, and the view has to hear of that.
        if user is not None:
            self.users.set(request, user)
        return user

    def authenticated_userid(self, request: Request) -> int | None:
        user = self.identity(request)
        return None if user is None else user.id

    def permits(
        self, request: Request, context: Any, permission: str
    ) -> Any:
        principals = [Everyone]
        user = self.identity(request)
        if user is not None:
            principals += [Authenticated, f'user:{user.id}']
        return self.acl.permits(context, principals, permission)

    def remember(
        self, request: Request, userid: int, **kw: Any
    ) -> list[tuple[str, str]]:
        self.users.clear(request)
        return self.helper.remember(request, userid, **kw)

    def forget(
        self, request: Request, **kw: Any
    ) -> list[tuple[str, str]]:
        self.users.clear(request)
        return self.helper.forget(request, **kw)


def includeme(config: Configurator) -> None:
    policy = SecurityPolicy()
    config.set_security_policy(policy)
    config.set_default_csrf_options(require_csrf=True)
    config.add_request_method(
        lambda request, max_age: policy.helper.fresh(request, max_age),
        'is_fresh',
    )
