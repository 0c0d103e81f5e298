"""Durations as people write them, and seconds."""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import Any

#: Seconds; above, the arithmetic with datetimes overflows sooner or later.
LONGEST = 100 * 366 * 86400.0

# Seconds.
_UNITS = {'s': 1.0, 'm': 60.0, 'h': 3600.0, 'd': 86400.0}

#: How to write one, for errors.
HOW_WRITTEN = (
    'give a number of seconds, or a number with a unit such as 90s, 15m, '
    '24h, 7d or 1h30m'
)


def duration(value: Any) -> float:
    """Return seconds from a number, a timedelta or text such as ``1h30m``.

    :raises ValueError: if it is none of them.
    """
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        return _parsed(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(HOW_WRITTEN)
    try:
        seconds = float(value)
    except OverflowError:
        raise ValueError(HOW_WRITTEN) from None
    if not math.isfinite(seconds):
        raise ValueError(HOW_WRITTEN)
    return seconds


def _parsed(text: str) -> float:
    if re.fullmatch(r'[+-]?[0-9]+(\.[0-9]+)?', text):
        return float(text)
    match = re.fullmatch(
        r'([+-]?)(?:(\d+)d)?\s*(?:(\d+)h)?\s*(?:(\d+)m)?\s*(?:(\d+)s)?',
        text.lower(), re.ASCII,
    )
    if match is None or not any(match.groups()[1:]):
        raise ValueError(HOW_WRITTEN)
    sign, *numbers = match.groups()
    seconds = sum(
        float(number or 0) * _UNITS[unit]
        for number, unit in zip(numbers, 'dhms', strict=True)
    )
    return -seconds if sign == '-' else seconds


def spoken(seconds: float) -> str:
    """Return *seconds* as one would write them in an ini file."""
    if seconds < 0 or seconds % 1:
        # Units are of whole numbers.
        return repr(seconds)
    for unit, length in (('d', 86400), ('h', 3600), ('m', 60)):
        # 60s rather than 1m, and 24h: it is what everybody writes.
        if seconds % length == 0 and seconds // length > 1:
            return f'{seconds // length:.0f}{unit}'
    return f'{seconds:.0f}s'
