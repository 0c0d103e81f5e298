"""The table: its model, its creation, what it holds (Sections 2 and 3)."""

import datetime as dt
import threading
import time

from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.response import Response
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import declarative_base
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column
from sqlalchemy.orm import MappedAsDataclass
from sqlalchemy.orm import Session
from sqlalchemy.orm import sessionmaker
from webtest import TestApp
import zope.sqlalchemy

from pyramid_sqlasession import session_model
from pyramid_sqlasession import SessionError
from pyramid_sqlasession import SessionMixin
from pyramid_sqlasession import stop_expiring_sessions
from pyramid_sqlasession.records import EXPIRY

from .cleaning import make_app
from .cleaning import PATIENCE
from .cleaning import Worker
from .shop import returning
from .shop import with_views
from .site import Note

ON_SQLITE = pytest.mark.parametrize('database', ['sqlite'], indirect=True)
FIELDS = 'user_id: Integer index\nseat: String(8) unique'


def shape(engine, table='sessions'):
    """Return columns, indexes and key of a table, comparable."""
    inspector = sa.inspect(engine)
    return (
        [
            (column['name'], str(column['type']), column['nullable'])
            for column in inspector.get_columns(table)
        ],
        sorted(
            (index['name'], index['column_names'], bool(index['unique']))
            for index in inspector.get_indexes(table)
        ),
        inspector.get_pk_constraint(table)['constrained_columns'],
    )


# -- session_model ------------------------------------------------------------


class OtherBase(DeclarativeBase):
    """For the generated model of the next tests."""


BASES = {
    'MetaData': lambda: sa.MetaData(),
    'DeclarativeBase': lambda: type('Base', (DeclarativeBase,), {}),
    'declarative_base': declarative_base,
    'dataclass': lambda: type(
        'Base', (MappedAsDataclass, DeclarativeBase), {}
    ),
}


@pytest.mark.parametrize('base', BASES.values(), ids=BASES)
def test_metadata_has_the_table_of_the_application(
    database, make_site, base
):
    """Section 3: for Alembic: the same table as the settings make."""
    given = base()
    model = session_model(given, fields=FIELDS)
    metadata = getattr(given, 'metadata', given)
    assert list(metadata.tables) == ['sessions']
    assert model.metadata is metadata
    engine = database.create_engine()
    metadata.create_all(engine)
    by_model = shape(engine)
    metadata.drop_all(engine)
    make_site(additional_fields=FIELDS)
    assert shape(engine) == by_model


def test_application_works_on_a_table_made_by_metadata(database, make_site):
    """Section 3: a migration made the table, the application uses it."""
    metadata = sa.MetaData()
    session_model(metadata, table_name='visits', fields=['n: Integer'])
    metadata.create_all(database.create_engine())
    site = make_site(
        create=False, table_name='visits', additional_fields='n: Integer'
    )

    @site.view
    def put(request):
        request.session['n'] = 4

    site.browser().get('/put')
    assert site.rows()[0]['n'] == 4


def test_generated_model_is_an_own_model(make_site):
    """Section 2: what ``session_model`` returns may be the ``model``."""
    model = session_model(
        type('Base', (DeclarativeBase,), {}), 'visits', 'n: Integer'
    )
    site = make_site(model=model)

    @site.view
    def put(request):
        request.session['n'] = 4

    site.browser().get('/put')
    assert site.rows()[0]['n'] == 4


def test_session_model_with_fields_as_a_dict():
    """Section 3: as the setting takes them in Python."""
    fields = {'n': sa.Integer, 'seat': 'String(8) unique'}
    metadata = sa.MetaData()
    table = session_model(metadata, fields=fields).__table__
    assert isinstance(table.c.n.type, sa.Integer)
    assert (table.c.seat.type.length, table.c.seat.unique) == (8, True)
    # Alembic's env.py runs several times.
    assert session_model(metadata, fields=fields).__table__ is table


def test_two_generated_models_on_one_base():
    """Section 3: two applications, two tables, one MetaData, no warning."""
    base = type('Base', (DeclarativeBase,), {})
    one = session_model(base, 'one')
    two = session_model(base, 'two', 'n: Integer')
    assert set(base.metadata.tables) == {'one', 'two'}
    assert 'n' not in one.__table__.c
    assert 'n' in two.__table__.c


@pytest.mark.parametrize('schema', [None, 'web'])
def test_session_model_of_a_name_that_is_taken(schema):
    """Section 3: the error names the table and says what to do."""
    metadata = sa.MetaData(schema=schema)
    session_model(metadata)
    name = 'web.sessions' if schema else 'sessions'
    with pytest.raises(
        ConfigurationError, match=f"table_name='{name}'.*with other columns"
    ):
        session_model(metadata, fields='n: Integer')


@pytest.mark.parametrize(
    'given', [None, 'Base', object, DeclarativeBase, 7], ids=repr
)
def test_session_model_on_nonsense(given):
    """Section 3: a TypeError that says what is needed."""
    with pytest.raises(TypeError):
        session_model(given)


@pytest.mark.parametrize(
    'fields', [
        'n: Intger', ['n'], ['n: String(x)'], 'id: Integer', None, 5,
        {'id': sa.Integer}, {'n': 'Intger'}, 'n: Integer\nN: Text',
        ['n: Integer', 'n: Text'],
    ], ids=repr,
)
def test_session_model_with_a_bad_field(fields):
    """Section 3: the same error as from the setting."""
    with pytest.raises(ConfigurationError, match='additional_fields'):
        session_model(sa.MetaData(), fields=fields)


class Plain(OtherBase):
    """A mapped class that is no session."""

    __tablename__ = 'plain'
    id: Mapped[int] = mapped_column(primary_key=True)


class Unmapped(SessionMixin):
    """The mixin alone maps nothing."""


@ON_SQLITE
@pytest.mark.parametrize(
    'model', [Plain, Unmapped, object, SessionMixin, 7, Plain.__table__],
    ids=repr,
)
def test_model_that_is_none(make_site, model):
    """Section 2: fails at start-up, and names the setting."""
    with pytest.raises(ConfigurationError, match=r'sqlasession\.model'):
        make_site(model=model, create=False)


def inheriting(**attributes):
    """Return a class below a model with a discriminator, and that model."""
    base = type('Base', (DeclarativeBase,), {})
    above = type('Above', (SessionMixin, base), {
        '__tablename__': 'above', 'kind': mapped_column(sa.String(8)),
        '__mapper_args__': {'polymorphic_on': 'kind'},
    })
    return type('Below', (above,), {
        '__mapper_args__': {'polymorphic_identity': 'below'}, **attributes,
    }), above


def test_model_that_is_a_dataclass():
    """Section 3: an error that says what to do, and that works."""

    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    with pytest.raises(TypeError, match=r'registry = Base\.registry'):
        type('Sessions', (SessionMixin, Base), {'__tablename__': 'sessions'})

    class PlainBase(DeclarativeBase):
        registry = Base.registry

    class Sessions(SessionMixin, PlainBase):
        __tablename__ = 'sessions'

    assert Base.metadata.tables['sessions'] is Sessions.__table__


@ON_SQLITE
def test_model_of_two_tables(make_site):
    """Section 2: joined inheritance fails at start-up; it says what to do."""
    model, _ = inheriting(
        __tablename__='below',
        id=mapped_column(sa.ForeignKey('above.id'), primary_key=True),
    )
    with pytest.raises(
        ConfigurationError, match='the tables above, below, but'
    ):
        make_site(model=model, create=False)


@ON_SQLITE
@pytest.mark.parametrize('index', [0, 1])
def test_model_with_a_discriminator(make_site, index):
    """Section 2: a column that nobody fills fails at start-up."""
    with pytest.raises(
        ConfigurationError, match=r'above\.kind.* take it out of'
    ):
        make_site(model=inheriting()[index], create=False)


def renamed(**options):
    """Return a model whose column of ``data`` is ``payload``."""
    base = type('Base', (DeclarativeBase,), {})
    return type('Renamed', (SessionMixin, base), {
        '__tablename__': 'renamed',
        'data': mapped_column('payload', sa.Text, **options),
    })


@ON_SQLITE
def test_model_whose_column_has_another_name(make_site):
    """Contract 2: one of ours fails at start-up, and it says what to add."""
    with pytest.raises(
        ConfigurationError, match=r"'payload'.* add key='data'"
    ):
        make_site(model=renamed(), create=False)


def test_model_whose_column_has_another_name_and_our_key(make_site):
    """Contract 2: with the key of the attribute the column is found."""
    site = with_views(make_site(model=renamed(key='data')))
    browser = returning(site)
    (row,) = site.rows()
    assert '"n"' in row['payload']
    assert browser.get('/show').text != '{}'


def hidden(first, name, column):
    """Return a model beside whose mixin another base has one of its columns.

    :param first: which of the two is named first.
    """
    base = type('Base', (DeclarativeBase,), {name: column})
    bases = (SessionMixin, base) if first == 'mixin' else (base, SessionMixin)
    return type('Hidden', bases, {'__tablename__': 'hidden'})


@ON_SQLITE
@pytest.mark.parametrize(('name', 'column'), [
    ('id', mapped_column(sa.Integer, primary_key=True)),
    ('created', mapped_column(sa.DateTime)),
])
def test_model_whose_base_hides_a_column_of_ours(make_site, name, column):
    """Contract 2: it fails at start-up, and it says what to name first."""
    with pytest.raises(
        ConfigurationError, match=f"'{name}' is not .* SessionMixin first"
    ):
        make_site(model=hidden('base', name, column), create=False)


@pytest.mark.parametrize(('name', 'column'), [
    ('id', mapped_column(sa.Integer, primary_key=True)),
    ('created', mapped_column(sa.DateTime)),
])
def test_model_that_hides_a_column_of_its_base(make_site, name, column):
    """Contract 2: in that order it works."""
    site = with_views(make_site(model=hidden('mixin', name, column)))
    assert returning(site).get('/show').text != '{}'


@ON_SQLITE
@pytest.mark.parametrize('name', ['fields', 'except_id', 'self'])
def test_model_with_a_name_that_is_taken(make_site, name):
    """Contract 2: a column that no method could name fails at start-up."""
    base = type('Base', (DeclarativeBase,), {})
    model = type('Named', (SessionMixin, base), {
        '__tablename__': 'named', name: mapped_column(sa.Integer),
    })
    with pytest.raises(ConfigurationError, match=f"'{name}' is .* another"):
        make_site(model=model, create=False)


#: As the parameters of our statements are called, but for an underscore.
ALMOST_TAKEN = [
    f'_{name}' for name in ('id', 'now', 'version', 'seen', 'hash', *EXPIRY)
]


def test_model_with_names_of_parameters(make_site):
    """D3, E2: created, touched, changed and ended all the same."""
    base = type('Base', (DeclarativeBase,), {})
    model = type('Named', (SessionMixin, base), {
        '__tablename__': 'named',
        **{name: mapped_column(sa.Integer) for name in ALMOST_TAKEN},
    })
    site = with_views(make_site(model=model))

    @site.view
    def put(request):
        request.session.update(dict.fromkeys(ALMOST_TAKEN, 7))

    @site.view
    def out(request):
        request.session.invalidate()

    browser = returning(site)
    site.clock.advance(minutes=10)
    browser.get('/show')
    assert site.rows()[0]['accessed'] == site.clock()
    browser.get('/put')
    assert [site.rows()[0][name] for name in ALMOST_TAKEN] == [7] * 8
    browser.get('/out')
    assert site.rows() == []


@ON_SQLITE
@pytest.mark.parametrize(
    'name', ['table_name', 'schema', 'additional_fields']
)
def test_model_and_settings_of_a_generated_one(make_site, name):
    """Section 2: ``model`` and these settings exclude each other."""
    model = session_model(sa.MetaData())
    value = 'n: Integer' if name == 'additional_fields' else 'other'
    with pytest.raises(ConfigurationError, match=name):
        make_site(model=model, create=False, **{name: value})


# -- the table on each database -----------------------------------------------


@pytest.mark.parametrize(
    ('database', 'types'),
    [
        ('postgresql', {
            'id': 'UUID', 'secret_hash': 'BYTEA', 'data': 'TEXT',
            'expires': 'TIMESTAMP',
        }),
        ('mariadb', {
            'id': 'BINARY', 'secret_hash': 'BINARY', 'data': 'LONGTEXT',
            'expires': 'DATETIME',
        }),
    ],
    indirect=['database'],
)
def test_types_of_the_columns(site, types):
    """Binary ids on MariaDB, data beyond 64 KiB, times."""
    columns = {
        column['name']: column['type'].__class__.__name__
        for column in sa.inspect(site.outside).get_columns('sessions')
    }
    assert {name: columns[name] for name in types} == types


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
def test_table_is_transactional_and_unicode(site):
    """T1: InnoDB and utf8mb4 whatever the server's defaults are."""
    with site.outside.connect() as connection:
        (row,) = connection.execute(sa.text(
            'SELECT engine, table_collation FROM information_schema.tables '
            "WHERE table_schema = DATABASE() AND table_name = 'sessions'"
        )).all()
    assert row[0] == 'InnoDB'
    assert row[1].startswith('utf8mb4')


@pytest.mark.parametrize(
    'text',
    ['\U0001f36a' * 200_000, 'x' * 900_000, '"\\\x00\x01' * 40_000],
    ids=['4-byte', 'ascii', 'escaped'],
)
def test_data_beyond_64_kib(site, text):
    """Section 2, R6: up to ``max_size`` comes back exactly."""

    @site.view
    def put(request):
        request.session['text'] = text

    @site.view
    def same(request):
        return request.session['text'] == text

    browser = site.browser()
    browser.get('/put')
    assert browser.get('/same').text == 'True'


#: Where a schema can be put in for all: SQLAlchemy has the second from 2.1 on.
PLACES = ['engine']
if hasattr(Session(), 'execution_options'):
    PLACES.append('sessionmaker')


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('use', ['first', 'after add', 'after a query'])
def test_a_schema_that_is_put_in(make_site, caplog, place, use):
    """Section 2, D2, E3: the sessions are there, whatever another one has."""
    other = make_site(table_name='sessions')
    other.execute('CREATE SCHEMA web')
    options = {'schema_translate_map': {None: 'web'}}

    def put_in(config):
        factory = config.registry['dbsession_factory']
        if place == 'engine':
            bind = factory.kw['bind']
            factory.configure(bind=bind.execution_options(**options))
        else:
            factory.configure(execution_options=options)

    site = make_site(
        create=False, create_table='true', expiration='1h',
        check_expiration_interval='1d', configure=put_in,
    )
    count = sa.text('SELECT count(*) FROM web.sessions')

    @site.view
    def visit(request):
        dbsession = request.dbsession if use != 'first' else None
        if use == 'after add':
            dbsession.add(Note(text='new'))
        elif use == 'after a query':
            dbsession.scalar(count)
        session = request.session
        session['n'] = session.get('n', 0) + 1
        if use == 'after add':
            dbsession.expunge_all()
        return str(session['n'])

    browser = site.browser()
    assert [browser.get('/visit').text for _ in range(2)] == ['1', '2']
    assert other.rows() == []
    with site.outside.connect() as connection:
        assert connection.scalar(count) == 1
    site.clock.advance(days=1)
    assert site.application.cleaner.clean() == 1
    assert [one for one in caplog.records if one.levelname == 'ERROR'] == []


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
@pytest.mark.parametrize('options', [
    {'yield_per': 5}, {'stream_results': True}, {'postgresql_readonly': True},
])
def test_other_options_of_the_sessionmaker(make_site, options):
    """T0, E3: what is meant for the application's queries is left to it."""

    def put_in(config):
        factory = config.registry['dbsession_factory']
        if 'sessionmaker' in PLACES:
            factory.configure(execution_options=options)

    site = make_site(
        create=False, create_table='true', expiration='1h',
        check_expiration_interval='1d', configure=put_in,
    )
    site.views['put'] = lambda request: request.session.update(n=1)
    site.browser().get('/put')
    assert site.data() == {'n': 1}
    site.clock.advance(days=1)
    assert site.application.cleaner.clean() == 1


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
@pytest.mark.parametrize('create', [True, False])
def test_schema(make_site, database, create):
    """Section 2: the table lives in the schema of the setting."""
    engine = database.create_engine()
    with engine.begin() as connection:
        connection.execute(sa.text('CREATE SCHEMA web'))
    site = make_site(
        schema='web', create=create, create_table=not create,
        additional_fields='user_id: Integer index',
    )

    @site.view
    def put(request):
        request.session['user_id'] = 7

    @site.view
    def count(request):
        return len(request.session_store.find(user_id=7))

    site.browser().get('/put')
    assert sa.inspect(engine).get_table_names('web') == ['sessions']
    assert len(site.rows()) == 1
    assert site.browser().get('/count').text == '1'


def test_naive_datetime_in_a_query_is_utc(make_site, process_zone):
    """E4: whatever the time zone of the process and of the connection."""
    site = with_views(make_site())
    returning(site)
    site.set_time_zone('Asia/Tokyo', '+09:00')
    process_zone('America/Lima')
    end = (site.clock() + dt.timedelta(days=1)).replace(tzinfo=None)
    c = site.application.records.table.c

    @site.view
    def ends(request):
        return request.dbsession.scalars(sa.select(c.expires == end)).all()

    assert site.browser().get('/ends').text == '[True]'


def test_public_id_in_a_query(site):
    """Section 1: a query of the application takes the id as it is public."""
    model = site.application.model

    @site.view
    def fill(request):
        request.session['n'] = 1

    @site.view
    def ask(request):
        asked, dbsession = request.session.id, request.dbsession
        assert isinstance(asked, str)
        record = dbsession.get(model, asked)
        assert str(record.id) == asked
        assert dbsession.get(model, record.id) is record
        found = dbsession.scalars(
            sa.select(model.data).where(model.id == asked)
        )
        return found.one()

    browser = site.browser()
    browser.get('/fill')
    assert browser.get('/ask').text == '{"n":1}'


# -- create_table -------------------------------------------------------------


def test_create_table_at_start_up(make_site):
    """Section 2: created if it is missing."""
    site = make_site(create=False, create_table='true', frozen=False)
    assert sa.inspect(site.outside).has_table('sessions')


@ON_SQLITE
def test_no_table_by_default(make_site):
    """Section 2: ``create_table`` is false; migrations do it."""
    site = make_site(create=False)
    assert not sa.inspect(site.outside).has_table('sessions')


@pytest.mark.parametrize(
    'database', ['sqlite', 'postgresql'], indirect=True
)
def test_create_table_whose_index_has_a_name_that_is_taken(make_site):
    """Section 2: an error at start-up, not at each request."""
    site = make_site(create=False)
    site.execute('CREATE TABLE others (n INTEGER)')
    site.execute('CREATE INDEX ix_sessions_sweep ON others (n)')
    with pytest.raises(ConfigurationError, match='create_table = true'):
        make_site(create=False, create_table='true')


def test_create_table_leaves_an_existing_one_alone(make_site):
    """Section 2: the sessions of before the restart are there."""
    site = make_site()

    @site.view
    def put(request):
        request.session['n'] = 4

    site.browser().get('/put')
    before = site.rows()
    again = make_site(create=False, create_table='true')
    assert again.rows() == before


def test_create_table_says_which_columns_are_missing(make_site, caplog):
    """Section 2, D2: at start-up; what needs no session works."""
    fields = {'additional_fields': 'seat: Integer\nnote: String(8)'}
    later = {'create': False, 'create_table': 'true', **fields}
    site = make_site(create_table='true')
    assert not caplog.records
    site = make_site(**later)
    (said,) = caplog.records
    assert said.levelname == 'ERROR'
    for words in ("'sessions'", 'seat, note', 'ALTER TABLE', 'psessions'):
        assert words in said.getMessage()
    site.views['plain'] = lambda request: 'fine'
    assert site.browser().get('/plain').text == 'fine'
    site.execute('ALTER TABLE sessions ADD COLUMN Seat INTEGER')
    site.execute('ALTER TABLE sessions ADD COLUMN note VARCHAR(8)')
    caplog.clear()
    returning(with_views(make_site(**later)))
    assert not caplog.records
    assert len(site.rows()) == 1


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_create_table_waits_for_nobody_who_alters_it(
    database, make_site, stage
):
    """Section 2: a worker starts while a migration is under way."""
    # (On MariaDB, to look whether the table is there is to wait.)
    make_site()
    with database.create_engine().begin() as migration:
        migration.execute(sa.text('LOCK TABLE sessions'))
        stage.run(make_site, create=False, create_table='true').result()


def test_create_table_from_many_threads(database):
    """Section 2: safe when many workers start at once."""
    engines = [database.create_engine() for _ in range(8)]
    together = threading.Barrier(len(engines))
    errors = []

    def begin(engine):
        try:
            engine.connect().close()
            together.wait(20)
            make_app(engine, interval='0', additional_fields=FIELDS)
        except Exception as error:
            errors.append(error)

    threads = [
        threading.Thread(target=begin, args=(engine,)) for engine in engines
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    columns, indexes, key = shape(engines[0])
    assert {name for name, *_ in columns} >= {'id', 'data', 'user_id'}
    assert {tuple(names) for _, names, _ in indexes} >= {
        ('sweep',), ('user_id',)
    }
    assert key == ['id']


def wait_for_a_lock(database):
    """Wait until somebody waits for a lock of PostgreSQL."""
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    )
    with database.create_engine().connect() as connection:
        connection.execution_options(isolation_level='AUTOCOMMIT')
        end = time.monotonic() + PATIENCE
        while not connection.scalar(waiting) and time.monotonic() < end:
            pass
        assert connection.scalar(waiting)


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_create_table_waits_for_another_that_creates_it(database, stage):
    """Section 2: PostgreSQL fails in this race in a way of its own."""
    first, second = database.create_engine(), database.create_engine()

    @sa.event.listens_for(first, 'after_cursor_execute')
    def stop(connection, cursor, statement, *args):
        if statement.strip().startswith('CREATE TABLE'):
            stage.reach('created')

    one = stage.run(make_app, first, interval='0')
    stage.wait('created')
    other = stage.run(make_app, second, interval='0')
    wait_for_a_lock(database)
    stage.let('created')
    one.result()
    other.result()


#: The server's errors in another language; PostgreSQL has none installed.
SPEAKS = {
    'postgresql': "SET lc_messages = 'C'",
    'mariadb': "SET lc_messages = 'de_DE'",
}


@pytest.mark.parametrize(
    'database', ['postgresql', 'mariadb'], indirect=True
)
def test_create_table_while_a_migration_does(database):
    """Contract 2: safe in whatever language the server says who was first."""
    engine, others = database.create_engine(), database.create_engine()
    model = session_model(sa.MetaData())

    @sa.event.listens_for(engine, 'connect')
    def speak(connection, record):
        cursor = connection.cursor()
        cursor.execute(SPEAKS[database.name])
        cursor.close()
        connection.commit()

    @sa.event.listens_for(engine, 'before_cursor_execute')
    def migrate(connection, cursor, statement, *args):
        if statement.strip().startswith('CREATE TABLE'):
            model.metadata.create_all(others)

    make_app(engine, interval='0')
    assert 'sweep' in str(shape(engine))


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_create_table_waits_for_a_migration(database, stage):
    """Contract 2: safe beside one that has created it, not yet for others."""
    engine = database.create_engine()
    model = session_model(sa.MetaData())
    with database.create_engine().connect() as migration:
        model.metadata.create_all(migration)
        starting = stage.run(make_app, engine, interval='0')
        wait_for_a_lock(database)
        migration.commit()
    starting.result()
    assert 'sweep' in str(shape(engine))


def test_create_table_from_many_processes(database):
    """Section 2: safe when many processes start at once."""
    workers = [Worker('create', database.url) for _ in range(3)]
    try:
        for worker in workers:
            assert worker.line() == ['ready']
        for worker in workers:
            worker.go()
        for worker in workers:
            assert worker.line() == ['True']
            assert worker.end() == (0, '')
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.communicate()


def views_in(config):
    """Add two views and the cookiecutter's ``request.dbsession``."""

    def get_dbsession(request):
        dbsession = request.registry['dbsession_factory']()
        zope.sqlalchemy.register(dbsession, transaction_manager=request.tm)
        return dbsession

    def visit(request):
        request.session['n'] = request.session.get('n', 0) + 1
        return Response(str(request.session['n']))

    config.add_request_method(get_dbsession, 'dbsession', reify=True)
    config.add_route('visit', '/visit')
    config.add_view(visit, route_name='visit')


@pytest.mark.parametrize('dbsession', [True, False], ids=['joined', 'own'])
def test_create_table_in_memory(dbsession):
    """Section 2: SQLite in memory has one connection, and keeps it."""
    settings = {
        'sqlasession.create_table': 'true',
        'tm.manager_hook': 'pyramid_tm.explicit_manager',
    }
    engine = sa.create_engine('sqlite://', poolclass=sa.StaticPool)
    config = Configurator(settings=settings)
    config.registry['dbsession_factory'] = sessionmaker(engine)
    config.include('pyramid_sqlasession')
    views_in(config)
    if not dbsession:
        config.add_settings({'sqlasession.dbsession': 'none_such'})
    browser = TestApp(config.make_wsgi_app())
    for count in '123':
        assert browser.get('/visit').text == count
    engine.dispose()


def test_create_table_without_an_engine():
    """Section 2: an error at start-up that says what to set."""
    config = Configurator(settings={'sqlasession.create_table': 'true'})
    config.include('pyramid_sqlasession')
    with pytest.raises(ConfigurationError, match=r'sqlalchemy\.url'):
        config.make_wsgi_app()


def test_create_table_without_a_database(tmp_path):
    """Section 2: the database has to be there at start-up; it says so."""
    config = Configurator(settings={
        'sqlasession.create_table': 'true',
        'sqlasession.url': f'sqlite:///{tmp_path}/no/such/folder/x.sqlite',
    })
    config.include('pyramid_sqlasession')
    with pytest.raises(
        ConfigurationError, match=r'create_table.* has to run when'
    ):
        config.make_wsgi_app()
    stop_expiring_sessions(config)


@pytest.mark.parametrize(
    'database', ['sqlite', 'postgresql'], indirect=True
)
def test_create_table_in_a_schema_that_is_missing(database):
    """Section 2: it says so, and nothing of a database that is away."""
    config = Configurator(settings={
        'sqlasession.create_table': 'true', 'sqlasession.schema': 'nowhere',
        'sqlasession.url': database.url,
    })
    config.include('pyramid_sqlasession')
    with pytest.raises(ConfigurationError, match=r'created: .*nowhere'):
        config.make_wsgi_app()
    stop_expiring_sessions(config)


# -- two applications in one process ------------------------------------------


@ON_SQLITE
def test_two_applications_share_nothing(make_site):
    """Section 3: settings, table, cookie and clock are each one's own."""
    one = make_site(
        table_name='one', cookie_name='one', expiration='1h',
        additional_fields='a: Integer',
    )
    two = make_site(
        table_name='two', cookie_name='two', expiration='2h',
        additional_fields='b: Integer', secret='another secret',
    )
    for site in (one, two):

        @site.view
        def put(request):
            request.session.update(a=1, b=2)

        @site.view
        def look(request):
            return dict(request.session)

    browsers = {site: site.browser() for site in (one, two)}
    for site, browser in browsers.items():
        browser.get('/put')
        assert list(browser.cookies) == [
            'one' if site is one else 'two'
        ]
    for site, hours, name in ((one, 1, 'a'), (two, 2, 'b')):
        (row,) = site.rows()
        assert (row['expires'] - row['accessed']).seconds == hours * 3600
        assert {'a', 'b'} & set(row) == {name}
    one.clock.advance(hours=1)
    assert browsers[one].get('/look').text == '{}'
    assert browsers[two].get('/look').text == "{'a': 1, 'b': 2}"


@ON_SQLITE
def test_cookie_of_another_application_opens_nothing(make_site):
    """Section 3: not even with the same name and the same database."""
    one = make_site(table_name='one')
    two = make_site(table_name='two')
    for site in (one, two):

        @site.view
        def put(request):
            request.session['n'] = 1

        @site.view
        def look(request):
            return dict(request.session)

    browser = one.browser()
    browser.get('/put')
    stranger = two.browser(like=browser)
    assert stranger.get('/look').text == '{}'
    assert two.rows() == []


@ON_SQLITE
@pytest.mark.parametrize('default', ['default', 'server_default'])
def test_a_default_of_a_column_of_ours_is_not_used(make_site, default):
    """C2: a new session lives by the settings, whatever the model says."""

    class Base(DeclarativeBase):
        pass

    class Session(SessionMixin, Base):
        __tablename__ = 'sessions'
        lifetime: Mapped[int | None] = mapped_column(
            sa.Integer, **{default: 60 if default == 'default' else '60'}
        )

    site = with_views(make_site(model=Session))
    returning(site)
    (row,) = site.rows()
    assert row['lifetime'] is None


class Migrated(DeclarativeBase):
    """The base of the model below."""


class Mine(SessionMixin, Migrated):
    """A model of the application's own."""

    __tablename__ = 'sessions'


@pytest.mark.parametrize('model', [None, Mine])
def test_what_to_do_about_a_missing_table(make_site, model):
    """D2: a table of the application's models is its migrations' affair."""
    site = make_site(create=False, **({'model': model} if model else {}))

    @site.view
    def put(request):
        request.session['n'] = 1

    with pytest.raises(SessionError, match="'sessions'") as caught:
        site.browser().get('/put')
    assert '"psessions <your.ini> table"' in str(caught.value)
    assert ('alembic upgrade head' in str(caught.value)) == bool(model)
