"""A session runs out, and nobody waits for it."""
# ruff: noqa: S101

from datetime import datetime
from datetime import timedelta
from datetime import UTC

import pytest


@pytest.fixture
def clock(app, monkeypatch):
    class Clock:
        time = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

        def __call__(self):
            return self.time

    clock = Clock()
    monkeypatch.setattr(app.registry['sqlasession'], 'now', clock)
    return clock


def test_login_ends_after_a_day(testapp, login, user, clock):
    login()
    clock.time += timedelta(hours=23)
    assert testapp.get('/').json['user'] == user.id
    clock.time += timedelta(hours=25)
    assert testapp.get('/').json['user'] is None


def test_remembered_login_ends_later(testapp, login, user, clock):
    login(remember_me='1')
    clock.time += timedelta(days=29)
    assert testapp.get('/').json['user'] == user.id
