"""The application that the tests talk to: the cookiecutter's pattern, whose
views are handed in by the tests.

    def test_kept(site):
        @site.view
        def add(request):
            request.session['n'] = 1

        browser = site.browser()
        browser.get('/add')
        assert site.rows()[0]['data'] == '{"n":1}'

``site`` runs on every database.  ``make_site(**settings)`` takes settings
(``expiration='1h'`` is ``sqlasession.expiration``; names with a dot are taken
as they are, ``{'tm.commit_veto': ...}``), and ``configure(config)``.
"""

import contextlib
import datetime as dt
import threading

from pyramid.config import Configurator
from pyramid.response import Response
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column
from sqlalchemy.orm import sessionmaker
from webtest import TestApp
import zope.sqlalchemy

from pyramid_sqlasession import stop_expiring_sessions


class Base(DeclarativeBase):
    """The models of the application."""


class Note(Base):
    """A row of the application's own data."""

    __tablename__ = 'notes'

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(sa.String(64), unique=True)


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self):
        self.time = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC)

    def __call__(self):
        return self.time

    def advance(self, **units):
        """Move on by ``timedelta(**units)``."""
        self.time += dt.timedelta(**units)


class Statements(list):
    """The SQL that an engine was sent, one string each, as they come."""

    def __init__(self, engine):
        super().__init__()
        self._lock = threading.Lock()
        sa.event.listen(engine, 'before_cursor_execute', self._note)

    def _note(self, connection, cursor, statement, *args):
        with self._lock:
            self.append(' '.join(statement.split()))

    @property
    def verbs(self):
        """The first words: ``['SELECT', 'UPDATE']``."""
        # Behind what only some servers read (dialects.py).
        return [
            statement.rpartition('*/')[2].split()[0].upper()
            for statement in self
        ]


def get_dbsession(request):
    """``request.dbsession``, as the cookiecutter makes it."""
    dbsession = request.environ.get('app.dbsession')
    if dbsession is None:
        dbsession = request.registry['dbsession_factory'](
            info={'request': request}
        )
        zope.sqlalchemy.register(dbsession, transaction_manager=request.tm)
    return dbsession


def configurator_of_ini(settings):
    """Return the configurator of an application that has its engine from its
    ini file.
    """
    config = Configurator(settings=settings)
    engine = sa.engine_from_config(settings, 'sqlalchemy.')
    config.registry['dbsession_factory'] = sessionmaker(engine)
    config.add_request_method(get_dbsession, 'dbsession', reify=True)
    config.include('pyramid_sqlasession')
    return config


class Site:
    """An application on one database.

    :param with_dbsession: whether requests have the cookiecutter's
        ``dbsession``; or a function of the configuration that gives them
        another one.
    """

    def __init__(
        self, database, *, configure=None, engine_options=None,
        with_dbsession=True, retry=False, create=True, frozen=True,
        **settings,
    ):
        self.database = database
        self.engine = database.create_engine(**(engine_options or {}))
        # As in production, where nobody listens. (Other tests of this process
        # have imported the debug toolbar, which listens to all engines.)
        self.engine._has_events = self.engine.dialect._has_events = False
        if database.name == 'sqlite':
            # As the package does for an engine of its own.
            sa.event.listen(self.engine, 'connect', _wal)
        self._statements = None
        #: To look at the tables from outside, past the application.
        self.outside = database.create_engine()
        self.views = {}
        self.clock = Clock()
        given = {
            'tm.manager_hook': 'pyramid_tm.explicit_manager',
            'sqlasession.check_expiration_interval': '0',
        }
        if retry:
            given['retry.attempts'] = '3' if retry is True else str(retry)
        for name, value in settings.items():
            given[name if '.' in name else f'sqlasession.{name}'] = value
        self.config = config = Configurator(settings=given)
        if with_dbsession:
            config.registry['dbsession_factory'] = sessionmaker(self.engine)
        if callable(with_dbsession):
            with_dbsession(config)
        elif with_dbsession:
            config.add_request_method(get_dbsession, 'dbsession', reify=True)
        config.include('pyramid_tm')
        config.include('pyramid_sqlasession')
        if retry:
            config.include('pyramid_retry')
        config.add_route('any', '/{name}')
        config.add_view(self._dispatch, route_name='any')
        if configure is not None:
            configure(config)
        self.app = config.make_wsgi_app()
        self.registry = self.app.registry
        #: The parts of the package: ``pyramid_sqlasession.application``.
        self.application = self.registry['sqlasession']
        if frozen:
            self.application.now = self.clock
        if create:
            Base.metadata.create_all(self.outside)
            with self.application.engine.begin() as connection:
                self.application.records.create_table(connection)

    def listen(self):
        """Note the statements from now on, in ``statements``.

        Whoever listens to the engine has single statements go the long way
        (shortcut.py), so that only those listen who want to know.
        """
        if self._statements is None:
            self._statements = Statements(self.engine)
        self._statements.clear()

    @property
    def statements(self):
        """The statements since ``listen()``."""
        if self._statements is None:
            raise RuntimeError('nobody listens: call listen() first')
        return self._statements

    def _dispatch(self, request):
        answer = self.views[request.matchdict['name']](request)
        if isinstance(answer, Response):
            return answer
        return Response('' if answer is None else str(answer))

    def set_time_zone(self, zone, offset):
        """Have the connections of the application from now on be in a zone.

        :param offset: of the zone, as MariaDB takes it without its tables.
        """
        sql = {
            'postgresql': f"SET TIME ZONE '{zone}'",
            'mariadb': f"SET time_zone = '{offset}'",
        }.get(self.database.name, 'SELECT 1')

        @sa.event.listens_for(self.engine, 'connect')
        def set_zone(connection, record):
            cursor = connection.cursor()
            cursor.execute(sql)
            cursor.close()
            connection.commit()

        self.engine.dispose()

    def view(self, function):
        """Make *function* the view at ``/<its name>``; returns it."""
        self.views[function.__name__] = function
        return function

    def browser(self, like=None, **environ):
        """Return a new ``TestApp``, with the cookies of *like*."""
        browser = TestApp(self.app, extra_environ=environ or None)
        if like is not None:
            for cookie in like.cookiejar:
                browser.cookiejar.set_cookie(cookie)
        return browser

    def token(self, browser):
        """Return the value of the session cookie of *browser*, or None."""
        return browser.cookies.get(self.application.settings.cookie_name)

    def rows(self):
        """Return the records as they are committed, dicts, oldest first."""
        table = self.application.records.table
        with self.outside.connect() as connection:
            rows = connection.execute(
                sa.select(table).order_by(table.c.created, table.c.id)
            )
            return [dict(row._mapping) for row in rows]

    def data(self):
        """Return the decoded data of the only record."""
        (row,) = self.rows()
        return self.application.codec.read(row['data'])[0]

    def notes(self):
        """Return the texts of the application's rows, sorted."""
        with self.outside.connect() as connection:
            return sorted(connection.scalars(sa.select(Note.text)))

    def execute(self, sql, **values):
        """Run SQL past the application, and commit it."""
        with self.outside.begin() as connection:
            return connection.execute(sa.text(sql), values)

    @contextlib.contextmanager
    def events(self, *kinds):
        """Collect the events of these classes while the block runs."""
        seen = []

        def note(event):
            if not kinds or isinstance(event, kinds):
                seen.append(event)

        self.registry.registerHandler(note, [None])
        try:
            yield seen
        finally:
            self.registry.unregisterHandler(note, [None])

    def close(self):
        """Stop the cleaner and close all connections."""
        stop_expiring_sessions(self.app)
        self.application.engine.dispose()
        self.engine.dispose()
        self.outside.dispose()


def _wal(connection, record):
    # From Python 3.12 on the driver may be in a transaction from the start.
    if getattr(connection, 'autocommit', None) is False:
        connection.autocommit = True
        _wal(connection, record)
        connection.autocommit = False
        return
    cursor = connection.cursor()
    cursor.execute('PRAGMA journal_mode = WAL')
    cursor.execute('PRAGMA busy_timeout = 20000')
    cursor.close()
