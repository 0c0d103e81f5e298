"""An engine for a Galera cluster: it takes a node that works."""

from contextlib import suppress
from typing import Any

from sqlalchemy import Dialect
from sqlalchemy import Engine
from sqlalchemy import engine_from_config
from sqlalchemy import event
from sqlalchemy.engine.interfaces import ExceptionContext

# What a node says that has lost the cluster, and answers a ping all the same.
NODE_IS_APART = (1047, 1180)


class Nodes:
    """The nodes of a cluster, the one that worked last in front."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses

    def connect(
        self, dialect: Dialect, record: Any, args: Any, options: Any
    ) -> Any:
        """Return a connection to the first node that is ready."""
        for address in self._addresses:
            host, _, port = address.partition(':')
            there = {**options, 'host': host, 'port': int(port or 3306)}
            with suppress(dialect.loaded_dbapi.Error):
                connection = dialect.connect(*args, **there)
                if is_ready(connection):
                    return connection
                connection.close()
            # A new list: other threads may be in the loop.
            self._addresses = [
                *(a for a in self._addresses if a != address), address
            ]
        raise dialect.loaded_dbapi.OperationalError(
            2003, f'no node is ready of {", ".join(self._addresses)}'
        )


def is_ready(connection: Any) -> bool:
    """Return whether the node is part of the cluster."""
    cursor = connection.cursor()
    cursor.execute("SHOW STATUS LIKE 'wsrep_ready'")
    _, value = cursor.fetchone()
    cursor.close()
    return bool(value == 'ON')


def notice_node_apart(context: ExceptionContext) -> None:
    """Have the pool let go of the connections to such a node."""
    error = context.original_exception
    if error.args and error.args[0] in NODE_IS_APART:
        context.is_disconnect = True


def get_engine(
    settings: dict[str, Any], prefix: str = 'sqlalchemy.'
) -> Engine:
    """Return the engine; ``galera.nodes`` has the nodes' addresses."""
    engine = engine_from_config(settings, prefix, pool_pre_ping=True)
    nodes = Nodes(settings['galera.nodes'].split())
    event.listen(engine, 'do_connect', nodes.connect)
    event.listen(engine, 'handle_error', notice_node_apart)
    return engine
