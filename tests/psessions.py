"""``psessions`` with the ini file of an application, for its tests.

The fixtures ``make_command``, ``empty``, ``stocked`` and ``in_file``, each
a ``Command`` or a function that makes one, are in conftest.py.
"""

import configparser
import datetime as dt
import json
from pathlib import Path

from pyramid.config import Configurator
from pyramid.paster import get_app
from pyramid.response import Response
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column
from webtest import TestApp

from pyramid_sqlasession import scripts
from pyramid_sqlasession import SessionMixin
from pyramid_sqlasession import SessionsExpired

from .site import configurator_of_ini

ROOT = Path(__file__).parent.parent

HOUR = dt.timedelta(hours=1)

#: A time that has not come.
AT = dt.datetime(2100, 1, 2, 3, 4, 5, tzinfo=dt.UTC)

#: Of an ini file, before the name of one of the applications below.
CALL = f'call:{__name__}'

FIELDS = """
    user_id: Integer index
    agent: String(64)
    admin: Boolean
    born: Date
    seen: DateTime
    seen_at: DateTime(timezone=True)
    wakes: Time
    device: Uuid
    price: Numeric(8, 2)
    weight: Float
    kind: Enum('web', 'app', name='kind')
    stay: Interval
    print: LargeBinary(16)
    extra: JSON
"""

#: Does not exist in any table.
NOBODY = '12345678-1234-4abc-8def-1234567890ab'

#: Nobody listens there.
DOWN = {
    'sqlite': 'sqlite:////no/such/folder/x.sqlite',
    'postgresql': 'postgresql+psycopg://ann:pass-word@127.0.0.1:1/x',
    'mariadb': 'mysql+pymysql://ann:pass-word@127.0.0.1:1/x',
}

#: What the next request puts into its session.
PUT = {}

#: The events of this kind, of any application.
EXPIRED = []


class Base(DeclarativeBase):
    """The models of applications with a model of their own."""


class AgentSession(SessionMixin, Base):
    """A model with one field."""

    __tablename__ = 'agent_sessions'

    agent: Mapped[str | None] = mapped_column(sa.String(64))


class PartitionedSession(SessionMixin, Base):
    """A model whose rows are in partitions."""

    __tablename__ = 'partitioned_sessions'
    __table_args__ = {
        'postgresql_partition_by': 'HASH (id)',
        'mysql_partition_by': 'KEY (id)', 'mysql_partitions': '2',
        'mariadb_partition_by': 'KEY (id)', 'mariadb_partitions': '2',
    }


def shop(global_config, **settings):
    """The application of the ini files."""
    config = configurator_of_ini(settings)
    if 'sqlasession.model' not in settings:
        # After the include: no ini file holds it.
        config.add_settings({'sqlasession.additional_fields': FIELDS})
    config.add_subscriber(EXPIRED.append, SessionsExpired)
    config.add_route('put', '/put')
    config.add_view(put, route_name='put')
    return config.make_wsgi_app()


def bare(global_config, **settings):
    """An application without the package."""
    return Configurator(settings=settings).make_wsgi_app()


def several(loader, global_config, **sections):
    """Several applications, by the first part of the path."""
    apps = {
        f'/{part}': loader.get_app(section)
        for part, section in sections.items()
    }

    def dispatch(environ, start_response):
        return apps[environ['PATH_INFO']](environ, start_response)

    return dispatch


def broken(global_config, **settings):
    """An application that cannot start."""
    raise KeyError('what\nnow')


def put(request):
    request.session.update(PUT)
    return Response('')


class Refusal(Exception):
    """What a driver raises when the server refuses something."""

    def __init__(self, sqlstate):
        super().__init__('not now')
        self.sqlstate = sqlstate


def server_error(sqlstate):
    """Return the error of SQLAlchemy for one of the server."""
    return exc.OperationalError('', {}, Refusal(sqlstate))


class Command:
    """An ini file, the command for it, and the application that it starts."""

    def __init__(self, folder, url, capsys, /, **settings):
        self.ini = folder / 'shop.ini'
        self._capsys = capsys
        self._app = None
        self.write(url, **settings)

    def write(self, url, /, use='shop', section='app:main', **settings):
        """Write the ini file."""
        parser = configparser.RawConfigParser()
        parser[section] = {
            'use': f'{CALL}:{use}',
            'sqlalchemy.url': url.replace('%', '%%'),
            **{f'sqlasession.{k}': v for k, v in settings.items()},
        }
        with self.ini.open('w') as file:
            parser.write(file)

    def run(self, *args):
        """Run the command; return the exit code, stdout and stderr."""
        self._capsys.readouterr()
        code = scripts.main([str(self.ini), *args])
        return (code, *self._capsys.readouterr())

    def done(self, *args):
        """Run the command, which works without a word; return stdout."""
        code, out, err = self.run(*args)
        assert (code, err) == (0, '')
        return out

    def json(self, *args):
        """Run the command with --json; return what it printed."""
        return json.loads(self.done(*args, '--json'))

    def fails(self, code, *args):
        """Run the command, which fails with one line; return the line."""
        got, _, err = self.run(*args)
        assert got == code
        assert err.startswith('psessions: ')
        assert err.count('\n') == 1
        assert 'Traceback' not in err
        return err

    @property
    def app(self):
        if self._app is None:
            self._app = get_app(str(self.ini))
        return self._app

    @property
    def application(self):
        return self.app.registry['sqlasession']

    def new(self, *, ago=None, **data):
        """Store a session as a browser does; return its id."""
        before = self.ids()
        now = dt.datetime.now(dt.UTC) - (ago or dt.timedelta())
        self.application.now = lambda: now
        PUT.clear()
        PUT.update({'n': 1, **data})
        TestApp(self.app).get('/put')
        (id,) = self.ids() - before
        return str(id)

    def ids(self):
        """Return the ids of all records, expired ones too."""
        table = self.application.records.table
        with self.application.engine.connect() as connection:
            return set(connection.scalars(sa.select(table.c.id)))

    def execute(self, sql, **values):
        """Run SQL past the application, and commit it."""
        with self.application.engine.begin() as connection:
            connection.execute(sa.text(sql), values)

    def set(self, **values):
        """Set columns of all records."""
        table = self.application.records.table
        with self.application.engine.begin() as connection:
            connection.execute(table.update().values(values))

    def close(self):
        if self._app is not None:
            self.application.engine.dispose()
