"""Requests to a WSGI application in this process, at little cost."""

import io
import itertools

from benchmarks.systems import POOL

_ENVIRON = {
    'REQUEST_METHOD': 'GET',
    'SCRIPT_NAME': '',
    'QUERY_STRING': '',
    'SERVER_NAME': 'localhost',
    'SERVER_PORT': '80',
    'SERVER_PROTOCOL': 'HTTP/1.1',
    'REMOTE_ADDR': '127.0.0.1',
    'HTTP_HOST': 'localhost',
    'HTTP_ACCEPT': 'text/html',
    'HTTP_USER_AGENT': 'benchmark',
    'wsgi.version': (1, 0),
    'wsgi.url_scheme': 'http',
    'wsgi.errors': io.StringIO(),
    'wsgi.multithread': False,
    'wsgi.multiprocess': False,
    'wsgi.run_once': False,
}


class Client:
    """Calls *app*; what it answers is checked, every time."""

    def __init__(self, app):
        self._app = app
        self._started = None

    def _start_response(self, status, headers, exc_info=None):
        self._started = status, headers

    def get(self, path, cookie=None):
        """Return body and headers of the answer."""
        environ = dict(_ENVIRON)
        environ['PATH_INFO'] = path
        environ['wsgi.input'] = io.BytesIO()
        if cookie is not None:
            environ['HTTP_COOKIE'] = cookie
        answer = self._app(environ, self._start_response)
        body = b''.join(answer)
        if hasattr(answer, 'close'):
            answer.close()
        status, headers = self._started
        if status[:3] != '200':
            raise RuntimeError(f'{path}: {status} {body[:300]!r}')
        return body, headers

    def create(self):
        """Make a session; return the cookie."""
        body, headers = self.get('/create')
        cookies = [
            value.partition(';')[0]
            for name, value in headers
            if name.lower() == 'set-cookie'
        ]
        assert body == b'created', body
        assert cookies
        return '; '.join(cookies)


def scenarios(app, *, queries=False, keeps_cookie=False):
    """Return the scenarios of a WSGI application.

    :param queries: whether it has the views that query.
    :param keeps_cookie: whether the session is the cookie itself.
    """
    client = Client(app)
    cookies = [client.create() for _ in range(POOL)]
    body, _ = client.get('/read', cookies[0])
    assert body == b'48213', body
    client.get('/change', cookies[0])
    body, _ = client.get('/value', cookies[0])
    assert body == (b'0' if keeps_cookie else b'1'), body
    made = visits(client, cookies)
    if not queries:
        return {name: made[name] for name in ('S0', 'S1', 'S2', 'S3', 'S4')}
    return made


def visits(client, cookies):
    """Return all scenarios; visitors with *cookies* take turns."""
    turns = itertools.cycle(cookies)
    return {
        'S0': lambda: client.get('/none'),
        'S1': lambda: client.get('/look'),
        'S2': lambda: client.get('/read', next(turns)),
        'S3': lambda: client.get('/change', next(turns)),
        'S4': client.create,
        'Q0': lambda: client.get('/query'),
        'Q2': lambda: client.get('/query_read', next(turns)),
        'Q3': lambda: client.get('/query_change', next(turns)),
    }
