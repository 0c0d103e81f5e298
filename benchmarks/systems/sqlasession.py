"""This package, in the cookiecutter's pattern."""

import sqlalchemy as sa

from benchmarks.systems.pyramid_app import configurator
from benchmarks.systems.sqlite import prepare_all_engines
from benchmarks.wsgi import scenarios


def application(url, *, options=None, join=None, **settings):
    """Return the WSGI application, its table new and empty.

    :param options: of the engine.
    :param join: how ``request.dbsession`` joins the transaction; see
        ``pyramid_app.configurator``.
    """
    prepare_all_engines()
    app = configured(url, options=options, join=join, **settings)
    records = app.registry['sqlasession'].records
    with app.registry['sqlasession'].engine.begin() as connection:
        records.table.drop(connection, checkfirst=True)
        records.create_table(connection)
    return app


def configured(url, *, options=None, join=None, **settings):
    """Return the same with its table as it is."""
    join = join or {}
    given = {
        'sqlasession.check_expiration_interval': '0',
        **{f'sqlasession.{k}': v for k, v in settings.items()},
    }
    if not join.get('register_once'):
        given['tm.manager_hook'] = 'pyramid_tm.explicit_manager'
    config = configurator(
        given, sa.create_engine(url, **(options or {})), **join
    )
    config.include('pyramid_tm')
    config.include('pyramid_sqlasession')
    return config.make_wsgi_app()


def make(url):
    # No touch falls due while it runs, as with all other systems here.
    return scenarios(application(url, touch_interval='1h'), queries=True)
