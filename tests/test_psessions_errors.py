"""``psessions``: what is wrong, in one line and an exit code."""

import io
import sys

import pytest
from sqlalchemy import exc

from pyramid_sqlasession import scripts
from pyramid_sqlasession.scripts.table import DIALECTS

from .psessions import DOWN
from .psessions import NOBODY


@pytest.mark.parametrize(
    ('args', 'words'),
    [
        (['nonsense'], ['invalid choice', 'nonsense', 'revoke', 'expire']),
        (['stats', '--nonsense'], ['--nonsense', '--help']),
        (['show'], ['ID']),
        (['show', 'abc'], ['abc', 'is not the id', 'list']),
        (['revoke', 'abc'], ['abc', 'is not the id']),
        (['revoke'], ['ids', '--field', '--all']),
        (['revoke', NOBODY, '--all'], ['ids', '--field', '--all']),
        (['revoke', '--all'], ['no terminal', '--yes']),
        (['list', '--limit', '0'], ['0', 'from 1 to']),
        (['list', '--limit', 'many'], ['many', 'from 1 to']),
        (['list', '--limit', f'{1 << 31}'], ['from 1 to']),
        (['list', '--field', 'user_id'], ['user_id', 'NAME=VALUE']),
        (['list', '--field', '=7'], ['NAME=VALUE']),
        (['--var', 'x', 'list'], ['--var', 'NAME=VALUE']),
        (['table', '--sql', 'oracle'], ['oracle', *DIALECTS]),
        (['list', '--field', 'user=7'], ['user', 'user_id', 'agent']),
        (['list', '--field', 'secret_hash=7'], ['no additional field']),
        (['list', '--field', 'user_id='], ['user_id', 'a whole number']),
        (['list', '--field', 'user_id=x'], ['user_id', 'a whole number']),
        (['list', '--field', f'user_id={1 << 40}'], ['32 bits']),
        (['list', '--field', 'agent=' + 65 * 'x'], ['at most 64']),
        (['list', '--field', 'admin=maybe'], ['true or false', 'maybe']),
        (['list', '--field', 'born=today'], ['a date such as']),
        (['list', '--field', 'seen=now'], ['a time such as']),
        (['list', '--field', 'seen_at=now'], ['a time such as']),
        (['list', '--field', 'wakes=late'], ['a time such as']),
        (['list', '--field', 'device=phone'], ['a UUID']),
        (['list', '--field', 'price=free'], ['a number']),
        (['list', '--field', 'weight=light'], ['a number']),
        (['list', '--field', 'kind=tv'], ['one of web, app']),
        (['list', '--field', 'stay=long'], ['a duration such as']),
        (['list', '--field', 'print=xyz'], ['hexadecimal']),
        (['list', '--field', 'extra={}'], ['extra', 'cannot search']),
        (['revoke', '--field', 'user_id=x'], ['user_id']),
        (['list', '--field', 'user_id=1', '--field', 'user_id=2'],
         ['user_id', 'twice']),
    ],
    ids=' '.join,
)
def test_wrong_call(in_file, args, words, monkeypatch):
    """One line that names what is wrong and what is allowed; code 2."""
    monkeypatch.setattr(sys, 'stdin', io.StringIO())
    line = in_file.fails(2, *args)
    for word in words:
        assert word in line


def test_no_arguments(capsys):
    """Without an ini file: one line, code 2."""
    assert scripts.main([]) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1
    assert 'INI' in err


def test_the_ini_file_comes_first(capsys):
    """Who writes the command before the file is told the order."""
    assert scripts.main(['list', 'development.ini']) == 2
    assert 'psessions INI COMMAND' in capsys.readouterr().err


# -- the database -------------------------------------------------------------


COMMANDS = [
    ['stats'], ['list'], ['show', NOBODY], ['expire'], ['revoke', NOBODY],
    ['revoke', '--field', 'user_id=7'], ['revoke', '--all', '--yes'],
]


@pytest.mark.parametrize('args', [*COMMANDS, ['table']], ids=' '.join)
def test_database_down(database, make_command, args):
    """Nobody answers: one line without a password, code 1."""
    made = make_command(DOWN[database.name])
    line = made.fails(1, *args)
    assert 'the database cannot be used' in line
    assert 'pass-word' not in line


def test_database_that_refuses_us(make_command, tmp_path):
    """A file that is no database: what the database says, code 1."""
    (tmp_path / 'x.sqlite').write_text('no database ' * 100)
    made = make_command(f'sqlite:///{tmp_path}/x.sqlite')
    assert 'file is not a database' in made.fails(1, 'stats')


@pytest.mark.parametrize('args', COMMANDS, ids=' '.join)
def test_missing_table(empty, args):
    """Without its table each command names the one that makes it."""
    line = empty.fails(1, *args)
    assert 'run the migrations' in line
    assert f'"psessions {empty.ini} table"' in line


def test_busy_pool(make_command, in_file, monkeypatch):
    """A pool without a free connection is a database that does not answer."""
    error = exc.TimeoutError('QueuePool limit')

    def run(args):
        raise error

    monkeypatch.setattr(scripts, '_run', run)
    assert 'QueuePool limit' in in_file.fails(1, 'stats')


# -- others -------------------------------------------------------------------


@pytest.mark.parametrize(
    'args', [('list', '--traceback'), ('--traceback', 'list')], ids=' '.join
)
def test_traceback_wherever_it_stands(in_file, monkeypatch, args):
    """Behind the command too, where one adds it first."""

    def run(args):
        raise KeyError('what now')

    monkeypatch.setattr(scripts, '_run', run)
    code, _, err = in_file.run(*args)
    assert code == 1
    assert 'raise KeyError' in err
    assert 'raise KeyError' not in in_file.run('list')[2]


def test_error_that_nobody_thought_of(in_file, monkeypatch):
    """Also a fault of our own is a line, cut at a length one can read."""

    def run(args):
        raise ZeroDivisionError('x' * 5000)

    monkeypatch.setattr(scripts, '_run', run)
    line = in_file.fails(1, 'stats')
    assert 'ZeroDivisionError' in line
    assert len(line) < 1100
