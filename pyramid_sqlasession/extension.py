"""The fields of a record that follow from the session's data, with what
``extend_default_fields`` of the application has to say.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import traceback
from typing import Any

from pyramid_sqlasession.application import Application
from pyramid_sqlasession.errors import name_of
from pyramid_sqlasession.errors import SessionConflict
from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.state import copied
from pyramid_sqlasession.state import State

_TOO_LATE = (
    'another request changed this session at the same time, and for what it '
    'holds now sqlasession.extend_default_fields used request.dbsession, '
    'which can no longer join the transaction. Let the function use it '
    'whatever the session holds, or the request run again: '
    "config.include('pyramid_retry') does that"
)


_NO_PLACE = (
    'sqlasession.extend_default_fields changed the session ({}): it is asked '
    'while the session is being saved, and can change nothing. Return the '
    'fields, and change the session in the view'
)


class Extension:
    """Computes the additional fields of one session, in an application that
    sets ``extend_default_fields``.

    :param roll_back: ends what ``request.dbsession`` has begun.
    """

    #: What the application's function has returned for which data.
    _foreseen: tuple[dict[str, Any], dict[str, Any]] | None = None
    #: Whether the application's function runs.
    is_asking = False

    def __init__(
        self, application: Application, request: Any, state: State,
        roll_back: Callable[[], None],
    ) -> None:
        self._roll_back = roll_back
        self._defaults = application.fields.defaults
        self._extend: Any = application.settings.extend_default_fields
        self._request = request
        self._state = state

    def foresee(self) -> None:
        """Ask the function while ``request.dbsession`` can join the
        transaction: when it is being committed, nothing can.
        """
        self._foreseen = None
        data = copied(self._state.plain())
        self._foreseen = data, self.fields(data)

    def forget(self) -> None:
        """Ask the function again for the next commit."""
        self._foreseen = None

    def fields(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the additional fields of a session that holds *data*.

        :raises SessionError: if the function returns no mapping.
        """
        defaults = self._defaults(data)
        if self._foreseen is not None and self._foreseen[0] == data:
            return self._foreseen[1]
        extended = self._ask(defaults, data)
        if not isinstance(extended, Mapping):
            raise SessionError(
                f'sqlasession.extend_default_fields must return a dict, not '
                f'{type(extended).__name__}'
            )
        return {**defaults, **extended}

    def _ask(self, defaults: dict[str, Any], data: Mapping[str, Any]) -> Any:
        state = self._state
        # What the function changes inside of a value is not stored.
        data = copied(dict(data))
        shown, pending = state.plain(), state.pending
        # What it looks at is no change.
        state.pending = pending.copied()
        # After a merge the record holds more than this request's session.
        state.fill(data)
        self.is_asking = True
        try:
            return self._extend(dict(defaults), state.data, self._request)
        except ValueError as error:
            if not _comes_too_late(error):
                raise
            # What has not joined, no abort ends.
            self._roll_back()
            raise SessionConflict([], _TOO_LATE) from error
        finally:
            self.is_asking = False
            state.fill(shown)
            state.pending = pending


def refusal_of(what: Iterable[str]) -> SessionError:
    """Return the error for *what* the function changes in the session."""
    return SessionError(_NO_PLACE.format(', '.join(map(name_of, what))))


def _comes_too_late(error: ValueError) -> bool:
    """Return whether it is the refusal of a transaction that is being
    committed, which nothing can join.
    """
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get('__name__')).startswith('transaction.')
