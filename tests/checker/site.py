"""The application that is tested: every operation of the plan is a URL.

``make_apps(config)`` returns the WSGI applications, one for each database
URL.  Each answers ``GET /<operation>?...`` with JSON: ``id``, ``seen``,
``result``; and with a header ``X-Checker``, JSON too, what it was told after
the commit: ``created``, ``ended`` (ids), ``dropped`` (reasons), ``runs``.

``prepare(config)`` makes the tables, ``final(config)`` returns what they hold
at the end: ``(sessions by id, application's rows, stock)``.
"""

import json
import threading
import time

from pyramid.config import Configurator
from pyramid.response import Response
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker
import zope.sqlalchemy

from pyramid_sqlasession import SessionCreated
from pyramid_sqlasession import SessionInvalidated
from pyramid_sqlasession import SessionWriteDropped
from pyramid_sqlasession import stop_expiring_sessions
from pyramid_sqlasession.dialects import prepare_engine

from . import sabotage

TABLE = 'checker_sessions'
GOODS = 4

_metadata = sa.MetaData()
purchases = sa.Table(
    'checker_purchases', _metadata,
    sa.Column('step', sa.String(64), primary_key=True),
)
stock = sa.Table(
    'checker_stock', _metadata,
    sa.Column('id', sa.Integer, primary_key=True, autoincrement=False),
    sa.Column('sold', sa.Integer, nullable=False),
)


# -- views -------------------------------------------------------------------


def look(request):
    return None


def set_key(request):
    request.session[request.GET['step']] = request.GET['step']


def delete(request):
    return request.session.pop(request.GET['target'], None)


def share(request):
    request.session[request.GET['target']] = request.GET['step']


def count(request):
    session = request.session
    session['n'] = session.get('n', 0) + 1
    return session['n']


def flash(request):
    request.session.flash(request.GET['step'])


def pop(request):
    return request.session.pop_flash()


def csrf(request):
    return request.session.get_csrf_token()


def touch(request):
    request.session.touch()


def buy(request):
    step = request.GET['step']
    dbsession = request.dbsession
    dbsession.execute(purchases.insert().values(step=step))
    dbsession.execute(
        stock.update()
        .where(stock.c.id == int(request.GET['target']))
        .values(sold=stock.c.sold + 1)
    )
    request.session[step] = step


def arrive(request):
    request.session['user'] = request.GET['step']


def login(request):
    request.session['user'] = request.GET['step']
    request.session.rotate()


def logout(request):
    request.session.invalidate()


def relogin(request):
    request.session.invalidate()
    request.session['user'] = request.GET['step']


def revoke(request):
    return request.session_store.revoke(request.GET['target'])


VIEWS = {
    'look': look, 'set': set_key, 'delete': delete, 'share': share,
    'count': count, 'flash': flash, 'pop': pop, 'csrf': csrf, 'touch': touch,
    'buy': buy, 'arrive': arrive, 'login': login, 'logout': logout,
    'relogin': relogin, 'revoke': revoke,
}


# -- application -------------------------------------------------------------


class Application:
    """A WSGI application with ``X-Checker``, one thread per request."""

    def __init__(self, config, url):
        self._local = threading.local()
        self._config = config
        self.engine = make_engine(config, url)
        self._app = self._make()

    def _make(self):
        config = Configurator(settings={
            'tm.manager_hook': 'pyramid_tm.explicit_manager',
            'retry.attempts': str(self._config.attempts),
            'sqlasession.table_name': TABLE,
            'sqlasession.conflict': 'retry',
            'sqlasession.touch_interval': '0',
            'sqlasession.check_expiration_interval': '1',
            'sqlasession.renewal_grace': f'{self._config.grace:g}',
            **self._config.settings,
        })
        config.registry['dbsession_factory'] = sessionmaker(self.engine)
        config.add_request_method(_dbsession, 'dbsession', reify=True)
        config.include('pyramid_retry')
        config.include('pyramid_tm')
        config.include('pyramid_sqlasession')
        config.add_route('any', '/{operation}')
        config.add_view(self._view, route_name='any')
        config.add_subscriber(self._note_creation, SessionCreated)
        config.add_subscriber(self._note_end, SessionInvalidated)
        config.add_subscriber(self._note_drop, SessionWriteDropped)
        return config.make_wsgi_app()

    def _view(self, request):
        self._local.runs += 1
        operation = VIEWS[request.matchdict['operation']]
        answer = {'id': None, 'seen': {}}
        if operation is not revoke:
            session = request.session
            answer = {'id': session.id, 'seen': dict(session)}
        time.sleep(int(request.GET['pause']) / 1000)
        answer['result'] = operation(request)
        return Response(json=answer)

    def _note_creation(self, event):
        self._local.created.append(event.session_id)

    def _note_end(self, event):
        self._local.ended.append(event.session_id)

    def _note_drop(self, event):
        self._local.dropped.append(event.reason)

    def __call__(self, environ, start_response):
        local = self._local
        local.runs = 0
        local.created, local.ended, local.dropped = [], [], []

        def start(status, headers, exc_info=None):
            told = {
                'runs': local.runs, 'created': local.created,
                'ended': local.ended, 'dropped': local.dropped,
            }
            headers = [*headers, ('X-Checker', json.dumps(told))]
            return start_response(status, headers, exc_info)

        return self._app(environ, start)

    def close(self):
        """End the cleaner and all connections."""
        stop_expiring_sessions(self._app)
        self.engine.dispose()


def make_engine(config, url):
    """Return an engine as the application of *config* uses it."""
    options = {'pool_size': config.threads + 2, 'max_overflow': 4}
    if config.isolation:
        options['isolation_level'] = config.isolation
    if len(config.urls) > 1:
        # Galera: what was acknowledged on one node is seen on the others.
        options['connect_args'] = {
            'init_command': 'SET SESSION wsrep_sync_wait = 3',
        }
    engine = sa.create_engine(url, **options)
    prepare_engine(engine)
    return engine


def make_apps(config):
    """Return the applications of one process, one for each URL."""
    if config.sabotage:
        sabotage.GUARDS[config.sabotage]()
    return [Application(config, url) for url in config.urls]


def _dbsession(request):
    dbsession = request.registry['dbsession_factory'](
        info={'request': request}
    )
    zope.sqlalchemy.register(dbsession, transaction_manager=request.tm)
    return dbsession


# -- the database ------------------------------------------------------------


def prepare(config):
    """Make the tables, empty."""
    application = Application(config, config.urls[0])
    engine = application.engine
    table = _table(application)
    with engine.begin() as connection:
        table.drop(connection, checkfirst=True)
        _metadata.drop_all(connection)
        table.create(connection)
        _metadata.create_all(connection)
        connection.execute(
            stock.insert(), [{'id': n, 'sold': 0} for n in range(GOODS)]
        )
    application.close()


def final(config):
    """Return what is in the tables: sessions, purchases, pieces sold."""
    application = Application(config, config.urls[0])
    parts = application._app.registry['sqlasession']
    table = _table(application)
    with application.engine.connect() as connection:
        sessions = {
            str(row.id): parts.codec.read(row.data)[0]
            for row in connection.execute(sa.select(table))
        }
        bought = set(connection.scalars(sa.select(purchases.c.step)))
        sold = connection.scalar(sa.select(sa.func.sum(stock.c.sold)))
    application.close()
    return sessions, bought, int(sold)


def clear(config):
    """Remove the tables."""
    application = Application(config, config.urls[0])
    with application.engine.begin() as connection:
        _table(application).drop(connection, checkfirst=True)
        _metadata.drop_all(connection)
    application.close()


def _table(application):
    return application._app.registry['sqlasession'].records.table
