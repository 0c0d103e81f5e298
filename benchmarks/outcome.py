"""What a tool has found: a file for programs, a page for readers.

A tool has ``measure(options)``, which returns figures that JSON can hold, and
``as_rst(figures)``.  The page in docs/ includes what this writes.
"""

import argparse
import datetime as dt
import json
from pathlib import Path

from benchmarks.machine import machine

RESULTS = Path(__file__).parent / 'results'


def parser(module, text):
    """Return a parser of the arguments that all tools have."""
    made = argparse.ArgumentParser(
        prog=f'python3 -m {module}', description=text.splitlines()[0]
    )
    made.add_argument(
        '--results', type=Path, default=RESULTS, help='folder to write to'
    )
    return made


def about():
    """Return when and on what this was measured."""
    return {'date': dt.date.today().isoformat(), **machine()}


def sentence(about):
    """Return the same as a sentence."""
    versions = ', '.join(
        f'{name} {version}' for name, version in about['versions'].items()
    )
    return (
        f'Measured {about["date"]} on {about["cpu"]}, {about["cores"]} '
        f'cores, {about["memory"]}, {about["system"]}: {versions}.'
    )


def publish(name, figures, as_rst, folder):
    """Write *figures* as ``name.json`` and ``name.rst``; print the text.

    :param as_rst: makes reStructuredText of the figures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{name}.json').write_text(
        json.dumps({'about': about(), **figures}, indent=1) + '\n'
    )
    text = as_rst(figures)
    (folder / f'{name}.rst').write_text(
        f'.. Written by benchmarks/{name}.py; do not edit.\n\n{text}'
    )
    print(text)


def table(header, rows):
    """Return a table of reStructuredText."""
    lines = ['.. csv-table::', f'   :header: {_csv(header)}', '']
    lines += [f'   {_csv(row)}' for row in rows]
    return '\n'.join([*lines, ''])


def _csv(cells):
    return ', '.join(f'"{cell}"' for cell in cells)


def number(value, digits=0):
    """Return a figure as text; nothing for None."""
    return '' if value is None else f'{value:,.{digits}f}'


def verdict(kept):
    """Return what is said of a target."""
    return 'kept' if kept else 'MISSED'


def targets(rows):
    """Return the table of (what, limit, reached, kept), all but *kept* text.
    """
    return table(
        ['Target', 'at most', 'reached', ''],
        [[*row, verdict(kept)] for *row, kept in rows],
    )
