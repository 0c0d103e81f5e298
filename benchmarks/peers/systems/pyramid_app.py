"""The Pyramid application of the systems that are Pyramid's."""

from pyramid.config import Configurator
from pyramid.response import Response
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

from benchmarks.peers import systems
from benchmarks.systems.pyramid_app import get_dbsession


class Handle(systems.Handle):
    """An ISession."""

    def __init__(self, request):
        super().__init__(request.session)
        self.request = request

    def flash(self, message):
        self.session.flash(message)

    def pop(self):
        return list(self.session.pop_flash())

    def logout(self):
        self.session.invalidate()

    def order(self):
        self.request.dbsession.execute(sa.text(systems.ORDER))

    def orders(self):
        return self.request.dbsession.execute(
            sa.text(systems.COUNT_ORDERS)
        ).scalar()


def configurator(url, handle, settings=None):
    """Return a Configurator in the cookiecutter's pattern, and its engine."""
    # Room for every request of the case that counts up, and the operator.
    engine = sa.create_engine(url, pool_size=20)
    with engine.begin() as connection:
        connection.exec_driver_sql(systems.CREATE_ORDERS)
    config = Configurator(
        settings={'tm.manager_hook': 'pyramid_tm.explicit_manager'}
        | (settings or {})
    )
    config.include('pyramid_tm')
    config.registry['dbsession_factory'] = sessionmaker(engine)
    config.add_request_method(get_dbsession, 'dbsession', reify=True)

    def view(request):
        request.environ[systems.ACT](handle(request))
        return Response('done')

    def refused(request):
        return Response('refused', status=409)

    config.add_route('view', '/')
    config.add_view(view, route_name='view')
    config.add_view(refused, context=systems.Refused)
    return config, engine
