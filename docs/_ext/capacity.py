"""The directive ``capacity-table``: how large, and how many writes.

Computed from what benchmarks/ measured: bytes of a stored session, and WAL
of a touch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / 'benchmarks' / 'results'

SESSIONS = (10**7, 10**9)
#: Of all live sessions, those that are used at a given moment.
IN_USE = (0.01, 0.1)
#: ``sqlasession.touch_interval``, seconds.
INTERVALS = (60, 600)

_UNITS = ('B', 'kB', 'MB', 'GB', 'TB')


def _read(name: str) -> Any:
    return json.loads((RESULTS / f'{name}.json').read_text())


def amount(number: float) -> str:
    """Return bytes in a unit that fits: ``1.1 TB``."""
    for unit in _UNITS:
        if number < 1000 or unit == _UNITS[-1]:
            break
        number /= 1000
    return f'{number:.3g} {unit}' if number < 1000 else f'{number:,.0f} {unit}'


def sizes() -> list[tuple[str, ...]]:
    """Return a row for each number of sessions: bytes on each database."""
    stored = _read('memory')['stored']
    server = stored['postgresql']
    rows = []
    for count in SESSIONS:
        rows.append((
            f'{count:,}',
            amount(count * server['in_use']['table']),
            amount(count * server['in_use']['indexes']),
            amount(count * stored['mariadb']['total']),
        ))
    return rows


def writes() -> list[tuple[str, ...]]:
    """Return a row for each case: touches and WAL in a second, at most."""
    as_built = next(
        one for one in _read('touch')['variants'] if 'sweep' in one['name']
    )
    rows = []
    for count in SESSIONS:
        for share in IN_USE:
            rates = [count * share / interval for interval in INTERVALS]
            rows.append((
                f'{count:,}', f'{share:.0%}',
                *(f'{rate:,.0f}' for rate in rates),
                *(amount(rate * as_built['wal_bytes']) for rate in rates),
            ))
    return rows


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    def line(cells: tuple[str, ...]) -> str:
        return '   ' + ', '.join(f'"{cell}"' for cell in cells)

    return [
        '', '.. csv-table::', f'   :header: {line(header).strip()}', '',
        *map(line, rows), '',
    ]


def as_rst() -> list[str]:
    """Return both tables as lines of reStructuredText."""
    stored = _read('memory')['stored']['postgresql']
    touched = ['touches a second', 'WAL a second']
    return [
        f'A session with {stored["data"]:,.0f} bytes of data:', '',
        *_table(
            ('sessions', 'PostgreSQL, table', 'its indexes', 'MariaDB'),
            sizes(),
        ),
        *_table(
            (
                'sessions', 'in use at a time',
                *(f'{what}, every {interval:g} s' for what in touched
                  for interval in INTERVALS),
            ),
            writes(),
        ),
    ]


def setup(app: Any) -> dict[str, bool]:
    """Register the directive with Sphinx."""
    from docutils import nodes
    from docutils.statemachine import StringList
    from sphinx.util.docutils import SphinxDirective

    class CapacityTable(SphinxDirective):
        def run(self) -> list[Any]:
            for name in ('memory', 'touch'):
                self.env.note_dependency(str(RESULTS / f'{name}.json'))
            container = nodes.container()
            self.state.nested_parse(
                StringList(as_rst(), 'capacity'), self.content_offset,
                container,
            )
            return container.children

    app.add_directive('capacity-table', CapacityTable)
    return {'parallel_read_safe': True}
