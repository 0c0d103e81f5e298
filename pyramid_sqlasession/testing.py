"""What the fixtures of an application's tests are made of."""

from __future__ import annotations

from typing import Any

from pyramid.interfaces import IRequestExtensions
from pyramid.interfaces import IRequestFactory
from pyramid.request import apply_request_extensions
from pyramid.request import Request
from pyramid.threadlocal import RequestContext

from pyramid_sqlasession.authentication import SessionAuthenticationHelper
from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.lifecycle import binding_of
from pyramid_sqlasession.wiring import application_of
from pyramid_sqlasession.wiring import registry_of


def log_in(testapp: Any, **data: Any) -> str:
    """Store a session that is logged in, give *testapp* its cookie.

    :param testapp: a ``webtest.TestApp``; its ``extra_environ`` says whether
        the session is stored through ``app.dbsession``.
    :param data: what the session holds; the user's id by the name of the
        setting ``user_field``.
    :returns: the value of the cookie.
    """
    registry = registry_of(testapp)
    application = application_of(registry)
    environ = dict(getattr(testapp, 'extra_environ', None) or {})
    request = _request(testapp, registry, environ)
    with RequestContext(request):
        user_field = application.settings.user_field
        session = request.session
        session.update(data)
        if user_field in data:
            helper = SessionAuthenticationHelper()
            helper.remember(request, data[user_field])
        binding = binding_of(request)
        assert binding is not None
        token = binding.save_now()
        if token is None:
            raise SessionError(
                'log_in() was given nothing to store, such as user_id=7'
            )
    value = application.cookies.value(token)
    testapp.set_cookie(application.settings.cookie_name, value)
    return value


def _request(testapp: Any, registry: Any, environ: dict[str, Any]) -> Any:
    factory = registry.queryUtility(IRequestFactory, default=Request)
    request = factory.blank('/', environ=environ)
    request.registry = registry
    extensions = registry.queryUtility(IRequestExtensions)
    if extensions is not None:
        apply_request_extensions(request, extensions=extensions)
    return request
