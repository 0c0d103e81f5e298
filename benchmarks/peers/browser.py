"""Requests to a WSGI application in this process, and a browser's cookies."""

from http.cookies import SimpleCookie
import sys

from webob import Request

from benchmarks.peers.systems import ACT


class Answer:
    """What came back: a status, and what to do with the cookies."""

    def __init__(self, status, set_cookies=()):
        self.status = status
        self._set_cookies = set_cookies

    def apply(self, jar):
        """Set and remove the cookies as a browser does."""
        for header in self._set_cookies:
            for name, morsel in SimpleCookie(header).items():
                # All four systems delete by an age or a date of zero.
                if morsel['max-age'] == '0' or '1970' in morsel['expires']:
                    jar.pop(name, None)
                else:
                    jar[name] = morsel.value


def send(app, act, jar=None):
    """Send one request, whose view calls *act*; return the ``Answer``."""
    request = Request.blank('/')
    if jar:
        request.headers['Cookie'] = '; '.join(
            f'{name}={value}' for name, value in jar.items()
        )
    request.environ[ACT] = act
    try:
        response = request.get_response(app)
        # Closes it too, which ends the request for Django and Pyramid.
        assert response.body is not None
    except Exception as error:
        # Shown, as no case expects one.
        print(f'500: {repr(error)[:70]}', file=sys.stderr)
        return Answer(500)
    return Answer(
        response.status_int, response.headers.getall('Set-Cookie')
    )
