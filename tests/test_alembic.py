"""Alembic's autogenerate sees the table, and nothing to do afterwards.

The environment of the migrations is what the cookiecutter makes: it reads the
ini file and ``Base.metadata``, and starts no application.
"""

import io
from pathlib import Path
import re

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.autogenerate import produce_migrations
from alembic.autogenerate import render_python_code
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from pyramid.paster import get_appsettings
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column

from pyramid_sqlasession import session_model
from pyramid_sqlasession import SessionMixin
from pyramid_sqlasession.model import _ON_MYSQL
from pyramid_sqlasession.settings import read_settings

#: As in the cookiecutter: every constraint has a name.
NAMES = {
    'ix': 'ix_%(column_0_label)s',
    'uq': 'uq_%(table_name)s_%(column_0_name)s',
    'ck': 'ck_%(table_name)s_%(constraint_name)s',
    'fk': 'fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s',
    'pk': 'pk_%(table_name)s',
}

FIELDS = """
    user_id: Integer index
    note: String(64) not null
    device: String(32) unique
    admin: Boolean
    born: Date
    seen: DateTime
    stamp: TIMESTAMP
    price: Numeric(8, 2)
    weight: Float
    blob: LargeBinary
    hash: LargeBinary(16) index
    large: LargeBinary(70000)
    kind: Enum('web', 'app', name='kind')
    big: BigInteger
    long: Text
    name: Unicode(20)
    code: CHAR(5)
    letter: UnicodeText
    at: Time
    took: Interval
    number: Numeric
    exact: Double
"""


def no_application(global_config, **settings):
    """Named by the ini files; a migration does not start it."""
    raise AssertionError('the application was started')


def new_base():
    class Base(DeclarativeBase):
        metadata = sa.MetaData(naming_convention=NAMES)

    return Base


def generated(folder):
    """The generated model, with fields."""
    base = new_base()
    session_model(base.metadata, fields=FIELDS)
    return base.metadata


def generated_by_base(folder):
    """The generated model on the application's Base, another name."""
    base = new_base()
    session_model(base, table_name='web_sessions')
    return base.metadata


def indented(text):
    """Return *text* as the value of a setting in an ini file."""
    return ''.join(f'\n    {line.strip()}' for line in text.split('\n'))


def from_ini(folder):
    """The generated model with the name and the fields of the ini file."""
    ini = folder / 'migrated.ini'
    ini.write_text(
        f'[app:main]\nuse = call:{__name__}:no_application\n'
        'sqlasession.table_name = ini_sessions\n'
        f'sqlasession.additional_fields ={indented(FIELDS)}\n'
    )
    settings = read_settings(get_appsettings(str(ini)))
    base = new_base()
    session_model(
        base.metadata, settings.table_name, settings.additional_fields,
        settings.schema,
    )
    return base.metadata


def own(folder):
    """The application's own model, which refers to its users."""
    base = new_base()

    class User(base):
        __tablename__ = 'users'

        id: Mapped[int] = mapped_column(primary_key=True)

    class UserSession(SessionMixin, base):
        __tablename__ = 'user_sessions'

        user_id: Mapped[int | None] = mapped_column(
            sa.ForeignKey('users.id', ondelete='CASCADE'), index=True
        )
        note: Mapped[str] = mapped_column(sa.String(64))

    return base.metadata


@pytest.fixture(
    params=[generated, generated_by_base, from_ini, own],
    ids=lambda make: make.__name__,
)
def metadata(request, tmp_path):
    """The MetaData of an application."""
    return request.param(tmp_path)


def differences(connection, metadata, **options):
    """Return what autogenerate would write, and nothing if nothing."""
    context = MigrationContext.configure(
        connection, opts={'compare_server_default': True, **options}
    )
    return compare_metadata(context, metadata)


def migrate(connection, metadata):
    """Do what autogenerate would write."""
    context = MigrationContext.configure(
        connection, opts={'target_metadata': metadata}
    )
    operations = Operations(context)
    todo = [produce_migrations(context, metadata).upgrade_ops]
    while todo:
        step = todo.pop(0)
        if hasattr(step, 'ops'):
            todo[:0] = step.ops
        else:
            operations.invoke(step)


def test_table_is_found(database, metadata):
    """On an empty database the table and its indexes are to be created."""
    with database.create_engine().connect() as connection:
        found = differences(connection, metadata)
    kinds = [difference[0] for difference in found]
    tables = [d[1].name for d in found if d[0] == 'add_table']
    assert sorted(tables) == sorted(metadata.tables)
    assert set(kinds) == {'add_table', 'add_index'}
    (sweep,) = [
        d[1] for d in found
        if d[0] == 'add_index' and next(iter(d[1].columns)).name == 'sweep'
    ]
    assert sweep.table.name in tables


def test_second_run_finds_nothing(database, metadata):
    """After the migration nothing differs, types included."""
    engine = database.create_engine()
    with engine.begin() as connection:
        migrate(connection, metadata)
    with engine.connect() as connection:
        assert differences(connection, metadata) == []


def test_created_table_needs_no_migration(database, metadata):
    """A table made by ``psessions`` or create_table is the migration's."""
    engine = database.create_engine()
    metadata.create_all(engine)
    with engine.connect() as connection:
        assert differences(connection, metadata) == []


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_table_in_a_schema(database):
    """Nothing differs where Alembic looks into schemas, as it has to."""
    metadata = sa.MetaData()
    session_model(metadata, schema='web', fields=FIELDS)
    engine = database.create_engine()
    with engine.begin() as connection:
        # Nobody else makes it.
        connection.exec_driver_sql('CREATE SCHEMA web')
        migrate(connection, metadata)
    with engine.connect() as connection:
        assert differences(connection, metadata, include_schemas=True) == []
        # The docs say so.
        assert differences(connection, metadata) != []


def test_renamed_table(database):
    """After rename_table nothing differs but names of indexes."""
    before, after = sa.MetaData(), sa.MetaData()
    session_model(before, 'sessions', fields='user_id: Integer index')
    session_model(after, 'web_sessions', fields='user_id: Integer index')
    engine = database.create_engine()
    before.create_all(engine)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        Operations(context).rename_table('sessions', 'web_sessions')
    with engine.begin() as connection:
        kinds = {found[0] for found in differences(connection, after)}
        assert kinds == {'remove_index', 'add_index'}
        migrate(connection, after)
    with engine.connect() as connection:
        assert differences(connection, after) == []


@pytest.mark.parametrize('database', ['sqlite'], indirect=True)
def test_types_that_revisions_name(database):
    """The docs name those of ours that have to stay where they are."""
    metadata = sa.MetaData()
    session_model(metadata, fields=[
        f'field{number}: {kind.__name__}'
        for number, kind in enumerate(_ON_MYSQL)
    ])
    with database.create_engine().connect() as connection:
        context = MigrationContext.configure(connection)
        script = produce_migrations(context, metadata)
    code = render_python_code(script.upgrade_ops)
    page = Path(__file__).parents[1] / 'docs' / 'api.rst'
    (named,) = re.findall(
        r'Migrations name .*?(?=\n\n)', page.read_text(), re.DOTALL
    )
    assert {*re.findall(r'pyramid_sqlasession\.model\.(\w+)', code)} == {
        *re.findall(r'``(\w+)``', named)
    }


def test_new_field_is_found(database):
    """A field added in the ini file is one column to add."""
    before = sa.MetaData()
    session_model(before, fields='user_id: Integer index')
    engine = database.create_engine()
    before.create_all(engine)
    after = sa.MetaData()
    session_model(after, fields=['user_id: Integer index', 'note: String(9)'])
    with engine.connect() as connection:
        ((verb, _, table, column),) = differences(connection, after)
    assert (verb, table, column.name) == ('add_column', 'sessions', 'note')


ENV = """
from alembic import context
from pyramid.paster import get_appsettings
import sqlalchemy as sa

from pyramid_sqlasession import session_model
from pyramid_sqlasession.settings import read_settings

given = get_appsettings(context.config.config_file_name)
settings = read_settings(given)
metadata = sa.MetaData()
session_model(
    metadata, settings.table_name, settings.additional_fields,
    settings.schema,
)
engine = sa.engine_from_config(given, 'sqlalchemy.')
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
"""

TEMPLATE = """
from alembic import op
import pyramid_sqlasession.model
import sqlalchemy as sa
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade():
    ${upgrades}


def downgrade():
    ${downgrades}
"""


def test_commands_of_alembic(database, tmp_path):
    """revision, upgrade, check and downgrade, in a project's own folder."""
    # Its script.py.mako imports ``pyramid_sqlasession.model``, as it has to
    # for all types that are not SQLAlchemy's.
    folder = tmp_path / 'migrations'
    (folder / 'versions').mkdir(parents=True)
    (folder / 'env.py').write_text(ENV)
    (folder / 'script.py.mako').write_text(TEMPLATE)
    ini = tmp_path / 'shop.ini'
    url = database.url.replace('%', '%%')
    ini.write_text(
        f'[app:main]\nuse = call:{__name__}:no_application\n'
        f'sqlalchemy.url = {url}\n'
        f'sqlasession.additional_fields ={indented(FIELDS)}\n'
        '[alembic]\n'
        'script_location = %(here)s/migrations\n'
        'path_separator = os\n'
    )
    config = Config(str(ini), stdout=io.StringIO())
    command.revision(config, 'sessions', autogenerate=True)
    command.upgrade(config, 'head')
    command.check(config)
    found = sa.inspect(database.create_engine())
    columns = {column['name'] for column in found.get_columns('sessions')}
    assert {'id', 'data', 'sweep', 'user_id'} <= columns
    command.downgrade(config, 'base')
    found = sa.inspect(database.create_engine())
    assert not found.has_table('sessions')
