"""The errors an application can catch; each says what to do next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyramid.httpexceptions import HTTPServiceUnavailable
from transaction.interfaces import TransientError


class SessionError(Exception):
    """Something about the session or its table is not as it must be."""


class SessionConflict(SessionError, TransientError):
    """Two requests changed the same key (``sqlasession.conflict = retry``),
    or others were faster each time that this one tried to write, or
    ``sqlasession.extend_default_fields`` needed ``request.dbsession`` for what
    another one had stored meanwhile.

    A ``transaction.interfaces.TransientError``: pyramid_retry runs the
    request again, on fresh data.

    .. attribute:: keys

       The names of the keys that both requests changed, sorted; empty
       otherwise.
    """

    def __init__(self, keys: list[str], text: str = '') -> None:
        self.keys = keys
        names = ', '.join(repr(key) for key in keys)
        super().__init__(
            text or (
                'other requests wrote this session each time that this one '
                'tried to. The request has to run again, which pyramid_retry '
                'does as often as retry.attempts says'
            ) if not keys else
            f'another request changed {names} in this session at the same '
            f'time. With sqlasession.conflict = retry the request has to run '
            f'again, which pyramid_retry does as often as retry.attempts '
            f'says; or use sqlasession.conflict = merge, where the later one '
            f'wins'
        )

    def __reduce__(self) -> Any:
        return type(self), (self.keys, str(self))


class SessionTooLarge(SessionError):
    """The serialized data is above ``sqlasession.max_size``.

    .. attribute:: size

       Bytes of the serialized data.

    .. attribute:: limit

       The setting, in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(
            f'the session holds {size} bytes of serialized data, '
            f'sqlasession.max_size allows {limit}: nothing was stored. Keep '
            f'large values in tables of the application and only their keys '
            f'in the session, or raise sqlasession.max_size'
        )

    def __reduce__(self) -> Any:
        return type(self), (self.size, self.limit)


class SessionFieldError(SessionError, ValueError):
    """A value does not fit the column of an additional field.

    .. attribute:: field

       The name of the field.

    .. attribute:: value

       What was given.

    .. attribute:: type

       What the column takes, in words.
    """

    def __init__(
        self, field: str, value: object, type: str, text: str = ''
    ) -> None:
        self.field = field
        self.value = value
        self.type = type
        super().__init__(
            text or f'the session field {field!r} takes {type}, not '
            f'{shown(value, repr)}'
        )

    def __reduce__(self) -> Any:
        return type(self), (self.field, self.value, self.type, str(self))


class SessionNotSerializable(SessionError, TypeError):
    """A value in the session cannot be stored.

    .. attribute:: path

       Where it is: ``session['cart'][2]['when']``.

    .. attribute:: type

       The name of its type.
    """

    def __init__(self, path: str, type: str, reason: str = '') -> None:
        self.path = path
        self.type = type
        self._reason = reason
        super().__init__(
            (
                f'{path}, of type {type}, cannot be stored: {reason}'
                if reason else
                f'{path} is of type {type}, which a session cannot store'
            ) + '. Storable are str, int, float, bool, None, bytes, datetime, '
            'date, time, timedelta, Decimal, UUID, and list, tuple, set and '
            'dict (with str keys) of them'
        )

    def __reduce__(self) -> Any:
        return type(self), (self.path, self.type, self._reason)


# In this order: for Pyramid a view for SessionError comes before its own for
# whatever is a response.
class SessionStoreUnavailable(SessionError, HTTPServiceUnavailable):
    """The database of the sessions does not answer, or a request has waited
    in vain for a lock there.

    Pyramid answers ``503 Service Unavailable`` with it unless the application
    has an exception view for it.  SQLAlchemy's error is its ``__cause__``,
    and the driver's own, if there is one, the ``orig`` of that.
    """

    explanation = (
        'The session store does not answer at the moment. '
        'Please try again in a little while.'
    )


class SessionArgumentError(SessionError, TypeError):
    """A method of the store, or ``remember`` of the helper for logins, was
    called with arguments that cannot work.
    """


def reason_for(error: BaseException) -> BaseException:
    """Return the error that says why *error* came, for a log: of a store that
    does not answer SQLAlchemy's, of others *error* itself.
    """
    is_away = isinstance(error, SessionStoreUnavailable)
    return (error.__cause__ if is_away else None) or error


def unsendable(error: UnicodeEncodeError) -> SessionError:
    """Return what *error* of a driver, about what it was to send, says to the
    application.
    """
    return SessionError(
        f'a text for the session table has characters that the connection to '
        f'the database cannot send ({error}): PostgreSQL needs a database, '
        f'and a client_encoding, of UTF8, MariaDB and MySQL charset=utf8mb4 '
        f'in the URL of the database'
    )


def shown(value: object, write: Callable[[object], str] = ascii) -> str:
    """Return *value* for a text, in at most 60 characters.

    :param write: ``repr`` for one that shall be readable, not only ASCII.
    """
    try:
        written = write(value)
    # Python writes out no int of more than 4300 digits; and what a type of
    # the application's raises must not hide the error that is told.
    except Exception:
        return f'something of type {type(value).__name__}'
    return written if len(written) <= 60 else f'{written[:57]}...'


def name_of(key: object) -> str:
    """Return the name of a key, for a text.

    One that is no str is refused, but told; a name that somebody else may
    have chosen begins no line of the log.
    """
    if isinstance(key, str) and key.isprintable() and len(key) <= 60:
        return key
    return shown(key)
