"""``psessions``: every command, on every database, through real ini files."""

import configparser
import datetime as dt
from decimal import Decimal
import enum
import functools
from importlib.metadata import version
import io
import json
import os
from pathlib import Path
import pty
import signal
import subprocess
import sys
import uuid

import plaster.loaders
from pyramid.config import Configurator
from pyramid.paster import get_app
from pyramid.response import Response
import pytest
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column
from sqlalchemy.orm import sessionmaker
from webtest import TestApp

from pyramid_sqlasession import dialects
from pyramid_sqlasession import scripts
from pyramid_sqlasession import SessionMixin
from pyramid_sqlasession import SessionsExpired
from pyramid_sqlasession.cleaner import running_cleaners
from pyramid_sqlasession.model import PublicId
from pyramid_sqlasession.model import UTCDateTime
from pyramid_sqlasession.scripts import batches
from pyramid_sqlasession.scripts import starting
from pyramid_sqlasession.scripts.output import readable_bytes
from pyramid_sqlasession.scripts.stats import _DISK
from pyramid_sqlasession.scripts.table import DIALECTS

from .site import get_dbsession

ROOT = Path(__file__).parent.parent

ON_SERVERS = pytest.mark.parametrize(
    'database', ['postgresql', 'mariadb'], indirect=True
)

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


class Base(DeclarativeBase):
    """The models of an application with a model of its own."""


class User(Base):
    """What the session's table refers to."""

    __tablename__ = 'users'

    id: Mapped[int] = mapped_column(primary_key=True)


class UserSession(SessionMixin, Base):
    """The application's own model."""

    __tablename__ = 'user_sessions'

    owner: Mapped[int | None] = mapped_column(sa.ForeignKey('users.id'))


def shop(global_config, **settings):
    """The application of the ini files."""
    config = Configurator(settings=settings)
    engine = sa.engine_from_config(settings, 'sqlalchemy.')
    config.registry['dbsession_factory'] = sessionmaker(engine)
    config.add_request_method(get_dbsession, 'dbsession', reify=True)
    config.include('pyramid_sqlasession')
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


#: What the next request puts into its session.
PUT = {}
#: The events of this kind, of any application.
EXPIRED = []


class Shop:
    """An ini file, and the application that it describes."""

    def __init__(self, folder, url, capsys, /, **settings):
        self.ini = folder / 'shop.ini'
        self._capsys = capsys
        self._app = None
        self.write(url, **settings)

    def write(self, url, /, use='shop', section='app:main', **settings):
        """Write the ini file."""
        parser = configparser.RawConfigParser()
        parser[section] = {
            'use': f'call:{__name__}:{use}',
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

    def close(self):
        if self._app is not None:
            self.application.engine.dispose()


@pytest.fixture(autouse=True, scope='module')
def _loaders():
    """Find the loader of ini files once: it reads all metadata there is."""
    with pytest.MonkeyPatch.context() as patch:
        find = functools.cache(plaster.loaders.find_loaders)
        patch.setattr(
            plaster.loaders, 'find_loaders',
            lambda scheme, protocols=None: find(
                scheme, None if protocols is None else tuple(protocols)
            ),
        )
        yield


@pytest.fixture
def make_shop(tmp_path, capsys):
    """A function that makes a ``Shop`` for a URL and settings."""
    shops = []

    def make(url='sqlite://', /, **settings):
        settings.setdefault('check_expiration_interval', '0')
        shops.append(Shop(tmp_path, url, capsys, **settings))
        return shops[-1]

    yield make
    for one in shops:
        one.close()


@pytest.fixture
def empty(database, make_shop):
    """A shop on an empty database."""
    return make_shop(database.url)


@pytest.fixture
def stocked(empty):
    """A shop whose database has the table."""
    empty.done('table')
    return empty


@pytest.fixture
def on_sqlite(tmp_path, make_shop):
    """A shop with a table, for what does not depend on the database."""
    made = make_shop(f'sqlite:///{tmp_path}/shop.sqlite')
    made.done('table')
    return made


@pytest.fixture
def terminal(monkeypatch):
    """A function that makes the standard streams a terminal."""

    def make(answer=''):
        typed = io.StringIO(answer)
        typed.isatty = lambda: True
        monkeypatch.setattr(sys, 'stdin', typed)
        for stream in (sys.stdout, sys.stderr):
            monkeypatch.setattr(stream, 'isatty', lambda: True)
        monkeypatch.delenv('NO_COLOR', raising=False)
        monkeypatch.setenv('TERM', 'xterm')

    return make


HOUR = dt.timedelta(hours=1)

# -- help ---------------------------------------------------------------------


def test_help_needs_no_ini_file(capsys):
    """``psessions --help`` names every command and the exit codes."""
    assert scripts.main(['--help']) == 0
    out = capsys.readouterr().out
    for word in ('table', 'stats', 'list', 'show', 'revoke', 'expire',
                 'Exit codes', 'examples'):
        assert word in out


@pytest.mark.parametrize('name', ['table', 'list', 'show', 'revoke'])
def test_help_of_a_command(capsys, name):
    """Each command explains its own options, also without an ini file."""
    assert scripts.main(['my.ini', name, '--help']) == 0
    assert f'psessions INI {name}' in capsys.readouterr().out


# -- table --------------------------------------------------------------------


def test_table_is_created_once(empty, database):
    """``table`` creates it, and says so when it is there."""
    assert empty.done('table') == 'the table sessions was created\n'
    found = sa.inspect(database.create_engine())
    assert found.get_table_names() == ['sessions']
    columns = {column['name'] for column in found.get_columns('sessions')}
    assert {'id', 'data', 'user_id', 'agent'} <= columns
    assert empty.done('table') == 'the table sessions was there already\n'


def test_table_that_lacks_a_column(stocked):
    """``table`` does not call a table fine that will not work."""
    # MariaDB and SQLite keep a column that an index needs.
    stocked.execute('ALTER TABLE sessions DROP COLUMN agent')
    line = stocked.fails(1, 'table')
    assert 'without agent' in line
    assert 'migration' in line


@pytest.mark.parametrize('name', ['', *DIALECTS])
def test_sql_needs_no_database(make_shop, name):
    """``table --sql`` prints the DDL of a dialect without connecting."""
    down = make_shop(DOWN['postgresql'])
    out = down.done('table', '--sql', *([name] if name else []))
    assert 'CREATE TABLE sessions (' in out
    assert ('CREATE TYPE kind' in out) == (name in ('', 'postgresql'))
    assert 'CREATE INDEX ix_sessions_user_id ON sessions (user_id);' in out
    kinds = {'': 'id UUID', 'postgresql': 'id UUID', 'sqlite': 'id BLOB'}
    assert kinds.get(name, 'id BINARY(16)') in out


def test_sql_is_what_the_table_is_made_of(empty, database):
    """The DDL for the application's database can be run there."""
    out = empty.done('table', '--sql')
    with database.create_engine().begin() as connection:
        for statement in out.split(';\n'):
            if statement.strip():
                connection.execute(sa.text(statement))
    assert empty.done('table') == 'the table sessions was there already\n'


def test_sql_of_a_type_that_the_dialect_has_not(make_shop):
    """A type of PostgreSQL in SQLite is one line."""
    made = make_shop(
        'sqlite://', model=f'{__name__}.PostgresSession',
    )
    assert 'cannot be made in sqlite' in made.fails(1, 'table', '--sql')


class PostgresSession(SessionMixin, Base):
    """A model for PostgreSQL alone."""

    __tablename__ = 'postgres_sessions'

    tags: Mapped[list[str] | None] = mapped_column(sa.ARRAY(sa.String))


@pytest.mark.parametrize(
    'database', ['postgresql', 'mariadb'], indirect=True
)
def test_table_that_refers_to_a_missing_one(database, make_shop):
    """The table of users must be there before, and the line says so."""
    made = make_shop(database.url, model=f'{__name__}.UserSession')
    line = made.fails(1, 'table')
    assert 'refers to users, which must be there before' in line
    Base.metadata.tables['users'].create(database.create_engine())
    assert 'user_sessions was created' in made.done('table')
    assert made.new(owner=None)


# -- stats --------------------------------------------------------------------


def test_stats_of_nothing(stocked):
    """An empty table has numbers too, all 0."""
    stats = stocked.json('stats')
    assert stats['live'] == stats['expired'] == 0
    assert stats['data'] == {'average': 0, 'largest': 0, 'total': 0}
    assert set(stats['created'].values()) == {0}
    assert 'live' in stocked.done('stats')


def test_stats(stocked, database):
    """Live and expired, ages, sizes of the data, bytes on disk."""
    stocked.new(ago=48 * HOUR)
    stocked.new(ago=2 * HOUR, text='ä' * 1000)
    stocked.new(ago=2 * HOUR)
    stocked.new()
    stats = stocked.json('stats')
    assert (stats['live'], stats['expired']) == (3, 1)
    ages = {'5m': 1, '1h': 0, '1d': 2, '7d': 0, '30d': 0, 'older': 0}
    assert stats['created'] == stats['last_used'] == ages
    assert 2000 < stats['data']['largest'] < 2100
    assert stats['data']['total'] > stats['data']['largest']
    assert stats['data']['average'] == round(stats['data']['total'] / 4)
    assert stats['disk']['table'] >= 8192 or database.name == 'sqlite'
    assert stats['disk']['indexes'] >= 4096
    assert stats['disk']['table'] % 1024 == 0
    assert stats['table'] == 'sessions'


def test_stats_is_the_default(stocked):
    """``psessions INI`` alone is ``stats``, readable and aligned."""
    stocked.new()
    out = stocked.done()
    assert out == stocked.done('stats')
    assert '  live                       1\n' in out
    assert '\x1b' not in out


def test_stats_tell_no_password(make_shop, database):
    """The address of the database is shown without its password."""
    made = make_shop(database.url)
    made.done('table')
    url = sa.make_url(database.url)
    shown = made.json('stats')['database']
    assert shown == url.render_as_string(hide_password=True)


def test_stats_where_the_database_does_not_tell(on_sqlite, monkeypatch):
    """An SQLite built without dbstat has no sizes on disk; the rest is."""
    monkeypatch.setitem(_DISK, 'sqlite', 'SELECT * FROM nothing')
    assert on_sqlite.json('stats')['disk'] == {'table': None, 'indexes': None}
    assert 'not known' in on_sqlite.done('stats')
    monkeypatch.delitem(_DISK, 'sqlite')
    assert on_sqlite.json('stats')['disk'] == {'table': None, 'indexes': None}


@pytest.mark.parametrize('command', ['stats', 'list'])
def test_rows_are_not_loaded(stocked, command, monkeypatch):
    """Neither counting nor listing reads the data of the sessions."""
    stocked.new()
    sent = []

    def note(connection, cursor, statement, *args):
        sent.append(statement)

    monkeypatch.setattr(
        starting, 'found_in', _listening(starting.found_in, note)
    )
    stocked.done(command)
    selects = [s for s in sent if 'FROM sessions' in s]
    assert len(selects) == 1
    for column in ('secret_hash', 'retired', 'sessions.data,'):
        assert column not in selects[0]


def _listening(found_in, note):
    def found(registry):
        application = found_in(registry)
        sa.event.listen(application.engine, 'before_cursor_execute', note)
        return application

    return found


# -- list ---------------------------------------------------------------------


def test_list_is_newest_first(stocked):
    """The live sessions with times, size and fields; expired ones are not."""
    stocked.new(ago=48 * HOUR)
    old = stocked.new(ago=HOUR, user_id=7)
    new = stocked.new(user_id=8, agent='Browser 1.0')
    listed = stocked.json('list')
    assert [one['id'] for one in listed] == [new, old]
    assert listed[0]['fields']['user_id'] == 8
    assert listed[0]['fields']['agent'] == 'Browser 1.0'
    assert listed[1]['fields']['agent'] is None
    assert listed[0]['bytes'] > 10
    created = dt.datetime.fromisoformat(listed[1]['created'])
    age = dt.datetime.now(dt.UTC) - created
    assert HOUR <= age < 2 * HOUR
    lines = stocked.done('list').splitlines()
    assert [line.split()[0] for line in lines] == ['id', new, old]
    assert lines[1].index('Browser') == lines[0].index('agent')


def test_list_of_nothing(stocked):
    """No sessions are a sentence, and an empty list in JSON."""
    assert stocked.done('list') == 'no live sessions\n'
    assert stocked.json('list') == []


def test_list_ends_at_the_limit(stocked):
    """--limit cuts, and stderr says that there is more."""
    for _ in range(3):
        stocked.new()
    code, out, err = stocked.run('list', '--limit', '2')
    assert code == 0
    assert len(out.splitlines()) == 3
    assert 'more than these 2' in err
    assert len(stocked.json('list', '--limit', '3')) == 3


def test_list_of_many(on_sqlite, monkeypatch):
    """What does not fit into the first look is printed all the same."""
    on_sqlite.new()
    table = on_sqlite.application.records.table
    with on_sqlite.application.engine.begin() as connection:
        row = dict(connection.execute(sa.select(table)).one()._mapping)
        connection.execute(
            table.insert(), [{**row, 'id': uuid.uuid4()} for _ in range(1200)]
        )
    lines = on_sqlite.done('list', '--limit', '2000').splitlines()
    assert len(lines) == 1202
    assert len({len(line.split()[0]) for line in lines[1:]}) == 1
    assert len(on_sqlite.json('list', '--limit', '2000')) == 1201


VALUES = [
    ('user_id', 7, '7', '8'),
    ('agent', "O'Brien=1", "O'Brien=1", "O'Brien"),
    ('agent', '', '', 'x'),
    ('admin', True, 'yes', 'false'),
    ('born', dt.date(1815, 12, 10), '1815-12-10', '1815-12-11'),
    ('seen', dt.datetime(2026, 1, 2, 3), '2026-01-02T03:00', '2026-01-02'),
    ('wakes', dt.time(6, 30), '06:30', '06:31'),
    ('device', uuid.UUID(NOBODY), NOBODY, str(uuid.UUID(int=1))),
    ('weight', 0.5, '0.5', '5e-2'),
    ('kind', 'app', 'app', 'web'),
    ('stay', dt.timedelta(minutes=90), '1h30m', '90s'),
    ('print', b'\x00\xff', '00FF', '00'),
]


@pytest.mark.parametrize(
    ('name', 'value', 'found', 'other'), VALUES,
    ids=[f'{name}-{text}' for name, _, text, _ in VALUES],
)
def test_list_by_field(stocked, name, value, found, other):
    """The text of --field is converted to the type of its column."""
    id = stocked.new(**{name: value})
    stocked.new()
    (one,) = stocked.json('list', '--field', f'{name}={found}')
    assert one['id'] == id
    assert stocked.json('list', '--field', f'{name}={other}') == []


def test_list_by_aware_time_and_decimal(stocked, database):
    """A time without a zone is UTC; a Decimal is compared as one."""
    stocked.new(price=Decimal('9.95'))
    assert len(stocked.json('list', '--field', 'price=9.95')) == 1
    if database.name == 'postgresql':
        at = dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC)
        stocked.new(seen_at=at)
        for text in ('2026-01-02T03:00', '2026-01-02T04:00+01:00'):
            assert len(stocked.json('list', '--field', f'seen_at={text}')) == 1


class Money(sa.types.TypeDecorator):
    """Cents in the session, a text in the database."""

    impl = sa.String(20)
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else f'{value / 100:.2f}'


class Code(sa.types.TypeDecorator):
    """A text, of which the case does not matter."""

    impl = sa.String(20)
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else value.upper()


class DecoratedSession(SessionMixin, Base):
    """A model with types that are made of others."""

    __tablename__ = 'decorated_sessions'

    seen: Mapped[dt.datetime | None] = mapped_column(UTCDateTime)
    device: Mapped[uuid.UUID | None] = mapped_column(PublicId)
    code: Mapped[str | None] = mapped_column(Code)
    price: Mapped[int | None] = mapped_column(Money)


class RenamedSession(SessionMixin, Base):
    """A model whose columns have other names in the database."""

    __tablename__ = 'renamed_sessions'

    data: Mapped[str] = mapped_column('payload', sa.Text, key='data')
    created: Mapped[dt.datetime] = mapped_column(
        'made', UTCDateTime, key='created'
    )
    accessed: Mapped[dt.datetime] = mapped_column(
        'used', UTCDateTime, key='accessed'
    )


def test_columns_of_other_names(database, make_shop):
    """Contract 3: every command goes by the attributes of the model."""
    made = make_shop(database.url, model=f'{__name__}.RenamedSession')
    made.done('table')
    id = made.new(ago=HOUR, tea=3)
    stats = made.json('stats')
    assert stats['created']['1d'] == stats['last_used']['1d'] == 1
    (one,) = made.json('list')
    assert one['id'] == id
    assert made.json('show', id)['data'] == {'n': 1, 'tea': 3}
    assert '1 session' in made.done('revoke', id)


@pytest.fixture
def decorated(database, make_shop):
    """A shop whose sessions have fields of such types."""
    made = make_shop(database.url, model=f'{__name__}.DecoratedSession')
    made.done('table')
    return made


@pytest.mark.parametrize(
    ('name', 'value', 'found', 'other'),
    [
        ('seen', dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC),
         '2026-01-02T03:00', '2026-01-02T03:00+01:00'),
        ('device', uuid.UUID(NOBODY), NOBODY, str(uuid.UUID(int=1))),
        ('code', 'abc', 'Abc', 'abd'),
    ],
)
def test_list_by_a_decorated_type(decorated, name, value, found, other):
    """Contract 3: --field is read as what the type is made of."""
    id = decorated.new(**{name: value})
    decorated.new()
    (one,) = decorated.json('list', '--field', f'{name}={found}')
    assert one['id'] == id
    assert decorated.json('list', '--field', f'{name}={other}') == []


def test_list_by_a_type_that_takes_no_text(decorated):
    """Contract 3: a wrong call, before the database is asked."""
    line = decorated.fails(2, 'list', '--field', 'price=1.00')
    assert "'price'" in line
    assert 'cannot search' in line
    line = decorated.fails(2, 'list', '--field', 'seen=yesterday')
    assert "takes a time such as 2026-11-23T12:30:00, not 'yesterday'" in line


def test_list_by_two_fields(stocked):
    """Several --field have to be true together."""
    id = stocked.new(user_id=7, agent='a')
    stocked.new(user_id=7, agent='b')
    found = stocked.json('list', '--field', 'user_id=7', '--field', 'agent=a')
    assert [one['id'] for one in found] == [id]


def test_list_by_an_enum_class(tmp_path, make_shop):
    """An Enum of Python is given by the name of its member."""
    made = make_shop(
        f'sqlite:///{tmp_path}/own.sqlite', model=f'{__name__}.KindSession'
    )
    made.done('table')
    made.new()
    made.execute("UPDATE kind_sessions SET kind = 'APP'")
    (one,) = made.json('list', '--field', 'kind=APP')
    assert one['fields'] == {'kind': 'APP'}
    assert 'one of WEB, APP' in made.fails(2, 'list', '--field', 'kind=app')
    assert 'APP' in made.done('list')


class Kind(enum.Enum):
    """Where a session comes from."""

    WEB = 'web'
    APP = 'app'


class KindSession(SessionMixin, Base):
    """A model with a type of the application's own."""

    __tablename__ = 'kind_sessions'

    kind: Mapped[Kind | None] = mapped_column()


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_list_by_what_only_the_database_reads(database, make_shop):
    """An address is given as text; a wrong one is a wrong call."""
    made = make_shop(database.url, model=f'{__name__}.PlaceSession')
    made.done('table')
    made.new(ip='10.1.2.3')
    (one,) = made.json('list', '--field', 'ip=10.1.2.3')
    assert one['fields'] == {'ip': '10.1.2.3'}
    assert made.json('list', '--field', 'ip=10.1.2.4') == []
    for command in ('list', 'revoke'):
        line = made.fails(2, command, '--field', 'ip=nowhere')
        assert 'nowhere' in line
        assert 'CONTEXT' not in line


class PlaceSession(SessionMixin, Base):
    """A model with a type that has no counterpart in Python."""

    __tablename__ = 'place_sessions'

    ip: Mapped[str | None] = mapped_column(postgresql.INET)


def test_no_fields(tmp_path, make_shop):
    """An application without additional fields has none to show."""
    made = make_shop(
        f'sqlite:///{tmp_path}/plain.sqlite', model=f'{__name__}.PlainSession'
    )
    made.done('table')
    assert 'Fields' not in made.done('show', made.new())
    line = made.fails(2, 'list', '--field', 'user_id=7')
    assert 'sqlasession.additional_fields' in line


class PlainSession(SessionMixin, Base):
    """A model without fields."""

    __tablename__ = 'plain_sessions'


def test_terminal_is_not_commanded(stocked):
    """A user agent with control characters is shown with escapes."""
    stocked.new(agent='\x1b[2J\u202egnp')
    out = stocked.done('list')
    assert '\x1b' not in out
    assert '\\x1b[2J\\u202egnp' in out
    assert '\x1b' not in stocked.done('list', '--json')


@pytest.mark.parametrize('damaged', ['created', 'seen', 'id'])
def test_list_with_a_damaged_row(on_sqlite, damaged):
    """A value that SQLite should not have taken hides no other row."""
    on_sqlite.new()
    on_sqlite.execute(f"UPDATE sessions SET {damaged} = 'zzz'")
    out = on_sqlite.done('list')
    assert '(damaged)' in out
    assert len(out.splitlines()) == 2
    assert len(on_sqlite.json('list')) == 1


# -- show ---------------------------------------------------------------------


def test_show(stocked):
    """One session with its fields and its decoded data."""
    id = stocked.new(
        user_id=7, cart={'tea': 2, 'when': dt.date(2026, 1, 2)},
        tags={'b', 'a'}, raw=b'\x01', nan=float('nan'),
    )
    shown = stocked.json('show', id)
    assert shown['id'] == id
    assert shown['state'] == 'live'
    assert shown['version'] >= 0
    assert shown['fields']['user_id'] == 7
    assert shown['data']['cart'] == {'tea': 2, 'when': '2026-01-02'}
    assert shown['data']['tags'] == ['a', 'b']
    assert shown['data']['raw'] == '01'
    assert shown['data']['nan'] == 'nan'
    out = stocked.done('show', id)
    assert 'datetime.date(2026, 1, 2)' in out
    assert 'by the settings' in out


def test_show_of_an_expired_session(stocked):
    """A session that has expired is shown for as long as it is there."""
    id = stocked.new(ago=48 * HOUR)
    assert stocked.json('show', id)['state'] == 'expired'


def test_show_of_an_unknown_id(stocked):
    """An id that nobody has: one line, code 1."""
    assert '" shows which there are' in stocked.fails(1, 'show', NOBODY)


def test_no_secret_is_shown(stocked):
    """Neither list nor show have the hash, the old tokens, the CSRF token."""
    id = stocked.new(_csrft_='csrf-token')
    stocked.execute('UPDATE sessions SET version = version')
    table = stocked.application.records.table
    with stocked.application.engine.connect() as connection:
        hash = bytes(connection.scalar(sa.select(table.c.secret_hash)))
    for command in (('list',), ('show', id)):
        for option in ((), ('--json',)):
            out = stocked.done(*command, *option)
            assert hash.hex() not in out
            assert repr(hash) not in out
            assert 'csrf-token' not in out
            assert 'secret' not in out
            assert 'retired' not in out


def test_show_of_an_empty_session(stocked):
    """A session that was emptied is there, with nothing in it."""
    id = stocked.new()
    stocked.execute("UPDATE sessions SET data = '{}'")
    assert '(empty)' in stocked.done('show', id)
    assert stocked.json('show', id)['data'] == {}


@pytest.mark.parametrize('text', ['', '[1]', '{"a":', 'fernet:abc'])
def test_show_of_damaged_data(stocked, text):
    """What can be read is shown, and the exit code is 1."""
    id = stocked.new(user_id=7)
    stocked.execute('UPDATE sessions SET data = :text', text=text)
    code, out, err = stocked.run('show', id)
    assert code == 1
    assert '(damaged)' in out
    assert 'user_id' in out
    assert err.startswith('psessions: its data cannot be read: ')
    assert err.count('\n') == 1
    code, out, err = stocked.run('show', id, '--json')
    assert code == 1
    assert json.loads(out)['data'] is None


# -- revoke -------------------------------------------------------------------


def test_revoke_by_id(stocked):
    """The named sessions end, the others stay."""
    first, second, third = (stocked.new() for _ in range(3))
    out = stocked.done('revoke', first, third, first)
    assert out == '2 sessions ended\n'
    assert stocked.ids() == {uuid.UUID(second)}


def test_revoke_of_an_unknown_id(stocked):
    """What is there ends all the same; the exit code is 1."""
    id = stocked.new()
    code, out, err = stocked.run('revoke', NOBODY, id)
    assert code == 1
    assert out == '1 session ended\n'
    assert NOBODY in err
    assert id not in err
    assert stocked.ids() == set()


def test_revoke_of_unknown_ids_alone(stocked):
    """The error is all that is said."""
    code, out, err = stocked.run('revoke', NOBODY)
    assert (code, out) == (1, '')
    assert NOBODY in err


def test_revoke_by_field(stocked):
    """All sessions of a user end, the others stay."""
    for user_id in (7, 8, 7, None):
        stocked.new(user_id=user_id)
    assert stocked.done('revoke', '--field', 'user_id=7') == (
        '2 sessions ended\n'
    )
    assert len(stocked.ids()) == 2


def test_revoke_all(stocked, monkeypatch):
    """--all --yes ends every session, in batches, without a question."""
    monkeypatch.setattr(batches, 'BATCH', 2)
    monkeypatch.setattr(batches, 'CHOSEN', 4)
    for _ in range(9):
        stocked.new()
    assert stocked.done('revoke', '--all', '--yes') == '9 sessions ended\n'
    assert stocked.ids() == set()


@pytest.mark.parametrize('answer', ['\n', 'n\n', '', 'all\n'])
def test_revoke_all_asks(on_sqlite, terminal, answer):
    """On a terminal nothing happens without a yes."""
    on_sqlite.new()
    terminal(answer)
    code, _, err = on_sqlite.run('revoke', '--all')
    assert code == 1
    assert 'End 1 live session, ' in err
    assert 'nothing was done' in err
    assert len(on_sqlite.ids()) == 1


def test_revoke_all_after_yes(on_sqlite, terminal):
    """A yes at the terminal ends them."""
    on_sqlite.new()
    terminal('yes\n')
    code, out, _ = on_sqlite.run('revoke', '--all')
    assert (code, out) == (0, '1 session ended\n')
    assert on_sqlite.ids() == set()


def test_revoked_in_spite_of_a_conflict(stocked, monkeypatch):
    """A batch that the database refuses is done again."""
    stocked.new()
    calls = []
    begin = dialects.begin_writing

    def refuse(connection):
        calls.append(1)
        if len(calls) < 3:
            raise exc.OperationalError('', {}, _Deadlock())
        begin(connection)

    monkeypatch.setattr(dialects, 'begin_writing', refuse)
    monkeypatch.setattr(batches.time, 'sleep', lambda seconds: None)
    assert stocked.done('revoke', '--all', '--yes') == '1 session ended\n'
    assert len(calls) == 3


class _Deadlock(Exception):
    sqlstate = '40P01'


# -- expire -------------------------------------------------------------------


def test_expire(stocked, monkeypatch):
    """All that has expired goes, in batches; subscribers hear of it."""
    monkeypatch.setattr(batches, 'BATCH', 2)
    monkeypatch.setattr(batches, 'CHOSEN', 4)
    live = stocked.new()
    for _ in range(9):
        stocked.new(ago=48 * HOUR)
    # Shortly: the cleaner, which goes by a coarse index, would wait.
    stocked.new(ago=24 * HOUR + dt.timedelta(seconds=1))
    EXPIRED.clear()
    assert stocked.done('expire') == '10 expired sessions were deleted\n'
    assert [event.count for event in EXPIRED] == [10]
    assert stocked.ids() == {uuid.UUID(live)}
    assert stocked.done('expire') == '0 expired sessions were deleted\n'
    assert len(EXPIRED) == 1


@pytest.mark.parametrize('args', [('expire',), ('revoke', '--all', '--yes')])
def test_a_damaged_id_is_in_nobodys_way(on_sqlite, args):
    """E3, C4: SQLite keeps any value as an id; such a row is deleted, too."""
    for _ in range(3):
        on_sqlite.new(ago=48 * HOUR if args == ('expire',) else None)
    on_sqlite.execute("UPDATE sessions SET id = 'abc' WHERE rowid = 2")
    assert on_sqlite.done(*args).startswith('3 ')
    assert on_sqlite.ids() == set()


def test_expire_after_the_expiration_was_lowered(stocked, database):
    """E1: what was stored under another setting goes as soon as it expires."""
    rest = {'check_expiration_interval': '0'}
    stocked.write(database.url, expiration='160d', **rest)
    stocked.new(ago=160 * 24 * HOUR + HOUR)
    live = stocked.new(ago=160 * 24 * HOUR - HOUR)
    stocked.write(database.url, expiration='1h', **rest)
    assert stocked.done('expire') == '1 expired session was deleted\n'
    assert stocked.ids() == {uuid.UUID(live)}


#: What in a URL has the server give up a statement soon.
IMPATIENT = {
    'lock': {
        'postgresql': {'options': '-c lock_timeout=300'},
        'mariadb': {'init_command': 'SET innodb_lock_wait_timeout = 1'},
    },
    'statement': {
        'postgresql': {'options': '-c statement_timeout=300'},
        'mariadb': {'init_command': 'SET max_statement_time = 0.3'},
    },
}


@pytest.fixture
def impatient(stocked, database):
    """A function that sets a limit for the commands from now on."""

    def give_up(what):
        url = sa.make_url(database.url).update_query_dict(
            IMPATIENT[what][database.name]
        )
        stocked.write(
            url.render_as_string(hide_password=False),
            check_expiration_interval='0',
        )
        return stocked

    return give_up


def lock(connection, id):
    """Lock the row of the session *id* in *connection*'s transaction."""
    table = sa.table('sessions', sa.column('id', PublicId), sa.column('data'))
    row = sa.select(table.c.data).where(table.c.id == uuid.UUID(id))
    assert connection.scalar(row.with_for_update())


@ON_SERVERS
@pytest.mark.parametrize('number', [1, 2])
def test_expire_waits_for_nobody(
    stocked, impatient, database, monkeypatch, number
):
    """E3: a row that somebody has locked is left, and told of."""
    monkeypatch.setattr(batches, 'CHOSEN', 2)
    ids = [stocked.new(ago=(60 - age) * HOUR) for age in range(3)]
    impatient('lock')
    with database.create_engine().begin() as other:
        # The first ones that are chosen.
        for id in ids[:number]:
            lock(other, id)
        code, out, err = stocked.run('expire')
    deleted = {1: '2 expired sessions were', 2: '0 expired sessions were'}
    assert (code, out) == (0, f'{deleted[number]} deleted\n')
    left = {1: '1 more is', 2: '3 more are'}
    assert err.startswith(f'psessions: {left[number]} locked by other')
    rest = 3 if number == 2 else 1
    assert stocked.done('expire').startswith(f'{rest} expired')


@ON_SERVERS
@pytest.mark.parametrize('limit', IMPATIENT)
def test_a_command_that_waited_in_vain(
    stocked, impatient, database, monkeypatch, limit
):
    """D1: it says so, and not that the database cannot be used."""
    monkeypatch.setattr(batches, 'REPETITIONS', 1)
    id = stocked.new()
    impatient(limit)
    with database.create_engine().begin() as other:
        lock(other, id)
        line = stocked.fails(1, 'revoke', id)
    assert 'gave up a statement' in line
    assert 'does it run' not in line


def test_absolute_timeout_that_is_set_later(stocked, database):
    """E1: what it has ended is expired for each of the commands."""
    rest = {'check_expiration_interval': '0'}
    stocked.write(database.url, expiration='160d', **rest)
    id = stocked.new(ago=49 * HOUR)
    live = stocked.new(ago=47 * HOUR)
    stocked.write(
        database.url, expiration='1d', absolute_timeout='2d', **rest
    )
    stats = stocked.json('stats')
    assert (stats['live'], stats['expired']) == (1, 1)
    assert [one['id'] for one in stocked.json('list')] == [live]
    assert stocked.json('show', id)['state'] == 'expired'
    assert stocked.done('expire') == '1 expired session was deleted\n'
    assert stocked.ids() == {uuid.UUID(live)}


def test_expire_shows_its_progress_on_a_terminal(
    on_sqlite, terminal, monkeypatch
):
    """A bar on stderr, which is gone in the end."""
    monkeypatch.setattr(batches, 'BATCH', 1)
    for _ in range(2):
        on_sqlite.new(ago=48 * HOUR)
    terminal()
    code, out, err = on_sqlite.run('expire')
    assert (code, out) == (0, '2 expired sessions were deleted\n')
    assert '] 100%  2 of 2' in err
    assert '50%  1 of 2' in err
    assert err.endswith(' \r')


@pytest.mark.parametrize('error', [KeyboardInterrupt(), OSError('gone')])
def test_interrupted_expire_says_how_far_it_came(
    on_sqlite, monkeypatch, error
):
    """What was deleted before Ctrl-C, or an error, is told in the line."""
    monkeypatch.setattr(batches, 'BATCH', 1)
    for _ in range(2):
        on_sqlite.new(ago=48 * HOUR)
    commit = batches.commit

    def once(*args):
        monkeypatch.setattr(batches, 'commit', fail)
        return commit(*args)

    def fail(*args):
        raise error

    monkeypatch.setattr(batches, 'commit', once)
    code = 130 if isinstance(error, KeyboardInterrupt) else 1
    assert '1 were deleted before that' in on_sqlite.fails(code, 'expire')
    assert len(on_sqlite.ids()) == 1


def test_sql_is_printed_without_a_database(tmp_path, make_shop):
    """``--sql`` neither connects nor creates, whatever is set."""
    file = tmp_path / 'none.sqlite'
    shop = make_shop(f'sqlite:///{file}', create_table='true')
    assert 'CREATE TABLE sessions' in shop.done('table', '--sql')
    assert not file.exists()
    assert 'was created' in shop.done('table')


@pytest.fixture
def heeded():
    """Ctrl-C counts: a shell has what it runs in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('heeded')
@pytest.mark.parametrize(
    ('args', 'words'),
    [(['expire'], '2 were deleted'), (['revoke', '--all', '--yes'],
     '2 were deleted'), (['revoke'], '2 sessions ended')],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else '',
)
def test_ctrl_c_waits_for_the_batch(stocked, monkeypatch, args, words):
    """It is heard after the batch: nothing by half, and it says how many."""
    monkeypatch.setattr(batches, 'BATCH', 1)
    ago = 48 * HOUR if args == ['expire'] else None
    ids = [stocked.new(ago=ago) for _ in range(4)]
    commit = batches.commit
    turns = []

    def press(*given):
        turns.append(given)
        if len(turns) == 2:
            signal.raise_signal(signal.SIGINT)
        return commit(*given)

    monkeypatch.setattr(batches, 'commit', press)
    EXPIRED.clear()
    line = stocked.fails(130, *args, *(ids if args == ['revoke'] else ()))
    assert f'interrupted: {words} before that' in line
    assert len(stocked.ids()) == 2
    assert [event.count for event in EXPIRED] == (
        [2] if args == ['expire'] else []
    )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures('heeded')
def test_second_ctrl_c_does_not_wait(on_sqlite, monkeypatch):
    """Whoever cannot wait for a batch presses twice."""
    on_sqlite.new(ago=48 * HOUR)

    def press(*given):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    monkeypatch.setattr(batches, 'commit', press)
    assert 'interrupted' in on_sqlite.fails(130, 'expire')
    assert len(on_sqlite.ids()) == 1


def test_ctrl_c_that_is_ignored(on_sqlite, monkeypatch):
    """Under nohup, say, it stays ignored."""
    on_sqlite.new(ago=48 * HOUR)
    commit = batches.commit

    def press(*given):
        signal.raise_signal(signal.SIGINT)
        return commit(*given)

    monkeypatch.setattr(batches, 'commit', press)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert '1 expired session was' in on_sqlite.done('expire')
    finally:
        signal.signal(signal.SIGINT, before)


# -- many rows ----------------------------------------------------------------


def _highest(*args):
    """Run the command; return its peak of memory in MiB, and stdout."""
    # Not ru_maxrss, which begins with that of the process that started it.
    code = (
        'import re, sys; from pyramid_sqlasession.scripts import main; '
        'code = main(); text = open("/proc/self/status").read(); '
        'print(re.search(r"VmHWM:\\s+(\\d+) kB", text)[1], file=sys.stderr); '
        'sys.exit(code)'
    )
    process = subprocess.run(
        [sys.executable, '-c', code, *args], cwd=ROOT, text=True,
        capture_output=True, timeout=100,
    )
    assert process.returncode == 0, process.stderr
    return int(process.stderr.split()[-1]) / 1024, process.stdout


@pytest.mark.slow
def test_memory_does_not_grow_with_the_table(stocked):
    """Many rows are listed and deleted in the memory that one takes."""
    stocked.new(text='x' * 2000)
    before, _ = _highest(str(stocked.ini), 'list')
    table = stocked.application.records.table
    with stocked.application.engine.begin() as connection:
        row = dict(connection.execute(sa.select(table)).one()._mapping)
        for _ in range(20):
            connection.execute(
                table.insert(),
                [{**row, 'id': uuid.uuid4()} for _ in range(2000)],
            )
    highest, out = _highest(str(stocked.ini), 'list', '--limit', '200000')
    assert len(out.splitlines()) == 1 + 40_001
    assert highest < before + 8
    highest, out = _highest(str(stocked.ini), 'revoke', '--all', '--yes')
    assert out == '40,001 sessions ended\n'
    assert highest < before + 8


# -- the application ----------------------------------------------------------


def test_cleaner_does_not_run(stocked, database):
    """The application is started, its cleaner is not left running."""
    stocked.new(ago=48 * HOUR)
    stocked.write(database.url, check_expiration_interval='2')
    stocked.done('stats')
    assert running_cleaners() == []
    assert len(stocked.ids()) == 1


def test_other_section_of_the_file(stocked, database):
    """FILE#NAME names another application of the file, as in pserve."""
    stocked.write(database.url, section='app:second')
    assert scripts.main([f'{stocked.ini}#second', 'stats']) == 0
    file = stocked.ini
    said = stocked.fails(2, 'stats')
    assert 'no section [app:main]; ' in said
    assert f'{file}#NAME' in said
    stocked.ini = f'{file}#third'
    assert 'no section [app:third]' in stocked.fails(2, 'stats')


def test_several_applications_of_the_file(on_sqlite):
    """Of several with sessions one is named; where there is one, it is it."""
    on_sqlite.ini.write_text(f"""
        [composite:main]
        use = call:{__name__}:several
        shop = shop
        news = news
        [composite:both]
        use = call:{__name__}:several
        shop = shop
        other = other
        [app:shop]
        use = call:{__name__}:shop
        sqlalchemy.url = {on_sqlite.application.engine.url}
        [app:other]
        use = call:{__name__}:shop
        sqlalchemy.url = sqlite://
        [app:news]
        use = call:{__name__}:bare
    """.replace('        ', ''))
    assert 'no live sessions' in on_sqlite.done('list')
    file = on_sqlite.ini
    on_sqlite.ini = f'{file}#shop'
    assert 'no live sessions' in on_sqlite.done('list')
    on_sqlite.ini = f'{file}#both'
    assert f'{file}#NAME' in on_sqlite.fails(2, 'list')
    on_sqlite.ini = f'{file}#news'
    assert 'pyramid.includes' in on_sqlite.fails(1, 'list')


def test_variables_of_the_file(empty, tmp_path):
    """--var gives what the ini file leaves open."""
    url = f'sqlite:///{tmp_path}/%(name)s.sqlite'
    empty.ini.write_text(
        f'[app:main]\nuse = call:{__name__}:shop\nsqlalchemy.url = {url}\n'
    )
    assert 'created' in empty.done('--var', 'name=x', 'table')
    assert (tmp_path / 'x.sqlite').exists()
    assert '--var name=VALUE' in empty.fails(2, 'table')


def test_database_of_their_own(tmp_path, make_shop):
    """sqlasession.url is where the command looks, too."""
    made = make_shop(
        f'sqlite:///{tmp_path}/shop.sqlite',
        url=f'sqlite:///{tmp_path}/sessions.sqlite',
    )
    made.done('table')
    assert not (tmp_path / 'shop.sqlite').exists()
    assert made.json('stats')['database'].endswith('sessions.sqlite')


# -- output -------------------------------------------------------------------


def test_colours_on_a_terminal_only(on_sqlite, terminal, monkeypatch):
    """Bold on a terminal, unless NO_COLOR or a dumb one."""
    on_sqlite.new()
    assert '\x1b' not in on_sqlite.run('list')[1]
    terminal()
    assert '\x1b[1m' in on_sqlite.run('list')[1]
    monkeypatch.setenv('NO_COLOR', '1')
    assert '\x1b' not in on_sqlite.run('list')[1]
    monkeypatch.delenv('NO_COLOR')
    monkeypatch.setenv('TERM', 'dumb')
    assert '\x1b' not in on_sqlite.run('list')[1]


@pytest.mark.parametrize(
    ('count', 'shown'),
    [(0, '0 B'), (1023, '1023 B'), (1024, '1.0 KiB'), (5 << 30, '5.0 GiB'),
     (1 << 60, '1048576.0 TiB')],
)
def test_bytes(count, shown):
    """Sizes have a unit that keeps them short."""
    assert readable_bytes(count) == shown


def _psessions(*args, **options):
    """Run the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, '-m', 'pyramid_sqlasession.scripts', *args],
        cwd=ROOT, text=True, **options,
    )


def test_process_says_one_line(tmp_path):
    """No warning of an import joins the line, and the exit code is set."""
    process = _psessions(str(tmp_path / 'no.ini'), stderr=subprocess.PIPE)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith('psessions: there is no file ')
    assert err.count('\n') == 1


@pytest.mark.parametrize('args', [['list'], ['list', '--json'], ['stats']])
def test_reader_that_leaves(on_sqlite, args):
    """``psessions … | head`` ends without a word."""
    on_sqlite.new()
    process = _psessions(
        str(on_sqlite.ini), *args, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == ''
    process.stderr.close()
    assert process.wait(60) == 1


@pytest.mark.parametrize('args', [['list'], ['stats', '--json']])
def test_output_that_nobody_takes(on_sqlite, args):
    """A full disk is one line, and the exit code is 1."""
    with open('/dev/full', 'w') as full:
        process = _psessions(
            str(on_sqlite.ini), *args, stdout=full, stderr=subprocess.PIPE
        )
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert 'No space left on device' in err
    assert err.count('\n') == 1


def _with_closed(closed, *args):
    """Run the command as a shell does that closes streams; what it says."""
    return subprocess.run(
        ['/bin/sh', '-c', f'exec "$@" {closed}', 'sh', sys.executable, '-m',
         'pyramid_sqlasession.scripts', *args],
        cwd=ROOT, check=False, capture_output=True, text=True, timeout=60,
    )


@pytest.mark.parametrize('closed', ['>&-', '2>&-', '<&- >&- 2>&-'])
def test_closed_streams(on_sqlite, closed):
    """C4: the work is done, although there is nobody to be told."""
    on_sqlite.new(user_id=7)
    done = _with_closed(
        closed, str(on_sqlite.ini), 'revoke', '--field', 'user_id=7'
    )
    assert (done.returncode, done.stderr) == (0, '')
    assert on_sqlite.ids() == set()


def test_closed_streams_and_a_question(on_sqlite):
    """Section 3: --all without a stream to ask at is a wrong call."""
    on_sqlite.new()
    done = _with_closed('<&-', str(on_sqlite.ini), 'revoke', '--all')
    assert done.returncode == 2
    assert 'add --yes' in done.stderr


def test_text_that_the_terminal_has_not(on_sqlite):
    """A letter that the encoding lacks is escaped, no traceback."""
    on_sqlite.new(agent='Grüße')
    process = _psessions(
        str(on_sqlite.ini), 'list', stdout=subprocess.PIPE,
        env={**os.environ, 'PYTHONIOENCODING': 'ascii'},
    )
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert 'Gr\\xfc\\xdfe' in out


def test_real_terminal(on_sqlite):
    """On a pseudo terminal --all asks, and takes the answer."""
    on_sqlite.new()
    ours, theirs = pty.openpty()
    process = _psessions(
        str(on_sqlite.ini), 'revoke', '--all', stdin=theirs, stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, b'y\n')
    seen = b''
    while b'ended' not in seen:
        seen += os.read(ours, 1000)
    assert process.wait(60) == 0
    os.close(ours)
    assert b'End 1 live session, ' in seen


# -- bad input ----------------------------------------------------------------


@pytest.mark.parametrize(
    ('args', 'words'),
    [
        (['nonsense'], ['invalid choice', 'nonsense', 'revoke', 'expire']),
        (['stats', '--nonsense'], ['--nonsense', '--help']),
        (['show'], ['ID']),
        (['show', 'abc'], ['abc', 'is not the id', 'list']),
        (['revoke', 'abc'], ['abc', 'is not the id']),
        (['revoke'], ['ids', '--field', '--all']),
        (['revoke', NOBODY, '--all'], ['ids', '--field', '--all']),
        (['revoke', '--all'], ['no terminal', '--yes']),
        (['list', '--limit', '0'], ['0', 'above 0']),
        (['list', '--limit', 'many'], ['many', 'above 0']),
        (['list', '--field', 'user_id'], ['user_id', 'NAME=VALUE']),
        (['list', '--field', '=7'], ['NAME=VALUE']),
        (['--var', 'x', 'list'], ['--var', 'NAME=VALUE']),
        (['table', '--sql', 'oracle'], ['oracle', *DIALECTS]),
        (['list', '--field', 'user=7'], ['user', 'user_id', 'agent']),
        (['list', '--field', 'secret_hash=7'], ['no additional field']),
        (['list', '--field', 'user_id='], ['user_id', 'a whole number']),
        (['list', '--field', 'user_id=x'], ['user_id', 'a whole number']),
        (['list', '--field', f'user_id={1 << 40}'], ['32 bits']),
        (['list', '--field', 'agent=' + 65 * 'x'], ['at most 64']),
        (['list', '--field', 'admin=maybe'], ['true or false', 'maybe']),
        (['list', '--field', 'born=today'], ['a date such as']),
        (['list', '--field', 'seen=now'], ['a time such as']),
        (['list', '--field', 'seen_at=now'], ['a time such as']),
        (['list', '--field', 'wakes=late'], ['a time such as']),
        (['list', '--field', 'device=phone'], ['a UUID']),
        (['list', '--field', 'price=free'], ['a number']),
        (['list', '--field', 'weight=light'], ['a number']),
        (['list', '--field', 'kind=tv'], ['one of web, app']),
        (['list', '--field', 'stay=long'], ['a duration such as']),
        (['list', '--field', 'print=xyz'], ['hexadecimal']),
        (['list', '--field', 'extra={}'], ['extra', 'cannot search']),
        (['revoke', '--field', 'user_id=x'], ['user_id']),
        (['list', '--field', 'user_id=1', '--field', 'user_id=2'],
         ['user_id', 'twice']),
    ],
    ids=' '.join,
)
def test_wrong_call(on_sqlite, args, words, monkeypatch):
    """One line that names what is wrong and what is allowed; code 2."""
    monkeypatch.setattr(sys, 'stdin', io.StringIO())
    line = on_sqlite.fails(2, *args)
    for word in words:
        assert word in line


def test_no_arguments(capsys):
    """Without an ini file: one line, code 2."""
    assert scripts.main([]) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1
    assert 'INI' in err


@pytest.mark.parametrize('args', [['stats'], ['table'], ['table', '--sql']])
def test_missing_ini_file(make_shop, args):
    """A file that is not there: its name, code 2."""
    made = make_shop()
    made.ini.unlink()
    assert str(made.ini) in made.fails(2, *args)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('', "No section 'main'"),
        ('nonsense', 'MissingSectionHeaderError'),
        ('[app:main]\nuse = call:no.such:main', 'no'),
        (f'[app:main]\nuse = call:{__name__}:broken', 'what'),
        (f'[app:main]\nuse = call:{__name__}:bare', 'pyramid.includes'),
        (f'[app:main]\nuse = call:{__name__}:shop\n'
         f'sqlalchemy.url = sqlite://\nsqlasession.expiraton = 1h',
         'did you mean sqlasession.expiration?'),
    ],
    ids=['empty', 'no ini', 'no module', 'broken', 'without the package',
         'wrong setting'],
)
def test_ini_file_that_cannot_work(make_shop, text, words):
    """An application that cannot start or has no sessions: code 1."""
    made = make_shop()
    made.ini.write_text(text)
    assert words in made.fails(1, 'stats')


def test_traceback_if_asked_for(make_shop):
    """--traceback shows where an error of the application came from."""
    made = make_shop()
    made.write('sqlite://', use='broken')
    code, _, err = made.run('--traceback', 'stats')
    assert code == 1
    assert 'raise KeyError' in err
    assert err.splitlines()[-1].startswith('psessions: the application of ')


COMMANDS = [
    ['stats'], ['list'], ['show', NOBODY], ['expire'], ['revoke', NOBODY],
    ['revoke', '--field', 'user_id=7'], ['revoke', '--all', '--yes'],
]


@pytest.mark.parametrize('args', [*COMMANDS, ['table']], ids=' '.join)
def test_database_down(database, make_shop, args):
    """Nobody answers: one line without a password, code 1."""
    made = make_shop(DOWN[database.name])
    line = made.fails(1, *args)
    assert 'the database cannot be used' in line
    assert 'pass-word' not in line


def test_database_that_refuses_us(make_shop, tmp_path):
    """A file that is no database: what the database says, code 1."""
    (tmp_path / 'x.sqlite').write_text('no database ' * 100)
    made = make_shop(f'sqlite:///{tmp_path}/x.sqlite')
    assert 'file is not a database' in made.fails(1, 'stats')


@pytest.mark.parametrize(
    'args', [('list', '--traceback'), ('--traceback', 'list')], ids=' '.join
)
def test_traceback_wherever_it_stands(on_sqlite, monkeypatch, args):
    """Behind the command too, where one adds it first."""

    def run(args):
        raise KeyError('what now')

    monkeypatch.setattr(scripts, '_run', run)
    code, _, err = on_sqlite.run(*args)
    assert code == 1
    assert 'raise KeyError' in err
    assert 'raise KeyError' not in on_sqlite.run('list')[2]


def test_the_version(capsys):
    """Which one it is, without an ini file."""
    assert scripts.main(['--version']) == 0
    assert capsys.readouterr().out == (
        f'pyramid_sqlasession {version("pyramid_sqlasession")}\n'
    )


def test_the_ini_file_comes_first(capsys):
    """Who writes the command before the file is told the order."""
    assert scripts.main(['list', 'development.ini']) == 2
    assert 'the ini file comes first' in capsys.readouterr().err


@pytest.mark.parametrize('args', COMMANDS, ids=' '.join)
def test_missing_table(empty, args):
    """Without its table each command names the one that makes it."""
    line = empty.fails(1, *args)
    assert 'run the migrations' in line
    assert f'"psessions {empty.ini} table"' in line


def test_busy_pool(make_shop, on_sqlite, monkeypatch):
    """A pool without a free connection is a database that does not answer."""
    error = exc.TimeoutError('QueuePool limit')

    def run(args):
        raise error

    monkeypatch.setattr(scripts, '_run', run)
    assert 'QueuePool limit' in on_sqlite.fails(1, 'stats')


def test_error_that_nobody_thought_of(on_sqlite, monkeypatch):
    """Also a fault of our own is a line, cut at a length one can read."""

    def run(args):
        raise ZeroDivisionError('x' * 5000)

    monkeypatch.setattr(scripts, '_run', run)
    line = on_sqlite.fails(1, 'stats')
    assert 'ZeroDivisionError' in line
    assert len(line) < 1100
