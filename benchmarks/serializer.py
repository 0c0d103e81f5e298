"""What the serializer costs beside the JSON library alone.

    python3 -m benchmarks.serializer
"""

import argparse
import datetime as dt
from decimal import Decimal
import json
from statistics import median
import time

from benchmarks import environment
from benchmarks.systems import PAYLOAD

#: At most so many times orjson alone, for plain JSON values (issue 4).
LIMIT = 2.0

TAGGED = PAYLOAD | {
    'since': dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC),
    'total': Decimal('31.90'),
    'pair': (1, 2),
}
#: About 4 kB.
LARGE = {f'list{i}': PAYLOAD['cart'] for i in range(24)}


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


def measure(calls, rounds, count):
    """Return {name: [µs of each round]}, interleaved."""
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(timed(call, count))
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=40)
    parser.add_argument('--count', type=int, default=300)
    options = parser.parse_args()
    environment.enter('benchmarks.serializer')
    values = {'600 B': PAYLOAD, '4 kB': LARGE, '600 B, tagged': TAGGED}
    for label, value in values.items():
        calls = contenders(value, plain=value is not TAGGED)
        times = measure(calls, options.rounds, options.count)
        for name, row in times.items():
            print(f'{label:14} {name:12} {median(row):7.2f} µs')
        if 'orjson' in times:
            ratio = median(
                ours / alone for ours, alone in zip(
                    times['sqlasession'], times['orjson'], strict=True
                )
            )
            verdict = 'kept' if ratio <= LIMIT else 'MISSED'
            print(f'{label:14} / orjson     {ratio:7.2f}    at most '
                  f'{LIMIT:g}: {verdict}')


if __name__ == '__main__':
    main()
