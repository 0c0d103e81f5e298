"""What a worker does: operations drawn from a seed."""

from dataclasses import dataclass
import random

#: Operation: how often.
WEIGHTS = {
    'look': 18,      # read everything
    'set': 16,       # a new key that nobody else sets
    'delete': 6,     # such a key
    'share': 8,      # a key that everybody sets
    'count': 12,     # += 1, with conflict = retry
    'flash': 8,
    'pop': 6,
    'csrf': 3,
    'touch': 2,
    'buy': 8,        # a row of the application and a key, in one transaction
    'login': 5,      # rotate
    'logout': 2,     # invalidate
    'relogin': 1,    # invalidate, and put something into a new session
    'revoke': 2,     # by id, from outside
    'stale': 5,      # write with a token that was current some time ago
}

#: Keys that everybody sets.
SHARED = ('colour', 'size')


@dataclass(frozen=True)
class Step:
    """One thing to do."""

    #: Unique in the whole run; the key and the value of what is set.
    name: str
    operation: str
    #: Which of the shared sessions.
    slot: int
    #: Which node of a cluster.
    node: int
    #: Milliseconds that the view waits between its look and its end.
    pause: int
    #: Chooses among what there is at that moment (keys, old tokens).
    choice: float


#: Milliseconds that a view waits, drawn from these.
PAUSES = (0, 0, 0, 1, 5, 20)


def steps(seed, worker, *, slots, nodes, only=(), pauses=PAUSES):
    """Yield what *worker* does, for ever; the same for the same seed.

    :param only: the operations to draw from; all if empty.
    """
    draw = random.Random(f'{seed}/{worker}')
    names = list(only or WEIGHTS)
    weights = [WEIGHTS[name] for name in names]
    number = 0
    while True:
        number += 1
        yield Step(
            f'{worker}-{number}', draw.choices(names, weights)[0],
            draw.randrange(slots), draw.randrange(nodes),
            draw.choice(pauses), draw.random(),
        )
