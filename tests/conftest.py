"""Fixtures of all tests: databases, servers, interleavings.

A test that takes ``database`` runs once for each of SQLite, PostgreSQL and
MariaDB.  To run on some of them only::

    @pytest.mark.parametrize('database', ['postgresql'], indirect=True)

``galera`` is one more, a cluster of three nodes, and ``postgresql+pg8000`` the
same server by another driver.

Servers are started when the first test needs them and stopped at the end.  A
server that is not installed skips its tests; with ``REQUIRE=all`` in the
environment it fails them.  ``TEST_POSTGRESQL_URL`` and ``TEST_MARIADB_URL``
name servers to use instead; the user there needs the right to create a
database.
"""

import contextlib
import functools
import gc
import io
import os
import signal
import socket
import sys
import tempfile
import time

import hypothesis
import plaster.loaders
import pytest
import transaction

from .failing import answering
from .failing import give_up_early
from .interleaving import Stage
from .meeting import FIELDS
from .meeting import Meeting
from .psessions import AgentSession
from .psessions import Command
from .services import databases
from .services.common import in_memory
from .services.common import ServerMissing
from .services.databases import Database
from .services.redistemp import TempRedis
from .shop import MANAGERS
from .shop import with_views
from .site import Site
from .unmanaged import is_managed_path
from .visitor import Visitor

# The same examples in each run: what a release is asked for is no matter of
# luck, and a failure is there for whoever looks for its reason.
hypothesis.settings.register_profile('same', derandomize=True)
hypothesis.settings.load_profile('same')


def pytest_configure():
    # Before the first file is made, and inherited by all processes.
    if folder := in_memory():
        os.environ['TMPDIR'] = folder
        tempfile.tempdir = None


def pytest_report_header():
    return [f'databases: {databases.describe()}']


def pytest_collection_finish():
    # The tests themselves are hundreds of thousands of objects, which the
    # garbage collector would go through again and again.
    gc.collect()
    gc.freeze()


def _missing(reason):
    if os.environ.get('REQUIRE') == 'all':
        pytest.fail(f'{reason} (REQUIRE=all)', pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope='session')
def database_servers():
    """Return a function that starts a server by name, once."""
    running, missing = {}, {}

    def start(name):
        if name in missing:
            _missing(missing[name])
        if name not in running:
            try:
                running[name] = databases.start(name)
            except (ServerMissing, ImportError) as error:
                # ImportError: the driver's extra is not installed.
                missing[name] = str(error)
                _missing(missing[name])
        return running[name]

    yield start
    for server in running.values():
        server.stop()


@pytest.fixture
def make_database(tmp_path, database_servers):
    """A function that returns an empty database of a name."""
    with contextlib.ExitStack() as stack:

        def make(name):
            if name == 'sqlite':
                # A file: threads share it, as processes of an application do.
                database = Database(name, f'sqlite:///{tmp_path}/test.sqlite')
            else:
                name, _, driver = name.partition('+')
                server = database_servers(name)
                stack.callback(server.empty)
                database = server.database()
                if driver:
                    database.take_driver(driver)
            stack.callback(database.dispose)
            return database

        yield make


@pytest.fixture(params=databases.NAMES)
def database(request, make_database):
    """An empty database with ``name``, ``url`` and ``create_engine()``."""
    return make_database(request.param)


@pytest.fixture(scope='session')
def redis():
    """A redis server: ``url``."""
    try:
        server = TempRedis()
    except ServerMissing as error:
        _missing(str(error))
    with server:
        yield server


@pytest.fixture
def process_zone(monkeypatch):
    """A function that sets the time zone of the process."""

    def change(zone):
        monkeypatch.setenv('TZ', zone)
        time.tzset()

    yield change
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def stage():
    """A ``Stage`` for deterministic interleavings; see interleaving.py."""
    stage = Stage()
    yield stage
    stage.close()


@pytest.fixture
def make_site(database):
    """A function that makes a ``Site`` with given settings; see site.py."""
    sites = []

    def make(**settings):
        site = Site(database, **settings)
        sites.append(site)
        return site

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def site(make_site):
    """An application with the default settings and one additional field."""
    return make_site(additional_fields='user_id: Integer index')


@pytest.fixture
def make_shop(request, make_site):
    """A function that makes a site; see ``both_managers``."""
    manager = MANAGERS[getattr(request, 'param', 'explicit')]

    def make(**settings):
        return with_views(
            make_site(**{'tm.manager_hook': manager, **settings})
        )

    yield make
    # The thread's manager is the next test's too.
    transaction.abort()


@pytest.fixture
def shop(make_shop):
    """A site with the views ``fill`` and ``show``."""
    site = make_shop()
    give_up_early(site.engine)
    return site


@pytest.fixture
def visitor(site):
    """A browser on the site with the default settings."""
    return Visitor(site)


@pytest.fixture(scope='module')
def shared_site(tmp_path_factory):
    """One site for many tests that need no row but their own."""
    path = tmp_path_factory.mktemp('shared') / 'test.sqlite'
    site = Site(Database('sqlite', f'sqlite:///{path}'))
    yield site
    site.close()


@pytest.fixture
def quick(shared_site):
    """A browser on the shared site, where nothing is stored yet."""
    for table in ('sessions', 'notes'):
        shared_site.execute(f'DELETE FROM {table}')
    shared_site.listen()
    return Visitor(shared_site)


@pytest.fixture
def make_meeting(make_site, stage):
    """A function that makes a ``Meeting`` on a site with these settings."""

    def make(**settings):
        return Meeting(make_site(**FIELDS, **settings), stage)

    return make


@pytest.fixture
def meeting(make_meeting):
    """A ``Meeting`` with the default settings."""
    return make_meeting()


@pytest.fixture
def apart(make_meeting, database):
    """A ``Meeting`` whose sessions have an engine of their own."""
    return make_meeting(url=database.url)


@pytest.fixture
def free(make_site):
    """A site where pyramid_tm is inactive for paths that begin ``/free``."""
    return with_views(make_site(
        **{'tm.activate_hook': is_managed_path},
        configure=answering(
            lambda request: request.session.flash('Please log in')
        ),
    ))


@pytest.fixture
def clean_thread():
    """Leave no transaction to the next test."""
    yield
    transaction.abort()


@pytest.fixture(scope='session', autouse=True)
def found_loaders():
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
def make_command(tmp_path, capsys):
    """A function that makes a ``Command`` for a URL and settings."""
    commands = []

    def make(url='sqlite://', /, **settings):
        settings.setdefault('check_expiration_interval', '0')
        commands.append(Command(tmp_path, url, capsys, **settings))
        return commands[-1]

    yield make
    for one in commands:
        one.close()


@pytest.fixture
def empty(database, make_command):
    """A ``Command`` on an empty database."""
    return make_command(database.url)


@pytest.fixture
def stocked(empty):
    """A ``Command`` whose database has the table."""
    empty.done('table')
    return empty


@pytest.fixture
def in_file(tmp_path, make_command):
    """The same in a file, for what does not depend on the database."""
    made = make_command(f'sqlite:///{tmp_path}/shop.sqlite')
    made.done('table')
    return made


@pytest.fixture
def plain(tmp_path, make_command):
    """The same with a single additional field, ``agent``."""
    made = make_command(
        f'sqlite:///{tmp_path}/plain.sqlite',
        model=f'{AgentSession.__module__}.AgentSession',
    )
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


@pytest.fixture
def no_socket_left(monkeypatch):
    """Close the sockets of lost connections, which pg8000 leaves open.

    The garbage collector would tell of them in another test: the log of this
    one holds them.
    """
    made, create = [], socket.create_connection

    def noted(*args, **kwargs):
        made.append(create(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(socket, 'create_connection', noted)
    yield
    for one in made:
        # `close()` waits for the file that pg8000 has made of it.
        if (number := one.detach()) != -1:
            os.close(number)


@pytest.fixture
def heeded():
    """Ctrl-C counts: a shell has what it runs in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
