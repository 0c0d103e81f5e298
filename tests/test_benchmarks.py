"""The tools of benchmarks/ run, each at a tiny size.

What they measure is nobody's business here; that they find a session where
they look for one, they check themselves.
"""

import datetime as dt
import json

import pytest
import sqlalchemy as sa

from benchmarks import growth
from benchmarks import ids
from benchmarks import memory
from benchmarks import outcome
from benchmarks import profile
from benchmarks import report
from benchmarks import run
from benchmarks import serializer
from benchmarks import serve
from benchmarks import settings
from benchmarks import touch
from benchmarks.filling import Rows
from benchmarks.systems import sqlite
from pyramid_sqlasession import session_model
from pyramid_sqlasession.cookie import new_token

# Servers and processes of their own.
pytestmark = pytest.mark.slow

#: tool -> arguments of a run that takes a second or two.
TOOLS = {
    growth: [
        '--rows', '200', '2000', '--other-rows', '200', '400',
        '--rounds', '1', '--requests', '3', '--beside', '20',
    ],
    memory: ['--rows', '500', '--requests', '100'],
    touch: ['--rows', '2000', '--touches', '50', '--batches', '2'],
    ids: ['--rows', '500', '--new', '50'],
    serve: [
        '--servers', 'waitress', '--rounds', '1', '--seconds', '0.03',
    ],
    serializer: ['--rounds', '2', '--count', '2'],
    settings: [
        '--variants', 'both', 'psycopg2', '--pools', '2',
        '--rounds', '1', '--requests', '2', '--visitors', '20',
        '--turns', '1', '--seconds', '0.03',
    ],
}


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch):
    """A tool leaves its engines to the end of its process, and sets up every
    SQLite connection there.
    """
    engines, create = [], sa.create_engine

    def create_engine(*args, **options):
        engines.append(create(*args, **options))
        return engines[-1]

    monkeypatch.setattr(sa, 'create_engine', create_engine)
    yield
    sqlite.leave_engines_alone()
    for engine in engines:
        engine.dispose()


def published(name, figures, as_rst, folder):
    """Return the JSON and the text that a tool writes."""
    outcome.publish(name, figures, as_rst, folder)
    return (
        json.loads((folder / f'{name}.json').read_text()),
        (folder / f'{name}.rst').read_text(),
    )


@pytest.mark.parametrize('tool', TOOLS, ids=lambda tool: tool.__name__)
def test_a_tool_runs(tool, tmp_path):
    """It measures and writes both of its files."""
    name = tool.__name__.rpartition('.')[2]
    options = tool.arguments([*TOOLS[tool], '--results', str(tmp_path)])
    figures = tool.measure(options)
    written, text = published(name, figures, tool.as_rst, tmp_path)
    assert written['about']['versions']['Python']
    assert '.. csv-table::' in text


def test_the_comparison_runs(tmp_path):
    """``make bench``, with what the tests' environment has."""
    options = run.arguments([
        '--databases', 'postgresql', 'sqlite',
        '--systems', 'raw', 'raw_view', 'core', 'sqlasession',
        '--starts', '2', '--rounds', '1', '--requests', '3',
        '--results', str(tmp_path),
    ])
    trips = run.count_trips(options)
    assert trips['S2'] == ['SELECT']
    report.write(run.run(options), trips, options)
    found = json.loads((tmp_path / 'sessions.json').read_text())
    checks = found['databases']['postgresql']['checks']
    assert {check['other'] for check in checks} == {'raw_view'}
    assert 'in a loop' in (tmp_path / 'sessions.rst').read_text()
    assert (tmp_path / 'sessions-sqlite.svg').exists()


def test_the_profile_runs(capsys):
    """It counts the calls of a scenario beyond the plain application."""
    profile.main(['--databases', 'sqlite', '--scenarios', 'S2'])
    assert 'calls beyond S0' in capsys.readouterr().out


def test_filled_rows_are_those_of_the_package(database):
    """On each database: ids by number, in order of time, of our version."""
    engine = database.create_engine()
    session_model(metadata := sa.MetaData())
    metadata.create_all(engine)
    rows = Rows(100, 3)
    rows.fill(engine, 'sessions')
    table = metadata.tables['sessions']
    with engine.connect() as connection:
        found = connection.execute(
            sa.select(table.c.id, table.c.expires > sa.bindparam('now'))
            .order_by(table.c.id),
            {'now': dt.datetime.fromtimestamp(rows.end / 1000, dt.UTC)},
        ).fetchall()
    assert [id for id, _ in found] == [rows.id(n) for n in range(1, 101)]
    assert sum(bool(live) for _, live in found) == 70
    assert {id.version for id, _ in found} == {new_token().id.version}
