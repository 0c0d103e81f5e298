"""Whether a server has closed a connection, as the driver or its socket shows:
that costs no round trip.

Knows drivers, and nothing of SQLAlchemy.
"""

from __future__ import annotations

import contextlib
from operator import attrgetter
import select
from typing import Any

# Where drivers keep their socket.  psycopg2 and mysqlclient are asked for its
# number themselves; of the others it is private: pg8000, PyMySQL and
# mysql-connector.
_SOCKETS = (
    attrgetter('fileno'), attrgetter('_usock.fileno'),
    attrgetter('_sock.fileno'), attrgetter('_socket.sock.fileno'),
)

# The peer has said that nothing more follows (Linux alone tells so while its
# last words are unread), or the connection is broken.
_ENDED = getattr(select, 'POLLRDHUP', 0)
_BROKEN = getattr(select, 'POLLHUP', 0) | getattr(select, 'POLLERR', 0)


def is_closed_by_server(connection: Any) -> bool:
    """Return whether a driver's *connection* is of no use any more; False if
    that cannot be told, or while the closing is under way.
    """
    pgconn = getattr(connection, 'pgconn', None)
    if pgconn is not None:
        return _is_closed_for_libpq(pgconn)
    number = _number_of(connection)
    # There is none on Windows.
    if number is None or not hasattr(select, 'poll'):
        return False
    poll = select.poll()
    poll.register(number, _ENDED)
    return any(events & (_ENDED | _BROKEN) for _, events in poll.poll(0))


def _is_closed_for_libpq(pgconn: Any) -> bool:
    try:
        # The server's last words, and then the end.
        pgconn.consume_input()
        pgconn.consume_input()
    # psycopg's, which need not be there.
    except Exception:
        return True
    return False


def _number_of(connection: Any) -> int | None:
    for fileno_of in _SOCKETS:
        # Another driver; or one that knows already that it is closed, which
        # its next statement says better.
        with contextlib.suppress(Exception):
            number = fileno_of(connection)()
            return number if isinstance(number, int) and number >= 0 else None
    return None
