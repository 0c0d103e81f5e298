"""A database in memory that several connections share: it ends with the last
of them, and with it whatever the application has there.
"""

import pytest
import sqlalchemy as sa

from pyramid_sqlasession import pytest_plugin
from pyramid_sqlasession import stop_expiring_sessions

from .cleaning import make_app

URLS = [
    'sqlite:///file::memory:?cache=shared&uri=true',
    'sqlite:///file:shared?mode=memory&cache=shared&uri=true',
]


@pytest.fixture(params=URLS)
def engine(request):
    """The engine of an application that has a table in such a database."""
    engine = sa.create_engine(
        request.param, poolclass=sa.QueuePool,
        connect_args={'check_same_thread': False},
    )
    with engine.begin() as connection:
        connection.exec_driver_sql('CREATE TABLE notes (text)')
    yield engine
    engine.dispose()


def test_it_outlives_the_start_and_the_cleaner(engine):
    """C7, E3: nothing of the application, and no session, is lost."""
    app = make_app(engine, interval='1d')
    stop_expiring_sessions(app)
    app.registry['sqlasession'].cleaner.clean()
    assert sa.inspect(engine).get_table_names() == ['notes', 'sessions']


@pytest.mark.parametrize('url', URLS)
def test_it_outlives_the_fixture_of_a_test(url):
    """C7, E3: an application that stays has its sessions in the next one."""
    during_a_test = pytest_plugin.stop_session_cleaners.__wrapped__()
    next(during_a_test)
    app = make_app(
        sa.create_engine('sqlite://'), interval='1d', url=url,
        **{'engine.poolclass': sa.QueuePool,
           'engine.connect_args': {'check_same_thread': False}},
    )
    next(during_a_test, None)
    own = app.registry['sqlasession'].engine
    assert 'sessions' in sa.inspect(own).get_table_names()
    own.dispose()
