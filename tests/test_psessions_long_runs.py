"""``psessions`` on many records: progress, Ctrl-C between batches, memory."""

import signal
import subprocess
import sys
import uuid

import pytest
import sqlalchemy as sa

from pyramid_sqlasession import SessionError
from pyramid_sqlasession.scripts import batches

from .psessions import EXPIRED
from .psessions import HOUR
from .psessions import ROOT
from .psessions import server_error


def test_expire_shows_its_progress_on_a_terminal(
    in_file, terminal, monkeypatch
):
    """A bar on stderr, which is gone in the end."""
    monkeypatch.setattr(batches, 'BATCH', 1)
    in_file.new()
    for _ in range(2):
        in_file.new(ago=48 * HOUR)
    terminal()
    code, out, err = in_file.run('expire')
    assert (code, out) == (0, '2 expired sessions were deleted\n')
    assert '] 100%  2 of 2' in err
    assert '50%  1 of 2' in err
    assert err.endswith(' \r')


@pytest.mark.parametrize(
    ('error', 'words'),
    [
        (KeyboardInterrupt(), 'interrupted: '),
        (OSError('gone'), 'OSError: gone: '),
        (SessionError('wrong'), 'wrong: '),
        (server_error('57P01'), 'the database cannot be used (does it run, '),
        (server_error('42P01'), 'the session table, or one of its columns, '),
        (server_error('57014'), 'the database gave up a statement that took '),
        (server_error('42501'), 'the database refused it: not now: '),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_interrupted_expire_says_how_far_it_came(
    in_file, monkeypatch, error, words
):
    """What was deleted before Ctrl-C, or an error, is told in the line."""
    monkeypatch.setattr(batches, 'BATCH', 1)
    for _ in range(2):
        in_file.new(ago=48 * HOUR)
    commit = batches.commit

    def once(*args):
        monkeypatch.setattr(batches, 'commit', fail)
        return commit(*args)

    def fail(*args):
        raise error

    monkeypatch.setattr(batches, 'commit', once)
    code = 130 if isinstance(error, KeyboardInterrupt) else 1
    line = in_file.fails(code, 'expire')
    assert line.startswith(f'psessions: {words}')
    assert ': 1 were deleted before that' in line
    assert len(in_file.ids()) == 1


@pytest.mark.usefixtures('heeded')
@pytest.mark.parametrize(
    ('args', 'words'),
    [(['expire'], '2 were deleted'), (['revoke', '--all', '--yes'],
     '2 were deleted'), (['revoke'], '2 sessions ended')],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else '',
)
def test_ctrl_c_waits_for_the_batch(stocked, monkeypatch, args, words):
    """It is heard after the batch: nothing by half, and it says how many."""
    monkeypatch.setattr(batches, 'BATCH', 1)
    ago = 48 * HOUR if args == ['expire'] else None
    ids = [stocked.new(ago=ago) for _ in range(4)]
    commit = batches.commit
    turns = []

    def press(*given):
        turns.append(given)
        if len(turns) == 2:
            signal.raise_signal(signal.SIGINT)
        return commit(*given)

    monkeypatch.setattr(batches, 'commit', press)
    EXPIRED.clear()
    line = stocked.fails(130, *args, *(ids if args == ['revoke'] else ()))
    assert f'interrupted: {words} before that' in line
    assert len(stocked.ids()) == 2
    assert [event.count for event in EXPIRED] == (
        [2] if args == ['expire'] else []
    )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures('heeded')
def test_second_ctrl_c_does_not_wait(in_file, monkeypatch):
    """Whoever cannot wait for a batch presses twice."""
    in_file.new(ago=48 * HOUR)

    def press(*given):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    monkeypatch.setattr(batches, 'commit', press)
    assert 'interrupted' in in_file.fails(130, 'expire')
    assert len(in_file.ids()) == 1


def test_ctrl_c_that_is_ignored(in_file, monkeypatch):
    """Under nohup, say, it stays ignored."""
    in_file.new(ago=48 * HOUR)
    commit = batches.commit

    def press(*given):
        signal.raise_signal(signal.SIGINT)
        return commit(*given)

    monkeypatch.setattr(batches, 'commit', press)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert '1 expired session was' in in_file.done('expire')
    finally:
        signal.signal(signal.SIGINT, before)


def _highest(*args):
    """Run the command; return its peak of memory in MiB, and stdout."""
    # Not ru_maxrss, which begins with that of the process that started it.
    code = (
        'import re, sys; from pyramid_sqlasession.scripts import main; '
        'code = main(); text = open("/proc/self/status").read(); '
        'print(re.search(r"VmHWM:\\s+(\\d+) kB", text)[1], file=sys.stderr); '
        'sys.exit(code)'
    )
    process = subprocess.run(
        [sys.executable, '-c', code, *args], cwd=ROOT, text=True,
        capture_output=True, timeout=100,
    )
    assert process.returncode == 0, process.stderr
    return int(process.stderr.split()[-1]) / 1024, process.stdout


@pytest.mark.slow
def test_memory_does_not_grow_with_the_table(stocked):
    """Many rows are listed and deleted in the memory that one takes."""
    stocked.new(text='x' * 2000)
    before, _ = _highest(str(stocked.ini), 'list')
    table = stocked.application.records.table
    with stocked.application.engine.begin() as connection:
        row = dict(connection.execute(sa.select(table)).one()._mapping)
        for _ in range(10):
            connection.execute(
                table.insert(),
                [{**row, 'id': uuid.uuid4()} for _ in range(2000)],
            )
    highest, out = _highest(str(stocked.ini), 'list', '--limit', '200000')
    assert len(out.splitlines()) == 1 + 20_001
    assert highest < before + 8
    highest, out = _highest(str(stocked.ini), 'revoke', '--all', '--yes')
    assert out == '20,001 sessions ended\n'
    assert highest < before + 8
