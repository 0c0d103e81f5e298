"""This package, set up in different ways; ``make(url, variant)``."""

import sqlalchemy as sa
from zope.sqlalchemy.datamanager import STATUS_CHANGED

from benchmarks.systems import sqlasession
from benchmarks.wsgi import scenarios

#: variant -> keywords of ``sqlasession.application``.
VARIANTS = {
    'cookiecutter': {},
    'registered once': {'join': {'register_once': True}},
    'initial_state changed': {'join': {'initial_state': STATUS_CHANGED}},
    'both': {
        'join': {'register_once': True, 'initial_state': STATUS_CHANGED},
    },
    'never prepared': {
        'options': {'connect_args': {'prepare_threshold': None}},
    },
    'psycopg2': {'driver': 'psycopg2'},
    'traced': {'traced': True},
    'pool_pre_ping': {'options': {'pool_pre_ping': True}},
    'touch_interval 0': {'touch_interval': '0'},
}


def make(url, variant):
    given = {'touch_interval': '1h', **VARIANTS[variant]}
    driver, traced = given.pop('driver', None), given.pop('traced', False)
    if driver is not None:
        url = sa.make_url(url).set(drivername=f'postgresql+{driver}')
    app = sqlasession.application(url, **given)
    if traced:
        # As tracing, a toolbar or a log of statements does.
        sa.event.listen(
            app.registry['sqlasession'].engine, 'before_cursor_execute',
            _nothing,
        )
    return scenarios(app, queries=True)


def _nothing(*_):
    pass
