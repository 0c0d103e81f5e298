"""A load generator that leaves the processors to the server.

One thread, one set of connections that are kept alive, requests that were
put together beforehand; of an answer only the status and the length are
read.  A server that closes a connection after each answer gets a new one.
"""

import selectors
import socket
import time


def request(path, cookie=None):
    """Return the bytes of a request."""
    lines = [f'GET {path} HTTP/1.1', 'Host: localhost']
    if cookie is not None:
        lines.append(f'Cookie: {cookie}')
    return '\r\n'.join([*lines, '', '']).encode()


class _Connection:
    """One request at a time; *take* returns the next one's bytes."""

    def __init__(self, port, selector, take):
        self._port, self._selector, self._take = port, selector, take
        self._socket = None
        self._send()

    def _send(self):
        if self._socket is None:
            self._socket = socket.create_connection(
                ('127.0.0.1', self._port), timeout=30
            )
            self._socket.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
            )
            self._selector.register(
                self._socket, selectors.EVENT_READ, self
            )
        self._answer = b''
        self._socket.sendall(self._take())

    def receive(self):
        """Read what came; return whether that was the end of an answer."""
        data = self._socket.recv(1 << 16)
        self._answer += data
        head, found, body = self._answer.partition(b'\r\n\r\n')
        if data and not found:
            return False
        if not head.startswith(b'HTTP/1.1 200'):
            raise RuntimeError(f'answered: {self._answer[:300]!r}')
        head = head.lower()
        length = head.partition(b'content-length:')[2].split(None, 1)[0]
        if len(body) < int(length):
            return False
        if b'connection: close' in head:
            self.close()
        return True

    def again(self):
        self._send()

    def close(self):
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None


def load(port, take, seconds, connections=8):
    """Return requests per second, and this process's share of a processor.

    :param take: returns the bytes of the next request.
    """
    with selectors.DefaultSelector() as selector:
        clients = [
            _Connection(port, selector, take) for _ in range(connections)
        ]
        count, cpu = 0, time.process_time()
        start = time.perf_counter()
        end = start + seconds
        while (now := time.perf_counter()) < end:
            for key, _ in selector.select(timeout=10):
                if key.data.receive():
                    count += 1
                    key.data.again()
        cpu = time.process_time() - cpu
        for client in clients:
            client.close()
    return count / (now - start), cpu / (now - start)
