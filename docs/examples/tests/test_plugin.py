"""The fixtures of pyramid_sqlasession.pytest_plugin."""
# ruff: noqa: S101

from collections.abc import Callable
from typing import Any

from myapp.models import User
from webtest import TestApp


def test_devices(
    testapp: TestApp, user: User, login_session: Callable[..., str]
) -> None:
    login_session(testapp, user_id=user.id)
    assert len(testapp.get('/devices').json['devices']) == 1


def test_idle_timeout(
    app: Any,
    testapp: TestApp,
    user: User,
    login_session: Callable[..., str],
    freeze_sessions: Callable[[Any], Any],
) -> None:
    clock = freeze_sessions(app)
    login_session(testapp, user_id=user.id)
    clock.advance(hours=25)
    assert testapp.get('/').json['user'] is None
