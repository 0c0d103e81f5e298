"""The ways in which an application can have ``request.dbsession`` (T1)."""

from functools import cached_property
import logging
import re

from pyramid.config import Configurator
from pyramid.decorator import reify
from pyramid.exceptions import ConfigurationError
from pyramid.request import Request
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import scoped_session
from sqlalchemy.orm import Session
import transaction
from webtest import TestApp
import zope.sqlalchemy

from pyramid_sqlasession import SessionError
from pyramid_sqlasession import SessionMixin

from .failing import answering
from .failing import Failure
from .failing import give_up_early
from .failing import on_sqlite
from .failing import raiser
from .failing import Voter
from .site import get_dbsession
from .site import Note


class Bound(DeclarativeBase):
    """The base of models that have an engine of their own."""


class Visit(SessionMixin, Bound):
    """The sessions' model."""

    __tablename__ = 'sessions'


def keep(request):
    """Return a SQLAlchemy session that is kept outside of its attribute."""
    if not hasattr(request, 'kept'):
        request.kept = get_dbsession(request)
    return request.kept


def scoped(config):
    """Return the session of the thread, as ``DBSession`` was once."""
    found = scoped_session(config.registry['dbsession_factory'])
    zope.sqlalchemy.register(found)
    return found


def request_class(config, attribute):
    """Have requests of a class with this attribute ``dbsession``."""
    named = type('Named', (Request,), {'dbsession': attribute})
    if isinstance(attribute, cached_property):
        attribute.__set_name__(named, 'dbsession')
    config.set_request_factory(named)


def scoped_method(config):
    found = scoped(config)
    config.add_request_method(lambda request: found, 'dbsession', reify=True)


def dbsession(request):
    """Return the cookiecutter's; reify() keeps it under this name."""
    return get_dbsession(request)


def of_keep_session(request):
    found = request.registry['dbsession_factory']()
    zope.sqlalchemy.register(
        found, transaction_manager=request.tm, keep_session=True
    )
    request.add_finished_callback(lambda request: found.close())
    return found


def unregistered(request):
    """Return one that the application itself commits, at the very end."""
    found = request.registry['dbsession_factory']()

    def end(request):
        found.commit()
        found.close()

    request.add_finished_callback(end)
    return found


WAYS = {
    'property': lambda config: config.add_request_method(
        keep, 'dbsession', property=True
    ),
    'property of the class': lambda config: request_class(
        config, property(keep)
    ),
    'reified in the class': lambda config: request_class(
        config, reify(dbsession)
    ),
    'cached in the class': lambda config: request_class(
        config, cached_property(dbsession)
    ),
    'scoped': scoped_method,
    'scoped, of the class': lambda config: request_class(
        config, scoped(config)
    ),
    'keeps its session': lambda config: config.add_request_method(
        of_keep_session, 'dbsession', reify=True
    ),
}


def warnings_of(caplog):
    return [
        r.getMessage() for r in caplog.records if r.levelname == 'WARNING'
    ]


def apology(request):
    request.session.flash('Sorry!')


@pytest.fixture
def make_shop(make_site):
    """A function that makes a site with its own ``request.dbsession``."""

    def make(way, **settings):
        site = make_site(
            with_dbsession=way, configure=answering(apology),
            **{'tm.manager_hook': None, **settings},
        )
        give_up_early(site.engine)

        @site.view
        def put(request):
            request.session['n'] = 1

        @site.view
        def note(request):
            request.session['n'] += 1
            request.dbsession.add(Note(text='a note'))

        @site.view
        def late(request):
            request.dbsession.add(Note(text='late'))
            request.dbsession.flush()
            request.session['n'] += 1

        @site.view
        def nested(request):
            request.session['n'] = 7
            savepoint = request.dbsession.begin_nested()
            request.session['n'] = 8
            savepoint.rollback()

        @site.view
        def revoke(request):
            request.session_store.revoke_all()
            return dict(request.session)

        @site.view
        def fail(request):
            late(request)
            raise Failure

        return site

    yield make
    transaction.abort()


@pytest.fixture(params=WAYS)
def shop(request, make_shop):
    """A site with each way of a ``request.dbsession``."""
    return make_shop(WAYS[request.param])


def test_a_change_beside_data(shop):
    """T1: session and data are written in one transaction."""
    browser = shop.browser()
    for path in ('put', 'note', 'late'):
        browser.get(f'/{path}')
    assert shop.data() == {'n': 3}
    assert shop.notes() == ['a note', 'late']


def test_a_savepoint(shop):
    """T9: the session follows ``dbsession.begin_nested()``."""
    browser = shop.browser()
    browser.get('/put')
    browser.get('/nested')
    assert shop.data() == {'n': 7}


def test_a_revocation_is_seen(shop):
    """C4: what the store has ended is not read again by the same request."""
    browser = shop.browser()
    browser.get('/put')
    assert browser.get('/revoke').text == '{}'
    assert shop.rows() == []


def test_an_exception_view(shop):
    """T2, T3: its words are stored, and wait for nobody's locks."""
    browser = shop.browser()
    browser.get('/put')
    browser.get('/fail')
    assert shop.data() == {'n': 1, '_f_': ['Sorry!']}
    assert shop.notes() == []


def test_a_commit_that_fails(shop):
    """T2, T3: the words of its exception view wait for nobody's locks."""

    @shop.view
    def refuse(request):
        shop.views['late'](request)
        Voter(request, raiser())

    browser = shop.browser()
    browser.get('/put')
    browser.get('/refuse')
    assert shop.data() == {'n': 1, '_f_': ['Sorry!']}
    assert shop.notes() == []


@pytest.mark.parametrize(
    'database', ['postgresql', 'mariadb'], indirect=True
)
def test_a_savepoint_before_the_session(shop):
    """T9: what was done before it stays, whoever joins after it."""

    @shop.view
    def point(request):
        request.dbsession.add(Note(text='before'))
        request.dbsession.flush()
        savepoint = request.tm.savepoint()
        request.session['n'] = 1
        savepoint.rollback()

    shop.browser().get('/point')
    assert shop.notes() == ['before']
    assert shop.rows() == []


def test_a_first_request_without_one(make_shop):
    """T1: a plain subrequest decides nothing for those that come later."""
    shop = make_shop(WAYS['property of the class'])

    @shop.view
    def outer(request):
        inner = Request.blank('/put')
        return request.invoke_subrequest(inner, use_tweens=True).text

    shop.browser().get('/outer')
    browser = shop.browser()
    browser.get('/put')
    browser.get('/note')
    assert shop.notes() == ['a note']


def test_one_that_is_new_each_time(make_shop):
    """T1: an error that says what to do, and nothing is stored."""
    shop = make_shop(lambda config: config.add_request_method(
        get_dbsession, 'dbsession', property=True
    ))
    browser = shop.browser()
    browser.get('/put')
    with pytest.raises(SessionError, match='reify=True'):
        browser.get('/note')
    assert shop.data() == {'n': 1}
    assert shop.notes() == []


@pytest.mark.parametrize(
    'make', [get_dbsession, lambda request: None], ids=['method', 'none']
)
def test_one_that_is_no_session(make_shop, make):
    """T1: a method or nothing is named in an error that says what to do."""
    shop = make_shop(lambda config: config.add_request_method(
        make, 'dbsession', reify=make is not get_dbsession
    ))

    @shop.view
    def commit_with_data(request):
        Voter(request, vote=lambda: None)
        request.session['n'] = 1

    with pytest.raises(
        SessionError,
        match=r'request\.dbsession .* no SQLAlchemy session: .*reify=True',
    ):
        shop.browser().get('/commit_with_data')
    assert shop.rows() == []


@pytest.mark.parametrize('nested', [False, True])
def test_one_whose_listener_looks_at_the_session(make_shop, nested):
    """T1: whoever tells the database of the user when it begins."""
    seen = []

    def listening(request):
        found = get_dbsession(request)

        @sa.event.listens_for(found, 'after_begin')
        def tell(dbsession, transaction, connection):
            if transaction.nested is nested:
                seen.append(request.session.get('n'))

        return found

    shop = make_shop(lambda config: config.add_request_method(
        listening, 'dbsession', reify=True
    ))

    @shop.view
    def first(request):
        with request.dbsession.begin_nested():
            request.dbsession.add(Note(text='first'))
        request.session['n'] += 1

    browser = shop.browser()
    browser.get('/put')
    seen.clear()
    browser.get('/first')
    assert seen == [1]
    assert shop.data() == {'n': 2}
    assert shop.notes() == ['first']


@pytest.mark.parametrize('spare', [True, False])
def test_one_of_several_engines(make_shop, caplog, spare):
    """T0, T1: sessions are where the application has their model."""

    def bind(config):
        options = config.registry['dbsession_factory'].kw
        options['binds'] = dict.fromkeys((Bound, Note), options.pop('bind'))
        if spare:
            options['bind'] = sa.create_engine('sqlite://')
        config.add_request_method(get_dbsession, 'dbsession', reify=True)

    shop = make_shop(bind, model=Visit)
    browser = shop.browser()
    for path in ('put', 'note', 'fail'):
        browser.get(f'/{path}')
    assert shop.data() == {'n': 2, '_f_': ['Sorry!']}
    assert shop.notes() == ['a note']
    assert [r for r in caplog.records if r.levelname == 'ERROR'] == []


class Routing(Session):
    """Reads from a standby, as SQLAlchemy's documentation shows it."""

    primary = standby = None

    def get_bind(self, mapper=None, *, clause=None, **kw):
        if self._flushing or isinstance(clause, sa.UpdateBase):
            return self.primary
        return self.standby


def test_one_that_reads_from_a_standby(make_shop, caplog):
    """T0, T1: sessions are read and written where everything is written."""

    def bind(config):
        factory = config.registry['dbsession_factory']
        standby = sa.create_engine('sqlite://')
        Note.metadata.create_all(standby)
        factory.class_ = type('Routed', (Routing,), {
            'primary': factory.kw.pop('bind'), 'standby': standby,
        })
        config.add_request_method(get_dbsession, 'dbsession', reify=True)

    shop = make_shop(bind)
    assert shop.application.engine is shop.engine

    @shop.view
    def read(request):
        assert request.dbsession.scalars(sa.select(Note)).all() == []
        assert request.session_store.count() == 1
        return request.session['n']

    browser = shop.browser()
    for path in ('put', 'read', 'note', 'nested', 'fail'):
        browser.get(f'/{path}')
    assert shop.data() == {'n': 7, '_f_': ['Sorry!']}
    assert shop.notes() == ['a note']
    assert [r for r in caplog.records if r.levelname == 'ERROR'] == []


@on_sqlite
def test_one_of_another_name(make_shop, caplog):
    """T1: the log says, once, which name sqlasession.dbsession has to be."""
    shop = make_shop(lambda config: config.add_request_method(
        get_dbsession, 'db', reify=True
    ))

    @shop.view
    def visit(request):
        request.db.scalars(sa.select(Note)).all()
        request.session['n'] = 1

    for path in ('put', 'visit', 'visit'):
        shop.browser().get(f'/{path}')
    (warning,) = warnings_of(caplog)
    assert 'sqlasession.dbsession' in warning
    assert '(db)' in warning


@on_sqlite
def test_one_that_is_no_attribute(make_shop, caplog):
    """T1: the log says, too, how a global one gets to be one."""
    shop = make_shop(lambda config: None)

    @shop.view
    def visit(request):
        get_dbsession(request).scalars(sa.select(Note)).all()
        request.session['n'] = 1

    shop.browser().get('/visit')
    (warning,) = warnings_of(caplog)
    assert "add_request_method(lambda request: DBSession, 'dbsession'" in (
        warning
    )


@on_sqlite
def test_one_that_is_not_registered(make_shop, caplog):
    """T1: the log says, once, that the transaction does not know it."""
    shop = make_shop(lambda config: config.add_request_method(
        unregistered, 'dbsession', reify=True
    ))

    @shop.view
    def visit(request):
        request.dbsession.scalars(sa.select(Note)).all()
        request.session['n'] = 1

    for path in ('put', 'visit', 'visit'):
        shop.browser().get(f'/{path}')
    (warning,) = warnings_of(caplog)
    assert 'zope.sqlalchemy.register(' in warning


@on_sqlite
def test_registered_ones_are_not_told_of(shop, caplog):
    """T1: and of one that it does know it says nothing."""
    browser = shop.browser()
    for path in ('put', 'note', 'nested', 'fail', 'put'):
        browser.get(f'/{path}', status='*')
    assert warnings_of(caplog) == []


@on_sqlite
@pytest.mark.parametrize('has', ['database', 'schema', 'schema, later'])
def test_one_of_a_tenant(make_shop, tmp_path, caplog, has):
    """T1: the log says, once, that there are several tables of sessions."""
    engine = sa.create_engine(f'sqlite:///{tmp_path}/tenant.sqlite')
    in_schema = {'schema_translate_map': {None: 'main'}}

    def tenant(request):
        found = request.registry['dbsession_factory']()
        zope.sqlalchemy.register(found, transaction_manager=request.tm)
        if has == 'database':
            found.bind = engine
        elif has == 'schema':
            found.bind = found.bind.execution_options(**in_schema)
        else:
            found.connection(execution_options=in_schema)
        return found

    shop = make_shop(lambda config: config.add_request_method(
        tenant, 'dbsession', reify=True
    ))
    with engine.begin() as connection:
        shop.application.records.create_table(connection)
        Note.metadata.create_all(connection)

    @shop.view
    def visit(request):
        request.dbsession.scalars(sa.select(Note)).all()
        request.session['n'] = 1

    for _ in range(2):
        shop.browser().get('/visit')
    (error,) = [r for r in caplog.records if r.levelname == 'ERROR']
    text = error.getMessage()
    assert 'sqlasession.schema' in text
    where = re.findall(r'in ([\w.]+) \(database \'([^\']*)\'\)', text)
    in_test = 'sessions', f'{tmp_path}/test.sqlite'
    assert where == [
        ('sessions', f'{tmp_path}/tenant.sqlite') if has == 'database' else
        ('main.sessions', f'{tmp_path}/test.sqlite'), in_test,
    ]
    engine.dispose()


def visit(request):
    """Have the session saved in the transaction of the application."""
    request.dbsession.scalars(sa.select(Note)).all()
    request.session['n'] = 1


def tenants(make_shop, engine=None, options=None, **settings):
    """Return a shop whose ``dbsession`` is bound to an engine of its own, or
    has these options.
    """

    def tenant(request):
        found = request.registry['dbsession_factory']()
        zope.sqlalchemy.register(found, transaction_manager=request.tm)
        if engine is not None:
            found.bind = engine
        found.connection(execution_options=options)
        return found

    shop = make_shop(lambda config: config.add_request_method(
        tenant, 'dbsession', reify=True
    ), **settings)
    shop.view(visit)
    return shop


@pytest.mark.parametrize('database', ['postgresql', 'mariadb'], indirect=True)
def test_one_of_a_tenant_of_a_server(make_shop, database, caplog):
    """T1: there a table in another database is another one."""
    url = sa.make_url(database.url)
    name = f'{url.database}_tenant'
    admin = sa.create_engine(url, isolation_level='AUTOCOMMIT')
    engine = sa.create_engine(url.set(database=name))
    with admin.connect() as connection:
        connection.execute(sa.text(f'CREATE DATABASE {name}'))
        try:
            shop = tenants(make_shop, engine)
            Note.metadata.create_all(engine)
            with engine.begin() as inside:
                shop.application.records.create_table(inside)
            shop.browser().get('/visit')
        finally:
            engine.dispose()
            connection.execute(sa.text(f'DROP DATABASE {name}'))
    admin.dispose()
    (error,) = [r for r in caplog.records if r.levelname == 'ERROR']
    assert f"in sessions (database '{name}')" in error.getMessage()
    assert f"in sessions (database '{url.database}')" in error.getMessage()
    assert shop.rows() == []


def test_another_engine_to_the_same_table(make_shop, database, caplog):
    """T1: to have two engines is worth one word, and no complaint."""
    caplog.set_level(logging.INFO, 'pyramid_sqlasession')
    engine = database.create_engine()
    shop = tenants(make_shop, engine)
    browser = shop.browser()
    for _ in range(2):
        browser.get('/visit')
    (told,) = [r for r in caplog.records if 'two pools' in r.getMessage()]
    assert told.levelname == 'INFO'
    assert 'sqlasession.engine' in told.getMessage()
    assert [r for r in caplog.records if r.levelname == 'ERROR'] == []
    assert shop.data() == {'n': 1}


def test_another_database_in_memory(caplog):
    """T1: each engine has one of its own, whatever their URLs are."""
    url = 'sqlite://'
    engine = sa.create_engine(url)

    def db(request):
        found = Session(engine)
        zope.sqlalchemy.register(found, transaction_manager=request.tm)
        return found

    def visit(request):
        request.db.execute(sa.text('SELECT 1'))
        request.session['n'] = 1
        return request.response

    with Configurator(settings={
        'sqlalchemy.url': url, 'sqlasession.dbsession': 'db',
        'sqlasession.create_table': 'true',
        'sqlasession.check_expiration_interval': '0',
    }) as config:
        config.include('pyramid_sqlasession')
        config.add_request_method(db, reify=True)
        config.add_route('visit', '/')
        config.add_view(visit, route_name='visit')
    app = config.make_wsgi_app()
    app.registry['sqlasession'].records.table.create(engine)
    TestApp(app).get('/')
    engine.dispose()
    app.registry['sqlasession'].engine.dispose()
    (error,) = [r for r in caplog.records if r.levelname == 'ERROR']
    assert error.getMessage().count("(database 'in memory, of ") == 2
    assert 'sqlasession.engine' in error.getMessage()


@on_sqlite
def test_another_path_to_the_same_file(make_shop, tmp_path, caplog):
    """T1: nor is a link, or a path that is a relative one."""
    link = tmp_path / 'link.sqlite'
    link.symlink_to(tmp_path / 'test.sqlite')
    engine = sa.create_engine(f'sqlite:///{link}')
    shop = tenants(make_shop, engine)
    shop.browser().get('/visit')
    engine.dispose()
    assert [r for r in caplog.records if r.levelname == 'ERROR'] == []
    assert shop.data() == {'n': 1}


@on_sqlite
def test_a_schema_for_the_sessions_of_all_tenants(make_shop, caplog):
    """T1: as the log advises: a map of schemas that leaves theirs alone."""
    options = {'schema_translate_map': {None: 'main'}}
    shop = tenants(make_shop, options=options, schema='main')
    shop.browser().get('/visit')
    assert [r for r in caplog.records if r.levelname == 'ERROR'] == []
    assert shop.data() == {'n': 1}


@pytest.mark.parametrize('database', ['postgresql', 'mariadb'], indirect=True)
def test_an_engine_whose_url_names_no_database(make_shop, caplog):
    """T1: nobody can tell from it that there are several tables."""
    engines = []

    def unnamed(request):
        found = request.registry['dbsession_factory']()
        zope.sqlalchemy.register(found, transaction_manager=request.tm)
        if not engines:
            dialect, url = found.bind.dialect, found.bind.url
            args, options = dialect.create_connect_args(url)
            engines.append(sa.create_engine(
                f'{url.drivername}://',
                creator=lambda: dialect.connect(*args, **options),
            ))
        found.bind = engines[0]
        return found

    shop = make_shop(lambda config: config.add_request_method(
        unnamed, 'dbsession', reify=True
    ))

    @shop.view
    def visit(request):
        request.dbsession.scalars(sa.select(Note)).all()
        request.session['n'] = 1

    shop.browser().get('/visit')
    engines[0].dispose()
    assert [r for r in caplog.records if r.levelname == 'ERROR'] == []
    assert shop.data() == {'n': 1}


class ByRequest(Session):
    """Knows in a request alone where to write."""

    def get_bind(self, *args, **kw):
        if 'request' not in self.info:
            return super().get_bind(*args, **kw)
        return self.info['request'].registry['engine']


class OfRequest(Session):
    """Cannot be made without a request."""

    def __init__(self, *, info, **kw):
        super().__init__(info=info, **kw)


def bound_by_request(request):
    """Return one whose engine the factory does not know."""
    found = request.registry['dbsession_factory'](
        bind=request.registry['engine']
    )
    zope.sqlalchemy.register(found, transaction_manager=request.tm)
    return found


def bind_notes(config, get=get_dbsession):
    """Have an engine for the notes alone; return the factory's options.

    :param get: what gives requests their dbsession, None if nothing does.
    """
    options = config.registry['dbsession_factory'].kw
    engine = config.registry['engine'] = options.pop('bind')
    options['binds'] = {Note: engine}
    if get is not None:
        config.add_request_method(get, 'dbsession', reify=True)
    return options


def bind_in_requests(config):
    bind_notes(config)
    config.registry['dbsession_factory'].class_ = ByRequest


def bind_of_requests(config):
    options = bind_notes(config)
    options['bind'] = config.registry['engine']
    config.registry['dbsession_factory'].class_ = OfRequest


def bind_by_requests(config):
    del bind_notes(config, bound_by_request)['binds']


@on_sqlite
def test_engines_of_other_models_alone(make_shop):
    """Section 2: nothing tells where the sessions are; the error does."""
    with pytest.raises(ConfigurationError, match=r'sqlasession\.engine'):
        make_shop(lambda config: bind_notes(config, None))


@on_sqlite
@pytest.mark.parametrize('given', ['nothing', 'sqlalchemy.url', 'engine'])
def test_a_dbsession_with_engines_of_other_models_alone(
    make_shop, database, given
):
    """Section 2: an error at the start, whatever engine is used beside it."""
    settings = {
        'nothing': {}, 'sqlalchemy.url': {given: database.url},
        'engine': {given: lambda registry: registry['engine']},
    }
    with pytest.raises(
        ConfigurationError, match="binds, but none for the table 'sessions'"
    ):
        make_shop(bind_notes, **settings[given])


@on_sqlite
@pytest.mark.parametrize(
    'way', [bind_in_requests, bind_of_requests, bind_by_requests]
)
def test_one_whose_engine_only_a_request_knows(make_shop, database, way):
    """Section 2, T1: nobody can look at the start, and nothing is wrong."""
    shop = make_shop(way, **{'sqlalchemy.url': database.url})
    browser = shop.browser()
    for path in ('put', 'late'):
        browser.get(f'/{path}')
    assert shop.data() == {'n': 2}
    assert shop.notes() == ['late']


@on_sqlite
def test_engines_that_the_sessions_do_not_use(make_shop, database, tmp_path):
    """Section 2, T0: whether theirs is among them means nothing to them."""
    nobodys = make_shop(
        lambda config: bind_notes(config, None),
        **{'sqlalchemy.url': database.url},
    )
    nobodys.browser().get('/put')
    assert nobodys.data() == {'n': 1}
    apart = make_shop(bind_notes, url=f'sqlite:///{tmp_path}/apart.sqlite')
    browser = apart.browser()
    for path in ('put', 'late'):
        browser.get(f'/{path}')
    assert apart.notes() == ['late']
    assert len(nobodys.rows()) == 1


@on_sqlite
def test_looking_for_the_engine_leaves_no_session_open(make_shop):
    """Section 2: what was made to ask for its engine is closed."""
    asked, closed = [], []

    class Noting(Session):
        def get_bind(self, *args, **kw):
            asked.append(self)
            return super().get_bind(*args, **kw)

        def close(self):
            closed.append(self)
            super().close()

    def bind(config):
        config.registry['dbsession_factory'].class_ = Noting
        config.add_request_method(get_dbsession, 'dbsession', reify=True)

    make_shop(bind)
    assert asked == closed != []


class Policy:
    """A security policy that has the user in the session."""

    def identity(self, request):
        return request.session.get('user')

    authenticated_userid = identity

    def permits(self, request, context, permission):
        return True


@pytest.fixture
def make_audited(make_shop):
    """A function that makes a shop whose ``request.dbsession`` is made for the
    user, and for what other attributes of the request say.
    """

    def make(*names, **settings):
        def for_user(request):
            found = get_dbsession(request)
            found.info['user'] = request.authenticated_userid
            found.info['others'] = [getattr(request, name) for name in names]
            return found

        def way(config):
            config.set_security_policy(Policy())
            config.add_request_method(for_user, 'dbsession', reify=True)

        shop = make_shop(way, **settings)

        @shop.view
        def login(request):
            request.session['user'] = 'ann'

        @shop.view
        def free(request):
            return str('dbsession' in request.__dict__)

        @shop.view
        def who(request):
            request.session['seen'] = True
            return str(request.dbsession.info['user'])

        return shop

    return make


def test_one_that_is_made_for_the_user(make_audited):
    """T10: pyramid_tm asks for the user first; that makes no dbsession."""
    browser = make_audited('matched_route').browser()
    browser.get('/login')
    assert browser.get('/free').text == 'False'
    assert browser.get('/who').text == 'ann'


@on_sqlite
@pytest.mark.parametrize('annotate', ['true', 'false'])
def test_one_that_is_made_for_the_user_with_one_connection(
    make_audited, annotate
):
    """T10: the session is read with it; it knows the user all the same."""
    shop = make_audited(
        engine_options={'poolclass': sa.StaticPool},
        **{'tm.annotate_user': annotate},
    )
    browser = shop.browser()
    browser.get('/login')
    assert browser.get('/who').text == 'ann'
    assert shop.data() == {'user': 'ann', 'seen': True}
