"""Single statements by the driver alone (psycopg, sqlite3).

Sites to whose engine somebody listens take the long way (``site.listen()``),
as MariaDB always does: all other tests go one way or the other.
"""

import contextlib
import datetime as dt
import logging
import sqlite3
import sys
import types

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import INET
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column

from pyramid_sqlasession import drivers
from pyramid_sqlasession import SessionMixin
from pyramid_sqlasession import SessionStoreUnavailable
from pyramid_sqlasession import shortcut
from pyramid_sqlasession.records import Records
from pyramid_sqlasession.session import SQLASession
from pyramid_sqlasession.statements import Uncommon

from .failing import Failure
from .failing import on_sqlite
from .failing import raiser
from .failing import refused_inserts
from .failing import TERMINATE
from .failing import Voter
from .site import Note

both = pytest.mark.parametrize(
    'database', ['sqlite', 'postgresql'], indirect=True
)
postgresql = pytest.mark.parametrize('database', ['postgresql'], indirect=True)

MOMENT = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC)


@pytest.fixture
def make_quick(make_site):
    """A function that makes a site with the views of these tests."""

    def make(**settings):
        site = make_site(**settings)
        # Other tests set it.
        logging.getLogger('sqlalchemy.engine').setLevel(logging.WARNING)

        @site.view
        def count(request):
            session = request.session
            session['n'] = session.get('n', 0) + 1
            return session['n']

        @site.view
        def show(request):
            return repr(dict(request.session))

        @site.view
        def out(request):
            request.session.invalidate()

        @site.view
        def query(request):
            request.dbsession.execute(sa.text('SELECT 1'))

        @site.view
        def buy(request):
            request.dbsession.add(Note(text='bought'))
            request.dbsession.flush()
            return count(request)

        return site

    return make


@pytest.fixture
def quick(make_quick):
    """A site with the default settings."""
    return make_quick()


@pytest.fixture
def no_long_way(quick, monkeypatch):
    """Whatever reads or writes a record by SQLAlchemy's way fails."""

    def fail(*args, **kwargs):
        pytest.fail('the long way was taken')

    monkeypatch.setattr(Records, 'find', fail)
    for name in ('_aside', 'own_transaction', 'read_aside'):
        monkeypatch.setattr(quick.application.database, name, fail)


def found(site, id=None):
    """Return what the short way finds of the only record."""
    shortcut = site.application.database.shortcut(site.engine)
    try:
        return shortcut.find(id or site.rows()[0]['id'], site.clock())
    except Uncommon:
        return Uncommon


def raw(site):
    """Return the only row as the database keeps it, past all types."""
    with site.outside.connect() as connection:
        (row,) = connection.execute(sa.text('SELECT * FROM sessions'))
        return dict(row._mapping)


@both
@pytest.mark.usefixtures('no_long_way')
def test_all_that_is_done_beside_takes_it(quick):
    """D4: create, read, change, touch and remove one record."""
    browser = quick.browser()
    assert [browser.get('/count').text for _ in range(8)] == list('12345678')
    quick.clock.advance(hours=1)
    assert browser.get('/show').text == "{'n': 8}"
    assert quick.rows()[0]['accessed'] == quick.clock()
    browser.get('/out')
    assert quick.rows() == []


@both
def test_it_finds_what_the_long_way_finds(quick):
    """E4, R6: the same record, value for value, in UTC."""
    quick.browser().get('/count')
    (row,) = quick.rows()
    with quick.engine.connect() as connection:
        long_way = quick.application.records.find(
            connection, row['id'], quick.clock()
        )
    assert found(quick) == long_way
    assert found(quick).expires.tzinfo is dt.UTC


@both
@pytest.mark.parametrize('field', ['', 'user_id: Integer\nname: String(20)'])
def test_it_writes_what_the_long_way_writes(make_quick, field):
    """D3, E4: the same row, to the letter: SQLite compares texts."""
    rows = []
    for listens in (False, True):
        site = make_quick(additional_fields=field)

        @site.view
        def put(request):
            request.session.update(user_id=7, name='é \U0001f34c')

        site.clock.advance(microseconds=5)
        if listens:
            site.listen()
        browser = site.browser()
        browser.get('/put')
        browser.get('/count')
        site.clock.advance(hours=1)
        browser.get('/count')
        (row,) = site.rows()
        rows.append({
            name: value for name, value in raw(site).items()
            if name not in ('id', 'secret_hash')
        })
        assert len(row['secret_hash']) == 32
        site.execute('DROP TABLE sessions')
    assert rows[0] == rows[1]


@postgresql
def test_a_type_that_is_another_one_on_this_database(make_quick):
    """D3: a field of ``String`` with a variant is sent as the variant."""

    class Own(DeclarativeBase):
        pass

    class Located(SessionMixin, Own):
        __tablename__ = 'sessions'
        ip: Mapped[str | None] = mapped_column(
            sa.String(45).with_variant(INET(), 'postgresql')
        )

    quick = make_quick(model=Located)

    @quick.view
    def locate(request):
        request.session['ip'] = '192.0.2.1'

    quick.browser().get('/locate')
    assert [str(row['ip']) for row in quick.rows()] == ['192.0.2.1']


@both
@pytest.mark.parametrize('table', ['100%', 'a"b:c', 'WITH blank', 'q?$1'])
def test_names_that_have_to_be_quoted(make_quick, table):
    """D3: of the table and of a column, whatever they mean to the driver."""

    class Own(DeclarativeBase):
        pass

    class Quoted(SessionMixin, Own):
        __tablename__ = table
        owner: Mapped[int | None] = mapped_column('the %s (owner): ')

    quick = make_quick(model=Quoted)
    quick.view(own)
    browser = quick.browser()
    browser.get('/own?owner=1')
    browser.get('/own?owner=2')
    assert [row['the %s (owner): '] for row in quick.rows()] == [2]
    browser.get('/out')
    assert quick.rows() == []


def own(request):
    """A view that says whose session it is."""
    request.session['owner'] = int(request.params['owner'])


@postgresql
def test_an_error_shows_the_statement(make_quick):
    """As SQLAlchemy shows it: text, and no value beside it."""
    quick = make_quick(additional_fields='owner: Integer')
    quick.views['own'] = own
    with refused_inserts(quick, '23514'):
        with pytest.raises(sa.exc.IntegrityError) as caught:
            quick.browser().get('/own?owner=7')
    assert '[SQL: INSERT INTO sessions (' in str(caught.value)
    assert 'parameters' not in str(caught.value)


@both
def test_an_expired_record_is_refused(quick):
    """E1: the predicate is part of it."""
    browser = quick.browser()
    browser.get('/count')
    quick.clock.advance(hours=25)
    assert found(quick) is None
    assert browser.get('/show').text == '{}'


@both
def test_not_while_somebody_listens(quick):
    """A toolbar, a tracer or SQL echo sees the statement."""
    browser = quick.browser()
    browser.get('/count')
    quick.listen()
    assert found(quick) is Uncommon
    browser.get('/count')
    assert quick.statements.verbs == ['SELECT', 'UPDATE']


def hear_dialect(engine):
    sa.event.listen(engine, 'do_execute', lambda *args: None)


def set_echo(engine):
    engine.echo = True


def set_option(engine):
    engine.update_execution_options(compiled_cache=None)


@both
@pytest.mark.parametrize('want', [hear_dialect, set_echo, set_option])
def test_not_while_something_is_wanted_of_the_engine(quick, want):
    """What SQLAlchemy would do with a statement is done."""
    quick.browser().get('/count')
    want(quick.engine)
    assert found(quick) is Uncommon


@pytest.mark.parametrize(
    ('database', 'style'), [('sqlite', 'named'), ('postgresql', 'format')],
    indirect=['database'],
)
def test_not_with_parameters_in_another_style(make_quick, style):
    """What ``create_engine()`` is told holds for sessions, too."""
    quick = make_quick(engine_options={'paramstyle': style})
    browser = quick.browser()
    assert [browser.get('/count').text for _ in range(2)] == list('12')
    assert found(quick) is Uncommon


class Wrapper:
    """What a ``creator=`` may return: it hands on what SQLAlchemy needs."""

    hidden = ('pgconn', 'in_transaction', 'execute')

    def __init__(self, wrapped):
        vars(self)['_wrapped'] = wrapped

    def __getattr__(self, name):
        if name in self.hidden:
            raise AttributeError(name)
        return getattr(self._wrapped, name)

    def __setattr__(self, name, value):
        setattr(self._wrapped, name, value)


class Keeper(Wrapper):
    """Hands on whatever is asked for, and keeps what is set."""

    hidden = ()
    __setattr__ = object.__setattr__


class Disguised(Wrapper):
    """Says that it is what it wraps, as the proxies of wrapt do."""

    hidden = ()

    @property
    def __class__(self):
        return type(self._wrapped)


@pytest.mark.parametrize(('database', 'wrapper'), [
    ('sqlite', Wrapper), ('sqlite', Keeper), ('sqlite', Disguised),
    # One that keeps what is set cannot be SQLAlchemy's (AUTOCOMMIT).
    ('postgresql', Wrapper), ('postgresql', Disguised),
], indirect=['database'])
def test_a_wrapped_connection(database, make_quick, wrapper):
    """T8, E2: all is written and committed, on one connection."""
    plain = database.create_engine()
    args, kwargs = plain.dialect.create_connect_args(plain.url)
    options = {
        'creator': lambda: wrapper(plain.dialect.connect(*args, **kwargs)),
        'pool_size': 1, 'max_overflow': 0,
    }
    if database.name == 'postgresql':
        # For this SQLAlchemy hands the connection to psycopg, which wants
        # its own.
        options['use_native_hstore'] = False
    quick = make_quick(engine_options=options)
    opened = []
    sa.event.listen(quick.engine.pool, 'connect', lambda *_: opened.append(1))
    browser = quick.browser()
    assert [browser.get('/count').text for _ in range(2)] == list('12')
    assert browser.get('/buy').text == '3'
    assert quick.data() == {'n': 3}
    quick.clock.advance(hours=1)
    browser.get('/show')
    assert quick.rows()[0]['accessed'] == quick.clock()
    browser.get('/out')
    assert quick.rows() == []
    assert opened == []


def statements_by_cursor(url, seen):
    """Return connect_args for a connection whose cursors take notes."""
    psycopg = pytest.importorskip('psycopg')

    class Cursor(psycopg.Cursor):
        def execute(self, query, *args, **kwargs):
            seen.append(query)
            return super().execute(query, *args, **kwargs)

    return {'connect_args': {'cursor_factory': Cursor}}


def statements_by_connection(url, seen):
    """The same, for a connection of a class of its own."""

    class Cursor(sqlite3.Cursor):
        def execute(self, query, *args):
            seen.append(query)
            return super().execute(query, *args)

    class Connection(sqlite3.Connection):
        def cursor(self, factory=Cursor):
            return super().cursor(factory)

    return {'connect_args': {'factory': Connection}}


def statements_by_proxy(url, seen):
    """Return a creator= whose connections hand on all but their cursors."""

    class Cursor(Disguised):
        def execute(self, query, *args):
            seen.append(query)
            return self._wrapped.execute(query, *args)

    class Connection(Disguised):
        def cursor(self):
            return Cursor(self._wrapped.cursor())

    path = sa.make_url(url).database
    return {'creator': lambda: Connection(sqlite3.connect(path))}


@pytest.mark.parametrize(('database', 'watch'), [
    ('postgresql', statements_by_cursor),
    ('sqlite', statements_by_connection),
    ('sqlite', statements_by_proxy),
], indirect=['database'])
def test_not_past_those_who_watch_the_driver(database, make_quick, watch):
    """D4: tracing by the driver's own classes sees each statement."""
    seen = []
    quick = make_quick(engine_options=watch(database.url, seen))
    browser = quick.browser()

    def of_sessions(path):
        seen.clear()
        browser.get(path)
        return [
            one.split()[0] for one in map(str, seen) if ' sessions' in one
        ]

    assert of_sessions('/count') == ['INSERT']
    assert of_sessions('/show') == ['SELECT']
    assert of_sessions('/buy') == ['SELECT', 'UPDATE']
    quick.clock.advance(hours=1)
    assert of_sessions('/show') == ['SELECT', 'UPDATE']
    assert quick.data() == {'n': 2}


@both
@pytest.mark.parametrize('logger', ['', '.Engine', '.Engine.shop'])
def test_not_while_a_logger_wants_the_statements(make_quick, caplog, logger):
    """SQL echo by the configuration of logging, also later on."""
    quick = make_quick(engine_options={'logging_name': 'shop'})
    browser = quick.browser()
    browser.get('/count')
    caplog.clear()
    with caplog.at_level(logging.INFO, f'sqlalchemy.engine{logger}'):
        browser.get('/show')
    assert 'FROM sessions' in caplog.text


@postgresql
def test_another_encoding_takes_the_long_way(make_quick):
    """R6: text is stored as the text that it is."""
    quick = make_quick(
        engine_options={'connect_args': {'client_encoding': 'latin1'}},
    )

    @quick.view
    def put(request):
        request.session['name'] = 'é'

    quick.browser().get('/put')
    assert quick.data() == {'name': 'é'}
    assert found(quick) is Uncommon


@postgresql
@pytest.mark.parametrize('scope', ['LOCAL', 'SESSION'])
def test_an_encoding_that_is_set_later_takes_the_long_way(make_quick, scope):
    """R6: by a view that exports something, say, and for how long ever."""
    quick = make_quick(engine_options={'pool_size': 1, 'max_overflow': 0})

    @quick.view
    def export(request):
        request.dbsession.execute(
            sa.text(f"SET {scope} client_encoding TO 'LATIN1'")
        )
        request.session['name'] = 'é'

    @quick.view
    def rename(request):
        request.session['name'] += 'ö'

    browser = quick.browser()
    browser.get('/count')
    browser.get('/export')
    assert quick.data() == {'n': 1, 'name': 'é'}
    assert (found(quick) is Uncommon) == (scope == 'SESSION')
    browser.get('/rename')
    assert quick.data() == {'n': 1, 'name': 'éö'}


@postgresql
@pytest.mark.parametrize('threshold', [0, 5, None])
def test_a_column_of_another_type_takes_the_long_way(make_quick, threshold):
    """R8: a number that is no integer is not read as one, however often."""
    quick = make_quick(engine_options={
        'pool_size': 1, 'max_overflow': 0,
        'connect_args': {'prepare_threshold': threshold},
    })
    browser = quick.browser()
    browser.get('/count')
    assert Uncommon not in [found(quick) for _ in range(8)]
    quick.execute('ALTER TABLE sessions ALTER version TYPE numeric')
    # Prepared before that, and after it.
    for _ in range(2):
        assert [found(quick) for _ in range(8)] == [Uncommon] * 8
        assert browser.get('/show').text == '{}'
        quick.engine.dispose()


@postgresql
def test_a_moment_that_python_does_not_know(quick):
    """R8: damage is what the long way says it is."""
    browser = quick.browser()
    browser.get('/count')
    (row,) = quick.rows()
    quick.execute("UPDATE sessions SET expires = 'infinity'")
    assert found(quick, row['id']) is Uncommon
    assert browser.get('/show').text == '{}'


@on_sqlite
@pytest.mark.parametrize('column', ['created', 'data', 'version', 'lifetime'])
def test_a_value_that_does_not_fit_its_column(quick, column):
    """R8: SQLite keeps any value in any column; a read leaves the row."""
    browser = quick.browser()
    browser.get('/count')
    (row,) = quick.rows()
    quick.execute(f"UPDATE sessions SET {column} = x'00ff'")
    before = raw(quick)
    assert found(quick, row['id']) is Uncommon
    assert browser.get('/show').text == '{}'
    assert raw(quick) == before


@on_sqlite
@pytest.mark.parametrize('lifetime', [-1, 2**31, 2**40, 2**62])
def test_a_lifetime_that_no_setting_can_have(quick, lifetime):
    """R8: it is damage to both ways; no request fails for it."""
    browser = quick.browser()
    browser.get('/count')
    (row,) = quick.rows()
    quick.execute(f'UPDATE sessions SET lifetime = {lifetime}')
    quick.clock.advance(minutes=2)
    assert found(quick, row['id']) is Uncommon
    assert browser.get('/show').text == '{}'
    browser.get('/count')


@postgresql
@pytest.mark.parametrize('path', ['/count', '/show', '/buy'])
@pytest.mark.parametrize('is_new', [True, False])
def test_a_lost_connection_is_replaced(make_quick, path, is_new):
    """D1: a read, a change and a new session notice it in time."""
    # The server has closed all connections of the pool.  (What the application
    # does with its own connection is its affair: pool_pre_ping.)
    quick = make_quick(engine_options={'pool_pre_ping': path == '/buy'})
    browser = quick.browser()
    browser.get('/count')
    quick.execute(TERMINATE)
    answer = (quick.browser() if is_new else browser).get(path)
    assert answer.status_int == 200
    assert quick.engine.pool.checkedout() == 0


@postgresql
def test_a_connection_that_a_write_loses(make_quick):
    """D1: it is not given to anybody else."""
    quick = make_quick(
        engine_options={
            'pool_size': 1, 'max_overflow': 0, 'pool_reset_on_return': None,
        },
    )
    browser = quick.browser()
    browser.get('/count')
    quick.execute(
        'CREATE FUNCTION end_it() RETURNS trigger LANGUAGE plpgsql AS '
        '$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); '
        'RETURN NEW; END $$'
    )
    quick.execute(
        'CREATE TRIGGER end_it BEFORE UPDATE ON sessions '
        'FOR EACH ROW EXECUTE FUNCTION end_it()'
    )
    quick.browser(like=browser).get('/count', status=503)
    with quick.engine.connect() as connection:
        assert connection.scalar(sa.text('SELECT 1')) == 1
    assert quick.data() == {'n': 1}


@both
def test_a_missing_table(quick):
    """D2: the error names the table and the command."""
    browser = quick.browser()
    browser.get('/count')
    quick.execute('DROP TABLE sessions')
    for path in ('/show', '/count'):
        with pytest.raises(Exception, match='psessions'):
            quick.browser(like=browser).get(path)
    with pytest.raises(Exception, match='psessions'):
        quick.browser().get('/count')


@both
def test_an_exhausted_pool_is_unavailable(make_site):
    """D1: 503 after one wait for the pool, not two."""
    site = make_site(
        engine_options={
            'pool_size': 1, 'max_overflow': 0, 'pool_timeout': 0.1,
        },
    )
    application = site.application
    with site.engine.connect(), pytest.raises(SessionStoreUnavailable):
        application.database.find_aside(application.model.id, MOMENT)


@postgresql
def test_the_connection_is_as_before(quick):
    """T0: what the pool hands out next is in a transaction again."""
    browser = quick.browser()
    browser.get('/count')
    browser.get('/show')
    with quick.engine.connect() as connection:
        assert not connection.connection.driver_connection.autocommit
        connection.execute(sa.text('DELETE FROM sessions'))
    assert len(quick.rows()) == 1


@on_sqlite
def test_a_read_leaves_nothing_open(quick):
    """E3: an open cursor would keep the log of SQLite from being emptied."""
    browser = quick.browser()
    browser.get('/count')
    for _ in range(7):
        browser.get('/show')
    (row,) = quick.execute('PRAGMA wal_checkpoint(TRUNCATE)')
    assert row[0] == 0


class Odd(sqlite3.Connection):
    """A connection that keeps its cursors, as a tracer may, and that is
    interrupted in one of its methods, if it shall be.
    """

    made = 0
    interrupted = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.cursors = []
        type(self).made += 1

    def execute(self, *args):
        if self.interrupted:
            raise KeyboardInterrupt
        self.cursors.append(super().execute(*args))
        return self.cursors[-1]


@pytest.fixture
def odd(make_quick):
    """A site with a single connection, an ``Odd`` one."""

    class OneOdd(Odd):
        pass

    quick = make_quick(
        engine_options={
            'connect_args': {'factory': OneOdd}, 'pool_size': 1,
            'max_overflow': 0, 'pool_timeout': 0.1,
            # The pool would tidy up.
            'pool_reset_on_return': None,
        },
    )
    quick.odd = OneOdd
    # Or it would take the long way.
    driver = quick.application.database.shortcut(quick.engine).driver()
    driver._plain = OneOdd
    return quick


@on_sqlite
def test_a_database_in_memory_takes_the_long_way(make_quick):
    """R8: a connection that is given up after an error is the database."""
    # Outside of any transaction.
    quick = make_quick(
        url='sqlite://', with_dbsession=False,
        **{'tm.activate_hook': lambda request: False},
    )
    browser = quick.browser()
    browser.get('/count')
    with quick.application.engine.begin() as connection:
        connection.execute(sa.text("UPDATE sessions SET created = x'00ff'"))
    assert browser.get('/show').text == '{}'
    with quick.application.engine.begin() as connection:
        assert connection.scalar(sa.text('SELECT count(*) FROM sessions'))


@both
def test_a_damaged_record_costs_no_connection(make_quick):
    """R8: who comes with its cookie again and again closes no connection."""
    quick = make_quick(engine_options={'poolclass': sa.QueuePool})
    browser = quick.browser()
    browser.get('/count')
    damage = "'infinity'" if quick.database.name == 'postgresql' else "'zzz'"
    quick.execute(f'UPDATE sessions SET created = {damage}')
    browser.get('/show')
    opened = []
    sa.event.listen(quick.engine.pool, 'connect', lambda *_: opened.append(1))
    assert [browser.get('/show').text for _ in range(3)] == ['{}'] * 3
    assert opened == []
    assert quick.engine.pool.checkedout() == 0


@on_sqlite
@pytest.mark.parametrize('damage', ["'text'", '7'])
def test_a_hash_that_is_none(make_quick, damage):
    """R3, R8: it opens nothing, and is no error either."""
    quick = make_quick()
    browser = quick.browser()
    browser.get('/count')
    quick.execute(f'UPDATE sessions SET secret_hash = {damage}')
    assert browser.get('/show').text == '{}'


#: How ``sqlite3`` can be told to begin transactions.
BEGINNINGS = [{}, {'isolation_level': None}, {'isolation_level': 'IMMEDIATE'}]
if sys.version_info >= (3, 12):
    BEGINNINGS += [{'autocommit': True}, {'autocommit': False}]


@on_sqlite
@pytest.mark.parametrize('arguments', BEGINNINGS, ids=str)
def test_whoever_begins_transactions_on_sqlite(make_quick, arguments):
    """T1, D4: in each mode of the driver nothing stays open or is halved."""
    # Beside the transaction and in it.
    quick = make_quick(engine_options={'connect_args': arguments})

    @quick.view
    def fail(request):
        buy = quick.views['buy'](request)
        raise ValueError(buy)

    browser, other = quick.browser(), quick.browser()
    assert [browser.get('/count').text for _ in range(3)] == list('123')
    # Where nobody begins one, the application has no transaction either.
    if None not in arguments.values() and True not in arguments.values():
        with pytest.raises(ValueError, match='4'):
            browser.get('/fail')
        assert quick.notes() == []
    assert quick.data() == {'n': 3}
    assert browser.get('/buy').text == '4'
    assert (quick.data(), quick.notes()) == ({'n': 4}, ['bought'])
    quick.clock.advance(hours=1)
    assert browser.get('/show').text == "{'n': 4}"
    assert quick.rows()[0]['accessed'] == quick.clock()
    # Nobody has to wait for a lock that was forgotten.
    assert other.get('/count').text == '1'
    browser.get('/out')
    assert len(quick.rows()) == 1


@both
def test_a_statement_for_one_request_is_not_kept(make_quick):
    """Memory: what holds a value that is SQL is another one each time."""

    class Own(DeclarativeBase):
        pass

    class Guest(SessionMixin, Own):
        __tablename__ = 'sessions'
        role: Mapped[str | None] = mapped_column(
            server_default=sa.func.lower('GUEST')
        )

    quick = make_quick(model=Guest)

    @quick.view
    def rise(request):
        request.session['role'] = 'admin'

    @quick.view
    def fall(request):
        del request.session['role']

    browser = quick.browser()
    browser.get('/rise')
    browser.get('/fall')
    assert [row['role'] for row in quick.rows()] == ['guest']
    kept = quick.application.database.shortcut(quick.engine)._compiled
    assert {number for number, *_ in kept} <= {
        id(statement) for statement in quick.application.records.statements
    }


@both
def test_no_more_statements_are_kept_than_that(make_quick, monkeypatch):
    """Memory: each set of fields that keep their default is one of its own."""

    class Own(DeclarativeBase):
        pass

    class Visitor(SessionMixin, Own):
        __tablename__ = 'sessions'
        a: Mapped[int] = mapped_column(server_default='0')
        b: Mapped[int] = mapped_column(server_default='0')

    monkeypatch.setattr(shortcut, '_MOST_STATEMENTS', 3)
    quick = make_quick(model=Visitor)

    @quick.view
    def put(request):
        names = request.params.getall('name')
        request.session.update(dict.fromkeys(names, 1), n=0)

    for query in ('', 'name=a', 'name=b', 'name=a&name=b'):
        browser = quick.browser()
        browser.get(f'/put?{query}')
        assert browser.get('/count').text == '1'
    assert sorted((row['a'], row['b']) for row in quick.rows()) == [
        (0, 0), (0, 1), (1, 0), (1, 1)
    ]
    assert {row['version'] for row in quick.rows()} == {2}
    found = quick.application.database.shortcut(quick.engine)
    assert len(found._compiled) == 3


@on_sqlite
def test_a_cursor_that_is_kept(odd):
    """E3: whoever else has the cursor of a read keeps nothing open."""
    browser = odd.browser()
    browser.get('/count')
    browser.get('/show')
    (row,) = odd.execute('PRAGMA wal_checkpoint(TRUNCATE)')
    assert row[0] == 0


@on_sqlite
def test_an_interrupted_statement(odd):
    """D1: nobody knows in which state the connection is: it goes."""
    browser = odd.browser()
    browser.get('/count')
    made = odd.odd.made
    odd.odd.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        odd.browser(like=browser).get('/count')
    odd.odd.interrupted = False
    assert browser.get('/count').text == '2'
    assert odd.odd.made == made + 1


@on_sqlite
@pytest.mark.parametrize(
    ('path', 'is_new'), [('/show', False), ('/count', False), ('/count', True)]
)
def test_what_somebody_left_in_a_connection(odd, path, is_new):
    """T0: it is taken back, neither committed with the session nor kept."""
    browser = odd.browser()
    browser.get('/count')
    left = odd.engine.raw_connection()
    left.execute("INSERT INTO notes (text) VALUES ('left')")
    left.close()
    (odd.browser() if is_new else browser).get(path)
    assert odd.notes() == []
    with contextlib.closing(odd.engine.raw_connection()) as connection:
        assert not connection.driver_connection.in_transaction


@on_sqlite
def test_a_commit_that_fails(odd):
    """T2: a deferred constraint leaves nothing open."""
    browser = odd.browser()
    browser.get('/count')
    for words in (
        'CREATE TABLE seals (n INTEGER REFERENCES notes (id) '
        'DEFERRABLE INITIALLY DEFERRED)',
        'CREATE TRIGGER seal AFTER UPDATE ON sessions BEGIN '
        'INSERT INTO seals VALUES (7); END',
    ):
        odd.execute(words)
    with contextlib.closing(odd.engine.raw_connection()) as connection:
        connection.execute('PRAGMA foreign_keys = ON')
    with pytest.raises(sa.exc.IntegrityError):
        odd.browser(like=browser).get('/count')
    with contextlib.closing(odd.engine.raw_connection()) as connection:
        assert not connection.driver_connection.in_transaction
    assert odd.data() == {'n': 1}


@on_sqlite
@pytest.mark.parametrize('level', [None, '', 'IMMEDIATE'])
def test_the_driver_begins_transactions_as_it_did(odd, level):
    """T0: after a write of the session, and after one that failed."""
    with contextlib.closing(odd.engine.raw_connection()) as connection:
        driver = connection.driver_connection
    driver.isolation_level = level
    browser = odd.browser()
    browser.get('/count')
    assert driver.isolation_level == level
    odd.execute(
        'CREATE TRIGGER refuse BEFORE UPDATE ON sessions BEGIN '
        "SELECT RAISE(ABORT, 'no'); END"
    )
    with pytest.raises(sa.exc.IntegrityError):
        browser.get('/count')
    assert driver.isolation_level == level
    assert odd.odd.made == 1


# -- prepared statements -----------------------------------------------------


def prepared(site):
    """Return how many statements the next connection of the pool has."""
    with site.engine.connect() as connection:
        return connection.scalar(sa.text(
            'SELECT count(*) FROM pg_prepared_statements '
            "WHERE name LIKE 'sqlasession%'"
        ))


@postgresql
def test_statements_are_prepared_as_the_driver_does(make_quick):
    """From the sixth use of a connection on."""
    site = make_quick(engine_options={'pool_size': 1})
    browser = site.browser()
    browser.get('/count')
    for _ in range(5):
        browser.get('/show')
    assert prepared(site) == 0
    browser.get('/show')
    assert prepared(site) == 1
    assert browser.get('/show').text == "{'n': 1}"


@postgresql
def test_a_driver_that_shall_not_prepare(make_quick):
    """``prepare_threshold = None``, as behind some poolers, is obeyed."""
    site = make_quick(
        engine_options={
            'pool_size': 1, 'connect_args': {'prepare_threshold': None},
        },
    )
    browser = site.browser()
    for _ in range(8):
        browser.get('/count')
    assert prepared(site) == 0
    assert site.data() == {'n': 8}


@pytest.fixture
def single(make_quick):
    """A site with a single connection, and ``made``: one entry for each time
    that it was made.
    """
    quick = make_quick(engine_options={'pool_size': 1, 'max_overflow': 0})
    quick.made = []
    sa.event.listen(
        quick.engine, 'connect', lambda *args: quick.made.append(args)
    )
    quick.engine.dispose()
    return quick


UNPREPARING = pytest.mark.parametrize('words', [
    'DEALLOCATE ALL', 'DISCARD ALL',
    'ALTER TABLE sessions ALTER lifetime TYPE bigint',
])


@postgresql
@UNPREPARING
def test_what_was_prepared_is_gone(single, words):
    """To deallocate it or alter the table costs no request or connection."""
    browser = single.browser()
    for _ in range(8):
        browser.get('/count')
        single.browser().get('/count')
    with single.engine.connect() as connection:
        connection.execution_options(isolation_level='AUTOCOMMIT')
        connection.exec_driver_sql(words)
    assert single.browser().get('/count').text == '1'
    assert [browser.get('/count').text for _ in range(8)] == [
        str(number) for number in range(9, 17)
    ]
    assert len(single.made) == 1


@postgresql
@UNPREPARING
def test_what_was_prepared_is_gone_on_the_long_way(single, words):
    """D1: with tracing, say, a connection that reads no more is replaced."""
    sa.event.listen(single.engine, 'before_cursor_execute', lambda *_: None)
    browser = single.browser()
    browser.get('/count')
    for _ in range(8):
        browser.get('/show')
    with single.engine.connect() as connection:
        # Past psycopg, which would prepare anew.
        connection.connection.dbapi_connection.pgconn.exec_(words.encode())
    assert [browser.get('/show').text for _ in range(8)] == ["{'n': 1}"] * 8
    assert browser.get('/count').text == '2'
    assert len(single.made) == 2


@postgresql
def test_a_name_that_is_taken(single):
    """Behind a pooler another client's statement may have the name."""
    browser = single.browser()
    for _ in range(5):
        browser.get('/count')
    shortcut = single.application.database.shortcut(single.engine)
    taken = [c.name for c in shortcut._compiled.values() if c is not None]
    with single.engine.connect() as connection:
        for name in taken:
            connection.exec_driver_sql(
                f'PREPARE {name.decode()} AS SELECT 1'
            )
        connection.commit()
    assert [browser.get('/count').text for _ in range(5)] == [
        str(number) for number in range(6, 11)
    ]
    assert len(single.made) == 1


@postgresql
def test_nothing_is_prepared_inside(make_quick):
    """T1: what a ROLLBACK deallocates would cost the next transaction."""
    # Which is told so within itself.
    site = make_quick(
        engine_options={
            'pool_size': 1, 'connect_args': {'prepare_threshold': 0},
        },
    )

    @site.view
    def buy_or_not(request):
        request.dbsession.add(Note(text=request.params['text']))
        request.dbsession.flush()
        request.session['text'] = request.params['text']
        if request.params['text'] == 'not':
            Voter(request, raiser(Failure))

    browser = site.browser()
    for text in ('one', 'two', 'not', 'three'):
        with contextlib.suppress(Failure):
            browser.get('/buy_or_not', {'text': text})
    assert site.notes() == ['one', 'three', 'two']
    assert site.data() == {'text': 'three'}


@postgresql
def test_libpq_does_not_block_greenlets(quick, monkeypatch):
    """Where gevent has replaced ``select``, nobody waits outside of it."""
    patched = types.SimpleNamespace(is_module_patched=lambda name: True)
    monkeypatch.setitem(drivers.sys.modules, 'gevent.monkey', patched)
    browser = quick.browser()
    browser.get('/count')
    assert found(quick) is Uncommon
    assert browser.get('/count').text == '2'


# -- inside of the application's transaction ---------------------------------


@pytest.fixture
def no_long_way_inside(quick, monkeypatch):
    """No statement on a record goes through a ``Connection`` there."""
    execute = sa.Connection.execute

    def watched(connection, statement, *args, **options):
        if connection.engine is quick.engine and 'sessions' in str(statement):
            pytest.fail(f'the long way was taken: {statement}')
        return execute(connection, statement, *args, **options)

    def arm():
        monkeypatch.setattr(sa.Connection, 'execute', watched)

    yield arm
    monkeypatch.undo()


@both
def test_in_a_transaction_of_the_application(quick, no_long_way_inside):
    """T1, D4: read and written on its connection, by the driver."""
    browser = quick.browser()
    browser.get('/count')

    @quick.view
    def both(request):
        request.dbsession.add(Note(text='both'))
        request.dbsession.flush()
        assert request.session['n'] == 1
        request.session['n'] = 2

    no_long_way_inside()
    browser.get('/both')
    assert quick.data() == {'n': 2}
    assert quick.notes() == ['both']


@both
def test_it_stands_for_its_connection(quick):
    """What is no single write is executed as usual."""
    quick.browser().get('/count')
    (row,) = quick.rows()
    with quick.engine.begin() as connection:
        connection.execute(sa.text('SELECT 1'))
        inside = quick.application.database.inside(connection)
        assert inside is not connection
        record = quick.application.records.find(
            inside, row['id'], quick.clock()
        )
    assert record.id == row['id']


@both
def test_what_is_beside_is_one_statement(quick):
    """T1: two would not be committed together."""
    quick.browser().get('/count')
    (row,) = quick.rows()
    bare = quick.application.database.shortcut(quick.engine).bare()
    delete = quick.application.records.delete
    assert delete(bare, row['id'], row['secret_hash'])
    with pytest.raises(AssertionError):
        delete(bare, row['id'], row['secret_hash'])


@both
def test_the_first_statement_of_the_transaction(quick):
    """T2: the driver has sent no BEGIN yet, and yet it is rolled back."""
    browser = quick.browser()
    browser.get('/count')

    @quick.view
    def fail(request):
        request.dbsession.connection()
        request.session['n'] = 99
        Voter(request, raiser(Failure))

    with pytest.raises(Failure):
        browser.get('/fail')
    assert quick.data() == {'n': 1}


@both
def test_it_is_rolled_back_with_it(quick):
    """T2: what is written inside is gone with the transaction."""
    browser = quick.browser()
    browser.get('/count')

    @quick.view
    def fail(request):
        request.dbsession.add(Note(text='one'))
        request.dbsession.flush()
        request.session['n'] = 99
        # At the commit, after the session was written.
        Voter(request, raiser(Failure))

    with pytest.raises(Failure):
        browser.get('/fail')
    assert quick.data() == {'n': 1}
    assert quick.notes() == []


@both
def test_it_sees_what_the_transaction_did(quick):
    """T1: a session that the view itself removed is not found."""
    browser = quick.browser()
    browser.get('/count')

    @quick.view
    def revoke(request):
        assert request.session_store.revoke_all() == 1
        return repr(dict(request.session))

    assert browser.get('/revoke').text == '{}'


@both
def test_a_damaged_record_inside(quick):
    """R8: the application's transaction goes on, the session is empty."""
    browser = quick.browser()
    browser.get('/count')
    damage = {'sqlite': "x'00ff'", 'postgresql': "'infinity'"}
    quick.execute(f'UPDATE sessions SET created = '
                  f'{damage[quick.database.name]}')

    @quick.view
    def look(request):
        request.dbsession.add(Note(text='look'))
        request.dbsession.flush()
        return repr(dict(request.session))

    assert browser.get('/look').text == '{}'
    assert quick.notes() == ['look']


@postgresql
def test_an_error_inside_is_what_sqlalchemy_says(quick):
    """C7: a transaction that has failed refuses the session's statement."""
    browser = quick.browser()
    browser.get('/count')

    @quick.view
    def broken(request):
        with pytest.raises(sa.exc.DBAPIError):
            request.dbsession.execute(sa.text('SELECT 1 / 0'))
        return request.session['n']

    with pytest.raises(sa.exc.InternalError, match='aborted'):
        browser.get('/broken')


@postgresql
@pytest.mark.parametrize('work', ['read', 'write'])
def test_a_connection_that_is_lost_inside(quick, caplog, work):
    """D1: 503, not the error of the ROLLBACK that follows."""
    browser = quick.browser()
    browser.get('/count')

    def lose():
        quick.execute(TERMINATE)

    @quick.view
    def lost(request):
        request.dbsession.add(Note(text='lost'))
        request.dbsession.flush()
        if work == 'read':
            lose()
            with pytest.raises(SessionStoreUnavailable) as caught:
                request.session.get('n')
            assert isinstance(caught.value.__cause__, sa.exc.OperationalError)
            raise caught.value
        request.session['n'] = 99
        # Just before the session is written.
        Voter(request, raiser(Failure)).commit = lambda transaction: lose()

    answer = browser.get('/lost', status=503)
    assert 'Set-Cookie' not in answer.headers
    assert 'Error in abort' not in caplog.text
    assert quick.engine.pool.checkedout() == 0
    assert quick.data() == {'n': 1}
    assert quick.notes() == []


@postgresql
@pytest.mark.parametrize(
    ('threshold', 'reads'), [(None, 0), (0, 0), (0, 1)],
    ids=['executed', 'to be prepared', 'prepared'],
)
def test_the_log_has_the_last_words_of_the_server(
    make_quick, caplog, threshold, reads
):
    """D1: why a connection was lost, whatever noticed it."""
    quick = make_quick(
        engine_options={'connect_args': {'prepare_threshold': threshold}},
    )
    browser = quick.browser()
    browser.get('/count')
    for _ in range(reads):
        browser.get('/show')
    quick.execute(TERMINATE)
    caplog.set_level(logging.DEBUG, 'pyramid_sqlasession')
    assert browser.get('/show').text == "{'n': 1}"
    (said,) = [one for one in caplog.messages if 'driver alone failed' in one]
    assert 'due to administrator command' in said


@postgresql
def test_the_warning_has_the_last_words_of_the_server(quick, caplog):
    """D1: a view that idled for too long is not told of a crash."""
    browser = quick.browser()
    browser.get('/count')

    @quick.view
    def idle(request):
        request.dbsession.add(Note(text='lost'))
        request.dbsession.flush()
        quick.execute(TERMINATE)
        request.session['n'] = 2

    browser.get('/idle', status=503)
    (said,) = [one for one in caplog.messages if 'does not answer' in one]
    assert 'due to administrator command' in said
    assert '\n' not in said


@postgresql
def test_more_are_lost_than_are_tried(make_quick, monkeypatch):
    """D1: the long way is taken, which replaces the rest of them."""
    quick = make_quick(engine_options={'pool_size': 3})
    browser = quick.browser()
    browser.get('/count')
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(quick.engine.connect())
    quick.execute(TERMINATE)
    monkeypatch.setattr(shortcut, 'MOST_LOST', 1)

    @quick.view
    def start(request):
        request.session['n'] = 7

    quick.browser().get('/start')
    assert sorted(row['data'] for row in quick.rows()) == [
        '{"n":1}', '{"n":7}'
    ]


@postgresql
def test_all_connections_are_lost_inside(make_quick):
    """D1: the first request that notices it has all of them replaced."""
    quick = make_quick(engine_options={'pool_size': 2})
    browser = quick.browser()
    browser.get('/count')
    with quick.engine.connect(), quick.engine.connect():
        # Both are in the pool from now on.
        pass

    @quick.view
    def lost(request):
        request.dbsession.add(Note(text='lost'))
        request.dbsession.flush()
        quick.execute(TERMINATE)
        request.session.get('n')

    @quick.view
    def work(request):
        request.dbsession.add(Note(text='stored'))
        request.dbsession.flush()
        request.session['n'] += 1

    browser.get('/lost', status=503)
    browser.get('/work')
    assert quick.data() == {'n': 2}
    assert quick.notes() == ['stored']


def translate(connection):
    connection.execution_options(schema_translate_map={None: 'other'})


def hear(connection):
    sa.event.listen(
        connection, 'before_cursor_execute', lambda *args: None
    )


@both
@pytest.mark.parametrize('want', [translate, hear])
def test_not_while_something_is_wanted_of_the_connection(quick, want):
    """An option changes what a statement says, a listener wants to see it."""
    browser = quick.browser()
    browser.get('/count')
    (row,) = quick.rows()
    shortcut = quick.application.database.shortcut(quick.engine)
    with quick.engine.connect() as connection:
        connection.execute(sa.text('SELECT 1'))
        assert shortcut.find_inside(connection, row['id'], quick.clock())
        want(connection)
        with pytest.raises(Uncommon):
            shortcut.find_inside(connection, row['id'], quick.clock())


@both
def test_what_is_wanted_of_other_results(quick):
    """T1: that the application streams its own says nothing about it."""
    browser = quick.browser()
    browser.get('/count')
    (row,) = quick.rows()
    shortcut = quick.application.database.shortcut(quick.engine)
    with quick.engine.connect() as connection:
        connection.execute(sa.text('SELECT 1'))
        connection.execution_options(
            stream_results=True, yield_per=5, max_row_buffer=5
        )
        assert shortcut.find_inside(connection, row['id'], quick.clock())


@both
def test_many_meet_at_one_record(quick, stage):
    """C2: ``merge`` never fails, however many save at one moment."""
    browser = quick.browser()
    browser.get('/count')

    @quick.view
    def meet(request):
        key = request.params['key']
        request.session[key] = True
        stage.reach(key)

    keys = [f'key {number}' for number in range(10)]
    running = [
        stage.run(quick.browser(like=browser).get, '/meet', {'key': key})
        for key in keys
    ]
    for key in keys:
        stage.wait(key)
    for key in keys:
        stage.let(key)
    assert [one.result().status_int for one in running] == [200] * len(keys)
    assert quick.data() == {'n': 1} | dict.fromkeys(keys, True)


# -- what is held after a save -----------------------------------------------


@both
@pytest.mark.parametrize(('before', 'after'), [
    ([1], [True]), ([1], [1.0]), ([[]], [()]), ([{'a': 1}], [{'a': 2}]),
    ([dt.date(2026, 1, 1)], [dt.date(2026, 1, 2)]),
])
def test_a_value_that_changes_after_a_commit(quick, before, after):
    """R7, T9: whoever holds it may change it inside, to the very type."""

    @quick.view
    def hold(request):
        session: SQLASession = request.session
        session['held'] = held = list(before)
        request.tm.commit()
        request.tm.begin()
        held[:] = after

    browser = quick.browser()
    browser.get('/hold')
    held = quick.data()['held']
    assert repr(held) == repr(after)
