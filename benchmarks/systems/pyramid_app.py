"""The Pyramid application that the Pyramid systems share."""

from pyramid.config import Configurator
from pyramid.response import Response
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker
import zope.sqlalchemy

from benchmarks.systems import PAYLOAD

# Text, so that SQLAlchemy has as little to do as possible.
_QUERY = sa.text('SELECT 1')


def none(request):
    return Response('none')


def look(request):
    return Response(str(request.session.get('user_id')))


def read(request):
    return Response(str(request.session.get('user_id')))


def change(request):
    request.session['n'] = request.session['n'] + 1
    return Response('changed')


def value(request):
    return Response(str(request.session['n']))


def create(request):
    request.session.update(PAYLOAD)
    return Response('created')


def query(request):
    request.dbsession.execute(_QUERY).scalar()
    return Response('queried')


def query_read(request):
    request.dbsession.execute(_QUERY).scalar()
    return read(request)


def query_change(request):
    request.dbsession.execute(_QUERY).scalar()
    return change(request)


VIEWS = (
    none, look, read, change, value, create, query, query_read, query_change,
)


def get_dbsession(request):
    """``request.dbsession``, as the cookiecutter makes it."""
    dbsession = request.registry['dbsession_factory'](
        info={'request': request}
    )
    zope.sqlalchemy.register(dbsession, transaction_manager=request.tm)
    return dbsession


def configurator(settings=None, engine=None):
    """Return a Configurator with all views."""
    config = Configurator(settings=settings or {})
    if engine is not None:
        config.registry['dbsession_factory'] = sessionmaker(engine)
        config.add_request_method(get_dbsession, 'dbsession', reify=True)
    for view in VIEWS:
        config.add_route(view.__name__, f'/{view.__name__}')
        config.add_view(view, route_name=view.__name__)
    return config
