"""What a value of an additional field has to be, checked before the database
is asked.
"""

from __future__ import annotations

from collections.abc import Callable
import datetime as dt
from decimal import Decimal
import ipaddress
import json
import math
import re
import sys
from typing import Any
import uuid

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects import postgresql

from pyramid_sqlasession.basetypes import plain
from pyramid_sqlasession.errors import SessionFieldError
from pyramid_sqlasession.model import Span
from pyramid_sqlasession.model import UTCDateTime

_WORDS = {
    str: 'a str', int: 'an int', float: 'a float', bool: 'a bool',
    bytes: 'bytes', dt.datetime: 'a datetime', dt.date: 'a date',
    dt.time: 'a time', dt.timedelta: 'a timedelta', Decimal: 'a Decimal',
}

# Types whose values are accepted beside the column's own: no digit is lost, as
# an int that a float has not is refused.
_ALSO: dict[type, tuple[type, ...]] = {float: (int,), Decimal: (int,)}


class _Misfit(Exception):
    """A value does not fit; the text says what the column takes."""


def stored(
    name: str, value: Any, column: sa.Column[Any],
    dialect: Callable[[], sa.Dialect],
) -> Any:
    """Return *value* as it is stored, if it fits the field's column.

    :param dialect: returns the database's, once there is an engine.
    :raises SessionFieldError: if it does not.
    """
    try:
        if value is not None:
            return _fitting(value, column.type, dialect)
        if not column.nullable:
            raise _Misfit('a value (the column is not null)')
    except _Misfit as error:
        raise SessionFieldError(name, value, str(error)) from None
    # Or it would be the null of JSON, which is not NULL.
    return sa.null() if isinstance(column.type, sa.JSON) else None


# Each function below raises _Misfit for a value that does not fit.


def _fitting(value: Any, type_: Any, dialect: Callable[[], sa.Dialect]) -> Any:
    """Return *value*, which is not None, as it is stored."""
    if isinstance(type_, sa.JSON):
        return _check_json(value)
    if isinstance(type_, sa.Enum):
        return _check_enum(value, type_)
    if isinstance(type_, (postgresql.INET, postgresql.CIDR)):
        return _check_address(value, type_)
    if isinstance(type_, postgresql.HSTORE):
        return _check_texts(value)
    kind = _python_type(type_)
    if kind is None:
        if isinstance(type_, sa.types.TypeDecorator):
            _check_bound(value, type_, dialect())
        return value
    _check_kind(value, kind)
    # A type of the application's own may work with its own values, but not by
    # a text's methods: those of Markup, say, are other ones.
    if kind is str or type(type_).__module__.partition('.')[0] in _KNOWN:
        value = _plain(value, kind)
    if isinstance(type_, sa.ARRAY):
        return _fitting_items(value, type_.item_type, dialect)
    _check_limits(value, type_)
    if kind in (float, Decimal):
        _check_number(value, kind)
        return _number(value, type_, dialect)
    if isinstance(value, dt.timedelta):
        _check_span(value)
    if isinstance(value, dt.datetime):
        return _in_utc(value, type_)
    if isinstance(value, str) and isinstance(type_, sa.Uuid):
        return _check_uuid(value)
    return value


#: Whose types are bound as their Python type is.
_KNOWN = ('sqlalchemy', __name__.partition('.')[0])


def _plain(value: Any, kind: type) -> Any:
    try:
        return plain(value)
    # One of a subclass that is none (pandas.NaT).
    except Exception:
        raise _Misfit(_word_for(kind)) from None


def _word_for(kind: type) -> str:
    return _WORDS.get(kind, f'a {kind.__name__}')


def _fitting_items(
    value: list[Any], type_: Any, dialect: Callable[[], sa.Dialect]
) -> list[Any]:
    """Return the items of an ARRAY as they are stored."""
    def fitting(item: Any) -> Any:
        # A list is another dimension, unless it is a value itself.
        if isinstance(item, list) and not isinstance(type_, sa.JSON):
            return [fitting(one) for one in item]
        return None if item is None else _fitting(item, type_, dialect)

    try:
        return [fitting(item) for item in value]
    except _Misfit as error:
        raise _Misfit(f'a list whose items fit: {error}') from None


def _check_texts(value: Any) -> Any:
    # psycopg lets any error through that it meets in another value.
    if not isinstance(value, dict) or not all(
        isinstance(key, str) and isinstance(text, str | None)
        for key, text in value.items()
    ):
        raise _Misfit('a dict of str to str or None')
    return value


def _in_utc(value: dt.datetime, type_: Any) -> dt.datetime:
    # One clock: what has no time zone is UTC, whatever the time zone of the
    # process and of the connection.
    if value.utcoffset() is None:
        value = value.replace(tzinfo=dt.UTC)
    try:
        value = value.astimezone(dt.UTC)
    except OverflowError:
        raise _Misfit('a datetime of the years 1 to 9999 in UTC') from None
    if isinstance(type_, UTCDateTime) or type_.timezone:
        return value
    return value.replace(tzinfo=None)


def _check_json(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise _Misfit(f'what JSON can hold ({error})') from None
    return value


def _check_enum(value: Any, type_: Any) -> Any:
    if type_.enum_class is None:
        if not isinstance(value, str):
            raise _Misfit('a str')
        if value in type_.enums:
            return plain(value)
        raise _Misfit(f'one of {", ".join(type_.enums)}')
    if isinstance(value, type_.enum_class):
        return value
    # The session holds the value: a member with str or int in it comes back
    # as its base type.
    try:
        return type_.enum_class(value)
    except ValueError:
        raise _Misfit(f'a member of {type_.enum_class.__name__}') from None


def _check_kind(value: Any, kind: type) -> None:
    fits = isinstance(value, (kind, *_ALSO.get(kind, ())))
    # A bool is an int, and a datetime is a date, for Python alone.
    if isinstance(value, bool) and kind is not bool:
        fits = False
    if isinstance(value, dt.datetime) and kind is dt.date:
        fits = False
    if not fits:
        raise _Misfit(_word_for(kind))


#: Those whose values are known; of any other it is its own affair.
_DECORATORS = (UTCDateTime, sa.Interval, Span)


def _python_type(type_: Any) -> type | None:
    if isinstance(type_, sa.types.TypeDecorator) and (
        type(type_) not in _DECORATORS
    ):
        return None
    try:
        kind = type_.python_type
    # SQLAlchemy 2.0.
    except NotImplementedError:
        return None
    # Of what it does not know SQLAlchemy 2.1 says that it is an object.
    return kind if isinstance(kind, type) and kind is not object else None


_NUMBERS = (int, float, Decimal)


def _check_bound(value: Any, type_: Any, dialect: sa.Dialect) -> None:
    """Check what a type of the application makes of *value*.

    For MariaDB and MySQL a text is equal to the number that it begins with,
    'ada' to 0 and '7b' to 7: it would be the sessions of others.
    """
    bound = value
    while isinstance(type_, sa.types.TypeDecorator):
        try:
            bound = type_.process_bind_param(bound, dialect)
        except NotImplementedError:
            # It has none.
            pass
        # The statement meets it again, and raises it.
        except Exception:
            return
        type_ = type_.load_dialect_impl(dialect)
    if bound is None or isinstance(bound, sa.ClauseElement):
        return
    kind = _python_type(type_)
    if kind is str:
        fits = isinstance(bound, str)
    else:
        fits = kind not in _NUMBERS or isinstance(bound, _NUMBERS)
    if not fits:
        assert kind is not None
        raise _Misfit(f'what its type makes {_WORDS[kind]} of')


_BITS: tuple[tuple[type, int], ...] = (
    (mysql.TINYINT, 8), (mysql.MEDIUMINT, 24),
    (sa.SmallInteger, 16), (sa.BigInteger, 64), (sa.Integer, 32),
)


def _check_int(value: int, type_: Any) -> None:
    bits = next(b for kind, b in _BITS if isinstance(type_, kind))
    if getattr(type_, 'unsigned', False):
        if not 0 <= value < 1 << bits:
            raise _Misfit(f'an int of {bits} bits that is not negative')
    elif not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise _Misfit(f'an int of {bits} bits')


def _check_limits(value: Any, type_: Any) -> None:
    if isinstance(value, str):
        if '\x00' in value:
            raise _Misfit('a str without NUL')
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Misfit('a str without lone surrogates') from None
    length = getattr(type_, 'length', None)
    if (
        isinstance(value, str | bytes)
        and isinstance(length, int)
        and len(value) > length
    ):
        unit = 'characters' if isinstance(value, str) else 'bytes'
        raise _Misfit(f'at most {length} {unit}')
    if isinstance(value, int) and isinstance(type_, sa.Integer):
        _check_int(value, type_)


def _check_number(value: Any, kind: type) -> None:
    # SQLite stores NaN as NULL; MariaDB has neither it nor infinity.
    try:
        is_finite = math.isfinite(float(value))
    # An int that is too large; Decimal('sNaN').
    except (OverflowError, ValueError):
        is_finite = False
    if not is_finite:
        raise _Misfit(
            f'a finite {kind.__name__} of at most {sys.float_info.max:.2g}'
        )


def _number(value: Any, type_: Any, dialect: Callable[[], sa.Dialect]) -> Any:
    """Return a number as it is stored, and asked for: an int would be bound
    as one of 64 bits, whatever the column has a place for.
    """
    if isinstance(type_, sa.Float):
        if isinstance(value, int) and int(float(value)) != value:
            raise _Misfit('an int that a float has exactly, or a float')
        return float(value) if isinstance(value, int) else value
    if not _has_digits(type_):
        return value
    _check_digits(value, type_)
    if isinstance(value, float):
        return value
    _check_exactness(value, type_, dialect())
    return Decimal(value)


def _has_digits(type_: Any) -> bool:
    # Float is a Numeric for SQLAlchemy 2.0, and its precision is of bits.
    return isinstance(type_, sa.Numeric) and not isinstance(type_, sa.Float)


#: A float keeps so many, whichever they are.
_DIGITS = sys.float_info.dig


def _check_exactness(
    value: int | Decimal, type_: Any, dialect: sa.Dialect
) -> None:
    # SQLite keeps a float: of more digits, two numbers are the same one, and
    # one user's sessions are another's.
    if (
        dialect.name == 'sqlite'
        and _has_digits(type_.dialect_impl(dialect))
        and len(_digits(Decimal(value)).strip('0')) > _DIGITS
    ):
        raise _Misfit(
            f'a number of at most {_DIGITS} digits, as SQLite keeps no more '
            f'of them'
        )


def _check_digits(value: Any, type_: Any) -> None:
    if type_.precision is None:
        return
    scale = type_.scale or 0
    before = type_.precision - scale
    # A float has no digits that somebody has chosen: it is rounded.
    number = Decimal(
        str(round(value, scale)) if isinstance(value, float) else value
    )
    if number and (
        number.adjusted() >= before or _places(number) > scale
    ):
        raise _Misfit(
            f'a number of at most {before} digits before the decimal point '
            f'and {scale} after it'
        )


def _places(number: Decimal) -> int:
    """Return after how many digits behind the point *number* ends."""
    text = _digits(number)
    exponent = number.as_tuple().exponent
    return -int(exponent) - len(text) + len(text.rstrip('0'))


def _digits(number: Decimal) -> str:
    return ''.join(map(str, number.as_tuple().digits))


def _check_uuid(value: str) -> str:
    try:
        return str(uuid.UUID(value))
    except ValueError:
        raise _Misfit(
            f'the text of a UUID, such as {uuid.UUID(int=5)}'
        ) from None


_ADDRESSES = (
    str, ipaddress.IPv4Address, ipaddress.IPv6Address,
    ipaddress.IPv4Network, ipaddress.IPv6Network,
)


def _check_address(value: Any, type_: Any) -> Any:
    is_network = isinstance(type_, postgresql.CIDR)
    parse = ipaddress.ip_network if is_network else ipaddress.ip_interface
    try:
        # For Python a number is one too, and so is one with a netmask or a
        # scope, which PostgreSQL does not know.
        if not isinstance(value, _ADDRESSES) or not re.fullmatch(
            r'[0-9A-Fa-f.:]+(/[0-9]+)?', str(value)
        ):
            raise ValueError
        parse(str(value))
    except ValueError:
        raise _Misfit(
            'an IP network, such as 192.168.1.0/24' if is_network
            else 'an IP address, such as 192.168.1.7'
        ) from None
    return value


_EPOCH = dt.date(1970, 1, 1)
_SPAN = (dt.date.min - _EPOCH).days, (dt.date.max - _EPOCH).days


def _check_span(value: dt.timedelta) -> None:
    # But for PostgreSQL, it is stored as the moment so long after 1970.
    least, most = _SPAN
    if not least <= value.days <= most:
        raise _Misfit(f'a timedelta of {least} to {most} days')
