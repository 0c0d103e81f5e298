"""Login in the session: a helper for an application's ``ISecurityPolicy``.

The interface of Pyramid's own ``SessionAuthenticationHelper``; but a login
changes the token, and a logout ends the session.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from pyramid_sqlasession.application import found_in
from pyramid_sqlasession.application import utcnow
from pyramid_sqlasession.changes import LOGIN
from pyramid_sqlasession.durations import duration
from pyramid_sqlasession.errors import SessionArgumentError
from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.session import SQLASession
from pyramid_sqlasession.settings import Settings


class SessionAuthenticationHelper:
    """Keeps the user's id in the session.

    .. code-block:: python

        class SecurityPolicy:
            def __init__(self):
                self.helper = SessionAuthenticationHelper()

            def authenticated_userid(self, request):
                return self.helper.authenticated_userid(request)

            def remember(self, request, userid, **kw):
                return self.helper.remember(request, userid, **kw)

            def forget(self, request, **kw):
                return self.helper.forget(request, **kw)

    :param prefix: what the names of its keys begin with, as Pyramid's own
        has it.  With one, it is another kind of login, and no additional
        field finds the user.
    :param field: the session key that holds the user's id; by default the
        setting ``user_field``, so that an additional field of that name
        finds the sessions of a user.  With another one a session can hold a
        second kind of login, of an administrator say: ``fresh`` is of each
        its own, while :meth:`forget`, or another user of either kind, ends
        the session with both, and the absolute timeout counts from the later
        one.
    """

    def __init__(self, prefix: str = '', *, field: str | None = None) -> None:
        self._prefix = prefix
        self._field = field

    def authenticated_userid(self, request: Any) -> Any | None:
        """Return the id that was given to :meth:`remember`, or None."""
        return request.session.get(self._key(request))

    def remember(
        self, request: Any, userid: Any, **kw: Any
    ) -> list[tuple[str, str]]:
        """Log *userid* in.

        The session gets a new token (OWASP ASVS 5.0, 7.2.4: no session
        fixation), and its absolute timeout begins anew.  What is in the
        session stays, unless it belongs to another user: then it goes.

        :param kw: is not used.
        :returns: no headers; the cookie comes with the response.
        :raises SessionArgumentError: if *userid* is None (a ``TypeError``).
        :raises SessionError: if another factory makes ``request.session``.
        """
        if userid is None:
            raise SessionArgumentError(
                'remember() needs the id of a user, not None: a new user has '
                'one after request.dbsession.flush()'
            )
        session = self._session(request)
        key = self._key(request)
        before = session.get(key)
        if before is not None and before != userid:
            # The next user must not find what the last one left.
            session.invalidate()
        session.rotate(login=True)
        session[key] = userid
        session[LOGIN + key] = int(self._now(request).timestamp())
        return []

    def forget(self, request: Any, **kw: Any) -> list[tuple[str, str]]:
        """Log out: the session ends, on the server too.

        :param kw: is not used.
        :returns: no headers; the cookie is removed with the response.
        :raises SessionError: if another factory makes ``request.session``.
        """
        self._session(request).invalidate()
        return []

    def fresh(
        self, request: Any, max_age: dt.timedelta | float | str
    ) -> bool:
        """Return whether the user logged in at most *max_age* ago.

        For views that want the password again before they do something that
        cannot be undone.

        :param max_age: a timedelta, seconds, or text such as ``'15m'``.
        :raises ValueError: for another *max_age*.
        """
        try:
            seconds = duration(max_age)
        except ValueError as error:
            raise ValueError(
                f'fresh: max_age = {max_age!r}: {error}'
            ) from None
        if self.authenticated_userid(request) is None:
            return False
        login = request.session.get(LOGIN + self._key(request))
        if isinstance(login, bool) or not isinstance(login, int):
            return False
        age = self._now(request).timestamp() - login
        # Seconds are whole: a login of this very second is fresh.
        return -1 <= age <= seconds

    def _key(self, request: Any) -> str:
        field = self._field
        if field is None:
            application = found_in(request.registry)
            settings = Settings if application is None else (
                application.settings
            )
            field = settings.user_field
        return self._prefix + field

    @staticmethod
    def _now(request: Any) -> dt.datetime:
        application = found_in(request.registry)
        return utcnow() if application is None else application.now()

    @staticmethod
    def _session(request: Any) -> SQLASession:
        session = request.session
        if not isinstance(session, SQLASession):
            raise SessionError(
                f'SessionAuthenticationHelper needs the sessions of '
                f'pyramid_sqlasession, but request.session is a '
                f'{type(session).__name__}: is another session factory set '
                f'in this application? (In a test a DummyRequest has a '
                f'session of its own; the fixture app_request, as the '
                f'cookiecutter has it, has this one.)'
            )
        return session
