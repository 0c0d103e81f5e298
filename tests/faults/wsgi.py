"""``tests.faults.wsgi:make()``: the application for gunicorn.

The environment says where: ``FAULTS_URL``, a database with its tables, or
``FAULTS_NODES``, all addresses of a cluster as well; and ``FAULTS_DELETED``, a
file that gets a line for each clean.  A guard that ``FAULTS_SABOTAGE`` names
is removed.
"""

import os
from pathlib import Path
import runpy

from pyramid.config import Configurator
from pyramid.response import Response
import sqlalchemy as sa

from . import sabotage
from .site import Site

EXAMPLE = Path(__file__).parents[2] / 'docs/examples/galera_engine.py'


def make():
    """Return the WSGI application."""
    if guard := os.environ.get(sabotage.VARIABLE):
        sabotage.GUARDS[guard]()
    make_engine = _cluster_engine if 'FAULTS_NODES' in os.environ else (
        sa.create_engine
    )
    return Site(
        os.environ['FAULTS_URL'], deleted=_note, make_engine=make_engine
    ).app


def _cluster_engine(url, **options):
    """Return the engine that the docs show."""
    example = runpy.run_path(str(EXAMPLE))
    return example['get_engine']({
        'sqlalchemy.url': url, 'galera.nodes': os.environ['FAULTS_NODES'],
        **{f'sqlalchemy.{name}': value for name, value in options.items()},
    })


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
