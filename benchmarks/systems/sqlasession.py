"""This package, in the cookiecutter's pattern."""

import sqlalchemy as sa

from benchmarks.systems.pyramid_app import configurator
from benchmarks.systems.sqlite import prepare_all_engines
from benchmarks.wsgi import scenarios


def application(url, **settings):
    """Return the WSGI application, its table new and empty."""
    prepare_all_engines()
    engine = sa.create_engine(url)
    config = configurator(
        {
            'tm.manager_hook': 'pyramid_tm.explicit_manager',
            'sqlasession.check_expiration_interval': '0',
            **{f'sqlasession.{k}': v for k, v in settings.items()},
        },
        engine,
    )
    config.include('pyramid_tm')
    config.include('pyramid_sqlasession')
    app = config.make_wsgi_app()
    records = app.registry['sqlasession'].records
    with engine.begin() as connection:
        records.table.drop(connection, checkfirst=True)
        records.create_table(connection)
    return app


def make(url):
    # No touch falls due while it runs, as with all other systems here.
    return scenarios(application(url, touch_interval='1h'), queries=True)
