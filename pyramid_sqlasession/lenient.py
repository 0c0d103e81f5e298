"""Columns that are read although SQLite keeps what does not fit them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa


class Unreadable:
    """A value that SQLite keeps although it does not fit the column."""

    def __str__(self) -> str:
        return '(damaged)'


class _Lenient(sa.types.UserDefinedType[Any]):
    """Reads as another type does, and survives what that cannot read."""

    cache_ok = True

    def __init__(self, type_: Any) -> None:
        # By the name of the argument, or SQLAlchemy cannot copy it.
        self.type_ = type_

    def column_expression(self, column: Any) -> Any:
        found = self.type_.column_expression(column)
        return column if found is None else found

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
                return Unreadable()

        return process


def leniently(column: Any) -> Any:
    """Return *column*, read so that a damaged value hides no other row."""
    return sa.type_coerce(column, _Lenient(column.type))
