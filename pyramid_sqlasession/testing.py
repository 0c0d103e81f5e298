"""What the fixtures of an application's tests are made of."""

from __future__ import annotations

from email.message import Message
from typing import Any
from urllib.request import Request as URLRequest

from pyramid.interfaces import IRequestFactory
from pyramid.request import apply_request_extensions
from pyramid.request import Request
from pyramid.threadlocal import RequestContext

from pyramid_sqlasession.application import Application
from pyramid_sqlasession.authentication import SessionAuthenticationHelper
from pyramid_sqlasession.cookie import Token
from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.latesaving import save_now
from pyramid_sqlasession.lifecycle import binding_of
from pyramid_sqlasession.settings import Settings
from pyramid_sqlasession.wiring import application_of
from pyramid_sqlasession.wiring import registry_of


def log_in(testapp: Any, **data: Any) -> str:
    """Store a session that is logged in, give *testapp* its cookie.

    :param testapp: a ``webtest.TestApp``; its ``extra_environ`` says whether
        the session is stored through ``app.dbsession``.
    :param data: what the session holds; the user's id by the name of the
        setting ``user_field``.
    :returns: the value of the cookie.
    :raises SessionError: if nothing is stored, or *testapp* cannot have the
        cookie.
    """
    if not hasattr(testapp, 'cookiejar'):
        raise SessionError(
            f'login_session takes a webtest.TestApp, which keeps the cookie, '
            f'not {testapp!r}'
        )
    registry = registry_of(testapp)
    application = application_of(registry)
    request = _request(registry, dict(testapp.extra_environ))
    with RequestContext(request):
        token = _stored(request, data, application.settings.user_field)
    _give_cookie(testapp, application, request, token)
    return application.cookies.value(token)


def _stored(request: Any, data: dict[str, Any], user_field: str) -> Token:
    """Store a session that holds *data*; return its token."""
    request.session.update(data)
    if user_field in data:
        helper = SessionAuthenticationHelper()
        helper.remember(request, data[user_field])
    binding = binding_of(request)
    assert binding is not None
    token = save_now(binding)
    if token is None:
        raise SessionError(
            'login_session was given nothing to store, such as user_id=7'
        )
    return token


def _give_cookie(
    testapp: Any, application: Application, request: Any, token: Token
) -> None:
    """Have *testapp* take the cookie as it would from a response."""
    lifetime = application.settings.expiration
    header = application.cookies.set_header(token, request, lifetime)
    if '; Secure' in header and request.scheme != 'https':
        raise SessionError(
            'the cookie is Secure, but testapp speaks http. Give it '
            "extra_environ={'wsgi.url_scheme': 'https'}, or set "
            'sqlasession.cookie_secure = false for the tests'
        )
    # TestApp.set_cookie() takes another domain, and both cookies would be sent
    # once the application sets its own.
    testapp.cookiejar.extract_cookies(
        _Response(header),
        URLRequest(request.url),  # noqa: S310 - nothing is opened
    )
    value = application.cookies.value(token)
    if value not in [cookie.value for cookie in testapp.cookiejar]:
        raise _refused(application.settings, request.host)


def _refused(settings: Settings, host: str) -> SessionError:
    domain = settings.cookie_domain
    allowed = f'www.{(domain or "example.com").lstrip(".")}'
    return SessionError(
        f'sqlasession.cookie_domain = {domain!r}: testapp takes no such '
        f'cookie from the host {host!r}. Give it a host of the domain, '
        f"extra_environ={{'HTTP_HOST': {allowed!r}}}, or leave the setting "
        f'empty for the tests'
    )


class _Response:
    """What a cookie jar wants to see of a response."""

    def __init__(self, set_cookie: str) -> None:
        self._message = Message()
        self._message['Set-Cookie'] = set_cookie

    def info(self) -> Message:
        return self._message


def _request(registry: Any, environ: dict[str, Any]) -> Any:
    factory = registry.queryUtility(IRequestFactory, default=Request)
    request = factory.blank('/', environ=environ)
    request.registry = registry
    apply_request_extensions(request)
    return request
