"""A database in memory that several connections share: it ends with the last
of them, and with it whatever the application has there.
"""

import pytest
import sqlalchemy as sa

from pyramid_sqlasession import stop_expiring_sessions

from .cleaning import make_app


@pytest.fixture(params=[
    'sqlite:///file::memory:?cache=shared&uri=true',
    'sqlite:///file:shared?mode=memory&cache=shared&uri=true',
])
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
