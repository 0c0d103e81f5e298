"""A session runs out, and nobody waits for it."""
# ruff: noqa: S101

from collections.abc import Callable
from datetime import datetime
from datetime import timedelta
from datetime import UTC
from typing import Any

from myapp.models import User
import pytest
from webtest import TestApp


@pytest.fixture
def clock(app: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    class Clock:
        time = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

        def __call__(self) -> datetime:
            return self.time

    clock = Clock()
    monkeypatch.setattr(app.registry['sqlasession'], 'now', clock)
    return clock


def test_login_ends_after_a_day(
    testapp: TestApp, login: Callable[..., Any], user: User, clock: Any
) -> None:
    login()
    clock.time += timedelta(hours=23)
    assert testapp.get('/').json['user'] == user.id
    clock.time += timedelta(hours=25)
    assert testapp.get('/').json['user'] is None


def test_remembered_login_ends_later(
    testapp: TestApp, login: Callable[..., Any], user: User, clock: Any
) -> None:
    login(remember_me='1')
    clock.time += timedelta(days=29)
    assert testapp.get('/').json['user'] == user.id
