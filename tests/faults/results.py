"""The tables as files that docs/faults.rst includes.

    write('galera', ['fault', 'lost'], [['a node was killed', 0]])

writes ``docs/faults/galera.inc``.
"""

import datetime as dt
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version
from pathlib import Path
import platform
import re
import subprocess

from ..services import mariatemp
from ..services import pgtemp

FOLDER = Path(__file__).resolve().parents[2] / 'docs' / 'faults'

PACKAGES = (
    'pyramid_sqlasession', 'pyramid', 'pyramid_tm', 'pyramid_retry',
    'SQLAlchemy', 'zope.sqlalchemy', 'transaction', 'psycopg', 'PyMySQL',
    'gunicorn', 'waitress',
)


def write(name, columns, rows, *, note='', folder=FOLDER):
    """Write the table *name* with the date and the versions.

    :param columns: what stands above the columns.
    :param rows: one sequence of cells for each line; the first is its name.
    :param note: a sentence on this run, such as its seed.
    :returns: the path of the file.
    """
    said = ' '.join(filter(None, (
        f'Run on {dt.date.today().isoformat()} with {versions()}.', note,
    )))
    table = ['.. csv-table::', f'   :header: {_csv(columns)}', '']
    table += [f'   {_csv(row)}' for row in rows]
    path = Path(folder, f'{name}.inc')
    path.parent.mkdir(exist_ok=True)
    path.write_text('\n'.join([
        '.. Written by tests/faults/results.py; do not edit.', '',
        said, '', *table, '',
    ]))
    return path


def versions():
    """Return what ran, in words: Python, packages, servers."""
    found = [f'Python {platform.python_version()}']
    for name in PACKAGES:
        try:
            found.append(f'{name} {version(name)}')
        except PackageNotFoundError:
            continue
    return ', '.join(found + _servers())


def _servers():
    found = []
    if folder := pgtemp.find_binaries():
        found.append(f'PostgreSQL {_number(f"{folder}/postgres")}')
    if programs := mariatemp.find_binaries():
        found.append(f'MariaDB {_number(programs[0])}')
    return found


def _number(program):
    text = subprocess.run(
        [program, '--version'], capture_output=True, text=True, check=False,
    ).stdout
    found = re.search(r'\d+(\.\d+)+', text)
    return found[0] if found else 'of unknown version'


def _csv(cells):
    return ', '.join('"' + str(cell).replace('"', '""') + '"'
                     for cell in cells)
