"""An engine for SQLite under more than one thread."""

from typing import Any

from sqlalchemy import Engine
from sqlalchemy import engine_from_config
from sqlalchemy import event


def get_engine(
    settings: dict[str, Any], prefix: str = 'sqlalchemy.'
) -> Engine:
    engine = engine_from_config(settings, prefix)
    if engine.dialect.name == 'sqlite':
        event.listen(engine, 'connect', set_up_sqlite)
    return engine


def set_up_sqlite(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute('PRAGMA journal_mode = WAL')
    cursor.execute('PRAGMA busy_timeout = 30000')
    # Otherwise ondelete='CASCADE' does nothing, and the sessions of a deleted
    # user stay.
    cursor.execute('PRAGMA foreign_keys = ON')
    cursor.close()
