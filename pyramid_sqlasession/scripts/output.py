"""What the command writes: text for a person, JSON for a program."""

from __future__ import annotations

import datetime as dt
import enum
import json
import math
import os
import sys
from typing import Any
from typing import TextIO

# The least number of digits that Python may be told to refuse.
_LONG: int = 10 ** sys.int_info.str_digits_check_threshold


def say(text: str) -> None:
    """Write a line to stderr."""
    print(_encodable(f'psessions: {text}', sys.stderr), file=sys.stderr)


def put(text: str = '') -> None:
    """Write a line to stdout."""
    print(_encodable(text, sys.stdout))


def _encodable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or 'ascii'
    return text.encode(encoding, 'backslashreplace').decode(encoding)


def put_json(value: object) -> None:
    """Write *value* to stdout as JSON, readable."""
    put(json.dumps(value, indent=2))


def bold(text: str) -> str:
    """Return *text* so that a terminal shows it in bold."""
    return f'\x1b[1m{text}\x1b[0m' if _has_colours(sys.stdout) else text


def _has_colours(stream: TextIO) -> bool:
    # https://no-color.org
    return (
        stream.isatty()
        and not os.environ.get('NO_COLOR')
        and os.environ.get('TERM') != 'dumb'
    )


def plural(count: int, one: str, many: str) -> str:
    """Return *count* with the noun that fits it."""
    return f'{count:,} {one if count == 1 else many}'


def readable_bytes(count: int) -> str:
    """Return *count* bytes in the unit that keeps them short."""
    size, unit = float(count), 'B'
    for unit in ('B', 'KiB', 'MiB', 'GiB', 'TiB'):
        if size < 1024 or unit == 'TiB':
            break
        size /= 1024
    return f'{count} B' if unit == 'B' else f'{size:.1f} {unit}'


def shown(value: Any) -> str:
    """Return *value* for a person: one line, no control characters."""
    if value is None:
        return '-'
    if isinstance(value, dt.datetime):
        return value.strftime('%Y-%m-%d %H:%M:%S')
    if isinstance(value, bytes):
        return value.hex()
    text = value.name if isinstance(value, enum.Enum) else str(value)
    # A user agent, say, is anybody's text, and could command the terminal.
    return text if text.isprintable() else repr(text)[1:-1]


def is_long(value: int) -> bool:
    """Return whether *value* is to be shown in hexadecimal: of more digits
    Python refuses to make decimal ones.
    """
    return abs(value) >= _LONG


def json_value(value: Any) -> Any:
    """Return what stands for *value* in JSON."""
    if isinstance(value, dict):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(json_value, value), key=repr)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and is_long(value):
        return hex(value)
    if isinstance(value, str | int | float | None):
        return value
    return str(value)
