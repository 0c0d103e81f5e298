"""Writing to many records, in transactions of which none takes long."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from functools import partial
import time
from typing import Any
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from pyramid_sqlasession import dialects
from pyramid_sqlasession import faults
from pyramid_sqlasession.application import Application
from pyramid_sqlasession.scripts.interruption import held_back
from pyramid_sqlasession.scripts.progress import Progress

Result = TypeVar('Result')

# Rows deleted in one transaction, and ids known at a time.
BATCH = dialects.MOST_KEYS
CHOSEN = 10_000

# A batch that the database refused in favour of another transaction.
REPETITIONS = 6


class Deletion:
    """Deletes records in batches, of which each waits for nobody long.

    One statement over a million rows would keep requests from writing, and
    Galera refuses it.

    :param skips_locked: leave those that another transaction has locked.
    """

    def __init__(
        self, application: Application, condition: Any, order: sa.Column[Any],
        *, skips_locked: bool = False,
    ) -> None:
        self._application = application
        self._skips_locked = skips_locked
        self._table = application.records.table
        self._id = application.records.stored_id
        self._condition = condition
        self._order = order
        #: How many were deleted, also if :meth:`run` raises.
        self.count = 0
        #: Whether some were not: locked, touched, or gone.
        self.has_left_some = False

    def run(self) -> None:
        """Delete them all; an error tells how many were deleted before."""
        application = self._application
        progress = Progress(
            count(application, self._condition) if Progress.is_wanted()
            else None
        )
        try:
            for ids in self._batches():
                with held_back():
                    self.count += commit(application, partial(self._end, ids))
                progress.show(self.count)
        except BaseException as error:
            if self.count:
                error.add_note(f'{self.count:,} were deleted before that')
            raise
        finally:
            progress.clear()

    def _batches(self) -> Iterator[Sequence[Any]]:
        choose = (
            sa.select(self._id).where(self._condition).order_by(self._order)
            .limit(CHOSEN)
        )
        while ids := self._application.database.read_aside(
            lambda connection: connection.scalars(choose).all()
        ):
            before = self.count
            for start in range(0, len(ids), BATCH):
                yield ids[start:start + BATCH]
            # All of them may be locked for longer.
            is_stuck = self._skips_locked and self.count == before
            if len(ids) < CHOSEN or is_stuck:
                return

    def _end(self, ids: Sequence[Any], connection: sa.Connection) -> int:
        # The condition again: one that was touched meanwhile survives.
        if self._skips_locked:
            removed = self._application.records.remove_unlocked(
                connection, ids, self._condition
            )
            self.has_left_some |= removed < len(ids)
            return removed
        where = sa.and_(self._id.in_(ids), self._condition)
        return connection.execute(
            dialects.DeleteByKey(self._table).where(where)
        ).rowcount


def count(application: Application, condition: Any) -> int:
    """Return how many records meet *condition*."""
    return application.database.read_aside(
        lambda connection: application.records.count(connection, condition)
    )


def execute(application: Application, statement: sa.Delete) -> int:
    """Run *statement* in a transaction of its own; return how many rows."""
    return commit(
        application, lambda connection: connection.execute(statement).rowcount
    )


def commit(
    application: Application, work: Callable[[sa.Connection], Result]
) -> Result:
    """Return what *work* did in a transaction of its own."""
    pause = 0.05
    for attempt in range(1, REPETITIONS + 1):
        try:
            with application.database.connect() as connection:
                dialects.read_committed(connection)
                dialects.begin_writing(connection)
                result = work(connection)
                connection.commit()
                return result
        except exc.DBAPIError as error:
            if attempt == REPETITIONS or not faults.is_retryable(error):
                raise
            time.sleep(pause)
            pause *= 2
    raise AssertionError('unreachable')  # pragma: no cover
