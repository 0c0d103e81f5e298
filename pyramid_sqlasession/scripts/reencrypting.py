"""``psessions INI reencrypt``: encrypt all data with the first key, or none.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from pyramid_sqlasession.application import Application
from pyramid_sqlasession.codec import DamagedData
from pyramid_sqlasession.codec import MAKE_A_KEY
from pyramid_sqlasession.scripts.batches import commit
from pyramid_sqlasession.scripts.batches import count
from pyramid_sqlasession.scripts.batches import REPETITIONS
from pyramid_sqlasession.scripts.failures import Failure
from pyramid_sqlasession.scripts.interruption import held_back
from pyramid_sqlasession.scripts.options import add_command
from pyramid_sqlasession.scripts.output import plural
from pyramid_sqlasession.scripts.output import put
from pyramid_sqlasession.scripts.progress import Progress

# Rows whose data are held, and written in one transaction: each has up to
# sqlasession.max_size.
BATCH = 100

# How many of those that cannot be read are named: it may be the whole table.
_NAMED = 5


def add_to(commands: Any) -> None:
    """Add the command to *commands*, argparse's."""
    add_command(
        commands, 'reencrypt',
        'encrypt all data with the first of sqlasession.encryption_keys, or '
        'decrypt them if that is "none"', run,
    )


def run(application: Application, args: argparse.Namespace) -> int:
    """Go through the table by the key, in batches.

    Whoever starts it again goes on: what is encrypted with the first key is
    left alone.  No version changes, so that no request in flight notices.
    """
    if not application.settings.encryption_keys:
        raise Failure(
            f'sqlasession.encryption_keys is not set, so there is nothing to '
            f'encrypt with. Make a key with: {MAKE_A_KEY}'
        )
    found = Reencryption(application)
    what = 'encrypted' if application.codec.encrypts else 'decrypted'
    progress = Progress(
        count(application, sa.true()) if Progress.is_wanted() else None
    )
    try:
        while rows := found.next_rows():
            with held_back():
                found.reencrypt(rows)
            progress.show(found.seen)
    except BaseException as error:
        error.add_note(
            f'{found.done:,} were {what} before that; run it again to go on'
        )
        raise
    finally:
        progress.clear()
    put(f'{plural(found.done, "session was", "sessions were")} {what}')
    if found.unreadable:
        shown = ', '.join(map(str, found.named))
        more = ' and others' if found.unreadable > _NAMED else ''
        raise Failure(
            f'{plural(found.unreadable, "session", "sessions")} cannot be '
            f'read, and stay as they are (is a key missing in '
            f'sqlasession.encryption_keys?): {shown}{more}'
        )
    return 0


class Reencryption:
    """How far ``reencrypt`` has come."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._table = table = application.records.table
        self._id = application.records.stored_id
        self._rows = sa.select(self._id, table.c.version, table.c.data)
        self._last: Any = None
        #: How many rows were looked at, and how many rewritten.
        self.seen = 0
        self.done = 0
        #: How many could not be read, and the ids of the first ones.
        self.unreadable = 0
        self.named: list[Any] = []

    def next_rows(self) -> Sequence[Any]:
        """Return the rows of the next batch, none at the end."""
        statement = self._rows.order_by(self._id).limit(BATCH)
        if self._last is not None:
            statement = statement.where(self._id > self._last)
        rows = self._read(statement)
        if rows:
            self._last = rows[-1].id
        self.seen += len(rows)
        return rows

    def reencrypt(self, rows: Sequence[Any]) -> None:
        """Rewrite *rows*; those that others write meanwhile, again."""
        for _ in range(REPETITIONS):
            new = self._reencrypted(rows)
            missed = self._write(new) if new else []
            self.done += len(new) - len(missed)
            if not missed:
                return
            # Gone, or written by a process that may not have the new key.
            rows = self._read(self._rows.where(self._id.in_(missed)))
        raise Failure(
            f'session {missed[0]} is being written all the time; run it again'
        )

    def _read(self, statement: Any) -> Sequence[Any]:
        return self._application.database.read_aside(
            lambda connection: connection.execute(statement).all()
        )

    def _reencrypted(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """Return what to write, before any row is locked."""
        codec = self._application.codec
        new = []
        for row in rows:
            try:
                if not isinstance(row.data, str):
                    raise DamagedData('no text')
                if not codec.is_current(row.data):
                    new.append({
                        '__id': row.id, '__version': row.version,
                        'data': codec.reencrypted(row.data),
                    })
            except DamagedData:
                self.unreadable += 1
                if self.unreadable <= _NAMED:
                    self.named.append(row.id)
        return new

    def _write(self, new: list[dict[str, Any]]) -> list[Any]:
        """Write in one transaction; return the ids that were missed."""
        statement = self._table.update().where(
            self._id == sa.bindparam('__id'),
            self._table.c.version == sa.bindparam('__version'),
        )

        def write(connection: sa.Connection) -> list[Any]:
            return [
                values['__id'] for values in new
                if not connection.execute(statement, values).rowcount
            ]

        return commit(self._application, write)
