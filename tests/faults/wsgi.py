"""``tests.faults.wsgi:make()``: the application for gunicorn.

The environment says where: ``FAULTS_URL``, a database with its tables, and
``FAULTS_DELETED``, a file that gets a line for each clean.
"""

import os

from pyramid.config import Configurator
from pyramid.response import Response

from .site import Site


def make():
    """Return the WSGI application."""
    return Site(os.environ['FAULTS_URL'], deleted=_note).app


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
