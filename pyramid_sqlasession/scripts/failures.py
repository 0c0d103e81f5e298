"""What goes wrong, as one line that says what to do, and an exit code."""

from __future__ import annotations

import re

from pyramid.exceptions import ConfigurationError
from sqlalchemy import exc

from pyramid_sqlasession import faults
from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.faults import Fault


class Failure(Exception):
    """Something went wrong; the text is one line that says what to do."""

    code = 1


class UsageFailure(Failure):
    """The command was called in a way that cannot work."""

    code = 2


def explained(error: Exception, ini: str) -> str:
    """Return one line on what happened and what to do."""
    if isinstance(error, Failure):
        return line(error)
    # Ours about the table and the database have the driver's as cause.
    cause = error.__cause__ if isinstance(error, SessionError) else error
    notes = getattr(error, '__notes__', ())
    if isinstance(cause, exc.DBAPIError | exc.TimeoutError):
        fault = faults.fault_of(cause)
        text = text_of(cause)
        if faults.has_waited(cause):
            return line(
                'the database gave up a statement that took too long, or '
                'that waited for another transaction; run it again later',
                text, *notes,
            )
        if fault is Fault.UNAVAILABLE:
            return line(
                'the database cannot be used (does it run, and are address, '
                'name and role in the ini file right?)', text, *notes,
            )
        if fault is Fault.MISSING:
            return line(
                f'the session table, or one of its columns, is missing; '
                f'run the migrations of the application, or where they do '
                f'not make it, "psessions {ini} table"', text, *notes,
            )
        return line('the database refused it', text, *notes)
    if isinstance(error, SessionError | ConfigurationError):
        return line(error, *notes)
    return line(
        text_of(error), *notes, '"psessions --traceback …" tells more'
    )


def code_of(error: Exception) -> int:
    """Return the exit code that *error* stands for."""
    # DataError: a value that only the database could judge, such as an INET.
    if isinstance(error, exc.DataError):
        return UsageFailure.code
    return error.code if isinstance(error, Failure) else Failure.code


def text_of(error: BaseException) -> str:
    """Return what *error* itself says."""
    if isinstance(error, exc.DBAPIError):
        # Without the statement and its values, which psycopg repeats below
        # the first line.
        text = str(error.orig)
        return re.split(r'\n(?:LINE \d|CONTEXT:)', text)[0]
    if isinstance(error, exc.TimeoutError):
        return str(error)
    return f'{type(error).__name__}: {error}'


def line(*parts: object) -> str:
    """Return *parts* as one line of a length that one can read."""
    text = ': '.join(' '.join(str(part).split()) for part in parts)
    return text if len(text) <= 1000 else f'{text[:999]}…'
