"""Fixtures for the test suites of applications; nothing is automatic.

Imported in every run of pytest on a machine that has the package, so that
everything else is imported within the fixtures.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import datetime as dt
from typing import Any

import pytest


@pytest.fixture
def stop_session_cleaners() -> Iterator[None]:
    """Stop the cleaners of all applications that the test creates, and close
    the connections of an engine that the package makes for one.
    """
    from pyramid_sqlasession.cleaner import running_cleaners
    from pyramid_sqlasession.pooling import is_in_memory
    from pyramid_sqlasession.pooling import own_engines

    before = {*running_cleaners(), *own_engines()}
    yield
    for cleaner in set(running_cleaners()) - before:
        cleaner.stop()
    for engine in set(own_engines()) - before:
        # A database in memory would be lost to an application that stays.
        if not is_in_memory(engine):
            engine.dispose()


@pytest.fixture(scope='session')
def no_session_cleaners() -> Iterator[None]:
    """Stop every cleaner, and close the connections of all engines that the
    package has made, when the run ends; for applications of a session scope.
    """
    yield
    from pyramid_sqlasession.cleaner import running_cleaners
    from pyramid_sqlasession.pooling import own_engines

    for cleaner in running_cleaners():
        cleaner.stop()
    for engine in own_engines():
        engine.dispose()


class FrozenClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, time: dt.datetime) -> None:
        #: Aware UTC.
        self.time = time

    def __call__(self) -> dt.datetime:
        return self.time

    def advance(
        self, time: dt.timedelta | float | str = 0, **units: float
    ) -> None:
        """Move on by a timedelta, by seconds, by a text such as ``'1h30m'``
        (as in the settings), or by ``timedelta(**units)``.

        :raises TypeError: for a unit that timedelta does not know.
        :raises ValueError: for another text.
        """
        from pyramid_sqlasession.durations import duration

        self.time += dt.timedelta(seconds=duration(time))
        self.time += dt.timedelta(**units)


@pytest.fixture
def freeze_sessions() -> Iterator[Callable[[Any], FrozenClock]]:
    """Return a function that freezes the clock of an application's sessions.

    .. code-block:: python

        def test_idle_timeout(app, freeze_sessions):
            clock = freeze_sessions(app)
            ...
            clock.advance(hours=25)

    The argument is the application, its registry or a Configurator.  Called
    again, it returns the same clock.
    """
    from pyramid_sqlasession.application import utcnow
    from pyramid_sqlasession.wiring import application_of
    from pyramid_sqlasession.wiring import registry_of

    frozen = []

    def freeze(app: Any) -> FrozenClock:
        application = application_of(registry_of(app))
        if isinstance(application.now, FrozenClock):
            # Another one would set the time back.
            return application.now
        clock = FrozenClock(utcnow())
        frozen.append((application, application.now))
        application.now = clock
        return clock

    yield freeze
    for application, now in reversed(frozen):
        application.now = now


@pytest.fixture
def login_session() -> Callable[..., str]:
    """Return a function that logs a user in, past the login page.

    It stores a session and returns the value of its cookie, and sets the
    cookie of a ``webtest.TestApp``.

    .. code-block:: python

        def test_orders(testapp, login_session):
            login_session(testapp, user_id=7)
            testapp.get('/orders', status=200)

    In tests of the cookiecutter's form the session is stored through
    ``app.dbsession``, so that the rollback at the end takes it away.
    """
    from pyramid_sqlasession.testing import log_in

    return log_in
