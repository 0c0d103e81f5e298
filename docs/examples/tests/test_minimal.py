"""An application without request.dbsession, on a database in memory."""
# ruff: noqa: S101

from minimal import main
import pytest
from webtest import TestApp


@pytest.fixture
def counter(stop_session_cleaners: None) -> TestApp:
    return TestApp(main({}, **{
        'sqlalchemy.url': 'sqlite://',
        'sqlasession.create_table': 'true',
    }))


@pytest.mark.parametrize('again', [1, 2])
def test_counter(counter: TestApp, again: int) -> None:
    assert counter.get('/').text == 'You were here 1 times.'
    assert counter.get('/').text == 'You were here 2 times.'
