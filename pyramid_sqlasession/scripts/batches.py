"""Writing to many records, in transactions of which none takes long."""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from pyramid_sqlasession import dialects
from pyramid_sqlasession.application import Application
from pyramid_sqlasession.scripts.progress import Progress

Result = TypeVar('Result')

# Rows deleted in one transaction, and ids known at a time: 100,000 take some
# 15 MB.
BATCH = 1000
CHOSEN = 100_000

# A batch that the database refused in favour of another transaction.
REPETITIONS = 6


def delete(
    application: Application, condition: Any, order: sa.Column[Any]
) -> int:
    """Delete the records in batches, of which each waits for nobody long.

    One statement over a million rows would keep requests from writing, and
    Galera refuses it.
    """
    table = application.records.table
    choose = (
        sa.select(table.c.id).where(condition).order_by(order).limit(CHOSEN)
    )
    progress = Progress(
        count(application, condition) if Progress.is_wanted() else None
    )
    total = 0
    try:
        while ids := application.read_aside(
            lambda connection: list(connection.scalars(choose))
        ):
            for start in range(0, len(ids), BATCH):
                statement = table.delete().where(
                    table.c.id.in_(ids[start:start + BATCH]),
                    # Still: one that was touched meanwhile survives.
                    condition,
                )
                total += execute(application, statement)
                progress.show(total)
            if len(ids) < CHOSEN:
                break
    except BaseException as error:
        if total:
            error.add_note(f'{total:,} were deleted before that')
        raise
    finally:
        progress.clear()
    return total


def count(application: Application, condition: Any) -> int:
    """Return how many records meet *condition*."""
    table = application.records.table
    statement = sa.select(sa.func.count()).select_from(table).where(condition)
    return application.read_aside(
        lambda connection: int(connection.scalar(statement) or 0)
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
            with application.connect() as connection:
                if dialects.locks_rows(connection.dialect):
                    # No gap locks on MariaDB, no serialization failures on
                    # PostgreSQL.
                    connection.execution_options(
                        isolation_level='READ COMMITTED'
                    )
                dialects.begin_writing(connection)
                result = work(connection)
                connection.commit()
                return result
        except exc.DBAPIError as error:
            if attempt == REPETITIONS or not dialects.is_retryable(error):
                raise
            time.sleep(pause)
            pause *= 2
    raise AssertionError('unreachable')  # pragma: no cover
