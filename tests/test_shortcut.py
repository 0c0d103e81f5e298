"""The read of one record with the driver alone (PostgreSQL, psycopg).

Other tests listen to the engine's statements, and so take the long way.
"""

import datetime as dt
import logging

import pytest

from pyramid_sqlasession import SessionStoreUnavailable
from pyramid_sqlasession.drivers import Uncommon

pytestmark = pytest.mark.parametrize(
    'database', ['postgresql'], indirect=True
)

MOMENT = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC)


@pytest.fixture
def quick(make_site):
    """A site to whose engine nobody listens, and one view."""
    site = make_site(counted=False)
    # Other tests of this process have imported the debugtoolbar, which
    # listens to all engines from then on.
    site.engine._has_events = site.engine.dialect._has_events = False
    logging.getLogger('sqlalchemy.engine').setLevel(logging.WARNING)

    @site.view
    def count(request):
        session = request.session
        session['n'] = session.get('n', 0) + 1
        return session['n']

    @site.view
    def show(request):
        return repr(dict(request.session))

    return site


def found(site):
    """Return what the short way finds of the only record."""
    (row,) = site.rows()
    shortcut = site.application._shortcut
    try:
        return shortcut.find(site.engine, row['id'], site.clock())
    except Uncommon:
        return Uncommon


def test_it_is_taken(quick):
    """D4: a read beside the transaction is the driver's."""
    browser = quick.browser()
    browser.get('/count')
    assert found(quick) is not Uncommon
    assert browser.get('/count').text == '2'
    assert quick.data() == {'n': 2}


def test_it_finds_what_the_long_way_finds(quick):
    """E4, R6: the same record, value for value, in UTC."""
    browser = quick.browser()
    browser.get('/count')
    (row,) = quick.rows()
    with quick.engine.connect() as connection:
        long_way = quick.application.records.find(
            connection, row['id'], quick.clock()
        )
    assert found(quick) == long_way
    assert found(quick).expires.tzinfo is dt.UTC


def test_an_expired_record_is_refused(quick):
    """E1: the predicate is part of it."""
    browser = quick.browser()
    browser.get('/count')
    quick.clock.advance(hours=25)
    assert found(quick) is None
    assert browser.get('/show').text == '{}'


def test_not_while_somebody_listens(site):
    """A toolbar, a tracer or SQL echo sees the statement."""
    site.view(lambda request: request.session.update(n=1))
    site.views['put'] = site.views.pop('<lambda>')
    site.browser().get('/put')
    assert found(site) is Uncommon


def test_a_moment_that_python_does_not_know(quick):
    """R8: damage is what the long way says it is."""
    browser = quick.browser()
    browser.get('/count')
    (row,) = quick.rows()
    quick.execute("UPDATE sessions SET expires = 'infinity'")
    shortcut = quick.application._shortcut
    with pytest.raises(Uncommon):
        shortcut.find(quick.engine, row['id'], MOMENT)
    assert browser.get('/show').text == '{}'


def test_a_lost_connection_is_replaced(quick):
    """D1: the server has closed all connections of the pool."""
    browser = quick.browser()
    browser.get('/count')
    quick.execute(
        'SELECT pg_terminate_backend(pid) FROM pg_stat_activity '
        'WHERE pid <> pg_backend_pid() AND datname = current_database()'
    )
    assert browser.get('/count').text == '2'
    assert quick.engine.pool.checkedout() == 0


def test_a_missing_table(quick):
    """D2: the error names the table and the command."""
    browser = quick.browser()
    browser.get('/count')
    quick.execute('DROP TABLE sessions')
    with pytest.raises(Exception, match='psessions'):
        browser.get('/show')


def test_an_exhausted_pool_is_unavailable(make_site):
    """D1: 503 after one wait for the pool, not two."""
    site = make_site(
        counted=False,
        engine_options={
            'pool_size': 1, 'max_overflow': 0, 'pool_timeout': 0.1,
        },
    )
    site.engine._has_events = site.engine.dialect._has_events = False
    application = site.application
    with site.engine.connect(), pytest.raises(SessionStoreUnavailable):
        application.find_aside(application.model.id, MOMENT)


def test_the_connection_is_as_before(quick):
    """T0: what the pool hands out next is in a transaction again."""
    browser = quick.browser()
    browser.get('/count')
    browser.get('/show')
    with quick.engine.connect() as connection:
        assert not connection.connection.driver_connection.autocommit


def test_many_meet_at_one_record(quick, stage):
    """C2: ``merge`` never fails, however many save at one moment."""
    browser = quick.browser()
    browser.get('/count')

    @quick.view
    def meet(request):
        key = request.params['key']
        request.session[key] = True
        stage.reach(key)

    keys = [f'key {number}' for number in range(10)]
    running = [
        stage.run(quick.browser(like=browser).get, '/meet', {'key': key})
        for key in keys
    ]
    for key in keys:
        stage.wait(key)
    for key in keys:
        stage.let(key)
    assert [one.result().status_int for one in running] == [200] * len(keys)
    assert quick.data() == {'n': 1} | dict.fromkeys(keys, True)
