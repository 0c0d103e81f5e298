"""The conditions that ``--field NAME=VALUE`` and ``--without NAME`` stand
for.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import datetime as dt
from decimal import Decimal
from typing import Any
import uuid

import sqlalchemy as sa

from pyramid_sqlasession.application import Application
from pyramid_sqlasession.durations import duration
from pyramid_sqlasession.errors import SessionFieldError
from pyramid_sqlasession.scripts.failures import UsageFailure


def conditions_of(
    application: Application, pairs: Iterable[tuple[str, str | None]]
) -> list[sa.ColumnElement[bool]]:
    """Return one condition for each (name, value); None is no value.

    :raises UsageFailure: for a field that is not there, or a value that it
        cannot have.
    """
    columns = application.fields.columns
    names = ', '.join(sorted(columns))
    where: dict[str, sa.ColumnElement[bool]] = {}
    for name, value in pairs:
        if name not in columns:
            there = f'there are: {names}' if names else (
                'this application has none (sqlasession.additional_fields, '
                'or columns of the class in sqlasession.model)'
            )
            raise UsageFailure(f'{name!r} is no additional field; {there}')
        if name in where:
            raise UsageFailure(f'the field {name!r} is given twice')
        where[name] = columns[name].is_(None) if value is None else (
            columns[name] == _field_value(application, name, value)
        )
    return list(where.values())


def _field_value(application: Application, name: str, text: str) -> Any:
    """Return the value that *text* is for the column of the field."""
    type_ = application.fields.columns[name].type
    what, read = _kind(type_, _python_type(type_))
    if read is None:
        raise _unsearchable(name, type_)
    try:
        value = read(text)
    except (ValueError, ArithmeticError, KeyError):
        raise UsageFailure(
            f'the field {name!r} takes {what}, not {text!r}'
        ) from None
    try:
        value = application.fields.check(name, value)
    except SessionFieldError as error:
        raise UsageFailure(str(error)) from error
    if not _takes(type_, value, application.engine.dialect):
        raise _unsearchable(name, type_)
    return value


def _unsearchable(name: str, type_: Any) -> UsageFailure:
    return UsageFailure(
        f'the field {name!r} is of the type {type_!r}, by which psessions '
        f'cannot search'
    )


def _python_type(type_: Any) -> type:
    """Return of which type the values of a column are, as far as one knows."""
    try:
        kind: type = type_.python_type
    except NotImplementedError:
        # SQLAlchemy 2.0.
        kind = object
    if kind is object and isinstance(type_, sa.types.TypeDecorator):
        return _python_type(type_.impl)
    if kind is object and not isinstance(type_, sa.JSON):
        # INET and its like: the database reads text.
        return str
    return kind


def _takes(type_: Any, value: Any, dialect: sa.Dialect) -> bool:
    """Return whether a type of the application's own takes *value*.

    Below it may be a text, and its values something else.
    """
    if not isinstance(type_, sa.types.TypeDecorator):
        return True
    bind = type_.bind_processor(dialect)
    try:
        if bind is not None:
            bind(value)
    # It is not ours, and may raise anything.
    except Exception:
        return False
    return True


def _kind(
    type_: Any, kind: type
) -> tuple[str, Callable[[str], Any] | None]:
    if isinstance(type_, sa.Enum) and type_.enum_class is not None:
        # The column holds the names.
        return (
            f'one of {", ".join(type_.enums)}',
            type_.enum_class.__getitem__,
        )
    return _KINDS.get(kind, ('', None))


def _bool(text: str) -> bool:
    word = text.lower()
    if word not in ('true', 'false', 'yes', 'no', '1', '0'):
        raise ValueError
    return word in ('true', 'yes', '1')


_KINDS: dict[type, tuple[str, Callable[[str], Any]]] = {
    str: ('a text', str),
    int: ('a whole number', int),
    float: ('a number', float),
    Decimal: ('a number', Decimal),
    bool: ('true or false', _bool),
    uuid.UUID: ('a UUID', uuid.UUID),
    bytes: ('bytes as hexadecimal digits', bytes.fromhex),
    dt.date: ('a date such as 2026-11-23', dt.date.fromisoformat),
    dt.time: ('a time such as 12:30:00', dt.time.fromisoformat),
    dt.datetime: (
        'a time such as 2026-11-23T12:30:00', dt.datetime.fromisoformat
    ),
    dt.timedelta: (
        'a duration such as 90s or 1h30m',
        lambda text: dt.timedelta(seconds=duration(text)),
    ),
}
