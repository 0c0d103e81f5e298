"""The value of a subclass as one of the type that it is built on, which is
what others can store.

Libraries make subclasses of Python's types whose methods and attributes say
something else: a negative duration that is not normalised, a text that
translates itself, a moment with nanoseconds.  Drivers go by the exact type.
"""

from __future__ import annotations

from collections.abc import Callable
import datetime as dt
from decimal import Decimal
from typing import Any
import uuid


def _datetime(value: dt.datetime) -> dt.datetime:
    # Not past the attributes of the subclass: what is no moment at all
    # (pandas.NaT) has NaN there, and a moment underneath.
    return dt.datetime(
        value.year, value.month, value.day, value.hour, value.minute,
        value.second, value.microsecond, value.tzinfo, fold=value.fold,
    )


def _time(value: dt.time) -> dt.time:
    return dt.time(
        value.hour, value.minute, value.second, value.microsecond,
        value.tzinfo, fold=value.fold,
    )


def _timedelta(value: dt.timedelta) -> dt.timedelta:
    cls = dt.timedelta
    return cls(
        cls.days.__get__(value), cls.seconds.__get__(value),
        cls.microseconds.__get__(value),
    )


#: A datetime is a date.  A bool is no number here, and has no subclasses.
_MAKERS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (bool, bool),
    (str, str.__str__),
    (int, int),
    (float, float),
    (dt.datetime, _datetime),
    (dt.date, lambda value: dt.date(value.year, value.month, value.day)),
    (dt.time, _time),
    (dt.timedelta, _timedelta),
    (Decimal, Decimal),
    (bytes, bytes),
    (uuid.UUID, lambda value: uuid.UUID(int=value.int)),
)


def plain(value: Any) -> Any:
    """Return *value* as one of the type that it is built on; itself if it is
    one, or built on none of these.

    :raises Exception: whatever a value says that is none.
    """
    for kind, make in _MAKERS:
        if isinstance(value, kind):
            return value if type(value) is kind else make(value)
    return value
