"""SQLite as every system has it here: WAL, synchronous = NORMAL."""

import sqlite3

import sqlalchemy as sa

PRAGMAS = (
    'PRAGMA busy_timeout = 30000',
    'PRAGMA journal_mode = WAL',
    'PRAGMA synchronous = NORMAL',
)


def prepare(connection):
    """Set up a connection of sqlite3."""
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def prepare_all_engines():
    """Set up each SQLite connection that SQLAlchemy makes from now on."""
    if not sa.event.contains(sa.Engine, 'connect', _connected):
        sa.event.listen(sa.Engine, 'connect', _connected)


def leave_engines_alone():
    """Take that back."""
    if sa.event.contains(sa.Engine, 'connect', _connected):
        sa.event.remove(sa.Engine, 'connect', _connected)


def _connected(connection, record):
    if isinstance(connection, sqlite3.Connection):
        prepare(connection)
