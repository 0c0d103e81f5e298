"""From the counts to JSON, reStructuredText and plain text."""

import datetime as dt
from importlib.metadata import version
import json
import platform

from benchmarks.machine import number_of
from benchmarks.peers.cases import ANOMALIES
from tests.services.common import find_program
from tests.services.pgtemp import find_binaries

#: The columns.
TITLES = {
    'sqlasession': 'this package',
    'django_db': 'Django ``db``',
    'flask_session': 'Flask-Session',
    'redis': 'pyramid_session_redis',
}
#: How each of them is set up.
DEFAULTS = {
    'sqlasession': 'no setting (``conflict = merge``), pyramid_tm',
    'django_db': (
        '``SESSION_ENGINE`` and all else at the default, but connections '
        'are kept (``CONN_MAX_AGE``), which changes no count; messages are in '
        'the session (``SessionStorage``), as by default short ones are in '
        'a cookie of their own'
    ),
    'flask_session': (
        '``SESSION_TYPE = "sqlalchemy"`` and no other setting; the '
        'application shares its ``SQLAlchemy`` object'
    ),
    'redis': (
        '``RedisSessionFactory(secret)`` and the address of the server; the '
        "application's data are in the SQL database, with pyramid_tm. It "
        'has no call that changes the id at a login'
    ),
}
#: What the other runs change: the column, and how to say it.
VARIANTS = {
    'sqlasession, retry': (
        'sqlasession', '``conflict = retry``, ``retry.attempts = 10``',
    ),
    'django_db, every request': (
        'django_db', '``SESSION_SAVE_EVERY_REQUEST = True``',
    ),
    'flask_session, no refresh': (
        'flask_session', '``SESSION_REFRESH_EACH_REQUEST = False``',
    ),
    'redis, trigger': ('redis', '``timeout_trigger=300``'),
}
PACKAGES = (
    'pyramid_sqlasession', 'pyramid', 'SQLAlchemy', 'psycopg', 'Django',
    'Flask', 'Flask-Session', 'Flask-SQLAlchemy', 'pyramid_session_redis',
    'pyramid_retry',
)


def _versions():
    found = {'Python': platform.python_version()}
    found |= {name: version(name) for name in PACKAGES}
    if folder := find_binaries():
        found['PostgreSQL'] = number_of(f'{folder}/postgres', '--version')
    else:
        import sqlite3

        found['SQLite'] = sqlite3.sqlite_version
    if program := find_program('redis-server'):
        found['redis'] = number_of(program, '--version')
    return found


def _cell(counts, anomaly):
    if anomaly not in counts:
        return '--'
    k, n = counts[anomaly]
    return f'{k} of {n}'


def text(results):
    """Return the table for a terminal: a column for each run."""
    names = list(results)
    width = max(map(len, ANOMALIES.values()))
    letters = [chr(ord('A') + number) for number in range(len(names))]
    lines = [
        f'{letter}: {name}'
        for letter, name in zip(letters, names, strict=True)
    ]
    lines.append(' ' * width + ''.join(f'{x:>11}' for x in letters))
    for anomaly, title in ANOMALIES.items():
        lines.append(f'{title:{width}}' + ''.join(
            f'{_cell(results[name], anomaly):>11}' for name in names
        ))
    return '\n'.join(lines)


def write(results, times, root, folder):
    """Write both files; return their paths."""
    about = {
        'date': dt.date.today().isoformat(), 'times': times,
        'versions': _versions(),
    }
    as_json = folder / 'counted.json'
    as_json.write_text(json.dumps({
        'about': about, 'anomalies': ANOMALIES, 'counted': results,
    }, indent=1) + '\n')
    as_rst = root / 'docs' / 'counted.inc'
    as_rst.write_text(_as_rst(results, about))
    return as_json, as_rst


# -- reStructuredText ---------------------------------------------------------


def _as_rst(results, about):
    columns = [name for name in TITLES if name in results]
    versions = ', '.join(
        f'{name} {number}' for name, number in about['versions'].items()
    )
    lines = [
        '.. Written by `make stress-peers`; do not edit.', '',
        f'Counted on {about["date"]}, each case {about["times"]} times, with '
        f'{versions}.', '',
        '.. list-table::', '   :header-rows: 1',
        f'   :widths: 36 {" ".join(["16"] * len(columns))}', '',
    ]
    lines += _row(['', *(TITLES[name] for name in columns)])
    for anomaly, title in ANOMALIES.items():
        lines += _row(
            [title, *(_cell(results[name], anomaly) for name in columns)]
        )
    lines += ['', 'As they are set up:', '']
    lines += [f'- {TITLES[name]}: {DEFAULTS[name]}.' for name in columns]
    lines += ['', 'And what a setting changes:', '']
    lines += [_variant(results, name) for name in VARIANTS if name in results]
    return '\n'.join(lines) + '\n'


def _row(cells):
    first, *others = cells
    return [f'   * - {first}'.rstrip(), *(f'     - {x}' for x in others)]


def _share(counted):
    k, n = counted
    return k / n


def _variant(results, name):
    column, setting = VARIANTS[name]
    before, after = results[column], results[name]
    changed = [
        f'"{title}" {_cell(after, anomaly)}, not {_cell(before, anomaly)}'
        for anomaly, title in ANOMALIES.items()
        # Run less often, so not the number but the share.
        if anomaly in before and _share(after[anomaly]) != _share(
            before[anomaly]
        )
    ]
    return (
        f'- {TITLES[column]} with {setting}: '
        f'{"; ".join(changed) or "the same in all cases"}.'
    )
