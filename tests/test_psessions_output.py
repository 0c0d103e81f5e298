"""``psessions``: what it writes to terminals, pipes, closed streams."""

import datetime as dt
import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from pyramid_sqlasession.scripts.output import shown
from pyramid_sqlasession.scripts.progress import Progress

from .psessions import ROOT


def test_colours_on_a_terminal_only(in_file, terminal, monkeypatch):
    """Bold on a terminal, unless NO_COLOR or a dumb one."""
    in_file.new()
    assert '\x1b' not in in_file.run('list')[1]
    terminal()
    assert re.match(r'\x1b\[1mid .*\x1b\[0m\n', in_file.run('list')[1])
    monkeypatch.setenv('NO_COLOR', '1')
    assert '\x1b' not in in_file.run('list')[1]
    monkeypatch.delenv('NO_COLOR')
    monkeypatch.setenv('TERM', 'dumb')
    assert '\x1b' not in in_file.run('list')[1]


def test_bar(capsys):
    """A part of thirty, never more; nothing of it stays."""
    progress = Progress(2000)
    progress.show(1000)
    progress.show(2001)
    progress.clear()
    assert capsys.readouterr().err.split('\r') == [
        '',
        f'[{"#" * 15}{" " * 15}]  50%  1,000 of 2,000',
        f'[{"#" * 30}] 100%  2,001 of 2,000',
        ' ' * 78,
        '',
    ]


@pytest.mark.parametrize('total', [None, 0])
def test_no_bar(capsys, total):
    """Where nobody looks, or there is nothing to do, there is none."""
    progress = Progress(total)
    progress.show(0)
    progress.clear()
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        (None, '-'), (b'\x01\xff', '01ff'), (signal.SIGINT, 'SIGINT'),
        (dt.datetime(2026, 1, 2, 3, 4, 5, 6), '2026-01-02 03:04:05'),
        (dt.timedelta(minutes=1), '0:01:00'), ('ä', 'ä'),
        ('a\x1bb\n', r'a\x1bb\n'),
    ],
    ids=repr,
)
def test_values_to_a_person(value, text):
    """Each is one line, and cannot command the terminal."""
    assert shown(value) == text


#: With it Python would hold back nothing that is written.
ENVIRON = {k: v for k, v in os.environ.items() if k != 'PYTHONUNBUFFERED'}


def _psessions(*args, env=ENVIRON, **options):
    """Run the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, '-m', 'pyramid_sqlasession.scripts', *args],
        cwd=ROOT, text=True, env=env, **options,
    )


def test_process_says_one_line(tmp_path):
    """No warning of an import joins the line, and the exit code is set."""
    process = _psessions(str(tmp_path / 'no.ini'), stderr=subprocess.PIPE)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith('psessions: there is no file ')
    assert err.count('\n') == 1


@pytest.mark.parametrize('args', [['list'], ['list', '--json'], ['stats']])
def test_reader_that_leaves(in_file, args):
    """``psessions … | head`` ends without a word."""
    in_file.new()
    process = _psessions(
        str(in_file.ini), *args, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == ''
    process.stderr.close()
    assert process.wait(60) == 1


@pytest.mark.parametrize('args', [['list'], ['stats', '--json']])
def test_output_that_nobody_takes(in_file, args):
    """A full disk is one line, and the exit code is 1."""
    with open('/dev/full', 'w') as full:
        process = _psessions(
            str(in_file.ini), *args, stdout=full, stderr=subprocess.PIPE
        )
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert 'No space left on device' in err
    assert err.count('\n') == 1


def _with_closed(closed, *args):
    """Run the command as a shell does that closes streams; what it says."""
    return subprocess.run(
        ['/bin/sh', '-c', f'exec "$@" {closed}', 'sh', sys.executable, '-m',
         'pyramid_sqlasession.scripts', *args],
        cwd=ROOT, check=False, capture_output=True, text=True, timeout=60,
        env=ENVIRON,
    )


@pytest.mark.parametrize('closed', ['>&-', '2>&-', '<&- >&- 2>&-'])
def test_closed_streams(in_file, closed):
    """C4: the work is done, although there is nobody to be told."""
    in_file.new(user_id=7)
    done = _with_closed(
        closed, str(in_file.ini), 'revoke', '--field', 'user_id=7'
    )
    assert (done.returncode, done.stderr) == (0, '')
    assert in_file.ids() == set()


def test_closed_streams_and_a_question(in_file):
    """Section 3: --all without a stream to ask at is a wrong call."""
    in_file.new()
    done = _with_closed('<&-', str(in_file.ini), 'revoke', '--all')
    assert done.returncode == 2
    assert 'add --yes' in done.stderr


def test_text_that_the_terminal_has_not(in_file):
    """A letter that the encoding lacks is escaped, no traceback."""
    in_file.new(agent='Grüße')
    process = _psessions(
        str(in_file.ini), 'list', stdout=subprocess.PIPE,
        env={**ENVIRON, 'PYTHONIOENCODING': 'ascii'},
    )
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert 'Gr\\xfc\\xdfe' in out


def test_real_terminal(in_file):
    """On a pseudo terminal --all asks, and takes the answer."""
    in_file.new()
    ours, theirs = pty.openpty()
    process = _psessions(
        str(in_file.ini), 'revoke', '--all', stdin=theirs, stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b''
    while b'[y/N] ' not in seen:
        seen += os.read(ours, 1000)
    assert b'End 1 live session, ' in seen
    os.write(ours, b'y\n')
    while b'ended' not in seen:
        seen += os.read(ours, 1000)
    assert process.wait(60) == 0
    os.close(ours)
