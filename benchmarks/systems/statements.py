"""The table and the ids of the systems that know no sessions."""

import json
import random
import uuid

from benchmarks.systems import PAYLOAD
from benchmarks.systems import POOL

DATA = json.dumps(PAYLOAD, separators=(',', ':'))


def ids():
    """Return the ids of the stored rows."""
    rng = random.Random(4)
    return [uuid.UUID(int=rng.getrandbits(128)) for _ in range(POOL)]
