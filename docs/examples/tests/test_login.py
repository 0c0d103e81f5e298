"""Sessions in a transaction that is never committed."""
# ruff: noqa: S101

from collections.abc import Callable
from typing import Any

from myapp.models import User
import pytest
from webtest import TestApp


@pytest.mark.parametrize('again', [1, 2])
def test_login_is_kept_within_a_test(
    testapp: TestApp, login: Callable[..., Any], user: User, again: int
) -> None:
    assert testapp.get('/').json['user'] is None
    login()
    assert testapp.get('/').json['user'] == user.id
    assert len(testapp.get('/devices').json['devices']) == 1
