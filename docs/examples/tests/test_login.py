"""Sessions in a transaction that is never committed."""
# ruff: noqa: S101

import pytest


@pytest.mark.parametrize('again', [1, 2])
def test_login_is_kept_within_a_test(testapp, login, user, again):
    assert testapp.get('/').json['user'] is None
    login()
    assert testapp.get('/').json['user'] == user.id
    assert len(testapp.get('/devices').json['devices']) == 1
