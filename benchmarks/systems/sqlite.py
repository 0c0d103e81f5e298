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

    @sa.event.listens_for(sa.Engine, 'connect')
    def connected(connection, record):
        if isinstance(connection, sqlite3.Connection):
            prepare(connection)
