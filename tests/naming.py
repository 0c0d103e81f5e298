"""Names of parametrised tests that are the same in every process.

pytest-xdist compares them, so that no address may be in them.
"""

import re


def shown(value):
    """Return ``repr(value)`` without addresses."""
    return re.sub(r' at 0x[0-9a-f]+', '', repr(value))
