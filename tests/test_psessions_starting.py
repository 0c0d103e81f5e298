"""``psessions``: which application of which ini file, and how it starts."""

import subprocess
import sys

from pyramid.threadlocal import manager
import pytest

from pyramid_sqlasession import scripts
from pyramid_sqlasession.application import found_in
from pyramid_sqlasession.cleaner import running_cleaners
from pyramid_sqlasession.scripts import starting

from .psessions import CALL
from .psessions import HOUR
from .psessions import NOBODY
from .psessions import ROOT
from .psessions import shop


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


def test_several_applications_of_the_file(in_file):
    """Of several with sessions one is named; where there is one, it is it."""
    in_file.ini.write_text(f"""
        [composite:main]
        use = {CALL}:several
        shop = shop
        news = news
        [composite:both]
        use = {CALL}:several
        shop = shop
        other = other
        [app:shop]
        use = {CALL}:shop
        sqlalchemy.url = {in_file.application.engine.url}
        [app:other]
        use = {CALL}:shop
        sqlalchemy.url = sqlite://
        [app:news]
        use = {CALL}:bare
    """.replace('        ', ''))
    assert 'no live sessions' in in_file.done('list')
    file = in_file.ini
    in_file.ini = f'{file}#shop'
    assert 'no live sessions' in in_file.done('list')
    in_file.ini = f'{file}#both'
    assert f'{file}#NAME' in in_file.fails(2, 'list')
    in_file.ini = f'{file}#news'
    assert 'pyramid.includes' in in_file.fails(1, 'list')


def test_variables_of_the_file(empty, tmp_path):
    """--var gives what the ini file leaves open."""
    url = f'sqlite:///{tmp_path}/%(name)s.%(end)s'
    empty.ini.write_text(
        f'[app:main]\nuse = {CALL}:shop\nsqlalchemy.url = {url}\n'
    )
    assert 'created' in empty.done(
        '--var', 'name=x', '--var', 'end=sqlite', 'table'
    )
    assert (tmp_path / 'x.sqlite').exists()
    line = empty.fails(2, '--var', 'end=sqlite', 'table')
    assert line == (
        f"psessions: {empty.ini} needs the variable 'name'; give it with "
        f'--var name=VALUE\n'
    )


def test_database_of_their_own(tmp_path, make_command):
    """sqlasession.url is where the command looks, too."""
    made = make_command(
        f'sqlite:///{tmp_path}/shop.sqlite',
        url=f'sqlite:///{tmp_path}/sessions.sqlite',
    )
    made.done('table')
    assert not (tmp_path / 'shop.sqlite').exists()
    assert made.json('stats')['database'].endswith('sessions.sqlite')


def mounting(global_config, **settings):
    """An application that mounts another one, which has sessions too."""
    app = shop(global_config, **settings)
    app.mounted = shop(global_config, **settings)
    return app


def test_an_application_within_another(in_file):
    """It is the sessions of the outer one, not one of two to choose from."""
    in_file.ini.write_text(
        in_file.ini.read_text().replace(
            f'{CALL}:shop', f'call:{__name__}:mounting'
        )
    )
    assert in_file.done('list') == 'no live sessions\n'


def test_the_name_of_the_command(empty, tmp_path):
    """The application can tell who starts it, as with Pyramid's commands."""
    url = f'sqlite:///{tmp_path}/%(__script__)s.sqlite'
    empty.ini.write_text(
        f'[app:main]\nuse = {CALL}:shop\nsqlalchemy.url = {url}\n'
    )
    empty.done('table')
    assert (tmp_path / 'psessions.sqlite').exists()


LOGGING = """
[loggers]
keys = root
[handlers]
keys = file
[formatters]
keys =
[logger_root]
level = INFO
handlers = file
[handler_file]
class = FileHandler
args = (%(log)r,)
"""


def test_logging_of_the_file(in_file, tmp_path):
    """It is that of the ini file; the advice to who serves is not in it."""
    log = tmp_path / 'x.log'
    in_file.write(
        f'sqlite:///{tmp_path}/shop.sqlite', cookie_secure='false',
        check_expiration_interval='0',
    )
    settings = in_file.ini.read_text().replace(
        'sqlalchemy.url', 'sqlalchemy.echo = true\nsqlalchemy.url'
    )
    in_file.ini.write_text(settings + LOGGING.replace('%(log)r', "'%(log)s'"))
    done = subprocess.run(
        [sys.executable, '-m', 'pyramid_sqlasession.scripts',
         str(in_file.ini), '--var', f'log={log}', 'list'],
        cwd=ROOT, check=False, capture_output=True, text=True, timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, '')
    text = log.read_text()
    assert 'FROM sessions' in text
    assert 'cookie_secure' not in text


@pytest.mark.parametrize('args', [['list'], ['show', NOBODY]], ids=' '.join)
def test_nothing_is_left_open(in_file, monkeypatch, args):
    """Neither a connection nor the application as the current one."""
    found = []

    def note(registry):
        found.append(found_in(registry))
        return found[-1]

    monkeypatch.setattr(starting, 'found_in', note)
    before = len(manager.stack)
    assert in_file.run(*args)[0] == (0 if args == ['list'] else 1)
    (application,) = found
    assert application.engine.pool.checkedin() == 0
    assert len(manager.stack) == before


# -- what cannot start --------------------------------------------------------


@pytest.mark.parametrize('args', [['stats'], ['table'], ['table', '--sql']])
def test_missing_ini_file(make_command, args):
    """A file that is not there: its name, code 2."""
    made = make_command()
    made.ini.unlink()
    assert str(made.ini) in made.fails(2, *args)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('nonsense', 'MissingSectionHeaderError'),
        ('[app:main]\nuse = call:no.such:main', 'no'),
        (f'[app:main]\nuse = {CALL}:broken', 'what'),
        (f'[app:main]\nuse = {CALL}:bare', 'pyramid.includes'),
        (f'[app:main]\nuse = {CALL}:shop\n'
         f'sqlalchemy.url = sqlite://\nsqlasession.expiraton = 1h',
         "psessions: sqlasession.expiraton = '1h': unknown setting, did you "
         'mean sqlasession.expiration?'),
    ],
    ids=['no ini', 'no module', 'broken', 'without the package',
         'wrong setting'],
)
def test_ini_file_that_cannot_work(make_command, text, words):
    """An application that cannot start or has no sessions: code 1."""
    made = make_command()
    made.ini.write_text(text)
    assert words in made.fails(1, 'stats')


def leaving(global_config, **settings):
    """An application that ends the process when it misses something."""
    sys.exit('DATABASE is not set')


def test_application_that_leaves(make_command):
    """Its words are the line; its exit code is not that of the command."""
    made = make_command()
    made.ini.write_text(f'[app:main]\nuse = call:{__name__}:leaving\n')
    assert 'does not start: SystemExit: DATABASE is not set: ' in made.fails(
        1, 'stats'
    )


def test_empty_ini_file(make_command):
    """A file without an application: what it lacks, code 2."""
    made = make_command()
    made.ini.write_text('')
    assert 'no section [app:main]' in made.fails(2, 'stats')


def test_traceback_if_asked_for(make_command):
    """--traceback shows where an error of the application came from."""
    made = make_command()
    made.write('sqlite://', use='broken')
    code, _, err = made.run('--traceback', 'stats')
    assert code == 1
    assert 'raise KeyError' in err
    assert err.splitlines()[-1].startswith('psessions: the application of ')


def test_uri_of_a_file_that_cannot_work(make_command):
    """A URI of plaster is no name of a file; the line says what is wrong."""
    made = make_command()
    made.write('sqlite://', use='broken')
    made.ini = f'pastedeploy+ini://{made.ini}'
    line = made.fails(1, 'stats')
    assert line.startswith(
        f'psessions: the application of {made.ini} does not start: KeyError: '
    )
