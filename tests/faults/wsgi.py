"""``tests.faults.wsgi:make()``: the application for gunicorn.

The environment says where: ``FAULTS_URL``, a database with its tables, and
``FAULTS_DELETED``, a file that gets a line for each clean.  A guard that
``FAULTS_SABOTAGE`` names is removed.
"""

import os

from pyramid.config import Configurator
from pyramid.response import Response

from . import sabotage
from .site import Site


def make():
    """Return the WSGI application."""
    if name := os.environ.get(sabotage.VARIABLE):
        sabotage.GUARDS[name]()
    return Site(os.environ['FAULTS_URL'], deleted=_note).app


def make_for_pserve(global_config, **settings):
    """Return the WSGI application, for a section ``[app:main]``."""
    return make()


def plain():
    """Return an application without the package, to measure against."""
    config = Configurator()
    config.include('pyramid_retry')
    config.include('pyramid_tm')
    config.add_route('any', '/{name}')
    config.add_view(
        lambda request: Response(json={'pid': os.getpid()}),
        route_name='any',
    )
    return config.make_wsgi_app()


def _note(count):
    with open(os.environ['FAULTS_DELETED'], 'a') as file:
        file.write(f'{count}\n')


def main():
    """Serve it with waitress, as ``pserve`` does."""
    from waitress import serve

    serve(make(), listen=os.environ['FAULTS_LISTEN'], threads=4)


if __name__ == '__main__':
    main()
