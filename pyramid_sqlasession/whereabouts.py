"""In which table the sessions are: the same one for all that use them."""

from __future__ import annotations

import logging
import os
from typing import Any
import weakref

import sqlalchemy as sa

log = logging.getLogger(__name__)

_MAP = 'schema_translate_map'

#: How SQLite's URLs name a database that no other connection sees.
_IN_MEMORY = ('', ':memory:')


class Whereabouts:
    """Notices a ``request.dbsession`` that leads to another table."""

    def __init__(self, table: sa.Table) -> None:
        self._table = table
        self._is_told = self._has_two_pools = False
        #: Engines that are known to lead to the same one.
        self._known: weakref.WeakSet[sa.Engine] = weakref.WeakSet()

    def compare(self, connection: sa.Connection, engine: sa.Engine) -> None:
        """Say in the log, once, if *connection*, of ``request.dbsession``,
        leads to another table than *engine*.
        """
        used = connection.engine
        is_mapped = _MAP in connection.get_execution_options()
        if self._is_told or (
            not is_mapped and (used is engine or used in self._known)
        ):
            return
        table, database = self._place(used, connection)
        other_table, other_database = self._place(engine, engine)
        # Which one it is may be known to the engine's creator alone.
        if table == other_table and (
            database == other_database or None in (database, other_database)
        ):
            self._known.add(used)
            if used.pool is not engine.pool and not self._has_two_pools:
                self._has_two_pools = True
                log.info(
                    'request.dbsession has another engine than the sessions '
                    'have beside its transaction, so there are two pools of '
                    'connections to one database; set sqlasession.engine to '
                    'that of the application'
                )
            return
        self._is_told = True
        log.error(
            'request.dbsession has the sessions in %s (database %r), and what '
            'is done outside of its transaction in %s (database %r): what is '
            'stored in one is not found in the other. If each request has a '
            'database or a schema of its own, keep the sessions in one for '
            'all of them, by sqlasession.url, or by a sqlasession.schema that '
            'schema_translate_map does not change; otherwise set '
            'sqlasession.engine',
            table, database, other_table, other_database,
        )

    def _place(
        self, engine: sa.Engine, options_of: Any
    ) -> tuple[str, str | None]:
        """Return the table and the database, None if the URL names none.

        Not the host: a database may have several.
        """
        schemas = options_of.get_execution_options().get(_MAP) or {}
        schema = schemas.get(self._table.schema, self._table.schema)
        name = self._table.name
        if schema is not None:
            name = f'{schema}.{name}'
        database = engine.url.database or ''
        if engine.dialect.name != 'sqlite':
            return name, database or None
        if database in _IN_MEMORY:
            # Each pool has one of its own.
            return name, f'in memory, of {engine.pool!r}'
        if os.path.exists(database):
            database = os.path.realpath(database)
        return name, database
