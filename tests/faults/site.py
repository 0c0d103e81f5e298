"""The application under load: the cookiecutter's pattern.

=============  ===========================================================
``/plain``     looks at no session and at no database
``/look``      reads the session
``/note``      writes a key to the session, and nothing else
``/buy``       writes a key to the session and a row of the application
``/logout``    ends the session
``/state``     this process: pid, threads, whether its cleaner runs, the
               connections that are not in its pool
=============  ===========================================================
"""

import os
import threading

from pyramid.config import Configurator
from pyramid.response import Response
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker
import zope.sqlalchemy

from pyramid_sqlasession import SessionsExpired
from pyramid_sqlasession import stop_expiring_sessions
from pyramid_sqlasession.faults import Fault
from pyramid_sqlasession.faults import fault_of

POOL_SIZE = 6

_metadata = sa.MetaData()
purchases = sa.Table(
    'purchases', _metadata,
    sa.Column('key', sa.String(64), primary_key=True),
)


def plain(request):
    return ''


def look(request):
    return str(len(request.session))


def note(request):
    request.session[request.GET['key']] = 1


def buy(request):
    key = request.GET['key']
    request.session[key] = 1
    request.dbsession.execute(purchases.insert().values(key=key))


def logout(request):
    request.session.invalidate()


def state(request):
    cleaner = request.registry['sqlasession'].cleaner
    return Response(json={
        'pid': os.getpid(),
        'threads': threading.active_count(),
        'cleaner': bool(cleaner and cleaner.is_running),
        'checked out': request.registry['dbsession_factory'].kw['bind']
        .pool.checkedout(),
    })


VIEWS = {
    function.__name__: function
    for function in (plain, look, note, buy, logout, state)
}


def dispatch(request):
    answer = VIEWS[request.matchdict['name']](request)
    return answer if isinstance(answer, Response) else Response(answer or '')


def own_data_unavailable(error, request):
    """Answer for the application's own data; the session's errors are the
    package's affair.
    """
    if request.matchdict['name'] != 'buy' or (
        fault_of(error) is not Fault.UNAVAILABLE
    ):
        raise error
    return Response('the database is away', status=503)


def get_dbsession(request):
    dbsession = request.registry['dbsession_factory'](
        info={'request': request}
    )
    zope.sqlalchemy.register(dbsession, transaction_manager=request.tm)
    return dbsession


class Site:
    """The application on one database, whose tables it can make."""

    def __init__(self, url, *, deleted=None, make_engine=sa.create_engine,
                 **settings):
        """*deleted* is told how many records the cleaner has deleted."""
        self.engine = make_engine(
            url, pool_size=POOL_SIZE, max_overflow=4, pool_timeout=10,
        )
        config = Configurator(settings={
            'tm.manager_hook': 'pyramid_tm.explicit_manager',
            'retry.attempts': '3',
            'sqlasession.check_expiration_interval': '1s',
            **{f'sqlasession.{name}': v for name, v in settings.items()},
        })
        config.registry['dbsession_factory'] = sessionmaker(self.engine)
        config.add_request_method(get_dbsession, 'dbsession', reify=True)
        config.include('pyramid_retry')
        config.include('pyramid_tm')
        config.include('pyramid_sqlasession')
        config.add_route('any', '/{name}')
        config.add_view(dispatch, route_name='any')
        config.add_exception_view(
            own_data_unavailable, context=sa.exc.DBAPIError
        )
        if deleted is not None:
            config.add_subscriber(
                lambda event: deleted(event.count), SessionsExpired
            )
        self.app = config.make_wsgi_app()
        self.application = self.app.registry['sqlasession']
        self.table = self.application.records.table

    def create_tables(self):
        """Make the tables of the sessions and of the purchases."""
        with self.engine.begin() as connection:
            _metadata.create_all(connection)
            self.application.records.create_table(connection)

    def stored(self):
        """Return the keys in all sessions, and those of the purchases."""
        noted = set()
        # Past the pool, which may be used up.
        outside = sa.create_engine(self.engine.url, poolclass=sa.NullPool)
        with outside.connect() as connection:
            for data in connection.scalars(sa.select(self.table.c.data)):
                noted.update(self.application.codec.read(data)[0])
            bought = set(connection.scalars(sa.select(purchases.c.key)))
        return noted, bought

    def stop_cleaner(self):
        stop_expiring_sessions(self.app)

    def close(self):
        """End the cleaner and all connections."""
        self.stop_cleaner()
        self.engine.dispose()
