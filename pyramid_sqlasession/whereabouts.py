"""In which table the sessions are: the same one for all that use them."""

from __future__ import annotations

import logging
import os
from typing import Any
import weakref

import sqlalchemy as sa

log = logging.getLogger(__name__)

_MAP = 'schema_translate_map'


class Whereabouts:
    """Notices a ``request.dbsession`` that leads to another table."""

    def __init__(self, table: sa.Table) -> None:
        self._table = table
        self._is_told = False
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
        places = self._place(used, connection), self._place(engine, engine)
        if places[0] == places[1]:
            self._known.add(used)
            return
        self._is_told = True
        log.error(
            'request.dbsession has the sessions in %s, and what is done '
            'outside of its transaction in %s: what is stored in one is not '
            'found in the other. If each request has a database or a schema '
            'of its own, keep the sessions in one for all of them, by '
            'sqlasession.url, or by a sqlasession.schema that '
            'schema_translate_map does not change; otherwise set '
            'sqlasession.engine', *places,
        )

    def _place(self, engine: sa.Engine, options_of: Any) -> str:
        # Without the host, of which a database may have several.
        schemas = options_of.get_execution_options().get(_MAP) or {}
        schema = schemas.get(self._table.schema, self._table.schema)
        name = self._table.name
        if schema is not None:
            name = f'{schema}.{name}'
        database = engine.url.database or ''
        if engine.dialect.name == 'sqlite' and os.path.exists(database):
            database = os.path.realpath(database)
        return f'{name} (database {database!r})'
