"""A throw-away redis on a free port of 127.0.0.1, which keeps nothing.

    with TempRedis() as server:
        redis.from_url(server.url)
"""

import shutil
import signal
import socket
import tempfile
import time

from .common import find_program
from .common import free_ports
from .common import ServerFailed
from .common import ServerMissing
from .common import spawn
from .common import stop_process
from .common import tail
from .common import Temporary


class TempRedis(Temporary):
    """A server with empty databases at ``url``."""

    def __init__(self):
        self._program = find_program('redis-server')
        if not self._program:
            raise ServerMissing(
                'no redis server (Debian: apt install redis-server)'
            )
        (self.port,) = free_ports(1)
        self.url = f'redis://127.0.0.1:{self.port}/0'
        self._folder = self._process = None

    def start(self, timeout=10):
        """Start the server on its port."""
        self._folder = tempfile.mkdtemp(prefix='redistemp-')
        log = f'{self._folder}/log'
        self._process = spawn(
            [self._program, '--port', self.port, '--bind', '127.0.0.1',
             '--save', '', '--appendonly', 'no', '--dir', self._folder],
            log, death_signal=signal.SIGKILL,
        )
        end = time.monotonic() + timeout
        while True:
            try:
                socket.create_connection(('127.0.0.1', self.port)).close()
                return self
            except OSError:
                if time.monotonic() > end:
                    raise ServerFailed(f'redis: {tail(log)}') from None
                time.sleep(0.02)

    def stop(self):
        """End the server and remove everything."""
        stop_process(self._process, signal.SIGTERM)
        shutil.rmtree(self._folder, ignore_errors=True)
