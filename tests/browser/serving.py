"""The demo, served by waitress in a thread of the tests' process."""

from contextlib import contextmanager
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
import threading

from pyramid.paster import get_appsettings
import sqlalchemy as sa
from waitress import wasyncore
from waitress.server import create_server

import demo
from demo.models import Order
from demo.models import OrderLine
from pyramid_sqlasession import stop_expiring_sessions

from .encrypted import serving_encrypted

INI = Path(__file__).parents[2] / 'development.ini'


def _let_pyramid_read(package):
    """Have static files found where pytest has loaded the package: it does
    so with a loader that pkg_resources, which Pyramid asks, does not know.
    """
    with suppress(ImportError):
        import pkg_resources

        pkg_resources.register_loader_type(
            type(package.__loader__), pkg_resources.DefaultProvider
        )


_let_pyramid_read(demo)


class Shop:
    """The running demo: its address, its clock and its database."""

    def __init__(self, app, address):
        self.address = address
        self._sessions = app.registry['sqlasession']
        self._utcnow = self._sessions.now
        self.cookie_name = self._sessions.settings.cookie_name
        self._make_dbsession = app.registry['dbsession_factory']
        self.skipped = timedelta()

    def skip(self, **span):
        """Let time pass for the sessions: ``skip(minutes=5)``."""
        self.skipped += timedelta(**span)
        self._sessions.now = lambda: self._utcnow() + self.skipped

    def open_anew(self):
        """Forget all sessions and orders, and set the clock right."""
        self.skipped = timedelta()
        self._sessions.now = self._utcnow
        with self._make_dbsession.begin() as dbsession:
            for model in (OrderLine, Order, self._sessions.model):
                dbsession.execute(sa.delete(model))

    def count(self, model):
        """Return how many rows a table of the shop has."""
        with self._make_dbsession() as dbsession:
            query = sa.select(sa.func.count()).select_from(model)
            return dbsession.scalar(query)

    @property
    def session_count(self):
        """How many sessions the database has."""
        return self.count(self._sessions.model)


@contextmanager
def serving(folder, *, is_https=False, **changed):
    """Serve the demo as development.ini has it, but for what is changed."""
    settings = {
        **get_appsettings(str(INI)),
        'sqlalchemy.url': f'sqlite:///{folder}/shop.sqlite',
        # Not in the way of what visitors see.
        'pyramid.includes': '',
        **changed,
    }
    app = demo.main(None, **settings)
    try:
        if is_https:
            with serving_encrypted(app, folder) as port:
                yield Shop(app, f'https://localhost:{port}')
        else:
            with serving_plainly(app) as port:
                yield Shop(app, f'http://localhost:{port}')
    finally:
        stop_expiring_sessions(app)
        app.registry['dbsession_factory'].kw['bind'].dispose()


@contextmanager
def serving_plainly(app):
    """Serve a WSGI application by waitress; yields the port."""
    # A map of its own: the default one is the process's.
    server = create_server(app, map={}, host='127.0.0.1', port=0)

    def close():
        # The server's loop ends when its map is empty.
        server.task_dispatcher.shutdown()
        wasyncore.close_all(server._map, ignore_all=True)

    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.effective_port
    finally:
        server.trigger.pull_trigger(close)
        thread.join(10)
        assert not thread.is_alive()
