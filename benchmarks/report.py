"""From what was measured to JSON, reStructuredText and SVG."""

import datetime as dt
import json
from statistics import median

from benchmarks.chart import chart
from benchmarks.machine import machine
from benchmarks.targets import checks

OURS = 'sqlasession'

NAMES = {
    'sqlasession': 'pyramid_sqlasession',
    'raw': 'the driver alone (floor)',
    'raw_view': 'the driver alone, in a view',
    'core': 'SQLAlchemy Core alone',
    'django_db': 'Django, db',
    'flask_session': 'Flask-Session, SQLAlchemy',
    'beaker': 'Beaker, ext:database',
    'sequelize': 'connect-session-sequelize',
    'signed_cookie': 'Pyramid, signed cookie',
    'redis': 'pyramid_session_redis',
}
TITLES = {
    'postgresql': 'PostgreSQL on loopback, synchronous_commit = off',
    'sqlite': 'SQLite in a file, WAL, synchronous = NORMAL',
    'other': 'Without a database of SQLAlchemy',
}
SCENARIOS = ('S1', 'S2', 'S3', 'S4')


class Figures:
    """What was measured on one database."""

    def __init__(self, rounds):
        self._rounds = rounds
        self.systems = sorted(rounds, key=list(NAMES).index)

    def absolute(self, system, scenario):
        """Return the median of a scenario itself, in µs."""
        return self._median(system, lambda r: r[scenario][0])

    def cost(self, system, scenario, what=0):
        """Return what the session costs, in µs.

        :param what: 0 for time, 1 for CPU time of the process.
        """
        without = 'Q0' if scenario.startswith('Q') else 'S0'
        return self._median(
            system, lambda r: r[scenario][what] - r[without][what]
        )

    def ratio(self, system, other, scenario):
        """Return how many times the cost in *other* it costs in *system*."""
        if other not in self._rounds or system not in self._rounds:
            return None
        pairs = zip(self._rounds[system], self._rounds[other], strict=True)
        try:
            return median(
                (a[scenario][0] - a['S0'][0]) / (b[scenario][0] - b['S0'][0])
                for a, b in pairs
            )
        except (KeyError, ZeroDivisionError):
            return None

    def _median(self, system, value):
        try:
            return median(value(r) for r in self._rounds[system])
        except KeyError:
            return None


def write(results, options):
    """Write all files; return how many targets were missed."""
    figures = {name: Figures(rounds) for name, rounds in results.items()}
    about = machine()
    about['date'] = dt.date.today().isoformat()
    about['rounds'], about['requests'] = options.rounds, options.requests
    found = {name: _checks(name, f) for name, f in figures.items()}
    folder = options.results
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'sessions.json').write_text(
        json.dumps(_as_json(figures, found, about), indent=1) + '\n'
    )
    (folder / 'sessions.rst').write_text(_as_rst(figures, found, about))
    for name, one in figures.items():
        (folder / f'sessions-{name}.svg').write_text(
            chart(
                f'Session cost in µs: {TITLES[name]}', SCENARIOS[1:],
                {NAMES[s]: [one.cost(s, x) for x in SCENARIOS[1:]]
                 for s in one.systems},
                highlight=NAMES[OURS],
            )
        )
    return sum(not kept for rows in found.values() for *_, kept in rows)


def _checks(database, figures):
    if database == 'other':
        return []
    return list(
        checks(
            database,
            lambda other, scenario: figures.ratio(OURS, other, scenario),
            figures.cost,
        )
    )


def _as_json(figures, found, about):
    return {
        'about': about,
        'unit': 'microseconds, medians over the rounds',
        'databases': {
            name: {
                'systems': {
                    system: _system(one, system) for system in one.systems
                },
                'checks': [
                    {'scenario': scenario, 'other': other, 'limit': limit,
                     'reached': round(reached, 2), 'kept': kept}
                    for scenario, other, limit, reached, kept in found[name]
                ],
            }
            for name, one in figures.items()
        },
    }


def _system(figures, system):
    result = {'S0': _rounded(figures.absolute(system, 'S0'))}
    for scenario in (*SCENARIOS, 'Q2', 'Q3'):
        cost = figures.cost(system, scenario)
        if cost is not None:
            result[scenario] = {
                'cost': _rounded(cost),
                'cpu': _rounded(figures.cost(system, scenario, 1)),
                'times_raw': _rounded(
                    figures.ratio(system, 'raw', scenario), 2
                ),
            }
    return result


def _rounded(value, digits=1):
    return None if value is None else round(value, digits)


# -- reStructuredText --------------------------------------------------------


def _as_rst(figures, found, about):
    parts = [
        '.. Written by benchmarks/run.py; do not edit.\n',
        _about(about),
    ]
    for name, one in figures.items():
        parts += [TITLES[name], '~' * len(TITLES[name]), '', _costs(one)]
        if OURS in one.systems:
            parts.append(_queries(one))
        if found[name]:
            parts.append(_check_table(found[name]))
    return '\n'.join(parts)


def _about(about):
    versions = ', '.join(
        f'{name} {version}' for name, version in about['versions'].items()
    )
    return (
        f'Measured {about["date"]} on {about["cpu"]}, {about["cores"]} '
        f'cores, {about["memory"]}, {about["system"]}: {versions}. '
        f'{about["rounds"]} rounds of {about["requests"]} requests of each '
        f'scenario.\n'
    )


def _table(header, rows):
    lines = ['.. csv-table::', f'   :header: {_csv(header)}', '']
    lines += [f'   {_csv(row)}' for row in rows]
    return '\n'.join([*lines, ''])


def _csv(cells):
    return ', '.join(f'"{cell}"' for cell in cells)


def _us(value):
    return '' if value is None else f'{value:.0f}'


def _times(value):
    return '' if value is None else f'{value:.2f}'


def _costs(figures):
    with_raw = 'raw' in figures.systems
    header = ['µs', 'S0', *SCENARIOS, 'CPU S2', 'CPU S3', 'CPU S4']
    if with_raw:
        header += [f'{s} / floor' for s in SCENARIOS[1:]]
    rows = []
    for system in figures.systems:
        row = [NAMES[system], _us(figures.absolute(system, 'S0'))]
        row += [_us(figures.cost(system, s)) for s in SCENARIOS]
        row += [_us(figures.cost(system, s, 1)) for s in SCENARIOS[1:]]
        if with_raw:
            row += [
                _times(figures.ratio(system, 'raw', s)) for s in SCENARIOS[1:]
            ]
        rows.append(row)
    return _table(header, rows)


def _queries(figures):
    return _table(
        ['In a view that uses request.dbsession', 'µs'],
        [
            ['the view itself', _us(figures.absolute(OURS, 'Q0'))],
            ['a read costs', _us(figures.cost(OURS, 'Q2'))],
            ['a change costs', _us(figures.cost(OURS, 'Q3'))],
        ],
    )


def _check_table(rows):
    return _table(
        ['Target', 'at most', 'reached', ''],
        [_check(*row) for row in rows],
    )


def _check(scenario, other, limit, reached, kept):
    verdict = 'kept' if kept else 'MISSED'
    if scenario == 'S1':
        return [
            f'S1: more than {NAMES[other]}', f'{limit:.0f} µs (noise)',
            f'{reached:.0f} µs', verdict,
        ]
    return [
        f'{scenario}: times {NAMES[other]}', f'{limit:g}', f'{reached:.2f}',
        verdict,
    ]
