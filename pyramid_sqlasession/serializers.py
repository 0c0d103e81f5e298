"""Values to bytes and back; knows nothing of sessions, records or HTTP.

The default is JSON text, so that ``SELECT data FROM sessions`` shows what a
session holds.  Types that JSON lacks are objects with one tagged key,
``{"$datetime": "2026-11-23T12:00:00+01:00"}``, and come back exactly.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from collections.abc import Iterable
import datetime as dt
from decimal import Decimal
import math
import re
from typing import Any
from typing import Protocol
import uuid

import orjson

from pyramid_sqlasession.basetypes import plain
from pyramid_sqlasession.errors import SessionNotSerializable
from pyramid_sqlasession.errors import shown

#: The limit of nesting, as the walks are recursive.
MAX_DEPTH = 100

# orjson has integers of 64 bits.  A larger one is written in hexadecimal: the
# cost of decimal digits is quadratic, and of more than 4300 Python refuses to
# make a number (CVE-2020-10735).
_SMALL_INT = 1 << 63

# As a number, bytes are searched for it at a quarter of the time.
_DOLLAR = ord('$')


class Serializer(Protocol):
    """What ``sqlasession.serializer`` may name.

    ``loads`` gets hostile bytes whenever somebody can write to the database,
    so it must not be able to run code: never use pickle.
    """

    def dumps(self, data: dict[str, Any], /) -> bytes:
        """Return the bytes of a session's data.

        :raises SessionNotSerializable: for a value that cannot be stored.
        """

    def loads(self, raw: bytes, /) -> dict[str, Any]:
        """Return the data; any exception means that *raw* is damaged."""


class JSONSerializer:
    """The default serializer (``sqlasession.serializer = json``)."""

    def dumps(self, data: Any) -> bytes:
        """Return JSON in UTF-8.

        :raises SessionNotSerializable: naming the key path and the type.
        """
        # orjson writes some values as others without a word (a tuple as a
        # list, NaN as null, a UUID as a string), and has no limit for
        # nested tuples: it gets only what JSON has, too.
        if type(data) is dict and _is_plain(data.values(), 0):
            try:
                raw = orjson.dumps(data)
                # One byte is found faster than two: most have neither.
                if _DOLLAR not in raw or b'"$' not in raw:
                    return raw
            # Keys that are no str, integers above 64 bits, surrogates.
            except TypeError:
                pass
        return orjson.dumps(_tag(data, 'session', 0, set()))

    def loads(self, raw: bytes) -> Any:
        """Return the value that *raw* was made of.

        :raises ValueError: if *raw* is not what :meth:`dumps` writes.
        """
        data = orjson.loads(raw)
        if _DOLLAR not in raw or b'"$' not in raw:
            return data
        try:
            return _untag(data, 0)
        # A set of lists, a timedelta of texts, a Decimal of letters; a
        # stack that was nearly full before.
        except (TypeError, ArithmeticError, RecursionError) as error:
            raise ValueError(f'{type(error).__name__}: {error}') from error


def _is_plain(items: Iterable[Any], depth: int) -> bool:
    """Return whether *items* have a meaning in JSON, all the way down.

    Near the limit of nesting it says no to whatever is nested.

    :param depth: in how many containers what holds the items is.
    """
    # Three levels at once and type by type: this is paid by each session
    # that is saved, and a call for each container would double it.
    for item in items:
        kind = type(item)
        if kind is str or kind is int:
            continue
        values: Iterable[Any]
        if kind is list:
            values = item
        elif kind is dict:
            values = item.values()
        # Infinity minus itself is not zero, and no more is NaN.
        elif kind is bool or item is None or (
            kind is float and item - item == 0.0
        ):
            continue
        else:
            return False
        for value in values:
            kind = type(value)
            if kind is str or kind is int:
                continue
            leaves: Iterable[Any]
            if kind is dict:
                leaves = value.values()
            elif kind is list:
                leaves = value
            elif kind is bool or value is None or (
                kind is float and value - value == 0.0
            ):
                continue
            else:
                return False
            for leaf in leaves:
                kind = type(leaf)
                if kind is str or kind is int:
                    continue
                if kind is bool or leaf is None or (
                    kind is float and leaf - leaf == 0.0
                ):
                    continue
                if depth > MAX_DEPTH - 5 or not _is_plain((leaf,), depth + 2):
                    return False
    return True


def _tag(value: Any, path: str, depth: int, parents: set[int]) -> Any:
    """Return *value* in JSON's own types, with tags for all others."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        number = float(value)
        return number if math.isfinite(number) else {'$float': repr(number)}
    if isinstance(value, _CONTAINERS):
        if depth >= MAX_DEPTH:
            raise SessionNotSerializable(
                path, type(value).__name__,
                f'nested deeper than {MAX_DEPTH} levels',
            )
        if id(value) in parents:
            raise SessionNotSerializable(
                path, type(value).__name__, 'it contains itself'
            )
        parents.add(id(value))
        try:
            return _container(value, path, depth + 1, parents)
        finally:
            parents.discard(id(value))
    for kind, tag, encode in _SCALARS:
        if isinstance(value, kind):
            try:
                return {tag: encode(plain(value))}
            # One of a subclass that is none (pandas.NaT).
            except Exception as error:
                raise SessionNotSerializable(
                    path, _name(value), f'{type(error).__name__}: {error}'
                ) from error
    raise SessionNotSerializable(path, _name(value))


_CONTAINERS = (dict, list, tuple, set)


def _container(value: Any, path: str, depth: int, parents: set[int]) -> Any:
    if isinstance(value, dict):
        found = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise SessionNotSerializable(
                    f'{path}[{shown(key)}]', _name(key),
                    'the keys of a dict must be str',
                )
            at = f'{path}[{shown(key)}]'
            found[_text(key, at)] = _tag(item, at, depth, parents)
        # A dict that looks like a tag is wrapped in one.
        if len(found) == 1 and next(iter(found)).startswith('$'):
            return {'$dict': found}
        return found
    items = [
        _tag(item, f'{path}[{number}]', depth, parents)
        for number, item in enumerate(value)
    ]
    if isinstance(value, list):
        return items
    if isinstance(value, tuple):
        return {'$tuple': items}
    # A set has no order: sorted, so that equal sets have equal text.
    return {'$set': sorted(items, key=orjson.dumps)}


def _text(value: str, path: str) -> str:
    text: str = plain(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SessionNotSerializable(
            path, _name(value), 'it contains a lone surrogate'
        ) from None
    return text


def _integer(value: int) -> Any:
    number = int(value)
    if -_SMALL_INT <= number < _SMALL_INT:
        return number
    return {'$int': hex(number)}


def _name(value: Any) -> str:
    kind = type(value)
    if kind.__module__ == 'builtins':
        return kind.__qualname__
    return f'{kind.__module__}.{kind.__qualname__}'


def _bytes(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _isoformat(value: dt.datetime | dt.time) -> str:
    text = value.replace(tzinfo=None, fold=0).isoformat()
    # A time in a zone with summer time has no offset of its own; it comes
    # back naive, as its offset is unknown without a date.
    offset = value.utcoffset()
    if offset is not None:
        # The offset alone: the instant and the offset come back, not the
        # name of the zone, whose rules may change meanwhile.
        zone = dt.timezone(offset)
        text += dt.time(0, tzinfo=zone).isoformat()[8:]
    elif value.fold:
        text += ' fold=1'
    return text


# Python (3.11) takes an offset of less than a second for none.
_FINE_OFFSET = re.compile(
    r'(.*)([+-])(\d\d):(\d\d):(\d\d)\.(\d{6})', re.ASCII
)


def _from_isoformat(kind: Any) -> Callable[[str], Any]:
    """Return the inverse of :func:`_isoformat`, for one of its types."""
    def decode(text: str) -> Any:
        if text.endswith(' fold=1'):
            return kind.fromisoformat(text[:-7]).replace(fold=1)
        if (match := _FINE_OFFSET.fullmatch(text)) is not None:
            offset = dt.timedelta(
                0, int(match[5]), int(match[6]), 0, int(match[4]),
                int(match[3]),
            )
            return kind.fromisoformat(match[1]).replace(
                tzinfo=dt.timezone(-offset if match[2] == '-' else offset)
            )
        return kind.fromisoformat(text)

    return decode


def _span(value: dt.timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


# datetime before date: a datetime is a date.
_SCALARS: tuple[tuple[Any, str, Callable[[Any], Any]], ...] = (
    (dt.datetime, '$datetime', _isoformat),
    (dt.date, '$date', dt.date.isoformat),
    (dt.time, '$time', _isoformat),
    (dt.timedelta, '$timedelta', _span),
    (Decimal, '$decimal', Decimal.__str__),
    (uuid.UUID, '$uuid', lambda value: value.hex),
    (bytes, '$bytes', _bytes),
)


def _untag(value: Any, depth: int) -> Any:
    if depth > 3 * MAX_DEPTH:
        raise ValueError('nested too deeply')
    if type(value) is list:
        return [_untag(item, depth + 1) for item in value]
    if type(value) is not dict:
        return value
    if len(value) == 1:
        ((key, item),) = value.items()
        if key.startswith('$'):
            return _untagged(key, item, depth + 1)
    return {key: _untag(item, depth + 1) for key, item in value.items()}


def _untagged(tag: str, item: Any, depth: int) -> Any:
    if tag == '$dict':
        return {
            key: _untag(part, depth) for key, part in _is(dict, item).items()
        }
    if tag == '$tuple':
        return tuple(_untag(part, depth) for part in _is(list, item))
    if tag == '$set':
        return {_untag(part, depth) for part in _is(list, item)}
    try:
        kind, decode = _DECODERS[tag]
    except KeyError:
        raise ValueError(f'unknown tag {tag!r}') from None
    return decode(_is(kind, item))


def _is(kind: type, item: Any) -> Any:
    if type(item) is not kind:
        raise ValueError(f'a {kind.__name__} was expected')
    return item


def _hexadecimal(text: str) -> int:
    if re.fullmatch(r'-?0x[0-9a-f]+', text) is None:
        raise ValueError('not a hexadecimal integer')
    return int(text, 16)


def _special_float(text: str) -> float:
    if text not in ('nan', 'inf', '-inf'):
        raise ValueError('not a special float')
    return float(text)


_DECODERS: dict[str, tuple[type, Callable[[Any], Any]]] = {
    '$datetime': (str, _from_isoformat(dt.datetime)),
    '$date': (str, dt.date.fromisoformat),
    '$time': (str, _from_isoformat(dt.time)),
    '$timedelta': (list, lambda item: dt.timedelta(*item)),
    '$decimal': (str, Decimal),
    '$uuid': (str, uuid.UUID),
    '$bytes': (str, lambda text: base64.b64decode(text, validate=True)),
    '$int': (str, _hexadecimal),
    '$float': (str, _special_float),
}
