"""This package, in the cookiecutter's pattern."""

import datetime as dt
import logging

import sqlalchemy as sa

from benchmarks.peers import systems
from benchmarks.peers.browser import send
from benchmarks.peers.systems import pyramid_app


class Handle(pyramid_app.Handle):
    def login(self):
        self.session.rotate(login=True)


class System(systems.System):
    def __init__(self, url, settings):
        config, self._engine = pyramid_app.configurator(
            url, Handle,
            # No cleaner: the cases say when one comes along.
            {'sqlasession.check_expiration_interval': '0',
             'sqlasession.create_table': 'true'} | settings,
        )
        if settings:
            config.include('pyramid_retry')
        config.include('pyramid_sqlasession')
        self.app = config.make_wsgi_app()
        self._table = self.app.registry['sqlasession'].records.table

    def _ask(self, operation):
        send(self.app, lambda handle: operation(handle.request.session_store))

    def clear(self):
        self._ask(lambda store: store.revoke_all())
        # Not only what lives: each case begins with nothing stored.
        self._run(self._table.delete())

    def age(self):
        c = self._table.c
        with self._engine.begin() as connection:
            for row in connection.execute(sa.select(self._table)).all():
                connection.execute(
                    self._table.update().where(c.id == row.id).values({
                        name: getattr(row, name) - systems.AGE
                        for name in ('accessed', 'expires', 'sweep')
                    })
                )

    def expire(self):
        past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
        self._run(self._table.update().values(expires=past, sweep=past))

    def clean(self):
        self._ask(lambda store: store.delete_expired())

    def count(self):
        with self._engine.connect() as connection:
            return connection.execute(
                sa.select(sa.func.count()).select_from(self._table)
            ).scalar()

    def _run(self, statement):
        with self._engine.begin() as connection:
            connection.execute(statement)

    def close(self):
        self._engine.dispose()


def make(url, **settings):
    # It logs each write that it drops; that is what is provoked here.
    logging.getLogger('pyramid_sqlasession').setLevel(logging.ERROR)
    return System(url, settings)
