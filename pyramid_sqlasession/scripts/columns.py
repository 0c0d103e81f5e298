"""Columns as the command reads them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa


def size_of(column: sa.Column[Any], dialect: sa.Dialect) -> Any:
    """Return the expression for the bytes of a text column."""
    if dialect.name == 'sqlite':
        # octet_length() came with SQLite 3.43.
        return sa.func.length(sa.cast(column, sa.LargeBinary))
    return sa.func.octet_length(column)
