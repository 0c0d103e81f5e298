"""The additional fields of a record, by what the session holds."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import logging
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import visitors

from pyramid_sqlasession.changes import Changes
from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.errors import SessionFieldError
from pyramid_sqlasession.fieldvalues import stored
from pyramid_sqlasession.model import fields_of
from pyramid_sqlasession.model import table_of
from pyramid_sqlasession.translation import Seldom

log = logging.getLogger(__name__)


class Fields:
    """The additional fields of one model.

    :param dialect: returns the database's, once there is an engine.
    """

    def __init__(
        self, model: type[Any], dialect: Callable[[], sa.Dialect]
    ) -> None:
        self.columns = fields_of(model)
        self._dialect = dialect
        table = table_of(model)
        unique = [
            one for one in (*table.constraints, *table.indexes)
            if isinstance(one, sa.UniqueConstraint)
            or (isinstance(one, sa.Index) and one.unique)
        ]
        #: Columns of which no two records can have the same values.
        self.unique = [tuple(one.columns) for one in unique]
        self._unique_terms = [_terms_of(one) for one in unique]
        self._misfits = Seldom()

    def defaults(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return each field with the session's value of that name."""
        return {name: data.get(name) for name in self.columns}

    def values(
        self, given: Mapping[str, Any], data: Mapping[str, Any],
        changes: Changes | None = None,
    ) -> dict[str, Any]:
        """Return the values to store, checked, by column.

        Where a column has a default, no value means the default.

        :param data: what the session holds.
        :param changes: for an UPDATE, what leads to it: fields of the keys
            that it deletes, or sets to None, go back to the default, others
            keep what they have.
        :raises SessionFieldError: if a value does not fit its column; not for
            one that the session held before *changes*.
        :raises SessionError: for a name that is no field, and for a default
            that cannot be computed.
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
            if value is not None or not _has_default(column):
                try:
                    values[column.key] = self.check(name, value)
                except SessionFieldError as error:
                    # Stored by a release that has the field not yet, or not
                    # any more, or in another type: nothing of the request is
                    # wrong, and each one of that visitor would fail.
                    if not _was_held(value, name, data, changes):
                        raise
                    self._warn_of_misfit(error)
            elif changes is not None and _is_changed(name, changes):
                values[column.key] = _default_of(name, column)
        return values

    def _warn_of_misfit(self, error: SessionFieldError) -> None:
        if self._misfits.is_due(error.field):
            # Without the value: the log is read by others than the table.
            log.warning(
                'a stored session has under %r what does not fit the field, '
                'which takes %s: the column is left as it is',
                error.field, error.type,
            )

    def rivals(
        self, values: Mapping[str, Any]
    ) -> sa.ColumnElement[bool] | None:
        """Return which records the database refuses *values* beside, None if
        there can be none.
        """
        found = [
            sa.and_(*(term == _filled(term, values) for term in terms))
            for group, terms in zip(
                self.unique, self._unique_terms, strict=True
            )
            if group
            and all(_is_value(values.get(column.key)) for column in group)
        ]
        return sa.or_(*found) if found else None

    def check(self, name: str, value: Any) -> Any:
        """Return *value* as it is stored, if it fits the field's column.

        :raises SessionFieldError: if it does not.
        """
        return stored(name, value, self.columns[name], self._dialect)


def _terms_of(
    unique: sa.UniqueConstraint | sa.Index
) -> list[sa.ColumnElement[Any]]:
    """Return what of two records may not be the same: columns, and functions
    of them in an index.
    """
    if isinstance(unique, sa.UniqueConstraint):
        return list(unique.columns)
    functions = [
        one for one in unique.expressions
        if isinstance(one, sa.sql.functions.FunctionElement)
    ]
    within = {
        column.key for one in functions
        for column in visitors.iterate(one) if isinstance(column, sa.Column)
    }
    # By column whatever else there is, such as "DESC".
    return functions + [one for one in unique.columns if one.key not in within]


def _filled(term: Any, values: Mapping[str, Any]) -> Any:
    """Return *term* of a record that holds *values*."""
    if isinstance(term, sa.Column):
        return values[term.key]

    def fill(element: Any, **options: Any) -> Any:
        if not isinstance(element, sa.Column):
            return None
        value = values[element.key]
        return sa.bindparam(None, value, element.type, unique=True)

    return visitors.replacement_traverse(term, {}, fill)


def _is_changed(name: str, changes: Changes) -> bool:
    return name in changes.deleted or name in changes.assigned


def _was_held(
    value: Any, name: str, data: Mapping[str, Any], changes: Changes | None
) -> bool:
    """Return whether *value* is what the session held before *changes*."""
    if changes is None or _is_changed(name, changes):
        return False
    held = data.get(name)
    # What an application returns may compare itself in ways of its own.
    return type(value) is type(held) and bool(value == held)


def _is_value(value: Any) -> bool:
    return value is not None and not isinstance(value, sa.ClauseElement)


def _has_default(column: sa.Column[Any]) -> bool:
    return column.default is not None or column.server_default is not None


class _NoContext:
    """Stands for the context of an INSERT: an UPDATE of ours has none."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, asked: str) -> Any:
        raise SessionError(
            f'the session field {self._name!r} goes back to its default, as '
            f'its key was deleted or set to None, and the default asks for '
            f'{asked!r} of the context, which is there in an INSERT only: '
            f'give the column a default that needs no context, or the field '
            f'a value in sqlasession.extend_default_fields'
        )


def _default_of(name: str, column: sa.Column[Any]) -> Any:
    """Return what a column holds that nobody gave a value."""
    default: Any = column.default
    if default is None:
        return _server_default_of(column.server_default)
    if isinstance(default, sa.Sequence):
        return default.next_value()
    # SQLAlchemy has made every callable take a context.
    return default.arg(_NoContext(name)) if default.is_callable else (
        default.arg
    )


def _server_default_of(default: Any) -> Any:
    # SQLite has no DEFAULT in an UPDATE.
    if not isinstance(default, sa.DefaultClause):
        return sa.null()
    if not isinstance(default.arg, str):
        return default.arg
    # A literal, as in the DDL: the database makes of '0' or '{}' what the
    # column holds, where the column's type would take it for a value of
    # Python.
    return sa.bindparam(
        None, default.arg, sa.String(), unique=True, literal_execute=True
    )
