"""Times of calls, and what a list of them says."""

from statistics import median
import time


def times(call, count):
    """Return the µs of each of *count* calls."""
    clock, result = time.perf_counter_ns, []
    for _ in range(count):
        start = clock()
        call()
        result.append((clock() - start) / 1000)
    return result


def typical(call, count):
    """Return the median µs of *count* calls."""
    return median(times(call, count))


def quantile(values, share):
    """Return the value below which *share* of them lie."""
    values = sorted(values)
    return values[min(int(len(values) * share), len(values) - 1)]
