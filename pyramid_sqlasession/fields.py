"""The values of the additional fields, checked before the database is."""

from __future__ import annotations

from collections.abc import Mapping
import datetime as dt
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.errors import SessionFieldError
from pyramid_sqlasession.model import fields_of

_WORDS = {
    str: 'a str', int: 'an int', float: 'a float', bool: 'a bool',
    bytes: 'bytes', dt.datetime: 'a datetime', dt.date: 'a date',
    dt.time: 'a time', dt.timedelta: 'a timedelta', Decimal: 'a Decimal',
}

# Types whose values are accepted beside the column's own: no digit is lost.
_ALSO: dict[type, tuple[type, ...]] = {
    float: (int,), Decimal: (int,), dict: (list,), list: (dict,),
}


class Fields:
    """The additional fields of one model."""

    def __init__(self, model: type[Any]) -> None:
        self.columns = fields_of(model)
        table = sa.inspect(model).local_table
        #: Whether two records cannot have the same value of some field.
        self.has_unique = any(
            column.unique for column in self.columns.values()
        ) or any(
            isinstance(constraint, sa.UniqueConstraint)
            for constraint in table.constraints
        ) or any(index.unique for index in table.indexes)

    def defaults(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return each field with the session's value of that name."""
        return {name: data.get(name) for name in self.columns}

    def values(
        self, given: Mapping[str, Any], *, insert: bool
    ) -> dict[str, Any]:
        """Return the values to store, checked, by column.

        :raises SessionFieldError: if a value does not fit its column.
        """
        values = {}
        for name, value in given.items():
            column = self.columns.get(name)
            if column is None:
                raise SessionError(
                    f'sqlasession.extend_default_fields returned '
                    f'{name!r}, which is no additional field; there are '
                    f'{sorted(self.columns) or "none"}'
                )
            if value is None:
                if column.server_default is not None:
                    continue
                default: Any = column.default
                if default is not None:
                    if not default.is_scalar:
                        continue
                    value = default.arg
            values[column.key] = self.check(name, value)
        return values

    def check(self, name: str, value: Any) -> Any:
        """Return *value* if it fits the column of the field.

        :raises SessionFieldError: if it does not.
        """
        column = self.columns[name]
        if value is None:
            if not column.nullable:
                raise SessionFieldError(name, value, 'no None (not null)')
            return None
        kind = _python_type(column.type)
        if kind is None:
            return value
        accepted = (kind, *_ALSO.get(kind, ()))
        fits = isinstance(value, accepted)
        # A bool is an int, and a datetime is a date, for Python alone.
        if isinstance(value, bool) and kind is not bool:
            fits = False
        if isinstance(value, dt.datetime) and kind is dt.date:
            fits = False
        if not fits:
            raise SessionFieldError(
                name, value, _WORDS.get(kind, f'a {kind.__name__}')
            )
        _check_limits(name, value, column.type)
        if isinstance(value, str) and type(value) is not str and kind is str:
            # Drivers adapt by the exact type, and Markup is none they know.
            return str.__str__(value)
        return value


def _python_type(type_: Any) -> type | None:
    if isinstance(type_, sa.JSON):
        return None
    if isinstance(type_, sa.types.TypeDecorator):
        # What the application's own type takes is its own affair.
        return None
    try:
        kind = type_.python_type
    except NotImplementedError:
        return None
    if isinstance(type_, sa.Enum) and type_.enum_class is None:
        return str
    return kind if isinstance(kind, type) else None


_BITS: tuple[tuple[type, int], ...] = (
    (sa.SmallInteger, 15), (sa.BigInteger, 63), (sa.Integer, 31),
)


def _check_limits(name: str, value: Any, type_: Any) -> None:
    if isinstance(value, str):
        if '\x00' in value:
            raise SessionFieldError(name, value, 'a str without NUL')
        try:
            value.encode()
        except UnicodeEncodeError:
            raise SessionFieldError(
                name, value, 'a str without lone surrogates'
            ) from None
        if isinstance(type_, sa.Enum):
            if value not in type_.enums:
                raise SessionFieldError(
                    name, value, f'one of {", ".join(type_.enums)}'
                )
            return
    length = getattr(type_, 'length', None)
    if (
        isinstance(value, str | bytes)
        and isinstance(length, int)
        and len(value) > length
    ):
        unit = 'characters' if isinstance(value, str) else 'bytes'
        raise SessionFieldError(name, value, f'at most {length} {unit}')
    if isinstance(value, int) and isinstance(type_, sa.Integer):
        bits = next(b for kind, b in _BITS if isinstance(type_, kind))
        if not -(1 << bits) <= value < 1 << bits:
            raise SessionFieldError(
                name, value, f'an int of {bits + 1} bits'
            )
