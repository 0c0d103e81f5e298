"""Columns as the command reads them: sizes, and values that may be damaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa


def size_of(column: sa.Column[Any], dialect: sa.Dialect) -> Any:
    """Return the expression for the bytes of a text column."""
    if dialect.name == 'sqlite':
        # octet_length() came with SQLite 3.43.
        return sa.func.length(sa.cast(column, sa.LargeBinary))
    return sa.func.octet_length(column)


class _Unreadable:
    """A value that SQLite keeps although it does not fit the column."""

    def __str__(self) -> str:
        return '(damaged)'


class _Lenient(sa.types.UserDefinedType[Any]):
    """Reads as another type does, and survives what that cannot read."""

    cache_ok = False

    def __init__(self, type_: Any) -> None:
        # By the name of the argument, or SQLAlchemy cannot copy it.
        self.type_ = type_

    def result_processor(
        self, dialect: sa.Dialect, coltype: object
    ) -> Callable[[Any], Any] | None:
        read = self.type_.dialect_impl(dialect).result_processor(
            dialect, coltype
        )

        def process(value: Any) -> Any:
            try:
                return value if read is None else read(value)
            # Whatever an application's own type raises.
            except Exception:
                return _Unreadable()

        return process


def leniently(column: Any) -> Any:
    """Return *column*, read so that a damaged value hides no other row."""
    return sa.type_coerce(column, _Lenient(column.type))
