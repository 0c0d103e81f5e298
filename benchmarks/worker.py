"""One system in a process of its own: ``python -m benchmarks.worker``.

    python -m benchmarks.worker SYSTEM URL [VARIANT]

Reads from standard input how many requests of each scenario to make, one
number in a line; answers with a line of JSON: for each scenario the median
in µs, and the CPU time of this process for each request, in µs.
"""

import gc
import importlib
import json
from statistics import median
import sys
import time

#: Not measured, at each turn: another process had the caches.
WARM_UP = 5


def measure(call, count):
    """Return the median and the CPU time of *count* calls, in µs."""
    for _ in range(WARM_UP):
        call()
    clock = time.perf_counter_ns
    times = []
    cpu = time.process_time_ns()
    for _ in range(count):
        start = clock()
        call()
        times.append(clock() - start)
    cpu = time.process_time_ns() - cpu
    return median(times) / 1000, cpu / count / 1000


def main(name, url, *variant):
    # Whatever a library prints is no answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    module = importlib.import_module(f'benchmarks.systems.{name}')
    calls = module.make(url, *variant)
    gc.collect()
    # As servers do after their start: what exists by now stays.
    gc.freeze()
    print('ready', file=answers, flush=True)
    for line in sys.stdin:
        count = int(line)
        result = {n: measure(call, count) for n, call in calls.items()}
        print(json.dumps(result), file=answers, flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
