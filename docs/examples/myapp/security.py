"""Who is logged in: a security policy on the session."""

from pyramid.authorization import ACLHelper
from pyramid.authorization import Authenticated
from pyramid.authorization import Everyone
from pyramid.request import RequestLocalCache

from pyramid_sqlasession.authentication import SessionAuthenticationHelper

from .models import User


class SecurityPolicy:
    def __init__(self):
        self.helper = SessionAuthenticationHelper()
        self.users = RequestLocalCache(self.load_user)
        self.acl = ACLHelper()

    def load_user(self, request):
        userid = self.helper.authenticated_userid(request)
        if userid is None:
            return None
        return request.dbsession.get(User, userid)

    def identity(self, request):
        return self.users.get_or_create(request)

    def authenticated_userid(self, request):
        user = self.identity(request)
        return None if user is None else user.id

    def permits(self, request, context, permission):
        principals = [Everyone]
        user = self.identity(request)
        if user is not None:
            principals += [Authenticated, f'user:{user.id}']
        return self.acl.permits(context, principals, permission)

    def remember(self, request, userid, **kw):
        self.users.clear(request)
        return self.helper.remember(request, userid, **kw)

    def forget(self, request, **kw):
        self.users.clear(request)
        return self.helper.forget(request, **kw)


def includeme(config):
    policy = SecurityPolicy()
    config.set_security_policy(policy)
    config.set_default_csrf_options(require_csrf=True)
    config.add_request_method(
        lambda request, max_age: policy.helper.fresh(request, max_age),
        'is_fresh',
    )
