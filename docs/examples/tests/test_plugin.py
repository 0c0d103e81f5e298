"""The fixtures of pyramid_sqlasession.pytest_plugin."""
# ruff: noqa: S101

from collections.abc import Callable
from typing import Any

from myapp import main
from myapp.models import User
from sqlalchemy import Engine
from webtest import TestApp


def test_devices(
    testapp: TestApp, user: User, login_session: Callable[..., str]
) -> None:
    login_session(testapp, user_id=user.id)
    assert len(testapp.get('/devices').json['devices']) == 1


def test_application_of_its_own(
    app_settings: dict[str, str],
    dbengine: Engine,
    stop_session_cleaners: None,
) -> None:
    settings = {**app_settings, 'sqlasession.cookie_name': 'other'}
    other = TestApp(main({}, dbengine=dbengine, **settings))
    other.get('/')
    assert 'other' in other.cookies


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
