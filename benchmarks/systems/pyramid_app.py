"""The Pyramid application that the Pyramid systems share."""

from pyramid.config import Configurator
from pyramid.response import Response
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker
import zope.sqlalchemy
from zope.sqlalchemy.datamanager import STATUS_ACTIVE

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
    zope.sqlalchemy.register(
        dbsession, request.registry['initial_state'],
        transaction_manager=request.tm,
    )
    return dbsession


def get_registered_dbsession(request):
    """``request.dbsession`` whose factory zope.sqlalchemy knows."""
    return request.registry['dbsession_factory'](info={'request': request})


def configurator(
    settings=None, engine=None, *, register_once=False,
    initial_state=STATUS_ACTIVE,
):
    """Return a Configurator with all views.

    :param register_once: register the sessionmaker with zope.sqlalchemy, not
        each dbsession; needs the transaction manager of the thread.
    :param initial_state: of a dbsession, for zope.sqlalchemy.
    """
    config = Configurator(settings=settings or {})
    if engine is not None:
        factory = sessionmaker(engine)
        config.registry['dbsession_factory'] = factory
        config.registry['initial_state'] = initial_state
        if register_once:
            zope.sqlalchemy.register(factory, initial_state)
        config.add_request_method(
            get_registered_dbsession if register_once else get_dbsession,
            'dbsession', reify=True,
        )
    for view in VIEWS:
        config.add_route(view.__name__, f'/{view.__name__}')
        config.add_view(view, route_name=view.__name__)
    return config
