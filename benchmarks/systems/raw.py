"""The floor: psycopg or sqlite3 alone, the statements written by hand.

A read is BEGIN, SELECT, COMMIT; a change BEGIN, SELECT, UPDATE, COMMIT; a
new one BEGIN, INSERT, COMMIT.  Nothing is serialized.
"""

import itertools
import sqlite3
import time
import uuid

import sqlalchemy as sa

from benchmarks.systems.sqlite import prepare
from benchmarks.systems.statements import DATA
from benchmarks.systems.statements import ids


def _nothing():
    """S0: there is no application."""


def make(url):
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == 'sqlite':
        return _sqlite(parsed.database)
    return _postgresql(parsed)


def _scenarios(connection, cursor, mark, begin):
    """Return the scenarios.

    :param mark: how the driver marks a parameter.
    :param begin: called at the beginning of a transaction.
    """
    execute = cursor.execute
    select = f'SELECT data, expires FROM raw_sessions WHERE id = {mark}'
    update = (
        f'UPDATE raw_sessions SET data = {mark}, expires = {mark} '
        f'WHERE id = {mark}'
    )
    insert = f'INSERT INTO raw_sessions VALUES ({mark}, {mark}, {mark})'
    wire = (lambda u: u.bytes) if mark == '?' else (lambda u: u)
    stored = [wire(u) for u in ids()]
    for one in stored:
        execute(insert, (one, DATA, time.time()))
    connection.commit()
    turns = itertools.cycle(stored)

    def read():
        begin()
        assert execute(select, (next(turns),)).fetchone()
        connection.commit()

    def change():
        one = next(turns)
        begin()
        assert execute(select, (one,)).fetchone()
        execute(update, (DATA, time.time(), one))
        connection.commit()

    def create():
        begin()
        execute(insert, (wire(uuid.uuid4()), DATA, time.time()))
        connection.commit()

    return {'S0': _nothing, 'S2': read, 'S3': change, 'S4': create}


def _postgresql(url):
    import psycopg

    connection = psycopg.connect(
        url.set(drivername='postgresql').render_as_string(False)
    )
    cursor = connection.cursor()
    cursor.execute('DROP TABLE IF EXISTS raw_sessions')
    cursor.execute(
        'CREATE TABLE raw_sessions (id uuid PRIMARY KEY, data text, '
        'expires double precision)'
    )
    # psycopg sends BEGIN by itself, with the first statement.
    return _scenarios(connection, cursor, '%s', _nothing)


def _sqlite(path):
    connection = sqlite3.connect(path)
    prepare(connection)
    # Now BEGIN is ours, as sqlite3 sends none before a SELECT.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute('DROP TABLE IF EXISTS raw_sessions')
    cursor.execute(
        'CREATE TABLE raw_sessions (id BLOB PRIMARY KEY, data TEXT, '
        'expires REAL)'
    )
    return _scenarios(
        connection, cursor, '?', lambda: cursor.execute('BEGIN')
    )
