"""The compared systems: thin adapters, one module each.

``make(url)`` returns a ``System``.  Its application has one view, which gets
a function by the WSGI environ and calls it with a ``Handle`` on the session
of the request: so all systems run the same cases, and each of them through
its own framework's middleware, callbacks and transaction.
"""

import datetime as dt

#: Where the environ has the function that the view is to call.
ACT = 'peers.act'

#: The application's own data, for the case of a transaction that fails.
CREATE_ORDERS = 'CREATE TABLE orders (item INTEGER)'
ORDER = 'INSERT INTO orders VALUES (1)'
COUNT_ORDERS = 'SELECT count(*) FROM orders'


#: Less than any session lives; long enough for a read to extend its end.
AGE = dt.timedelta(minutes=10)


class Refused(Exception):
    """What the application raises to have its transaction rolled back."""


class Handle:
    """The session of one request; *session* is a dict."""

    def __init__(self, session):
        self.session = session

    def get(self, key):
        return self.session.get(key)

    def put(self, key, value):
        self.session[key] = value

    def drop(self, key):
        del self.session[key]

    def flash(self, message):
        raise NotImplementedError

    def pop(self):
        """Take the flash messages, which the page shows."""
        raise NotImplementedError

    def login(self):
        """Give the session a new token, as at a login."""
        raise NotImplementedError

    def logout(self):
        raise NotImplementedError

    def checkout(self):
        """Store an order, note it in the session, and be refused."""
        self.order()
        self.session['order'] = 1
        raise Refused

    def order(self):
        """Insert a row in the request's transaction."""
        raise NotImplementedError

    def orders(self):
        """Count those rows."""
        raise NotImplementedError


class System:
    """An application, and what its operator can do."""

    #: Whether there is a way to change the token of a session.
    rotates = True

    #: The WSGI application.
    app = None

    def clear(self):
        """Remove every session, as an administrator does."""
        raise NotImplementedError

    def age(self):
        """Have every session be last used ``AGE`` ago."""
        raise NotImplementedError

    def expire(self):
        """Move the end of every session into the past."""
        raise NotImplementedError

    def clean(self):
        """Remove the expired sessions as the system itself does."""
        raise NotImplementedError

    def expire_and_clean(self):
        self.expire()
        self.clean()

    def count(self):
        """Return how many sessions are stored."""
        raise NotImplementedError

    def close(self):
        """Close all connections."""
