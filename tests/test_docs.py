"""What the documentation says is so: its examples run, its tables are true."""

import ast
import configparser
from contextlib import suppress
from datetime import datetime
from datetime import timedelta
from datetime import UTC
import importlib
import itertools
import json
import os
from pathlib import Path
import re
import runpy
import shlex
import subprocess
import sys
import textwrap
from types import SimpleNamespace

from pyramid import testing
from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.scripting import prepare
import pytest
import sqlalchemy as sa
from transaction import TransactionManager
from transaction.interfaces import NoTransaction
from webtest import TestApp

import pyramid_sqlasession
from pyramid_sqlasession import metrics
from pyramid_sqlasession import session_model
from pyramid_sqlasession import SessionConflict
from pyramid_sqlasession import SessionError
from pyramid_sqlasession import SessionFieldError
from pyramid_sqlasession import SessionNotSerializable
from pyramid_sqlasession import SessionStoreUnavailable
from pyramid_sqlasession import stop_expiring_sessions
from pyramid_sqlasession.authentication import SessionAuthenticationHelper
from pyramid_sqlasession.events import DROPS
from pyramid_sqlasession.model import model_of
from pyramid_sqlasession.settings import _READERS
from pyramid_sqlasession.settings import read_settings
from pyramid_sqlasession.testing import log_in
from pyramid_sqlasession.tracing import KINDS

from .pages import blocks

ROOT = Path(__file__).parents[1]
DOCS = ROOT / 'docs'
EXAMPLES = DOCS / 'examples'
PAGES = sorted(DOCS.glob('*.rst'))
NAMES = [page.stem for page in PAGES]

DEVICE_FIELDS = 'user_id: Integer index\nuser_agent: String(256)\n' \
    'ip: String(45)'


@pytest.fixture(autouse=True)
def _examples_can_be_imported(monkeypatch):
    """The modules below docs/ are imported as an application's are."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.syspath_prepend(str(DOCS / '_ext'))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], '__file__', None) or ''
        if file.startswith(str(DOCS)):
            del sys.modules[name]


def every_block(language):
    """Return parameters: each page that has such blocks."""
    # test_readme_set_up runs the Python of README.rst.
    readme = [] if language == 'python' else [ROOT / 'README.rst']
    return [
        pytest.param(path, id=path.stem)
        for path in [*PAGES, *readme]
        if blocks(path, language)
    ]


def command_lines(path):
    """Return the commands on a page, each a list of words."""
    return [
        shlex.split(line.removeprefix('$ '))
        for block in blocks(path, 'console')
        for line in block.splitlines()
        if line
    ]


# -- an application to try the examples on ------------------------------------


@pytest.fixture
def engine(tmp_path):
    """An SQLite database with the tables of docs/examples/myapp."""
    engine = sa.create_engine(f'sqlite:///{tmp_path}/docs.sqlite')
    importlib.import_module('myapp.models').Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def make_app(engine):
    """A function that makes docs/examples/myapp with some settings."""
    apps = []

    def make(*, includes='', **settings):
        given = {
            'additional_fields': DEVICE_FIELDS,
            'extend_default_fields': 'myapp.sessions.device_fields',
            'create_table': True,
            'check_expiration_interval': 0,
            **settings,
        }
        main = importlib.import_module('myapp').main
        app = main({}, dbengine=engine, **{
            f'sqlasession.{name}': value
            for name, value in given.items()
            if value is not None
        }, **{'pyramid.includes': includes})
        apps.append(app)
        return app

    yield make
    for app in apps:
        stop_expiring_sessions(app)


@pytest.fixture
def app(make_app):
    """docs/examples/myapp with the fields of the page on devices."""
    return make_app()


class Browser(TestApp):
    """Somebody who uses docs/examples/myapp."""

    def send(self, path, status=303, **fields):
        """Post a form with its CSRF token."""
        fields['csrf_token'] = self.get('/').json['csrf_token']
        return self.post(path, fields, status=status)

    def login(self, **fields):
        """Log in as ada."""
        return self.send('/login', name='ada', password='lovelace', **fields)

    @property
    def user(self):
        """The id of the user whom the application takes this for."""
        return self.get('/').json['user']


@pytest.fixture
def ada(engine):
    """The id of an account."""
    models = importlib.import_module('myapp.models')
    with sa.orm.Session(engine) as dbsession, dbsession.begin():
        user = models.User(name='ada')
        user.set_password('lovelace')
        dbsession.add(user)
        dbsession.flush()
        return user.id


def rows(engine, table='sessions'):
    """Return what a table holds, as dicts."""
    with engine.connect() as connection:
        return [
            dict(row._mapping)
            for row in connection.execute(sa.text(f'SELECT * FROM {table}'))
        ]


#: Of the stores on the page on migrating; test_carry_over works with them.
OLD_SETTINGS = {
    'session.key': 'old',
    'redis.sessions.secret': 'old',
    'redis.sessions.cookie_name': 'old',
}

# -- the blocks on the pages --------------------------------------------------


@pytest.mark.parametrize('page', every_block('python'))
def test_python_blocks_run(page, app, engine, ada):
    """Each block of Python on a page runs, one after the other."""
    with prepare(registry=app.registry) as env:
        request = env['request']
        names = {
            'app_settings': {},
            'Base': importlib.import_module('myapp.models').Base,
            'busy': importlib.import_module('myapp.shop').busy,
            'carry_over': importlib.import_module('migrating').carry_over,
            'datetime': datetime,
            'found': {},
            'request': request,
            'SessionConflict': SessionConflict,
            'SessionFieldError': SessionFieldError,
            'settings': OLD_SETTINGS,
            'SessionNotSerializable': SessionNotSerializable,
            'timedelta': timedelta,
            'user': SimpleNamespace(id=ada),
            'UTC': UTC,
        }
        for block in blocks(page, 'python'):
            request.tm.begin()
            names['app'] = app
            names['config'] = Configurator(settings={
                'sqlalchemy.url': str(engine.url),
                'sqlasession.cookie_name': 'sid',
            })
            exec(compile(block, str(page), 'exec'), names)  # noqa: S102
            names['config'].commit()
            # Or on SQLite a block that makes a request of its own would wait.
            with suppress(NoTransaction):
                request.tm.abort()


@pytest.mark.parametrize('deleted', [0, 1])
def test_an_old_session_of_a_deleted_user(app, ada, deleted):
    """D3: its cart is carried over, and no login that has a foreign key."""
    (block,) = [
        one for one in blocks(DOCS / 'migrating.rst', 'python')
        if 'found.get' in one
    ]
    found = {'user_id': ada + deleted, 'cart': [1]}
    with prepare(registry=app.registry) as env, env['request'].tm:
        exec(block, {  # noqa: S102
            'found': found, 'request': env['request'],
            'User': importlib.import_module('myapp.models').User,
        })
    assert found.keys() == {'cart'} | ({'user_id'} if not deleted else set())


@pytest.mark.parametrize('page', every_block('ini'))
def test_ini_blocks_are_valid(page):
    """Each block of ini holds settings that an application can start with."""
    models = importlib.import_module('myapp.models')
    for block in blocks(page, 'ini'):
        if 'myapp.models.Session\n' in block:
            example = importlib.import_module('session_model')
            models.Session = example.Session
        parser = configparser.ConfigParser()
        parser.read_string(block)
        settings = dict(parser['app:main'])
        model_of(read_settings(settings))


@pytest.fixture
def ini(tmp_path, engine):
    """An ini file of docs/examples/myapp."""
    path = tmp_path / 'development.ini'
    path.write_text(textwrap.dedent(f'''\
        [app:main]
        use = call:myapp:main
        sqlalchemy.url = {engine.url}
        sqlasession.additional_fields = user_id: Integer index

        [alembic]
        script_location = {tmp_path}/alembic

        [loggers]
        keys = root
        [handlers]
        keys =
        [formatters]
        keys =
        [logger_root]
        level = WARNING
        handlers =
        '''))
    return path


@pytest.mark.parametrize('page', every_block('console'))
def test_commands_run(page, ini, capsys):
    """Each command line with psessions does what it says, without an error."""
    scripts = importlib.import_module('pyramid_sqlasession.scripts')
    assert scripts.main([str(ini), 'table']) == 0
    for command, *args in command_lines(page):
        if command == 'alembic':
            continue  # test_alembic runs these
        assert command == 'psessions'
        args[0] = str(ini)
        if '--all' in args:
            args.append('--yes')
        capsys.readouterr()
        assert scripts.main(args) == 0, args
        assert capsys.readouterr().err == ''


@pytest.mark.parametrize('database', ['sqlite', 'postgresql', 'mariadb'],
                         indirect=True)
def test_sql_blocks_run(make_site):
    """The statements on operating and performance run on each database."""
    site = make_site(additional_fields='user_id: Integer index')
    (block,) = blocks(DOCS / 'operating.rst', 'sql')
    for statement in block.split(';'):
        if statement.strip():
            site.execute(statement)
    if site.engine.dialect.name == 'postgresql':
        (block,) = blocks(DOCS / 'performance.rst', 'postgresql')
        site.execute(block.strip().rstrip(';'))


def test_no_block_is_left_out():
    """Every code block is in a language that is tested here."""
    known = {'console', 'ini', 'mako', 'postgresql', 'python', 'sql'}
    for page in [*PAGES, ROOT / 'README.rst']:
        used = re.findall(
            r'\.\. code-block:: *(\S*)', page.read_text(encoding='utf-8')
        )
        assert set(used) <= known, page


def test_sizes_are_those_that_were_measured():
    """How large it gets is computed from the results."""
    capacity = importlib.import_module('capacity')
    results = ROOT / 'benchmarks' / 'results'
    stored = json.loads((results / 'memory.json').read_text())['stored']
    assert capacity.amount(1.234e12) == '1.23 TB'
    each = stored['mariadb']['total']
    assert [row[-1] for row in capacity.sizes()] == [
        capacity.amount(10**7 * each), capacity.amount(10**9 * each)
    ]
    # 1 % of ten million, each once a minute.
    assert capacity.writes()[0][:3] == ('10,000,000', '1%', '1,667')


# -- README.rst ---------------------------------------------------------------


def readme_table():
    """Return setting to default, from the table in README.rst."""
    text = (ROOT / 'README.rst').read_text(encoding='utf-8')
    return dict(re.findall(r'\* - ``(\S+)``\n +- (.+)\n', text))


def test_readme_lists_every_setting_with_its_default():
    """The settings table in README.rst is that of the code."""
    extension = importlib.import_module('settings_table')
    expected = {s.name: s.default for s in extension.all_settings()}
    assert expected == readme_table()


@pytest.mark.parametrize('page', [ROOT / 'README.rst', DOCS / 'index.rst'],
                         ids=['README', 'index'])
def test_the_first_page_names_what_is_needed(page):
    """The lowest releases are those of setup.py."""
    text = ' '.join(page.read_text(encoding='utf-8').split())
    needed = dict(re.findall(
        r"(python_requires=|pyramid|SQLAlchemy)'?>=([0-9.]+)",
        (ROOT / 'setup.py').read_text().replace("='>", '=>'),
    ))
    assert (
        f'Python >= {needed["python_requires="]}, '
        f'Pyramid >= {needed["pyramid"]} and '
        f'SQLAlchemy >= {needed["SQLAlchemy"]}'
    ) in text


def test_readme_names_files_that_exist():
    """README.rst points into documentation that is there."""
    text = (ROOT / 'README.rst').read_text(encoding='utf-8')
    named = set(re.findall(r'docs/\w+\.rst', text))
    assert named == {
        f'docs/{name}.rst' for name in NAMES if name not in (
            'index', 'changes')
    }


def test_readme_names_make_targets_that_exist():
    """README.rst names commands that the Makefile has."""
    text = (ROOT / 'README.rst').read_text(encoding='utf-8')
    targets = re.findall(
        r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE
    )
    for name in re.findall(r'(?:``|    )make ([a-z-]+)', text):
        assert name in targets


@pytest.mark.parametrize('settings', [0, 1])
def test_readme_set_up(settings, tmp_path, monkeypatch, engine):
    """An application set up in each of README.rst's ways counts visits."""
    _, main, view, model = blocks(ROOT / 'README.rst', 'python')
    parser = configparser.ConfigParser()
    parser.read_string(
        blocks(ROOT / 'README.rst', 'ini')[settings]
        .replace('myapp', 'readmeapp')
    )
    package = tmp_path / 'readmeapp'
    (package / 'models').mkdir(parents=True)
    for name, text in {
        '__init__': f'from pyramid.config import Configurator\n\n\n{main}',
        'routes': f'{IMPORT}\n\n{view}{ROUTES}',
        'models/__init__': 'from myapp.models import includeme\n',
        'models/meta': 'from myapp.models import Base\n',
    }.items():
        (package / f'{name}.py').write_text(text)
    if 'model' in ''.join(parser['app:main']):
        with (package / 'models' / '__init__.py').open('a') as file:
            file.write('from .session import Session\n')
        (package / 'models' / 'session.py').write_text(model)
    monkeypatch.syspath_prepend(str(tmp_path))
    app = importlib.import_module('readmeapp').main({}, **{
        'sqlalchemy.url': str(engine.url), **parser['app:main'],
    })
    base = importlib.import_module('myapp.models').Base
    base.metadata.create_all(engine)
    browser = TestApp(app)
    assert browser.get('/').text == 'You were here 1 times.'
    assert browser.get('/').text == 'You were here 2 times.'
    stop_expiring_sessions(app)
    app.registry['dbsession_factory'].kw['bind'].dispose()
    for name in [n for n in sys.modules if n.startswith('readmeapp')]:
        del sys.modules[name]


IMPORT = 'from pyramid.response import Response\n'
ROUTES = '''

def includeme(config):
    config.add_route('hello', '/')
    config.add_view(hello, route_name='hello')
'''


# -- development.ini ----------------------------------------------------------


def test_development_ini_explains_every_setting():
    """Each setting is in development.ini, under a title, with a sentence."""
    extension = importlib.import_module('settings_table')
    shown = extension.all_settings()
    assert {s.name for s in shown} == {*_READERS, 'engine.*'}
    for setting in shown:
        assert setting.group, setting
        assert len(setting.text) > len('It.'), setting


def test_development_ini_shows_values_that_work():
    """What is set, and what is commented out, is accepted by the code."""
    text = (ROOT / 'development.ini').read_text(encoding='utf-8')
    for name, value in re.findall(
        r'^(?:# )?sqlasession\.(\w+) = (.+)$', text, re.MULTILINE
    ):
        value = value.replace('%(here)s', '/srv')
        if name in ('expiration', 'secret'):
            assert _READERS[name](value)
        else:
            _READERS[name](value)


def test_development_ini_parses(monkeypatch):
    """The demo's settings are read as they stand in development.ini."""
    monkeypatch.syspath_prepend(str(ROOT))
    parser = configparser.ConfigParser(defaults={'here': str(ROOT)})
    parser.read(ROOT / 'development.ini', encoding='utf-8')
    settings = read_settings(dict(parser['app:main']))
    assert settings.secret
    assert 'user_id' in [field.name for field in settings.additional_fields]


# -- the pages as a whole -----------------------------------------------------


def test_every_page_is_in_the_table_of_contents():
    """No page can be found by its address alone."""
    index = (DOCS / 'index.rst').read_text(encoding='utf-8')
    linked = re.findall(r'^   (\w+)$', index, re.MULTILINE)
    assert sorted(linked) == sorted(set(NAMES) - {'index'})
    assert not list((DOCS / '_ext').glob('*.rst'))


def test_every_example_is_shown():
    """No file below docs/examples is without a page."""
    shown = set()
    for page in PAGES:
        for name in re.findall(
            r'literalinclude:: (\S+)', page.read_text(encoding='utf-8')
        ):
            assert (DOCS / name).is_file(), name
            shown.add((DOCS / name).resolve())
    shown.discard(ROOT / 'development.ini')
    files = {
        path for path in EXAMPLES.rglob('*.py')
        if '__pycache__' not in path.parts
    }
    assert files == shown


def test_included_parts_exist():
    """Each ``:start-after:``, ``:end-before:``, ``:pyobject:`` is found."""
    for page in PAGES:
        text = page.read_text(encoding='utf-8')
        for name, options in re.findall(
            r'literalinclude:: (\S+)\n((?: +:.*\n)*)', text
        ):
            source = (DOCS / name).read_text(encoding='utf-8')
            for option, value in re.findall(r':([\w-]+): (.+)', options):
                if option in ('start-after', 'end-before'):
                    assert value in source, (page, name)
                elif option == 'pyobject':
                    assert f'{value}(' in source, (page, name)


def test_every_module_is_explained():
    """The page of the modules has each of them in one place, with words."""
    text = (DOCS / 'inside.rst').read_text(encoding='utf-8')
    listed = {}
    for folder, names in re.findall(
        r'module-list::(.*)\n\n((?:   .+\n)+)', text
    ):
        listed.setdefault(folder.strip(), []).extend(names.split())
    package = Path(pyramid_sqlasession.__file__).parent
    assert sorted(listed['']) == sorted([
        'scripts', *(
            path.stem for path in package.glob('*.py')
            if path.stem != '__init__'
        ),
    ])
    module_list = importlib.import_module('module_list')
    for folder, names in listed.items():
        assert module_list.as_rst(folder or module_list.PACKAGE, names)


def test_api_lists_every_public_name():
    """The API page has all of ``__all__``."""
    text = (DOCS / 'api.rst').read_text(encoding='utf-8')
    listed = set(re.findall(r'pyramid_sqlasession\.(\w+)', text))
    # With its event.
    interfaces = {f'I{name}' for name in listed}
    assert set(pyramid_sqlasession.__all__) <= listed | interfaces


#: The number of a promise, in a comment or a docstring.
PROMISE = re.compile(r'\b(?:[RTCED]\d{1,2}|Section \d)\b')


def promises():
    """Return the numbers that docs/promises.rst explains, as listed."""
    text = (DOCS / 'promises.rst').read_text(encoding='utf-8')
    return re.findall(r'^\*\*(.+)\*\*\n    \S', text, re.MULTILINE)


def docstrings(pattern):
    """Yield place and text of each docstring in such files of tests/.

    A function without one has an empty text.
    """
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for file in sorted((ROOT / 'tests').rglob(pattern)):
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if isinstance(node, (ast.Module, ast.ClassDef, *functions)):
                yield (
                    f'{file.name}::{getattr(node, "name", "")}',
                    ast.get_docstring(node, clean=False) or '',
                )


def test_every_cited_promise_is_on_the_page():
    """Every promise that is cited is on the page."""
    known = promises()
    package = Path(pyramid_sqlasession.__file__).parent
    texts = [
        (file.name, file.read_text(encoding='utf-8'))
        for file in sorted(package.rglob('*.py'))
    ]
    missing = [
        (place, number)
        for place, text in [*texts, *docstrings('*.py')]
        for number in PROMISE.findall(text)
        if number not in known
    ]
    assert missing == []


def test_every_promise_is_tested():
    """Each promise on the page is there once, and a test cites it."""
    cited = {
        number
        for place, text in docstrings('test_*.py')
        if '::test_' in place
        for number in PROMISE.findall(text)
    }
    assert sorted(promises()) == sorted(cited)


def test_every_test_says_what_it_shows():
    """Each test has a docstring of one line, and no more."""
    assert [
        place for place, text in docstrings('test_*.py')
        if '::test_' in place and len(text.splitlines()) != 1
    ] == []


def test_changes_begin_with_what_is_not_released():
    """The change log has the next version on top, in Pylons' form."""
    text = (ROOT / 'CHANGES.rst').read_text(encoding='utf-8')
    assert re.match(r'Changes\n=+\n\nunreleased\n-+\n', text)


# -- docs/examples ------------------------------------------------------------


def test_minimal(tmp_path, monkeypatch):
    """docs/examples/minimal.py is a whole application."""
    monkeypatch.chdir(tmp_path)
    served = []

    class Server:
        def __init__(self, app):
            self.app = app

        def serve_forever(self):
            served.append(self.app)

    monkeypatch.setattr(
        'wsgiref.simple_server.make_server',
        lambda host, port, app: Server(app),
    )
    runpy.run_path(str(EXAMPLES / 'minimal.py'), run_name='__main__')
    (app,) = served
    browser = TestApp(app)
    assert browser.get('/').text == 'You were here 1 times.'
    assert browser.get('/').text == 'You were here 2 times.'
    stop_expiring_sessions(app)
    app.registry['sqlasession'].engine.dispose()


def test_login_changes_the_token_and_keeps_the_cart(app, ada, engine):
    """The login of the guide: new token, same session, user in the column."""
    browser = Browser(app)
    browser.send('/put', item='tea')
    before = browser.cookies['session']
    browser.login()
    assert browser.cookies['session'] != before
    assert browser.get('/cart').json == {'cart': ['tea']}
    assert browser.user == ada
    assert [row['user_id'] for row in rows(engine)] == [ada]


def test_login_with_a_wrong_password(app, ada):
    """The login of the guide refuses."""
    browser = Browser(app)
    answer = browser.send('/login', 422, name='ada', password='byron')
    assert 'error' in answer.json
    assert browser.user is None


def test_logout_ends_the_session(app, ada, engine):
    """The logout of the guide leaves only the good-bye, in a new session."""
    browser = Browser(app)
    browser.login()
    (before,) = rows(engine)
    browser.send('/logout')
    (after,) = rows(engine)
    assert after['id'] != before['id']
    assert browser.get('/').json['messages'] == ['Good-bye.']
    assert browser.user is None


def test_remember_me(make_app, ada):
    """The cookie and the session live 30 days, within the absolute limit."""
    app = make_app(absolute_timeout='60d')
    browser = Browser(app)
    answer = browser.login(remember_me='1')
    assert 'Max-Age=2592000' in answer.headers['Set-Cookie']
    now = app.registry['sqlasession'].now
    app.registry['sqlasession'].now = lambda: now() + timedelta(days=29)
    assert browser.user == ada
    app.registry['sqlasession'].now = lambda: now() + timedelta(days=61)
    assert browser.user is None


def test_remember_me_no_more(make_app, ada):
    """Who logs in again without the box is not remembered any more."""
    app = make_app(absolute_timeout='60d')
    browser = Browser(app)
    browser.login(remember_me='1')
    answer = browser.login()
    assert 'Max-Age=86400' in answer.headers['Set-Cookie']
    now = app.registry['sqlasession'].now
    app.registry['sqlasession'].now = lambda: now() + timedelta(hours=25)
    assert browser.user is None


def test_sudo_mode(app, ada, engine):
    """A login that is not recent has to be confirmed, then it is."""
    browser = Browser(app)
    browser.login()
    now = app.registry['sqlasession'].now
    app.registry['sqlasession'].now = lambda: now() + timedelta(minutes=16)
    browser.send('/delete_account', 403)
    browser.send('/confirm', 403, password='byron')
    before = browser.cookies['session']
    browser.send('/confirm', password='lovelace')
    assert browser.cookies['session'] != before
    browser.send('/delete_account')
    assert rows(engine, 'users') == []
    assert rows(engine) == []


def test_change_of_the_password(app, ada):
    """The other sessions end, this one has a new token."""
    here, there = Browser(app), Browser(app)
    here.login()
    there.login()
    before = here.cookies['session']
    here.send('/change_password', 403, old='byron', new='x')
    here.send('/change_password', old='lovelace', new='enchantress')
    assert here.cookies['session'] != before
    assert (here.user, there.user) == (ada, None)
    there.send('/login', 422, name='ada', password='lovelace')


def test_log_out_everywhere_and_elsewhere(app, ada):
    """All sessions of the user end, or all but this one."""
    here, there = Browser(app), Browser(app)
    here.login()
    there.login()
    here.send('/logout_elsewhere')
    assert (here.user, there.user) == (ada, None)
    there.login()
    here.send('/logout_everywhere')
    assert (here.user, there.user) == (None, None)


def test_devices(app, ada):
    """The list shows both browsers, and ends one of them."""
    here = Browser(app, extra_environ={'REMOTE_ADDR': '192.0.2.7'})
    there = Browser(app)
    here.login()
    there.login()
    found = here.get('/devices').json['devices']
    assert [device['is_this_one'] for device in found] == [False, True]
    assert found[1]['address'] == '192.0.2.7'
    here.send('/logout_device', id=found[0]['id'])
    assert there.user is None
    here.send('/logout_device', 404, id=found[0]['id'])
    Browser(app).get('/devices', status=403)


def test_devices_while_the_database_is_away(make_app, ada, engine, tmp_path):
    """D1: pyramid_tm is told that nobody is logged in, the visitor is not."""
    browser = Browser(make_app())
    browser.login()
    engine.dispose()
    database = tmp_path / 'docs.sqlite'
    database.rename(tmp_path / 'away')
    database.mkdir()
    browser.get('/devices', status=503)
    browser.get('/', status=503)
    database.rmdir()
    (tmp_path / 'away').rename(database)
    assert len(browser.get('/devices').json['devices']) == 1


def test_checkout_that_fails(app, engine):
    """Nothing of it stays but the words of the exception view."""
    browser = Browser(app)
    browser.send('/put', item='tea')
    browser.get('/')
    browser.send('/checkout', card='broken')
    assert browser.get('/').json['messages'] == [
        'Your card was declined. Nothing was ordered.'
    ]
    assert browser.get('/cart').json == {'cart': ['tea']}
    assert rows(engine, 'orders') == []
    browser.send('/checkout', card='good')
    assert browser.get('/').json['messages'] == ['Thank you for your order.']
    assert [row['item'] for row in rows(engine, 'orders')] == ['tea']


@pytest.mark.parametrize(('other', 'orders'), [
    ({}, 1), ({'conflict': 'merge'}, 2),
])
def test_two_checkouts_at_once(make_app, engine, monkeypatch, other, orders):
    """C2: a double click orders once by the page's settings, not by merge."""
    (block,) = blocks(DOCS / 'example.rst', 'ini')
    parser = configparser.ConfigParser()
    parser.read_string(block)
    settings = {
        name.removeprefix('sqlasession.'): value
        for name, value in parser['app:main'].items()
        if name.startswith('sqlasession.')
    }
    browser = Browser(make_app(**{**settings, **other}))
    browser.send('/put', item='tea')
    token = browser.get('/').json['csrf_token']
    asked = []

    def click():
        browser.post(
            '/checkout', {'card': 'good', 'csrf_token': token}, status=303
        )

    def charge(card):
        asked.append(card)
        if len(asked) == 1:
            # The other one comes and goes meanwhile.
            click()

    monkeypatch.setattr(
        importlib.import_module('myapp.shop'), 'charge', charge
    )
    click()
    assert len(asked) == 2
    assert [row['item'] for row in rows(engine, 'orders')] == ['tea'] * orders
    thanks = 'Thank you for your order.'
    assert browser.get('/').json['messages'] == (
        [thanks, 'Your cart is empty.'] if orders == 1 else [thanks, thanks]
    )


def test_a_conflict_in_the_last_attempt(make_app, engine, monkeypatch):
    """T5: the view of the page answers 409; only its last words are there."""
    browser = Browser(make_app(conflict='retry'))
    browser.send('/put', item='tea')
    attempts = []

    def charge(card):
        attempts.append(card)
        browser.send('/put', item='cup')

    monkeypatch.setattr(
        importlib.import_module('myapp.shop'), 'charge', charge
    )
    browser.send('/checkout', 409, card='good')
    assert len(attempts) == 3
    assert browser.get('/').json['messages'] == [
        'Too much at once. Please try again.'
    ]
    assert rows(engine, 'orders') == []
    assert browser.get('/cart').json == {'cart': ['tea', *['cup'] * 3]}


def test_own_model(make_app, ada, engine):
    """The settings page's class is used, and its row ends with the user's."""
    app = make_app(
        model='myapp.models.UserSession', additional_fields=None,
        create_table=None,
    )
    browser = Browser(app, extra_environ={'HTTP_USER_AGENT': 'x' * 300})
    browser.login()
    (row,) = rows(engine, 'user_sessions')
    assert (row['user_id'], row['user_agent']) == (ada, 'x' * 256)
    column = importlib.import_module('myapp.models').UserSession.user_id
    (key,) = column.property.columns[0].foreign_keys
    assert key.ondelete == 'CASCADE'


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
def test_own_model_in_a_latin1_database(database):
    """The settings page's class holds whatever a browser says that it is."""
    engine = database.create_engine()
    with engine.begin() as connection:
        connection.exec_driver_sql('ALTER DATABASE CHARACTER SET latin1')
    models = importlib.import_module('myapp.models')
    models.Base.metadata.create_all(engine)
    app = importlib.import_module('myapp').main({}, dbengine=engine, **{
        'sqlasession.model': 'myapp.models.UserSession',
        'sqlasession.extend_default_fields': 'myapp.sessions.device_fields',
        'sqlasession.check_expiration_interval': '0',
    })
    agent = ''.join(map(chr, range(0x80, 0x100)))
    browser = Browser(app, extra_environ={'HTTP_USER_AGENT': agent})
    browser.send('/put', item='tea')
    assert [row['user_agent'] for row in rows(engine, 'user_sessions')] == [
        agent
    ]


def test_engine_function(make_app, engine):
    """The function of the start page is called with the registry."""
    app = make_app(create_table=False)
    app.registry['myapp.engine'] = engine
    function = importlib.import_module('myapp.models').session_engine
    assert function(app.registry) is engine


def test_own_serializer(make_app, engine):
    """The compressing serializer stores bytes and reads them back."""
    browser = Browser(make_app(serializer='serializer.CompressedJSON'))
    browser.send('/put', item='tea' * 1000)
    assert browser.get('/cart').json == {'cart': ['tea' * 1000]}
    (row,) = rows(engine)
    assert len(row['data']) < 1000
    bomb = importlib.import_module('zlib').compress(b' ' * 17 * 1024 * 1024)
    with pytest.raises(ValueError, match='too large'):
        importlib.import_module('serializer').CompressedJSON().loads(bomb)


def test_another_serializer_logs_nobody_out(make_app, engine, caplog):
    """R8: in the steps of the page processes read what the others write."""
    steps = [
        make_app(serializer=serializer) for serializer in (
            'json', 'serializer.StillJSON', 'serializer.CompressedJSON'
        )
    ]
    browser = Browser(steps[0])
    bought, forms = [], set()
    for one, other in itertools.pairwise(steps):
        for browser.app in (one, other, one, other):
            bought.append(f'tea {len(bought)}')
            browser.send('/put', item=bought[-1])
            assert browser.get('/cart').json == {'cart': bought}
            (row,) = rows(engine)
            forms.add(row['data'][0])
    assert forms == {'{', 'b'}
    assert not [line for line in caplog.records if line.levelname == 'ERROR']


def test_tests_of_the_testing_page():
    """The fixtures and tests of the testing page pass as they are shown."""
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider',
         *_plugin(), '-c', os.devnull, '--rootdir', str(EXAMPLES),
         str(EXAMPLES / 'tests')],
        env={
            **os.environ,
            'PYTHONPATH': os.pathsep.join([str(EXAMPLES), str(ROOT)]),
            'PYTHONDONTWRITEBYTECODE': '1',
        },
        capture_output=True, text=True, check=False, timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _plugin():
    # The entry point is there only if the package was installed.
    entry_points = importlib.import_module('importlib.metadata').entry_points
    names = [e.name for e in entry_points(group='pytest11')]
    if 'pyramid_sqlasession' in names:
        return []
    return ['-p', 'pyramid_sqlasession.pytest_plugin']


def test_emphasized_lines_of_the_testing_page():
    """The lines that are marked are those about sessions."""
    text = (DOCS / 'testing.rst').read_text(encoding='utf-8')
    (marked,) = re.findall(
        r'tests/conftest\.py\n.*\n   :lines: 3-\n   :emphasize-lines: (.+)',
        text,
    )
    lines = (EXAMPLES / 'tests' / 'conftest.py').read_text().splitlines()[2:]
    for span in marked.split(', '):
        first, _, last = span.partition('-')
        shown = ' '.join(lines[int(first) - 1:int(last or first)])
        assert 'session' in shown


def test_a_dummy_request_logs_nobody_in_or_out():
    """Section 3: what the testing page says of Pyramid's DummyRequest."""
    helper = SessionAuthenticationHelper()
    with testing.testConfig():
        request = testing.DummyRequest()
        for refused in (lambda: helper.remember(request, 7),
                        lambda: helper.forget(request)):
            with pytest.raises(SessionError, match='DummySession'):
                refused()
        request.session['user_id'] = 7
        assert helper.authenticated_userid(request) == 7
        assert not helper.fresh(request, '15m')


@pytest.mark.parametrize('makes_a_request', [True, False])
def test_a_job_in_a_test(app, engine, makes_a_request):
    """T7: a request of its own sees no row of the test, and cannot write."""
    @sa.event.listens_for(engine, 'connect')
    def wait_briefly(connection, record):
        connection.execute('PRAGMA busy_timeout = 10')

    def job(request):
        store = request.session_store
        return len(store.find(user_id=7)), store.revoke_where(user_id=7)

    engine.dispose()
    tm = TransactionManager(explicit=True)
    tm.begin()
    models = importlib.import_module('myapp.models')
    dbsession = models.get_tm_session(app.registry['dbsession_factory'], tm)
    log_in(TestApp(app, extra_environ={
        'tm.active': True, 'tm.manager': tm, 'app.dbsession': dbsession,
    }), user_id=7)
    with prepare(registry=app.registry) as env:
        request = env['request']
        if makes_a_request:
            with request.tm:
                assert request.session_store.find(user_id=7) == []
            with pytest.raises(SessionStoreUnavailable), request.tm:
                job(request)
        else:
            # As the cookiecutter's app_request.
            request.dbsession, request.tm = dbsession, tm
            assert job(request) == (1, 1)
    tm.abort()


def test_a_table_that_a_killed_run_has_left(engine):
    """The lines of the testing page have drop_all remove it."""
    (block,) = [
        one for one in blocks(DOCS / 'testing.rst', 'python')
        if 'session_model(' in one
    ]
    base = importlib.import_module('myapp.models').Base
    fields = 'user_id: Integer index'
    left = sa.MetaData()
    session_model(left, fields=fields)
    left.create_all(engine)
    base.metadata.drop_all(engine)
    assert sa.inspect(engine).get_table_names() == ['sessions']
    for _ in range(2):
        exec(block, {  # noqa: S102
            'app_settings': {'sqlasession.additional_fields': fields},
            'Base': base,
        })
    base.metadata.drop_all(engine)
    assert sa.inspect(engine).get_table_names() == []


# -- migrating ----------------------------------------------------------------


ENV_PY = '''
connection = __import__('sqlalchemy').create_engine(
    settings['sqlalchemy.url']).connect()
context.configure(connection=connection, target_metadata=target_metadata)
with context.begin_transaction():
    context.run_migrations()
connection.close()
'''


@pytest.mark.parametrize('page', ['start', 'migrating'])
def test_alembic(page, tmp_path, ini, monkeypatch):
    """Each page's commands make the table; a second run finds nothing."""
    config = importlib.import_module('alembic.config')
    models = importlib.import_module('myapp.models')
    folder = tmp_path / 'alembic'
    (folder / 'versions').mkdir(parents=True)
    env = (EXAMPLES / 'alembic_env.py').read_text()
    if page == 'start':
        importlib.import_module('session_model')
        env = env.partition('# begin')[0]
    (folder / 'env.py').write_text(env + ENV_PY)
    (mako,) = blocks(DOCS / f'{page}.rst', 'mako')
    template = Path(config.__file__).parent / 'templates' / 'generic'
    text = (template / 'script.py.mako').read_text()
    (folder / 'script.py.mako').write_text(
        text.replace('import sqlalchemy as sa\n',
                     f'import sqlalchemy as sa\n{mako}')
    )
    engine = sa.create_engine(f'sqlite:///{tmp_path}/docs.sqlite')
    models.Base.metadata.drop_all(engine)
    monkeypatch.chdir(tmp_path)
    for command, *args in command_lines(DOCS / f'{page}.rst'):
        if command == 'alembic':
            config.main(args)
    config.main(['-c', str(ini), 'check'])
    # The page on the API says that these stay.
    (revision,) = (folder / 'versions').glob('*.py')
    assert set(
        re.findall(r'pyramid_sqlasession\.model\.(\w+)', revision.read_text())
    ) == {'PublicId', 'UTCDateTime'}
    tables = set(sa.inspect(engine).get_table_names())
    assert {'sessions', 'user_sessions', 'users'} <= tables
    columns = [c['name'] for c in sa.inspect(engine).get_columns('sessions')]
    assert ('user_id' in columns) == (page == 'migrating')
    engine.dispose()


def test_a_column_that_comes_later(make_app, ada, engine):
    """A login of before the column is found by it after a change only."""
    browser = Browser(make_app(
        additional_fields=None, extend_default_fields=None,
    ))
    browser.login()
    with engine.begin() as connection:
        connection.execute(
            sa.text('ALTER TABLE sessions ADD COLUMN user_id INTEGER')
        )
    app = make_app(
        additional_fields='user_id: Integer', extend_default_fields=None,
    )
    later = Browser(app, cookiejar=browser.cookiejar)

    def found():
        with prepare(registry=app.registry) as env, env['request'].tm:
            return env['request'].session_store.find(user_id=ada)

    assert later.get('/cart').json == {'cart': []}
    assert found() == []
    later.send('/put', item='tea')
    assert [record.data['cart'] for record in found()] == [['tea']]


@pytest.mark.parametrize('signed', [False, True])
def test_another_name_of_the_cookie(make_app, engine, ada, signed):
    """R4: the tween sends it by its new name, and nobody is logged out."""
    secret = {'secret': 'x' * 32} if signed else {}
    environ = {
        'wsgi.url_scheme': 'https', 'HTTP_ORIGIN': 'https://localhost',
    }
    browser = Browser(make_app(**secret), extra_environ=environ)
    browser.login()
    before = browser.get('/').json
    browser.app = make_app(
        includes='renaming', cookie_name='__Host-session',
        cookie_secure='true', **secret,
    )
    # Beside that of a neighbour, which comes later.
    neighbours = browser.cookies['session'] + '; session=eyJ'
    assert Browser(browser.app, extra_environ={
        **environ, 'HTTP_COOKIE': f'session={neighbours}',
    }).user == ada
    answer = browser.get('/devices')
    assert answer.headers['Set-Cookie'].startswith('__Host-session=')
    assert len(rows(engine)) == len(answer.json['devices']) == 1
    assert browser.get('/').json == before
    value = browser.cookies['session']
    del browser.cookies['session']
    assert browser.user == ada
    browser.send('/logout')
    thief = Browser(browser.app, extra_environ={
        **environ, 'HTTP_COOKIE': f'session={value}',
    })
    assert thief.user is None


# -- operating ----------------------------------------------------------------


def test_events_are_told(tmp_path, caplog):
    """The subscribers of the page on operating are called."""
    browser = counter_app(f'sqlite:///{tmp_path}/events.sqlite', 'watching')
    caplog.set_level('INFO', 'watching')
    browser.get('/')
    cookie = next(iter(browser.cookiejar))
    token = cookie.value
    cookie.value = f'{token[:-8]}AAAAAAAA'
    browser.get('/')
    # The subscriber has warned in this minute.
    forged = f'session={token[:-8]}BBBBBBBB'
    TestApp(browser.app, extra_environ={'HTTP_COOKIE': forged}).get('/?out')
    browser.get('/?out')
    said = [r.getMessage() for r in caplog.records if r.name == 'watching']
    assert [re.sub(r'[0-9a-f-]{36}', 'ID', text) for text in said] == [
        'SessionCreated ID',
        'None: a cookie with a wrong secret',
        'SessionCreated ID',
        'SessionInvalidated ID',
    ]
    assert token not in ''.join(said)
    browser.app.registry['sqlasession'].engine.dispose()


def test_database_in_memory():
    """SQLite in memory does for a first look, and for tests."""
    browser = counter_app('sqlite://')
    assert browser.get('/').text == '1'
    assert browser.get('/').text == '2'
    assert browser.app.registry['sqlasession'].cleaner is None
    browser.app.registry['sqlasession'].engine.dispose()


def counter_app(url, *includes):
    """Return a browser for an application that counts."""
    config = Configurator(settings={
        'sqlalchemy.url': url,
        'sqlasession.create_table': True,
    })
    for name in ('pyramid_sqlasession', *includes):
        config.include(name)

    def view(request):
        if 'out' in request.GET:
            request.session.invalidate()
            return Response()
        request.session['n'] = request.session.get('n', 0) + 1
        return Response(str(request.session['n']))

    config.add_route('any', '/')
    config.add_view(view, route_name='any')
    return TestApp(config.make_wsgi_app())


def test_toolbar_panel(make_app):
    """The setting of the page on operating adds the panel."""
    (block,) = [
        block for block in blocks(DOCS / 'operating.rst', 'ini')
        if 'debugtoolbar' in block
    ]
    parser = configparser.ConfigParser()
    parser.read_string(block)
    config = Configurator(settings={
        'sqlalchemy.url': 'sqlite://', **parser['app:main'],
    })
    config.include('pyramid_sqlasession')
    config.add_route('any', '/')
    config.add_view(
        lambda request: Response('<html><body></body></html>'),
        route_name='any',
    )
    browser = TestApp(
        config.make_wsgi_app(), extra_environ={'REMOTE_ADDR': '127.0.0.1'}
    )
    toolbar = browser.get('/').html.find('a', href=True)['href']
    assert 'sqlasession' in browser.get(toolbar).text.lower()


def test_the_source_names_the_metrics():
    """Who reads the source of the page finds what is built there."""
    text = (DOCS / 'operating.rst').read_text(encoding='utf-8')
    (listed,) = re.findall(r'\.\. metric-list::\n\n((?:   .+\n)+)', text)
    assert listed.split() == [
        name for name, _, _ in importlib.import_module('metric_list').metrics()
    ]


def test_metrics_are_those_of_the_code():
    """The list of metrics is made of what the code creates."""
    names = [
        name for name, _, _ in importlib.import_module('metric_list').metrics()
    ]
    assert len(names) == len(set(names)) > 5


def test_attributes_of_metrics_are_those_of_the_code():
    """Each attribute is there, with its values, at metrics that exist."""
    extension = importlib.import_module('metric_list')
    known = {name for name, _, _ in extension.metrics()}
    values = {one.name: set(one.values) for one in extension.ATTRIBUTES}
    assert set(values) == {
        value for value in vars(metrics).values()
        if isinstance(value, str) and value.startswith('sqlasession.')
    }
    for one in extension.ATTRIBUTES:
        assert {f'sqlasession.{name}' for name in one.metrics} <= known
    assert values['sqlasession.save.kind'] == set(KINDS)
    assert values['sqlasession.drop.reason'] == set(DROPS)


def test_page_for_an_unavailable_database(tmp_path):
    """The exception view of the page on operating answers with 503."""
    config = Configurator(settings={
        'sqlalchemy.url': f'sqlite:///{tmp_path}/none/none.sqlite',
        'sqlasession.check_expiration_interval': 0,
    })
    config.include('pyramid_sqlasession')
    config.include('unavailable')
    config.add_route('any', '/{name}')

    def view(request):
        if request.matchdict['name'] == 'with':
            request.session['n'] = 1
        return Response('ok')

    config.add_view(view, route_name='any')
    browser = TestApp(config.make_wsgi_app())
    assert browser.get('/without').text == 'ok'
    answer = browser.get('/with', status=503)
    assert answer.headers['Retry-After'] == '30'


def test_sqlite_engine(tmp_path):
    """The engine of the page on operating has WAL, waits, has foreign keys."""
    engine = importlib.import_module('sqlite_engine').get_engine(
        {'sqlalchemy.url': f'sqlite:///{tmp_path}/wal.sqlite'}
    )
    with engine.connect() as connection:
        mode = connection.exec_driver_sql('PRAGMA journal_mode').scalar()
        wait = connection.exec_driver_sql('PRAGMA busy_timeout').scalar()
        keys = connection.exec_driver_sql('PRAGMA foreign_keys').scalar()
    engine.dispose()
    assert (mode, wait, keys) == ('wal', 30000, 1)


def messages():
    """Return what the package can log above INFO, with … for what varies."""
    calls = [
        node
        for path in (ROOT / 'pyramid_sqlasession').glob('*.py')
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
        if isinstance(node, ast.Call) and re.fullmatch(
            r'log\.(log|warning|error|exception)', ast.unparse(node.func)
        )
    ]
    texts = [
        re.sub('%[sr]', '…', arg.value)
        for call in calls for arg in call.args
        if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
    ]
    # Those of advice.py and notices.py are on the page on security.
    return [text for text in texts if text != '…']


def test_messages_of_the_log_are_listed():
    """What the log can say is on the page on operating, and nothing else."""
    text = (DOCS / 'operating.rst').read_text(encoding='utf-8')
    _, *tables = re.split(r'   \* - (?:warning|error)\n', text)
    listed = [
        ' '.join(literal.split()).strip(' …')
        for table in tables
        for cell in re.findall(
            r'\* - (.*?)\n     - ', table.split('\n\n')[0], re.DOTALL
        )
        for literal in re.findall('``(.+?)``', cell, re.DOTALL)
    ]
    said = messages()
    assert [one for one in listed if not any(one in m for m in said)] == []
    assert [m for m in said if not any(one in m for one in listed)] == []


@pytest.mark.parametrize('page', PAGES, ids=NAMES)
def test_settings_that_a_page_names_exist(page):
    """No page speaks of a setting that the code does not know."""
    text = page.read_text(encoding='utf-8')
    # With a part more it is a metric, or a setting of the engine.
    for name in re.findall(r'sqlasession\.([a-z_]+)\b(?!\.[a-z])', text):
        # The API page has module names behind the same word.
        if page.name == 'changes.rst' or f'pyramid_sqlasession.{name}' in text:
            continue
        assert name in {*_READERS, 'engine'}, name
