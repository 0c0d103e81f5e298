"""A proxy before PostgreSQL that counts round trips.

    with RoundTrips(url) as proxy:
        engine = create_engine(proxy.url)
        proxy.clear()
        ...
        assert proxy.trips == ['BEGIN', 'SELECT …', 'COMMIT']

A round trip begins when the client sends something after the server has
spoken; how many messages, packets or statements it takes does not matter.
Each is described by its SQL, '; ' between the statements of one trip.  What
a connection costs to set up is not counted.
"""

import contextlib
import re
import selectors
import socket
import struct
import threading

import sqlalchemy as sa


class RoundTrips:
    """Listens on a port of 127.0.0.1 and passes everything on."""

    def __init__(self, url):
        """Stand before the server that *url*, of SQLAlchemy, names."""
        self._target = sa.make_url(url)
        self._lock = threading.Lock()
        self._trips = []
        #: Whether what a client says is answered by a reset of its
        #: connection.
        self.resets = False

    def __enter__(self):
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(('127.0.0.1', 0))
        self._selector.register(
            self._listener, selectors.EVENT_READ, self._accept
        )
        self._waker, self._stop = socket.socketpair()
        self._selector.register(self._waker, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.close()
        self._thread.join(10)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()

    @property
    def url(self):
        """The URL of the database, by way of this proxy."""
        host, port = self._listener.getsockname()
        # Encryption would be agreed upon in front of what is read here.
        return self._target.set(host=host, port=port).update_query_dict(
            {'sslmode': 'disable', 'gssencmode': 'disable'}
        ).render_as_string(hide_password=False)

    @property
    def trips(self):
        """The round trips since ``clear()``, one string each."""
        with self._lock:
            return [' '.join('; '.join(t).split()) for t in self._trips]

    @property
    def verbs(self):
        """The first words: ``['BEGIN', 'SELECT', 'COMMIT']``."""
        return [re.match(r'\w*', trip)[0].upper() for trip in self.trips]

    def clear(self):
        """Count from 0."""
        with self._lock:
            self._trips = []

    # -- the thread ----------------------------------------------------------

    def _run(self):
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                # Both ends of a conversation may be ready at once, and the
                # first one has ended it.
                if key.fileobj.fileno() != -1:
                    key.data(key.fileobj)

    def _accept(self, listener):
        client, _ = listener.accept()
        server = socket.create_connection(
            (self._target.host, self._target.port or 5432)
        )
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conversation = _Conversation(self._note)
        for source, target, listen in (
            (client, server, conversation.client_says),
            (server, client, conversation.server_says),
        ):
            self._selector.register(
                source, selectors.EVENT_READ,
                lambda source, target=target, listen=listen: self._pass(
                    source, target, listen
                ),
            )

    def _pass(self, source, target, listen):
        data = b''
        with contextlib.suppress(OSError):
            data = source.recv(1 << 16)
        if self.resets:
            # To linger for no time is to say so to the other end.
            source.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)
            )
        elif data:
            # Noted first: who has the answer finds it in `trips`.
            listen(data)
            with contextlib.suppress(OSError):
                target.sendall(data)
                return
        for one in (source, target):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(one)
            one.close()

    def _note(self, statements, is_new):
        with self._lock:
            if is_new or not self._trips:
                self._trips.append([])
            self._trips[-1].extend(statements)


class _Conversation:
    """Follows one connection, message by message.

    https://www.postgresql.org/docs/current/protocol-message-formats.html
    """

    def __init__(self, note):
        self._note = note
        self._buffer = b''
        self._is_set_up = False
        self._server_spoke = False
        self._prepared = {}

    def server_says(self, data):
        self._server_spoke = True

    def client_says(self, data):
        if not self._is_set_up:
            # The start-up message, the only one without a type.
            (length,) = struct.unpack_from('!I', data)
            self._is_set_up = True
            data = data[length:]
        self._buffer += data
        statements, ends = [], False
        while len(self._buffer) >= 5:
            kind, length = struct.unpack_from('!cI', self._buffer)
            if len(self._buffer) < 1 + length:
                break
            body = self._buffer[5:1 + length]
            self._buffer = self._buffer[1 + length:]
            # A password, or the end of the connection.
            ends = ends or kind in b'pX'
            statements += self._statements(kind, body)
        if not ends:
            self._note(statements, self._server_spoke)
        self._server_spoke = False

    def _statements(self, kind, body):
        """Return the SQL that a message has executed, if any."""
        if kind == b'Q':
            return [body.rstrip(b'\0').decode()]
        if kind == b'P':
            name, sql = body.split(b'\0')[:2]
            self._prepared[name] = sql.decode()
        elif kind == b'B':
            return [self._prepared.get(body.split(b'\0')[1], '?')]
        return []
