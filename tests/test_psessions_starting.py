"""``psessions``: which application of which ini file, and how it starts."""

import pytest

from pyramid_sqlasession import scripts
from pyramid_sqlasession.cleaner import running_cleaners

from .psessions import CALL
from .psessions import HOUR


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
    url = f'sqlite:///{tmp_path}/%(name)s.sqlite'
    empty.ini.write_text(
        f'[app:main]\nuse = {CALL}:shop\nsqlalchemy.url = {url}\n'
    )
    assert 'created' in empty.done('--var', 'name=x', 'table')
    assert (tmp_path / 'x.sqlite').exists()
    assert '--var name=VALUE' in empty.fails(2, 'table')


def test_database_of_their_own(tmp_path, make_command):
    """sqlasession.url is where the command looks, too."""
    made = make_command(
        f'sqlite:///{tmp_path}/shop.sqlite',
        url=f'sqlite:///{tmp_path}/sessions.sqlite',
    )
    made.done('table')
    assert not (tmp_path / 'shop.sqlite').exists()
    assert made.json('stats')['database'].endswith('sessions.sqlite')


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
        ('', "No section 'main'"),
        ('nonsense', 'MissingSectionHeaderError'),
        ('[app:main]\nuse = call:no.such:main', 'no'),
        (f'[app:main]\nuse = {CALL}:broken', 'what'),
        (f'[app:main]\nuse = {CALL}:bare', 'pyramid.includes'),
        (f'[app:main]\nuse = {CALL}:shop\n'
         f'sqlalchemy.url = sqlite://\nsqlasession.expiraton = 1h',
         'did you mean sqlasession.expiration?'),
    ],
    ids=['empty', 'no ini', 'no module', 'broken', 'without the package',
         'wrong setting'],
)
def test_ini_file_that_cannot_work(make_command, text, words):
    """An application that cannot start or has no sessions: code 1."""
    made = make_command()
    made.ini.write_text(text)
    assert words in made.fails(1, 'stats')


def test_traceback_if_asked_for(make_command):
    """--traceback shows where an error of the application came from."""
    made = make_command()
    made.write('sqlite://', use='broken')
    code, _, err = made.run('--traceback', 'stats')
    assert code == 1
    assert 'raise KeyError' in err
    assert err.splitlines()[-1].startswith('psessions: the application of ')
