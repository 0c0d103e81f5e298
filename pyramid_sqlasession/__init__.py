"""Sessions of a Pyramid application in its own SQL database.

``config.include('pyramid_sqlasession')`` is all that is needed.
"""

from __future__ import annotations

import importlib
from typing import Any
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyramid_sqlasession.errors import SessionArgumentError
    from pyramid_sqlasession.errors import SessionConflict
    from pyramid_sqlasession.errors import SessionError
    from pyramid_sqlasession.errors import SessionFieldError
    from pyramid_sqlasession.errors import SessionNotSerializable
    from pyramid_sqlasession.errors import SessionStoreUnavailable
    from pyramid_sqlasession.errors import SessionTooLarge
    from pyramid_sqlasession.events import ISessionCreated
    from pyramid_sqlasession.events import ISessionInvalidated
    from pyramid_sqlasession.events import ISessionRotated
    from pyramid_sqlasession.events import ISessionsExpired
    from pyramid_sqlasession.events import ISessionWriteDropped
    from pyramid_sqlasession.events import ISuspiciousCookie
    from pyramid_sqlasession.events import SessionCreated
    from pyramid_sqlasession.events import SessionInvalidated
    from pyramid_sqlasession.events import SessionRotated
    from pyramid_sqlasession.events import SessionsExpired
    from pyramid_sqlasession.events import SessionWriteDropped
    from pyramid_sqlasession.events import SuspiciousCookie
    from pyramid_sqlasession.model import session_model
    from pyramid_sqlasession.model import SessionMixin
    from pyramid_sqlasession.session import SQLASession
    from pyramid_sqlasession.store import SessionStore
    from pyramid_sqlasession.wiring import start_expiring_sessions
    from pyramid_sqlasession.wiring import stop_expiring_sessions

__all__ = [
    'includeme',
    'ISessionCreated',
    'ISessionInvalidated',
    'ISessionRotated',
    'ISessionsExpired',
    'ISessionWriteDropped',
    'ISuspiciousCookie',
    'session_model',
    'SessionArgumentError',
    'SessionConflict',
    'SessionCreated',
    'SessionError',
    'SessionFieldError',
    'SessionInvalidated',
    'SessionMixin',
    'SessionNotSerializable',
    'SessionRotated',
    'SessionsExpired',
    'SessionStore',
    'SessionStoreUnavailable',
    'SessionTooLarge',
    'SessionWriteDropped',
    'SQLASession',
    'start_expiring_sessions',
    'stop_expiring_sessions',
    'SuspiciousCookie',
]

# Imported at their first use (PEP 562): pytest imports this package in every
# run of everybody who has it installed, for its fixtures, and that must not
# cost an import of Pyramid and SQLAlchemy.
_MODULES = {
    'session_model': 'model',
    'SessionMixin': 'model',
    'SessionStore': 'store',
    'SQLASession': 'session',
    'start_expiring_sessions': 'wiring',
    'stop_expiring_sessions': 'wiring',
    **dict.fromkeys(
        ('SessionArgumentError', 'SessionConflict', 'SessionError',
         'SessionFieldError', 'SessionNotSerializable',
         'SessionStoreUnavailable', 'SessionTooLarge'),
        'errors',
    ),
}


# Not for type checkers, to whom it would mean that there is any name.
if not TYPE_CHECKING:
    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(
                f'module {__name__!r} has no attribute {name!r}'
            )
        module = importlib.import_module(
            f'{__name__}.{_MODULES.get(name, "events")}'
        )
        return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def includeme(config: Any) -> None:
    """Set up sessions in the application's database.

    Reads all settings with the prefix ``sqlasession.`` when the
    configuration is committed, so settings made later in ``main()`` count.
    Registers:

    - the session factory: ``request.session``, a :class:`SQLASession`;
    - ``request.session_store``, a :class:`SessionStore`;
    - pyramid_tm, unless it is included already;
    - a subscriber to ``ApplicationCreated``, which finds the engine, gives
      advice in the log, creates the table if ``create_table`` is set, and
      starts the cleaner;
    - listeners to all SQLAlchemy sessions of the process, once, which follow
      their savepoints;
    - an introspectable, ``pyramid_sqlasession``, with the settings.

    A wrong setting is a :exc:`pyramid.exceptions.ConfigurationError`, raised
    when the configuration is committed, or the application is created.
    """
    from pyramid_sqlasession.wiring import register

    register(config)
