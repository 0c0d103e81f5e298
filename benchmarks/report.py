"""From what was measured to JSON, reStructuredText and SVG."""

import json
from statistics import median

from benchmarks import outcome
from benchmarks.chart import chart
from benchmarks.outcome import table
from benchmarks.targets import checks
from benchmarks.targets import TARGETS

OURS = 'sqlasession'

NAMES = {
    'sqlasession': 'pyramid_sqlasession',
    'raw': 'the driver alone, in a loop',
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
    'postgresql-apart': 'The same, server and client on two processors',
    'sqlite': 'SQLite in a file, WAL, synchronous = NORMAL',
    'other': 'Without a database of SQLAlchemy',
}
#: Below the title.
WORDS = {
    'postgresql': (
        'Server and client take turns on one processor, where Linux puts two '
        'processes that wait for each other most of the time.'
    ),
    'postgresql-apart': (
        'The server has a processor of its own, as it has a machine of its '
        'own elsewhere. A round trip is dearer by the time that it takes to '
        'wake up the other processor, which in a virtual machine is the '
        "host's affair, and the same for all systems: the costlier it is, the "
        'less they differ. No target is judged by it.'
    ),
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


def write(results, trips, options):
    """Write all files; return how many targets were missed.

    :param trips: {scenario: first words of its round trips}.
    """
    figures = {name: Figures(rounds) for name, rounds in results.items()}
    about = outcome.about()
    for name in ('starts', 'rounds', 'requests'):
        about[name] = getattr(options, name)
    found = {name: _checks(name, f) for name, f in figures.items()}
    folder = options.results
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'sessions.json').write_text(
        json.dumps(_as_json(figures, found, trips, about), indent=1) + '\n'
    )
    (folder / 'sessions.rst').write_text(
        _as_rst(figures, found, trips, about)
    )
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
    if database not in TARGETS:
        return []
    return list(
        checks(
            database,
            lambda other, scenario: figures.ratio(OURS, other, scenario),
            figures.cost,
        )
    )


def _as_json(figures, found, trips, about):
    return {
        'about': about,
        'unit': 'microseconds, medians over the rounds',
        'round_trips': trips,
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
                'times_raw_view': _rounded(
                    figures.ratio(system, 'raw_view', scenario), 2
                ),
                'times_raw': _rounded(
                    figures.ratio(system, 'raw', scenario), 2
                ),
            }
    return result


def _rounded(value, digits=1):
    return None if value is None else round(value, digits)


# -- reStructuredText --------------------------------------------------------


def _as_rst(figures, found, trips, about):
    parts = [
        '.. Written by benchmarks/run.py; do not edit.\n',
        f'{outcome.sentence(about)} {about["starts"]} starts, each with '
        f'{about["rounds"]} rounds of {about["requests"]} requests of each '
        f'scenario.\n',
    ]
    for name, one in figures.items():
        parts += [TITLES[name], '~' * len(TITLES[name]), '']
        if name in WORDS:
            parts += [WORDS[name], '']
        parts.append(_costs(one))
        if 'raw_view' in one.systems:
            parts.append(_drivers(one))
        if OURS in one.systems:
            parts.append(_queries(one))
        if found[name]:
            parts.append(_check_table(found[name], one))
        if name == 'postgresql' and trips:
            parts.append(_trips(trips))
    return '\n'.join(parts)


def _us(value):
    return outcome.number(value)


def _times(value):
    return outcome.number(value, 2)


def _costs(figures):
    return table(
        ['µs', 'S0', *SCENARIOS, 'CPU S2', 'CPU S3', 'CPU S4'],
        [
            [
                NAMES[system], _us(figures.absolute(system, 'S0')),
                *(_us(figures.cost(system, s)) for s in SCENARIOS),
                *(_us(figures.cost(system, s, 1)) for s in SCENARIOS[1:]),
            ]
            for system in figures.systems
        ],
    )


def _drivers(figures):
    """Return how many times the driver's cost each system has."""
    others = [name for name in ('raw_view', 'raw') if name in figures.systems]
    where = {'raw_view': 'in a view', 'raw': 'in a loop'}
    text = table(
        ['Times the driver', *(
            f'{scenario}, {where[other]}'
            for other in others for scenario in SCENARIOS[1:]
        )],
        [
            [NAMES[system], *(
                _times(figures.ratio(system, other, scenario))
                for other in others for scenario in SCENARIOS[1:]
            )]
            for system in figures.systems
            if system not in others or system == 'raw_view'
        ],
    )
    if 'raw' not in others:
        return text
    factors = ', '.join(
        f'{_times(figures.ratio("raw_view", "raw", scenario))} times for '
        f'{scenario}' for scenario in SCENARIOS[1:]
    )
    return '\n'.join([
        text,
        f'The same statements by the same driver cost more inside of a '
        f'request than in a tight loop ({factors}): between two of them the '
        f"application has filled the processor's caches with other code, "
        f'and the server has had time to go to sleep. So only the driver '
        f'in a view of the same application is like for like: the targets '
        f'are judged against it, and the loop is shown for information.',
        '',
    ])


def _queries(figures):
    return table(
        ['In a view that uses request.dbsession', 'µs'],
        [
            ['the view itself', _us(figures.absolute(OURS, 'Q0'))],
            ['a read costs', _us(figures.cost(OURS, 'Q2'))],
            ['a change costs', _us(figures.cost(OURS, 'Q3'))],
        ],
    )


_QUERIES = {
    'S1': 'S1, an anonymous look', 'S2': 'S2, a read', 'S3': 'S3, a change',
    'S4': 'S4, a new session', 'Q0': 'a view that queries, without session',
    'Q2': 'the same view, and a read', 'Q3': 'the same view, and a change',
}


def _trips(trips):
    return table(
        ['Round trips to PostgreSQL', '', 'which'],
        [
            [_QUERIES[name], len(trips[name]),
             ' · '.join(trips[name]) or 'none']
            for name in _QUERIES if name in trips
        ],
    )


def _check_table(rows, figures):
    return table(
        ['Target', 'at most', 'reached', '', 'in a loop'],
        [[*_check(*row), _in_a_loop(figures, *row)] for row in rows],
    )


def _in_a_loop(figures, scenario, other, *_):
    if other != 'raw_view':
        return ''
    return _times(figures.ratio(OURS, 'raw', scenario))


def _check(scenario, other, limit, reached, kept):
    verdict = outcome.verdict(kept)
    if scenario == 'S1':
        return [
            f'S1: more than {NAMES[other]}', f'{limit:.0f} µs (noise)',
            f'{reached:.0f} µs', verdict,
        ]
    return [
        f'{scenario}: times {NAMES[other]}', f'{limit:g}', f'{reached:.2f}',
        verdict,
    ]
