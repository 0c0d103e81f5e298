"""A statement in the words of one driver: its text, its parameters, its row.

Knows SQLAlchemy's types, and no driver.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
import struct
from typing import Any

import sqlalchemy as sa

Row = tuple[Any, ...]
Convert = Callable[[Any], Any]
Places = tuple[tuple[Convert, tuple[int, ...]], ...]


class Uncommon(Exception):
    """There is no short way for this; nothing was written."""


def as_is(value: Any) -> Any:
    """Convert nothing."""
    return value


@dataclass(frozen=True)
class Compiled:
    """A statement in the words of one driver."""

    text: Any
    #: From the parameters by name, of which there are two at least, to those
    #: in order.
    take: Callable[[Mapping[str, Any]], Iterable[Any]]
    #: The parameters that are not sent as they are.
    sent: Places
    #: How many columns there are; none for a write.
    width: int
    #: The columns that are not read as they are.
    received: Places

    @property
    def words(self) -> str:
        """The statement for people."""
        text = self.text
        return text.decode() if isinstance(text, bytes) else str(text)


def places_of(converts: Iterable[Convert]) -> Places:
    """Return by what something has to be converted, and where."""
    found: dict[Convert, list[int]] = {}
    for place, convert in enumerate(converts):
        if convert is not as_is:
            found.setdefault(convert, []).append(place)
    return tuple((one, tuple(places)) for one, places in found.items())


def compile_for(
    statement: Any, dialect: sa.Dialect, names: Iterable[str]
) -> tuple[Any, dict[str, Any]]:
    """Return *statement* as SQLAlchemy compiles it, and the types of its
    parameters.

    :raises Uncommon: if it needs more than these, or a type is another one
        on this database.
    """
    given = set(names)
    compiled = statement.compile(dialect=dialect, column_keys=list(given))
    if (
        compiled.escaped_bind_names
        # Defaults that SQLAlchemy would compute, or fetch.
        or not compiled.binds.keys() <= given
        or getattr(compiled, 'effective_returning', ())
    ):
        raise Uncommon
    types = {name: bind.type for name, bind in compiled.binds.items()}
    for kind in types.values():
        if _is_varied(kind, dialect):
            raise Uncommon
    return compiled, types


def _is_varied(kind: Any, dialect: sa.Dialect) -> bool:
    """Return whether it is another type on this database (with_variant)."""
    try:
        plain = type(kind)()
    except TypeError:
        # None of those that have a short way.
        return True
    return type(kind.dialect_impl(dialect)) is not type(
        plain.dialect_impl(dialect)
    )


def selected_by(statement: Any) -> Iterable[Any]:
    """Return the columns of a SELECT, none for a write."""
    return getattr(statement, 'selected_columns', ())


def parameters_of(compiled: Compiled, values: Mapping[str, Any]) -> list[Any]:
    """Return the parameters as the driver sends them.

    :raises Uncommon: for a value that is not of its column's usual type.
    """
    # Not whether they are equal: two instants of the hour that a clock is put
    # back are, for Python.
    try:
        return _converted(compiled.take(values), compiled.sent, by_value=False)
    except (AttributeError, TypeError, ValueError, struct.error) as error:
        raise Uncommon from error


def row_of(compiled: Compiled, values: Iterable[Any]) -> Row:
    """Return the columns of a row as the driver gives them in Python's
    types.
    """
    # Texts or bytes, and new ones each time.
    return tuple(_converted(values, compiled.received, by_value=True))


def _converted(
    values: Iterable[Any], places: Places, *, by_value: bool
) -> list[Any]:
    """Return *values* with those at *places* converted; None stays.

    :param by_value: two that are equal are the same.
    """
    found = list(values)
    for convert, where in places:
        before = made = None
        for place in where:
            value = found[place]
            # Most moments of a record are the same one.
            if value is not before and not (by_value and value == before):
                before = value
                made = None if value is None else convert(value)
            found[place] = made
    return found
