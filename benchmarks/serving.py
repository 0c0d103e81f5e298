"""The application for web servers, and a server with it in a process.

``benchmarks.serving:make()`` for gunicorn; ``python -m benchmarks.serving``
for waitress.  The environment says what it is: ``BENCH_STORE`` is
``sqlasession`` or ``signed_cookie``, ``BENCH_URL`` a database, the others
are as below.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

from benchmarks import environment
from benchmarks.loading import request


def make():
    """Return the WSGI application."""
    get = os.environ.get
    options = json.loads(get('BENCH_ENGINE', '{}'))
    if get('BENCH_STORE') == 'signed_cookie':
        return _signed_cookie(get('BENCH_URL'), options)
    from benchmarks.systems import sqlasession

    return sqlasession.configured(
        get('BENCH_URL'), options=options, touch_interval='1h'
    )


def _signed_cookie(url, options):
    """Return the same application with Pyramid's own sessions."""
    from pyramid.session import SignedCookieSessionFactory
    import sqlalchemy as sa

    from benchmarks.systems.pyramid_app import configurator

    config = configurator(
        {'tm.manager_hook': 'pyramid_tm.explicit_manager'},
        sa.create_engine(url, **options),
    )
    config.include('pyramid_tm')
    config.set_session_factory(
        SignedCookieSessionFactory('benchmark', reissue_time=None)
    )
    return config.make_wsgi_app()


def waitress(threads=4):
    """Return the command of a server with *threads* threads."""
    return [sys.executable, '-m', 'benchmarks.serving', str(threads)]


def gunicorn(*options):
    """Return the command of a server with two processes."""
    return [
        sys.executable, '-m', 'gunicorn', 'benchmarks.serving:make()',
        '--workers', '2', *options,
    ]


class Server:
    """A server that runs *command* with the application."""

    def __init__(self, command, store, url, *, log, engine=None):
        from tests.services.common import free_ports

        (self.port,) = free_ports(1)
        given = {
            'BENCH_STORE': store, 'BENCH_URL': url,
            'BENCH_ENGINE': json.dumps(engine or {}),
            # That is where gunicorn listens without --bind; waitress below.
            'PORT': str(self.port), 'PYTHONPATH': str(environment.ROOT),
        }
        if 'gunicorn' in command:
            command = [*command, '--bind', f'127.0.0.1:{self.port}']
        self._log = log
        with log.open('wb') as output:
            self._process = subprocess.Popen(
                command, env=os.environ | given, cwd=environment.ROOT,
                stdout=output, stderr=output,
            )

    def __enter__(self):
        end = time.monotonic() + 30
        while True:
            try:
                self.get('/none')
            except OSError:
                if self._process.poll() is not None or time.monotonic() > end:
                    self.__exit__()
                    raise SystemExit(self._log.read_text()[-3000:]) from None
                time.sleep(0.05)
            else:
                return self

    def __exit__(self, *_):
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def get(self, path):
        """Return the cookie that an answer sets, or None."""
        page = urllib.request.urlopen(
            f'http://127.0.0.1:{self.port}{path}', timeout=10
        )
        with page:
            cookie = page.headers['Set-Cookie']
        return cookie and cookie.partition(';')[0]

    def cookies(self, count):
        """Return the cookies of *count* new sessions."""
        return [self.get('/create') for _ in range(count)]

    def requests(self, path, cookies):
        """Return the bytes of a request for each cookie."""
        return [request(path, cookie) for cookie in cookies]


def main(threads):
    import waitress

    waitress.serve(
        make(), listen=f'127.0.0.1:{os.environ["PORT"]}',
        threads=int(threads),
    )


if __name__ == '__main__':
    main(*sys.argv[1:])
