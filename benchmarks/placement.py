"""Which processor a process runs on.

Left to the scheduler, client and server share a processor most of the time,
but not always, and a round trip is twice to three times as dear if they do
not: two runs could not be compared.
"""

import contextlib
import os


def _available():
    try:
        return sorted(os.sched_getaffinity(0))
    # Not on every system.
    except AttributeError:
        return []


def processors():
    """Return (the client's, the server's), None where there is no choice."""
    found = _available()
    return (found[0], found[-1]) if len(found) > 1 else (None, None)


@contextlib.contextmanager
def on(processor):
    """Have the processes that are started meanwhile run on *processor*.

    :param processor: None for any.
    """
    if processor is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {processor})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
