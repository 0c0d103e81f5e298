"""What the serializer costs beside the JSON library alone.

    python3 -m benchmarks.serializer

A value is serialized and read back.  Plain JSON values have to cost at most
twice what orjson takes; types that JSON does not know are shown beside them.
"""

import datetime as dt
from decimal import Decimal
import json
from statistics import median
import time

from benchmarks import environment
from benchmarks import outcome
from benchmarks.outcome import number
from benchmarks.systems import PAYLOAD

#: At most so many times orjson alone, for plain JSON values.
LIMIT = 2.0

TAGGED = PAYLOAD | {
    'since': dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC),
    'total': Decimal('31.90'),
    'pair': (1, 2),
}
#: About 4 kB.
LARGE = {f'list{i}': PAYLOAD['cart'] for i in range(24)}

VALUES = {
    '600 B, plain': PAYLOAD, '4 kB, plain': LARGE,
    '600 B, a datetime, a Decimal and a tuple': TAGGED,
}
NAMES = {
    'sqlasession': 'pyramid_sqlasession', 'orjson': 'orjson alone',
    'json': 'json of the standard library',
}


def timed(call, count):
    """Return µs for one of *count* calls."""
    start = time.perf_counter_ns()
    for _ in range(count):
        call()
    return (time.perf_counter_ns() - start) / count / 1000


def round_trip(dumps, loads, value):
    """Return a function that serializes *value* and reads it back."""
    loads(dumps(value))
    return lambda: loads(dumps(value))


def contenders(value, *, plain):
    """Return {name: function}."""
    import orjson

    from pyramid_sqlasession.serializers import JSONSerializer

    ours = JSONSerializer()
    found = {'sqlasession': round_trip(ours.dumps, ours.loads, value)}
    if plain:
        found['orjson'] = round_trip(orjson.dumps, orjson.loads, value)
        found['json'] = round_trip(json.dumps, json.loads, value)
    return found


def in_turns(calls, rounds, count):
    """Return {name: [µs of each round]}."""
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(timed(call, count))
    return times


def one(value, options):
    """Return the median µs of each, and the ratio to orjson."""
    from pyramid_sqlasession.serializers import JSONSerializer

    times = in_turns(
        contenders(value, plain=value is not TAGGED), options.rounds,
        options.count,
    )
    found = {
        'bytes': len(JSONSerializer().dumps(value)),
        'us': {name: round(median(row), 2) for name, row in times.items()},
    }
    if 'orjson' in times:
        pairs = zip(times['sqlasession'], times['orjson'], strict=True)
        found['ratio'] = round(median(a / b for a, b in pairs), 3)
    return found


def measure(options):
    return {
        'unit': 'microseconds',
        'values': {
            label: one(value, options) for label, value in VALUES.items()
        },
    }


# -- the page ----------------------------------------------------------------


def as_rst(figures):
    values = figures['values']
    return '\n'.join([
        outcome.table(
            ['Written and read back, in µs', 'bytes', *NAMES.values()],
            [
                [label, number(row['bytes']), *(
                    number(row['us'].get(name), 1) for name in NAMES
                )]
                for label, row in values.items()
            ],
        ),
        outcome.targets([
            (f'{label}: times orjson alone', f'{LIMIT:g}',
             f'{row["ratio"]:.2f}', row['ratio'] <= LIMIT)
            for label, row in values.items() if 'ratio' in row
        ]),
    ])


def arguments(args=None):
    parser = outcome.parser('benchmarks.serializer', __doc__)
    parser.add_argument('--rounds', type=int, default=60)
    parser.add_argument('--count', type=int, default=300)
    return parser.parse_args(args)


def main():
    options = arguments()
    environment.enter('benchmarks.serializer')
    outcome.publish('serializer', measure(options), as_rst, options.results)


if __name__ == '__main__':
    main()
