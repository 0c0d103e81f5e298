"""One statement by the driver alone: psycopg's libpq, and sqlite3.

Three quarters of the time of a single statement by its key are spent in the
layers above: contexts, results and rows that one row has no use for.  What is
here skips them, for the types that a record is made of, and raises
:class:`Uncommon` for whatever else it meets, before anything is written.

Knows neither records nor sessions.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
import sys
from typing import Any
from typing import Protocol

import sqlalchemy as sa

from pyramid_sqlasession.libpq import Psycopg
from pyramid_sqlasession.sqlite import SQLite
from pyramid_sqlasession.statements import Compiled
from pyramid_sqlasession.statements import Row
from pyramid_sqlasession.statements import Uncommon


class Driver(Protocol):
    """What runs one statement on a pooled connection.

    In no transaction, and then a write is committed at once; or *inside* the
    transaction that the connection is in.
    """

    def compile(self, statement: Any, names: Iterable[str]) -> Compiled:
        """Return *statement* with these parameters.

        :raises Uncommon: if a type of it has no short way.
        """

    def fetch(
        self, pooled: Any, compiled: Compiled, values: Mapping[str, Any],
        *, inside: bool,
    ) -> Row | None:
        """Return the only row, or None.

        :raises Uncommon: if it is unlike what a record is made of.
        """

    def write(
        self, pooled: Any, compiled: Compiled, values: Mapping[str, Any],
        *, inside: bool,
    ) -> int:
        """Return how many rows were written."""


def driver_of(engine: sa.Engine) -> Driver:
    """Return the driver of *engine*.

    :raises Uncommon: if there is none here.
    """
    dialect = engine.dialect
    # create_engine(paramstyle=...) has statements compiled otherwise.
    kind = (dialect.name, dialect.driver, dialect.paramstyle)
    if kind == ('sqlite', 'pysqlite', 'qmark'):
        return SQLite(dialect)
    if kind == ('postgresql', 'psycopg', 'pyformat'):
        if _is_cooperative():
            # libpq would block all others of the thread while it waits.
            raise Uncommon
        return Psycopg(dialect)
    raise Uncommon


def _is_cooperative() -> bool:
    patched = sys.modules.get('gevent.monkey')
    return (
        patched is not None and bool(patched.is_module_patched('select'))
    ) or 'eventlet.patcher' in sys.modules
