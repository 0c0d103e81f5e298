"""``psessions --help``, and ``psessions INI table``."""

from importlib.metadata import version

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column

from pyramid_sqlasession import scripts
from pyramid_sqlasession import SessionMixin
from pyramid_sqlasession.database import Database
from pyramid_sqlasession.scripts.table import DIALECTS

from .psessions import AgentSession
from .psessions import Base
from .psessions import DOWN
from .psessions import server_error


def test_help_needs_no_ini_file(capsys):
    """``psessions --help`` names every command and the exit codes."""
    assert scripts.main(['--help']) == 0
    out = capsys.readouterr().out
    for word in ('table', 'stats', 'list', 'show', 'revoke', 'expire',
                 'Exit codes', 'examples',
                 '\n  psessions production.ini table\n'):
        assert word in out


@pytest.mark.parametrize('name', ['table', 'list', 'show', 'revoke'])
def test_help_of_a_command(capsys, name):
    """Each command explains its own options, also without an ini file."""
    assert scripts.main(['my.ini', name, '--help']) == 0
    assert f'psessions INI {name}' in capsys.readouterr().out


def test_the_version(capsys):
    """Which one it is, without an ini file."""
    assert scripts.main(['--version']) == 0
    assert capsys.readouterr().out == (
        f'pyramid_sqlasession {version("pyramid_sqlasession")}\n'
    )


# -- table --------------------------------------------------------------------


def test_table_is_created_once(empty, database):
    """``table`` creates it, and says so when it is there."""
    assert empty.done('table') == 'the table sessions was created\n'
    found = sa.inspect(database.create_engine())
    assert found.get_table_names() == ['sessions']
    columns = {column['name'] for column in found.get_columns('sessions')}
    assert {'id', 'data', 'user_id', 'agent'} <= columns
    assert empty.done('table') == 'the table sessions was there already\n'


def test_table_of_a_model(tmp_path, make_command):
    """Whoever has migrations too is told how the two go together."""
    made = make_command(
        f'sqlite:///{tmp_path}/plain.sqlite',
        model=f'{AgentSession.__module__}.AgentSession',
    )
    created, advice, rest = made.done('table').split('\n')
    assert created == 'the table agent_sessions was created'
    assert advice.startswith('It is one of the models: if Alembic makes ')
    assert '"alembic stamp head"' in advice
    assert rest == ''


def test_table_that_lacks_a_column(stocked):
    """``table`` does not call a table fine that will not work."""
    # MariaDB and SQLite keep a column that an index needs.
    stocked.execute('ALTER TABLE sessions DROP COLUMN agent')
    stocked.execute('ALTER TABLE sessions DROP COLUMN extra')
    assert stocked.fails(1, 'table') == (
        'psessions: the table sessions is there, but without agent, extra; '
        f'add what is missing by a migration ("psessions {stocked.ini} '
        f'table --sql" shows how it must be)\n'
    )


@pytest.mark.parametrize(('column', 'works'), [
    ('INTEGER NOT NULL', False), ('INTEGER NOT NULL DEFAULT 5', True),
    ('INTEGER', True), ('INTEGER GENERATED ALWAYS AS (1 + 1) STORED', True),
])
def test_table_that_has_a_column_of_another_release(empty, column, works):
    """What has to be filled, and is not, keeps all new sessions out."""
    # SQLite adds neither the first nor the last one to a table that is there.
    made = empty.done('table', '--sql').replace(
        'CREATE TABLE sessions (', f'CREATE TABLE sessions (other {column},'
    )
    for statement in made.split(';'):
        if statement.strip():
            empty.execute(statement)
    if works:
        assert empty.done('table') == 'the table sessions was there already\n'
        return
    assert empty.fails(1, 'table') == (
        'psessions: the table sessions is there, with other, which no session '
        'of this application fills and which may not be NULL; give it a '
        'DEFAULT by a migration, or drop it\n'
    )


@pytest.mark.parametrize(
    ('sqlstate', 'words'),
    [('42501', 'the table sessions cannot be created: not now\n'),
     ('57P01', 'the database cannot be used (')],
)
def test_table_that_cannot_be_created(
    tmp_path, make_command, monkeypatch, sqlstate, words
):
    """D1, D2: why not; and a database that is lost is that, and no table."""

    def refuse(self):
        raise server_error(sqlstate)

    monkeypatch.setattr(Database, 'create_table', refuse)
    made = make_command(f'sqlite:///{tmp_path}/shop.sqlite')
    assert made.fails(1, 'table').startswith(f'psessions: {words}')


@pytest.mark.parametrize('name', ['', *DIALECTS])
def test_sql_needs_no_database(make_command, name):
    """``table --sql`` prints the DDL of a dialect without connecting."""
    down = make_command(DOWN['postgresql'])
    out = down.done('table', '--sql', *([name] if name else []))
    assert '\nCREATE TABLE sessions (' in f'\n{out}'
    assert out.endswith(';\n')
    assert '\n\n\n' not in out
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


def test_sql_is_printed_without_a_database(tmp_path, make_command):
    """``--sql`` neither connects nor creates, whatever is set."""
    file = tmp_path / 'none.sqlite'
    made = make_command(f'sqlite:///{file}', create_table='true')
    assert 'CREATE TABLE sessions' in made.done('table', '--sql')
    assert not file.exists()
    assert 'was created' in made.done('table')


def test_sql_of_a_type_that_the_dialect_has_not(make_command):
    """A type of PostgreSQL in SQLite is one line."""
    made = make_command(
        'sqlite://', model=f'{__name__}.PostgresSession',
    )
    assert 'cannot be made in sqlite' in made.fails(1, 'table', '--sql')


class PostgresSession(SessionMixin, Base):
    """A model for PostgreSQL alone."""

    __tablename__ = 'postgres_sessions'

    tags: Mapped[list[str] | None] = mapped_column(sa.ARRAY(sa.String))


class User(Base):
    """What the session's table refers to."""

    __tablename__ = 'users'

    id: Mapped[int] = mapped_column(primary_key=True)


class UserSession(SessionMixin, Base):
    """The application's own model."""

    __tablename__ = 'user_sessions'

    owner: Mapped[int | None] = mapped_column(sa.ForeignKey('users.id'))


@pytest.mark.parametrize(
    'database', ['postgresql', 'mariadb'], indirect=True
)
def test_table_that_refers_to_a_missing_one(database, make_command):
    """The table of users must be there before, and the line says so."""
    made = make_command(database.url, model=f'{__name__}.UserSession')
    line = made.fails(1, 'table')
    assert 'refers to users, which must be there before' in line
    Base.metadata.tables['users'].create(database.create_engine())
    assert 'user_sessions was created' in made.done('table')
    assert made.new(owner=None)
