"""The thread that deletes expired records (E3)."""

import contextlib
import gc
import logging
from operator import itemgetter
import os
import random
import sqlite3
import threading
import time
import uuid
import weakref

from pyramid.config import Configurator
from pyramid.events import ApplicationCreated
from pyramid.exceptions import ConfigurationError
import pytest
import sqlalchemy as sa
from webtest import TestApp

from pyramid_sqlasession import cleaner
from pyramid_sqlasession import SessionsExpired
from pyramid_sqlasession import start_expiring_sessions
from pyramid_sqlasession import stop_expiring_sessions

from .cleaning import make_app
from .cleaning import PATIENCE
from .cleaning import Worker
from .failing import each_refusal
from .failing import on_sqlite
from .failing import refuse_commits
from .forking import Child
from .services.mariatemp import TempMariaDB
from .services.pgtemp import TempPostgres

ON_SERVERS = pytest.mark.parametrize(
    'database', ['postgresql', 'mariadb'], indirect=True
)


def cleaners():
    """Return the threads of all cleaners of this process."""
    return {
        thread for thread in threading.enumerate()
        if thread.name == 'sqlasession-cleaner'
    }


@pytest.fixture
def started():
    """A function that returns the cleaners started since the test began."""
    before = cleaners()
    return lambda: cleaners() - before


@pytest.fixture
def shop(make_site):
    """A site whose cleaner waits for a day, with a session of an hour."""
    return with_rows(make_site(
        check_expiration_interval='1d', expiration='1h', create_table='true',
    ))


def with_rows(site, expired=0, live=1):
    """Put sessions into the table, straight; returns *site*."""
    table = site.application.records.table
    site.view(put)
    with site.outside.begin() as connection:
        connection.execute(sa.delete(table))
    site.browser().get('/put')
    (row,) = site.rows()
    site.clock.advance(minutes=59)
    later = {
        name: site.clock() + (row[name] - row['created'])
        for name in ('created', 'started', 'accessed', 'expires', 'sweep',
                     'rotated')
    }
    rows = [row | {'id': uuid.uuid4()} for _ in range(expired)]
    rows += [row | later | {'id': uuid.uuid4()} for _ in range(live)]
    with site.outside.begin() as connection:
        connection.execute(sa.delete(table))
        if rows:
            connection.execute(sa.insert(table), rows)
    # A quarter more, as the cleaner may come a little late.
    site.clock.advance(minutes=16)
    return site


def put(request):
    """Begin a session."""
    request.session['n'] = 1


def clean(site):
    """Let the cleaner of *site* work once, now and here."""
    return site.application.cleaner.clean()


class Counted(list):
    """The counts of ``SessionsExpired`` events; waits for a total."""

    def __init__(self, registry):
        super().__init__()
        self._changed = threading.Condition()
        registry.registerHandler(self.note, [SessionsExpired])

    def note(self, event):
        """Take an event in."""
        with self._changed:
            self.append(event.count)
            self._changed.notify_all()

    def wait(self, total):
        """Return whether *total* records were deleted in time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: sum(self) >= total, PATIENCE
            )


# -- start and stop -----------------------------------------------------------


def test_cleaner_starts_with_the_application(make_site, started):
    """E3: a daemon thread from ApplicationCreated on, and no sooner."""
    seen = []

    def configure(config):
        config.add_subscriber(
            lambda event: seen.append(len(started())), ApplicationCreated
        )
        config.commit()
        seen.append(len(started()))

    make_site(
        check_expiration_interval='1d', configure=configure, create=False
    )
    assert seen == [0, 1]
    (thread,) = started()
    assert thread.daemon


@pytest.mark.parametrize('interval', ['0', '-1', '-0.5', 0, -60])
@on_sqlite
def test_no_interval_no_cleaner(make_site, started, interval):
    """E3: 0 or negative: no thread, not even when asked for one."""
    site = make_site(check_expiration_interval=interval)
    assert started() == set()
    start_expiring_sessions(site.app)
    assert started() == set()
    stop_expiring_sessions(site.app)


WAYS = {
    'app': lambda site: site.app,
    'registry': lambda site: site.registry,
    'configurator': lambda site: site.config,
    'TestApp': lambda site: site.browser(),
}


@pytest.mark.parametrize('way', WAYS.values(), ids=WAYS)
@on_sqlite
def test_start_and_stop_are_idempotent(make_site, started, way):
    """Section 3: the app, its registry or a Configurator, many times."""
    site = make_site(check_expiration_interval='1d')
    given = way(site)
    (first,) = started()
    start_expiring_sessions(given)
    assert started() == {first}
    stop_expiring_sessions(given)
    stop_expiring_sessions(given)
    assert started() == set()
    start_expiring_sessions(given)
    start_expiring_sessions(given)
    (second,) = started()
    assert second is not first
    stop_expiring_sessions(given)
    assert started() == set()


def unknown(environ, start_response):
    """An application that is none of Pyramid's."""
    raise AssertionError('nobody shall ask it')


@pytest.mark.parametrize(
    'given', [unknown, TestApp(unknown), {'sqlasession': 'own'}, None],
    ids=['app', 'TestApp', 'dict', 'none'],
)
@pytest.mark.parametrize(
    'function', [start_expiring_sessions, stop_expiring_sessions]
)
def test_what_has_no_sessions_is_told_so(function, given):
    """Section 3: an error that says what is missing, and no request."""
    with pytest.raises(
        ConfigurationError, match=r'is not set up in .* has no registry: give'
    ):
        function(given)


def test_a_configurator_without_the_package():
    """Section 3: an error that says what to call."""
    with pytest.raises(
        ConfigurationError, match=r"call config\.include\('pyramid_sqlasession"
    ):
        start_expiring_sessions(Configurator())


@on_sqlite
def test_a_start_and_a_stop_leave_nothing_behind(make_site):
    """E3: nothing waits for the end of an application but its cleaner."""
    site = make_site(check_expiration_interval='1d')
    stop_expiring_sessions(site.app)
    before = weakref.getweakrefcount(site.application)
    for _ in range(3):
        start_expiring_sessions(site.app)
        assert weakref.getweakrefcount(site.application) > before
        stop_expiring_sessions(site.app)
        assert weakref.getweakrefcount(site.application) == before


@on_sqlite
def test_second_wsgi_application_of_a_configurator(make_site, started):
    """E3: ``make_wsgi_app()`` twice starts one thread."""
    site = make_site(check_expiration_interval='1d')
    TestApp(site.config.make_wsgi_app())
    assert len(started()) == 1


@on_sqlite
def test_each_application_has_its_own(database, make_site, started):
    """Section 3: to stop one does not stop the other."""
    one = make_site(check_expiration_interval='1d')
    two = make_site(check_expiration_interval='1d', table_name='others')
    assert len(started()) == 2
    stop_expiring_sessions(one.app)
    assert len(started()) == 1
    stop_expiring_sessions(two.app)
    assert started() == set()


@pytest.mark.parametrize('pool', [sa.StaticPool, sa.SingletonThreadPool])
@pytest.mark.parametrize('file', ['', '/{}/sessions.sqlite'])
def test_no_cleaner_on_a_single_connection(
    started, caplog, tmp_path, pool, file
):
    """E3: it would work in a request's transaction; for a file it is said."""
    engine = sa.create_engine(
        f'sqlite:///{file.format(tmp_path)}', poolclass=pool
    )
    app = make_app(engine, create_table='false')
    caplog.clear()
    start_expiring_sessions(app)
    assert started() == set()
    assert ('not deleted' in caplog.text) == bool(file)
    stop_expiring_sessions(app)
    engine.dispose()


@on_sqlite
def test_cleaners_end_with_their_applications(database, started):
    """E3: a test suite that creates 500 applications leaves no thread."""
    engine = database.create_engine()
    most = 0
    # One that leaks shows with a tenth as well, and in a tenth of the time.
    for _ in range(50):
        make_app(engine, interval='1d', create_table='false')
        most = max(most, len(started()))
    gc.collect()
    for thread in started():
        thread.join(PATIENCE)
    assert most > 0
    assert started() == set()


@on_sqlite
def test_cleaner_ends_with_an_application_that_was_used(database, started):
    """E3: requests, events and a clean leave nothing that holds it."""
    engine = database.create_engine()

    def use():
        app = make_app(engine, interval='0.001')
        TestApp(app).get('/', status=404)
        start_expiring_sessions(app)

    use()
    (thread,) = started()
    end = time.monotonic() + PATIENCE
    while thread.is_alive() and time.monotonic() < end:
        # In the middle of a tick the thread itself holds the application.
        gc.collect()
        thread.join(0.05)
    assert started() == set()


def test_a_subscriber_stops_the_cleaner(make_site, started, caplog):
    """E3: in the cleaner's own thread, which ends."""
    site = make_site(
        check_expiration_interval='0.05', expiration='1h',
        create_table='true',
    )
    # Before any row is there.
    site.registry.registerHandler(
        lambda event: stop_expiring_sessions(site.app), [SessionsExpired]
    )
    with_rows(site, expired=1, live=0)
    for thread in started():
        thread.join(PATIENCE)
    assert started() == set()
    assert site.rows() == []
    assert [
        record for record in caplog.records if record.levelname == 'ERROR'
    ] == []


# -- cleaning -----------------------------------------------------------------


def test_cleaner_deletes_what_has_expired(make_site):
    """E3: the thread itself: expired rows go, live ones stay."""
    site = make_site(
        check_expiration_interval='0.05', expiration='1h',
        create_table='true',
    )
    counted = Counted(site.registry)
    with_rows(site, expired=7, live=3)
    assert counted.wait(7)
    stop_expiring_sessions(site.app)
    assert len(site.rows()) == 3
    assert sum(counted) == 7
    assert 0 not in counted


@on_sqlite
@pytest.mark.parametrize('damaged', ["'abc'", "x'00'", '16'])
def test_a_damaged_id_stops_no_cleaner(shop, damaged):
    """E3: SQLite keeps any value as an id; such a row goes with the others."""
    with_rows(shop, expired=3)
    shop.execute(
        f'UPDATE sessions SET id = {damaged} WHERE id = '
        f'(SELECT id FROM sessions ORDER BY expires LIMIT 1)'
    )
    assert clean(shop) == 3
    assert len(shop.rows()) == 1


def test_nothing_expired_is_no_event(shop):
    """Section 3: ``SessionsExpired`` has a count that is never 0."""
    counted = Counted(shop.registry)
    assert clean(shop) == 0
    assert counted == []


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_a_tick_with_nothing_to_do_is_one_statement(shop):
    """E3: a lock is only taken where there is something to delete."""
    shop.listen()
    assert clean(shop) == 0
    assert shop.statements.verbs == ['SELECT']
    with_rows(shop, expired=1)
    shop.statements.clear()
    assert clean(shop) == 1
    assert shop.statements.verbs == ['SELECT', 'SELECT', 'SELECT', 'DELETE']


def test_cleaner_deletes_in_batches(shop):
    """E3: a large clean is many transactions, not a long one."""
    with_rows(shop, expired=3500)
    commits = []
    sa.event.listen(shop.engine, 'commit', commits.append)
    counted = Counted(shop.registry)
    assert clean(shop) == 3500
    assert len(commits) > 2
    assert counted == [3500]
    assert len(shop.rows()) == 1


def test_cleaner_comes_late_by_a_small_part_of_the_timeout(shop):
    """E3: a row is gone soon after its expiry, whatever the rounding."""
    with_rows(shop, expired=1, live=0)
    (row,) = shop.rows()
    shop.clock.time = row['expires']
    shop.clock.advance(minutes=6)
    assert clean(shop) == 1


@on_sqlite
def test_cleaner_of_sessions_with_lifetimes_of_their_own(shop):
    """E1, E3: what ``set_expiry`` made shorter or longer is respected."""
    site = with_rows(shop, live=0, expired=1)
    clean(site)

    @site.view
    def short(request):
        request.session['short'] = True
        request.session.set_expiry(60)

    @site.view
    def long(request):
        request.session['long'] = True
        request.session.set_expiry(30 * 86400)

    site.browser().get('/short')
    site.browser().get('/long')
    site.clock.advance(minutes=30)
    assert clean(site) == 1
    assert site.data() == {'long': True}
    site.clock.advance(days=29)
    assert clean(site) == 0


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
@each_refusal
def test_a_batch_that_is_refused(shop, failures, state, tries):
    """E3: is tried again, after a conflict only, and not for ever."""
    with_rows(shop, expired=1)
    tried = refuse_commits(shop, failures, state, after='DELETE')
    if failures < tries:
        assert clean(shop) == 1
    else:
        with pytest.raises(sa.exc.DBAPIError, match='refused'):
            clean(shop)
    assert tried() == tries


@on_sqlite
def test_what_was_deleted_before_an_error_is_told(shop, monkeypatch):
    """E3: a batch that fails takes none back that went before it."""
    monkeypatch.setattr(cleaner, 'BATCH', 2)
    with_rows(shop, expired=5)
    shop.execute(
        'CREATE TRIGGER refuse BEFORE DELETE ON sessions WHEN '
        '(SELECT count(*) FROM sessions) < 5 '
        "BEGIN SELECT RAISE(ABORT, 'refused'); END"
    )
    with shop.events(SessionsExpired) as seen:
        with pytest.raises(sa.exc.IntegrityError, match='refused'):
            clean(shop)
    assert [event.count for event in seen] == [2]
    assert len(shop.rows()) == 4


@on_sqlite
def test_session_touched_between_choice_and_deletion_survives(shop, stage):
    """E3: the DELETE itself checks the predicate again."""
    with_rows(shop, expired=3, live=0)
    first = shop.rows()[0]

    @sa.event.listens_for(shop.engine, 'before_cursor_execute')
    def stop(connection, cursor, statement, *args):
        if 'DELETE FROM' in statement:
            stage.reach('chosen')

    cleaning = stage.run(clean, shop)
    stage.wait('chosen')
    table = shop.application.records.table
    with shop.outside.begin() as connection:
        connection.execute(
            sa.update(table).where(table.c.id == first['id']).values(
                expires=shop.clock() + shop.clock.time.resolution * 10**6,
            )
        )
    stage.let('chosen')
    assert cleaning.result() == 2
    assert [row['id'] for row in shop.rows()] == [first['id']]


@on_sqlite
def test_a_batch_whose_snapshot_is_too_old(shop):
    """E3: is tried again, where the application has SQLite BEGIN to read."""
    with_rows(shop, expired=3, live=0)
    begun, others = [], ['UPDATE sessions SET version = version + 1']

    @sa.event.listens_for(shop.engine, 'connect')
    def leave_transactions_alone(raw, record):
        raw.isolation_level = None

    @sa.event.listens_for(shop.engine, 'begin')
    def begin(connection):
        begun.append(connection.exec_driver_sql('BEGIN'))

    @sa.event.listens_for(shop.engine, 'before_cursor_execute')
    def meanwhile(connection, cursor, statement, *args):
        if 'DELETE FROM' in statement and others:
            shop.execute(others.pop())

    assert clean(shop) == 3
    assert len(begun) == 2
    assert shop.rows() == []


@ON_SERVERS
@pytest.mark.parametrize(('expired', 'live'), [(3, 0), (50, 20), (200, 400)])
@pytest.mark.parametrize('place', [0, -1])
def test_cleaner_waits_for_nobody(shop, stage, expired, live, place):
    """E3: a row that a touch is just changing is left alone."""
    with_rows(shop, expired=expired, live=live)
    ids = [
        row['id'] for row in sorted(shop.rows(), key=itemgetter('sweep'))
    ]
    locked = ids[:expired][place]
    table = shop.application.records.table
    with shop.outside.begin() as connection:
        connection.execute(
            sa.update(table).where(table.c.id == locked).values(
                expires=shop.clock() + shop.clock.time.resolution * 10**6,
            )
        )
        assert stage.run(clean, shop).result() == expired - 1
    left = {row['id'] for row in shop.rows()}
    assert left == {locked, *ids[expired:]}


@contextlib.contextmanager
def locked_entries(site):
    """Lock the entries of an index of *site*'s table, and no rows."""
    with site.outside.begin() as connection:
        connection.exec_driver_sql(
            'SELECT user_id FROM sessions WHERE user_id = 7 '
            'LOCK IN SHARE MODE'
        )
        yield


class Waits(threading.Event):
    """Notes for how long a cleaner would wait, and ends it in the last, if
    there is a last one.
    """

    def __init__(self, last=None):
        super().__init__()
        self.noted = []
        self._last = last

    def wait(self, timeout=None):
        """Do not wait."""
        self.noted.append(timeout)
        return len(self.noted) == self._last


class Forks(Waits):
    """Forks a child in the first wait, and returns once that has begun."""

    def __init__(self, work):
        super().__init__()
        self._work = work
        self.child = None

    def wait(self, timeout=None):
        """Do not wait for anything else."""
        if self.child is None:
            begun, begin = os.pipe()
            self.child = Child(lambda: self._work(begin))
            os.read(begun, 1)
        return super().wait(timeout)


def visit(site):
    """Begin a session; return whether it was stored."""
    return site.browser().get('/put').status_int == 200


@on_sqlite
def test_a_fork_while_the_cleaner_rests(shop, monkeypatch):
    """E3, T1: the child's sessions do not end with a connection of it."""
    monkeypatch.setattr(cleaner, 'BATCH', 2)
    with_rows(shop, expired=5, live=0)
    shop.engine.dispose()
    shop.outside.dispose()
    cleaned, has_cleaned = os.pipe()

    def work(begin):
        found = visit(shop)
        os.write(begin, b'.')
        os.read(cleaned, 1)
        return found and visit(shop)

    forks = Forks(work)
    assert shop.application.cleaner.clean(forks) == 5
    os.write(has_cleaned, b'.')
    assert forks.child.is_fine()
    assert len(shop.rows()) == 2


@on_sqlite
def test_a_fork_waits_for_a_batch(shop):
    """E3: a child that is forked within one could never write."""
    with_rows(shop, expired=5, live=0)
    shop.engine.dispose()
    shop.outside.dispose()
    deletes, goes_on = threading.Event(), threading.Event()

    @sa.event.listens_for(shop.engine, 'after_cursor_execute')
    def stop(connection, cursor, statement, *args):
        if 'DELETE FROM' in statement:
            deletes.set()
            goes_on.wait(20)

    cleaning = threading.Thread(target=clean, args=[shop])
    cleaning.start()
    assert deletes.wait(20)
    threading.Timer(0.3, goes_on.set).start()
    child = Child(lambda: visit(shop))
    cleaning.join(20)
    assert child.is_fine()
    assert len(shop.rows()) == 1


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
def test_cleaner_waits_for_no_entry_of_an_index(make_site):
    """E3: nor does a deadlock end anybody's request; it tries again later."""
    site = with_rows(make_site(
        check_expiration_interval='1d', expiration='1h', create_table='true',
        additional_fields='user_id: Integer index',
    ))
    with_rows(site, expired=3, live=0)
    site.execute('UPDATE sessions SET user_id = 7')
    waits = Waits()
    with locked_entries(site):
        with pytest.raises(sa.exc.OperationalError, match='1205'):
            site.application.cleaner.clean(waits)
    # A lock that is held for a second or two ends no tick.
    assert sum(waits.noted) > 2.9
    assert clean(site) == 3


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
def test_cleaner_comes_back_for_an_entry_of_an_index(make_site):
    """E3: a batch that met a lock is tried again."""
    site = with_rows(make_site(
        check_expiration_interval='1d', expiration='1h', create_table='true',
        additional_fields='user_id: Integer index',
    ))
    with_rows(site, expired=3, live=0)
    site.execute('UPDATE sessions SET user_id = 7')
    with contextlib.ExitStack() as held:
        held.enter_context(locked_entries(site))

        @sa.event.listens_for(site.engine, 'handle_error')
        def unlock(context):
            held.close()

        assert clean(site) == 3


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
def test_cleaner_where_updates_have_to_be_safe(make_site):
    """E3, C4: MariaDB lets a statement through that names its rows' keys."""
    safely = {'init_command': 'SET sql_safe_updates = 1'}
    site = with_rows(make_site(
        check_expiration_interval='1d', expiration='1h', create_table='true',
        engine_options={'connect_args': safely},
    ))
    with_rows(site, expired=3, live=0)
    assert clean(site) == 3


@ON_SERVERS
@pytest.mark.parametrize('is_expired', [True, False])
@pytest.mark.parametrize('expired', [50, 1200])
def test_delete_expired_waits_for_nobody(shop, stage, is_expired, expired):
    """E3: within a request, too, whichever row somebody has locked."""
    with_rows(shop, expired=expired, live=20)

    @shop.view
    def tidy(request):
        return request.session_store.delete_expired()

    rows = sorted(shop.rows(), key=itemgetter('sweep'))
    locked = rows[expired - 1 if is_expired else -1]['id']
    table = shop.application.records.table
    with shop.outside.begin() as connection:
        connection.execute(
            sa.update(table).where(table.c.id == locked).values(version=2)
        )
        tidied = stage.run(shop.browser().get, '/tidy').result()
    assert tidied.text == str(expired - is_expired)


@ON_SERVERS
def test_nobody_waits_for_delete_expired(shop, stage):
    """E3, T6: whose view goes on: it has locked no session that lives."""
    with_rows(shop, expired=20, live=20)
    browser = shop.browser()
    browser.get('/put')

    @shop.view
    def tidy(request):
        count = request.session_store.delete_expired()
        stage.reach('tidied')
        return count

    @shop.view
    def change(request):
        request.session['n'] += 1

    tidying = stage.run(shop.browser().get, '/tidy')
    stage.wait('tidied')
    stage.run(browser.get, '/change').result()
    stage.let('tidied')
    assert tidying.result().text == '20'


@ON_SERVERS
def test_nobody_waits_for_the_cleaner(shop, stage):
    """E3: while it deletes, sessions are made, read and written."""
    with_rows(shop, expired=50)
    browser = shop.browser()
    browser.get('/put')

    @sa.event.listens_for(shop.engine, 'after_cursor_execute')
    def stop(connection, cursor, statement, *args):
        if 'DELETE FROM' in statement:
            stage.reach('deleted')

    @shop.view
    def change(request):
        request.session['n'] += 1

    cleaning = stage.run(clean, shop)
    stage.wait('deleted')
    stage.run(browser.get, '/change').result()
    stage.run(shop.browser().get, '/put').result()
    stage.let('deleted')
    assert cleaning.result() == 50


@ON_SERVERS
def test_workers_do_not_multiply_the_work(shop, make_site, stage):
    """E3: while one cleans, another neither waits nor deletes."""
    with_rows(shop, expired=20)
    other = make_site(
        check_expiration_interval='1d', expiration='1h', create=False
    )
    other.clock.time = shop.clock.time
    other.listen()

    @sa.event.listens_for(shop.engine, 'before_cursor_execute')
    def stop(connection, cursor, statement, *args):
        if 'DELETE FROM' in statement:
            stage.reach('deleting')

    cleaning = stage.run(clean, shop)
    stage.wait('deleting')
    # Rows that no lock of the first one covers.
    add_expired(shop, 3)
    assert stage.run(clean, other).result() == 0
    assert 'DELETE' not in other.statements.verbs
    stage.let('deleting')
    assert cleaning.result() == 20
    assert clean(other) == 3
    assert len(shop.rows()) == 1


@ON_SERVERS
def test_election_leaves_nothing_behind(shop, make_site):
    """E3: the next clean of another worker is elected at once."""
    other = make_site(
        check_expiration_interval='1d', expiration='1h', create=False
    )
    for site in (shop, other, shop):
        with_rows(shop, expired=2)
        other.clock.time = shop.clock.time
        assert clean(site) == 2


@ON_SERVERS
def test_tables_are_cleaned_beside_each_other(shop, make_site, stage):
    """E3: another application's table does not wait for this one's."""
    with_rows(shop, expired=2)
    other = with_rows(
        make_site(
            check_expiration_interval='1d', expiration='1h',
            table_name='others',
        ),
        expired=3,
    )

    @sa.event.listens_for(shop.engine, 'before_cursor_execute')
    def stop(connection, cursor, statement, *args):
        if 'DELETE FROM' in statement:
            stage.reach('deleting')

    cleaning = stage.run(clean, shop)
    stage.wait('deleting')
    assert stage.run(clean, other).result() == 3
    stage.let('deleting')
    assert cleaning.result() == 2


def test_cleaner_has_a_connection_of_its_own(make_site):
    """E3: it works while the application uses its whole pool."""
    site = with_rows(
        make_site(
            check_expiration_interval='1d', expiration='1h',
            engine_options={
                'poolclass': sa.QueuePool, 'pool_size': 1, 'max_overflow': 0,
                'pool_timeout': 0.1,
            },
        ),
        expired=2,
    )
    with site.engine.connect() as busy:
        busy.scalar(sa.text('SELECT 1'))
        assert clean(site) == 2


def test_cleaner_takes_no_connection_away(shop):
    """E3: the application's pool has its connections after a clean."""
    with_rows(shop, expired=2)
    with shop.engine.connect() as connection:
        connection.scalar(sa.text('SELECT 1'))
    before = shop.engine.pool.checkedin()
    assert clean(shop) == 2
    assert shop.engine.pool.checkedin() == before
    assert shop.engine.pool.checkedout() == 0


# -- stopping amid the work ---------------------------------------------------


def test_stop_returns_within_a_second_amid_a_clean(
    make_site, stage, started, monkeypatch
):
    """Section 3: though a batch hangs; and no further one begins."""
    site = make_site(
        check_expiration_interval='0.05', expiration='1h',
        create_table='true',
    )

    @sa.event.listens_for(site.engine, 'before_cursor_execute')
    def stop(connection, cursor, statement, *args):
        if 'DELETE FROM' in statement:
            stage.reach('deleting')

    with_rows(site, expired=5000, live=0)
    stage.wait('deleting')
    (thread,) = started()
    join, waits = thread.join, []

    def wait(seconds):
        waits.append(seconds)
        join(seconds)

    monkeypatch.setattr(thread, 'join', wait)
    stop_expiring_sessions(site.app)
    assert thread.is_alive()
    stage.let('deleting')
    join(PATIENCE)
    # Not by a clock: that of a busy machine goes on while nobody waits.
    assert sum(waits) < 1
    assert not thread.is_alive()
    assert 0 < len(site.rows()) < 5000


@on_sqlite
def test_stop_returns_at_once_while_the_cleaner_waits(started, shop):
    """Section 3: a fixture of a test suite costs nothing."""
    (thread,) = started()
    stop_expiring_sessions(shop.app)
    assert not thread.is_alive()


@on_sqlite
def test_stop_by_a_subscriber_of_the_cleaner(make_site, started):
    """Section 3: it may be called in the cleaner's own thread."""
    site = make_site(
        check_expiration_interval='0.05', expiration='1h',
        create_table='true',
    )
    threads = started()
    site.registry.registerHandler(
        lambda event: stop_expiring_sessions(site.app), [SessionsExpired]
    )
    with_rows(site, expired=2)
    for thread in threads:
        thread.join(PATIENCE)
    assert started() == set()


@on_sqlite
@pytest.mark.parametrize(('end', 'waits'), [
    (min, [5, 80, 80]), (max, [100, 120, 120])
])
def test_first_wait_is_any_part_of_an_interval(shop, monkeypatch, end, waits):
    """E3: workers that live for less than an interval clean all the same."""
    monkeypatch.setattr(random, 'uniform', lambda a, b: end(a, b))
    stop = Waits(last=3)
    application = shop.registry['sqlasession']
    idle = cleaner.Cleaner(application)
    cleaner._run(weakref.ref(idle), weakref.ref(application), stop, 100)
    assert stop.noted == waits


# -- faults -------------------------------------------------------------------


def warned(caplog):
    """Return the messages of all logs that somebody would see."""
    return [
        record.getMessage() for record in caplog.records
        if record.levelno >= logging.WARNING
    ]


@on_sqlite
def test_subscriber_that_fails_does_not_end_the_cleaner(make_site, caplog):
    """E3: the next interval is cleaned as ever."""
    site = make_site(
        check_expiration_interval='0.05', expiration='1h',
        create_table='true',
    )

    counted = Counted(site.registry)

    def fail(event):
        counted.note(event)
        raise LookupError('in a subscriber')

    site.registry.unregisterHandler(counted.note, [SessionsExpired])
    site.registry.registerHandler(fail, [SessionsExpired])
    with_rows(site, expired=2)
    assert counted.wait(2)
    with_rows(site, expired=3)
    assert counted.wait(5)
    assert len(site.rows()) == 1


class Refusal:
    """Has the engine's connects fail while ``on``; notes when they came."""

    def __init__(self, engine):
        self.on = False
        self.times = []
        self._changed = threading.Condition()
        sa.event.listen(engine, 'do_connect', self._connect)

    def _connect(self, dialect, record, args, kwargs):
        if not self.on:
            return
        with self._changed:
            self.times.append(time.monotonic())
            self._changed.notify_all()
        raise sqlite3.OperationalError('unable to open database file')

    def wait(self, count):
        """Wait until *count* more connects were tried."""
        with self._changed:
            begin = len(self.times)
            assert self._changed.wait_for(
                lambda: len(self.times) >= begin + count, PATIENCE
            )


@on_sqlite
def test_cleaner_backs_off_during_an_outage(make_site, caplog, monkeypatch):
    """E3: attempts get rarer, one line is logged, then it goes on."""
    monkeypatch.setattr(random, 'uniform', lambda a, b: 1.0)
    site = make_site(
        check_expiration_interval='0.05', expiration='1h',
        create_table='true', engine_options={'poolclass': sa.NullPool},
    )
    counted = Counted(site.registry)
    with_rows(site, expired=4)
    assert counted.wait(4)
    refusal = Refusal(site.engine)
    refusal.on = True
    refusal.wait(4)
    refusal.on = False
    add_expired(site, 1)
    assert counted.wait(5)
    gaps = [
        b - a for a, b in zip(
            refusal.times, refusal.times[1:], strict=False
        )
    ]
    # A wait is never shorter than it was meant to be; how much longer one
    # takes is the machine's affair.
    assert all(
        gap >= 0.05 * 2**times
        for times, gap in enumerate(gaps[:3], start=1)
    )
    stop_expiring_sessions(site.app)
    (line,) = warned(caplog)
    assert line.endswith('Unavailable: unable to open database file')


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_cleaner_that_is_refused_says_so_in_a_line(make_site, caplog):
    """E3: the line has what the database says, and no statement of ours."""
    site = make_site(create_table='true')
    with_rows(site, expired=1)
    site.execute(
        'CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN '
        "RAISE EXCEPTION 'not here' USING ERRCODE = '42501'; END $$ "
        'LANGUAGE plpgsql'
    )
    site.execute(
        'CREATE TRIGGER refuse BEFORE DELETE ON sessions FOR EACH ROW '
        'EXECUTE FUNCTION refuse()'
    )
    attempts = threading.Semaphore(0)
    sa.event.listen(
        site.engine, 'do_connect', lambda *args: attempts.release()
    )
    # Only ticks are to connect: two of them, so that one has failed.
    other = make_app(site.engine, interval='0.01', create_table='false')
    for _ in range(3):
        assert attempts.acquire(timeout=PATIENCE)
    stop_expiring_sessions(other)
    (line,) = [one for one in warned(caplog) if 'deleted' in one]
    assert 'not here' in line
    assert '\n' not in line
    assert 'DELETE' not in line


@pytest.fixture(params=[TempPostgres, TempMariaDB], ids=['pg', 'maria'])
def own_server(request):
    """A server that the test may stop and start."""
    with request.param() as server:
        yield server


def test_cleaner_survives_outages(own_server, caplog):
    """E3: one line in the log for each outage, however long it is."""
    engine = sa.create_engine(own_server.url)
    attempts = threading.Semaphore(0)
    sa.event.listen(
        engine, 'do_connect', lambda *args: attempts.release()
    )
    app = make_app(engine, interval='0.02')
    counted = Counted(app.registry)
    table = app.registry['sqlasession'].records.table
    try:
        for outage in (1, 2):
            own_server.halt()
            while attempts.acquire(blocking=False):
                pass
            for _ in range(4):
                assert attempts.acquire(timeout=PATIENCE)
            own_server.launch()
            outside = sa.create_engine(own_server.url, poolclass=sa.NullPool)
            with outside.begin() as connection:
                connection.execute(sa.insert(table), expired_row(app))
            assert counted.wait(outage)
            assert len(warned(caplog)) == outage
    finally:
        stop_expiring_sessions(app)
        engine.dispose()


def expired_row(app):
    """Return a row that expired long ago."""
    application = app.registry['sqlasession']
    past = application.now().replace(year=2020)
    return {
        'id': uuid.uuid4(), 'secret_hash': bytes(32), 'version': 1,
        'data': '{}', **dict.fromkeys(
            ('created', 'started', 'accessed', 'expires', 'sweep',
             'rotated'), past,
        ),
    }


@on_sqlite
def test_cleaner_without_its_table_says_what_to_do(make_site, caplog):
    """E3, D2: one line that names the table and the command."""
    site = make_site(
        check_expiration_interval='0.01', create=False,
        table_name='nowhere',
    )
    attempts = threading.Semaphore(0)
    sa.event.listen(
        site.engine, 'before_cursor_execute',
        lambda *args: attempts.release(),
    )
    # One attempt after another; the first says it, the others are silent.
    for _ in range(3):
        assert attempts.acquire(timeout=PATIENCE)
    stop_expiring_sessions(site.app)
    (line,) = warned(caplog)
    assert '\n' not in line
    assert 'nowhere' in line
    assert 'psessions' in line
    assert 'table' in line


# -- processes ----------------------------------------------------------------


@pytest.fixture
def worker(database):
    """A function that starts a ``Worker`` on the database."""
    workers = []

    def start(mode):
        workers.append(Worker(mode, database.url))
        return workers[-1]

    yield start
    for one in workers:
        with contextlib.suppress(ProcessLookupError):
            one.process.kill()
        one.process.communicate()


def add_expired(site, count):
    """Insert rows that expired years ago by any clock."""
    with site.outside.begin() as connection:
        connection.execute(
            sa.insert(site.application.records.table),
            [expired_row(site.app) for _ in range(count)],
        )


@ON_SERVERS
def test_processes_do_not_multiply_the_work(shop, worker):
    """E3: a worker in another process is elected; this one stands back."""
    with_rows(shop, live=0)
    add_expired(shop, 5)
    other = worker('hold')
    assert other.line() == ['deleting']
    add_expired(shop, 3)
    shop.listen()
    assert clean(shop) == 0
    assert 'DELETE' not in shop.statements.verbs
    other.go()
    assert other.line() == ['expired', '5']
    assert other.end()[0] == 0
    assert len(shop.rows()) == 3


def test_cleaner_works_in_a_forked_process(shop, worker):
    """E3: ``gunicorn --preload``: the child cleans, by its own connection."""
    # The processes have the real clock, by which nothing here may expire.
    with_rows(shop, live=0)
    forking = worker('fork')
    word, child = forking.line()
    assert word == 'child'
    add_expired(shop, 5)
    total = 0
    while total < 5:
        pid, word, count = forking.line()
        assert (pid, word) == (child, 'expired')
        total += int(count)
    assert forking.line() == ['status', '0', 'same']
    code, error = forking.end()
    assert (code, error) == (0, '')


@pytest.mark.usefixtures('shop')
def test_process_ends_at_once_and_quietly(worker):
    """E3: a daemon thread amid its work holds no process back."""
    ending = worker('end')
    assert ending.line() == ['ended']
    assert ending.end() == (0, '')
