"""When a session takes part in the transaction of the request (T1, T9).

One that is only read does not, unless somebody has used the database before
it in the same transaction.
"""

from contextlib import nullcontext
import warnings

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from zope.sqlalchemy import register

from .failing import give_up_early
from .failing import on_sqlite
from .failing import Voter
from .shop import add_note
from .shop import both_managers
from .shop import CHANGES
from .shop import returning
from .shop import STORED
from .site import Note
from .subrequests import run
from .subrequests import with_cookie
from .subrequests import with_environ

ONE_CONNECTION = {'pool_size': 1, 'max_overflow': 0, 'pool_timeout': 0.1}


def resources(request):
    """Return how many take part in the transaction."""
    return len(request.tm.get()._resources)


@pytest.fixture
def tight(make_shop):
    """A shop whose pool has one connection."""
    site = make_shop(engine_options=ONE_CONNECTION)
    give_up_early(site.engine)
    return site


def sharing(site):
    """Have the subrequests of *site* share its requests' transaction."""
    is_explicit = site.registry.settings['tm.manager_hook'] is not None
    # The tween would begin another one with the manager of the thread.
    site.registry.way = (with_environ, True) if is_explicit else (
        with_cookie, False
    )


@both_managers
def test_a_data_manager_of_the_application(shop):
    """T1: one that has the dbsession is not taken for zope.sqlalchemy's."""

    @shop.view
    def order(request):
        request.session['n'] = 2
        add_note(request)
        Voter(request, lambda: None).session = request.dbsession

    returning(shop).get('/order')
    assert shop.data() == {'n': 2, 'list': [1]}
    assert shop.notes() == ['a note']


@pytest.mark.parametrize('database', ['sqlite', 'postgresql'], indirect=True)
def test_a_read_takes_no_part(tight):
    """T1: a session that is only read is nothing to commit or to abort."""

    @tight.view
    def read(request):
        assert 'n' in request.session
        assert request.session['n'] == 1
        return resources(request)

    browser = returning(tight)
    assert browser.get('/read').text == '0'
    assert tight.browser().get('/show').text == '{}'


@pytest.mark.parametrize('change', CHANGES)
@pytest.mark.parametrize('database', ['sqlite', 'postgresql'], indirect=True)
def test_the_first_change_takes_part(tight, change):
    """T1, T2: whatever it is, it goes where the transaction goes."""

    @tight.view
    def read_and_change(request):
        assert request.session['n'] == 1
        CHANGES[change](request.session)
        assert resources(request) == 1
        if 'abort' in request.params:
            request.tm.abort()
            request.tm.begin()

    browser = returning(tight)
    before = tight.rows()
    browser.get('/read_and_change?abort=1')
    assert tight.rows() == before
    tight.clock.advance(minutes=10)
    browser.get('/read_and_change')
    assert tight.rows() != before


@pytest.mark.parametrize('database', ['sqlite', 'postgresql'], indirect=True)
def test_a_value_in_hand_takes_part(tight):
    """T1, T2, R7: a list given out may change; a rollback takes it back."""

    @tight.view
    def append(request):
        held = request.session['list']
        assert resources(request) == 1
        held.append(2)
        request.tm.abort()
        request.tm.begin()
        return request.session['list']

    browser = returning(tight)
    assert browser.get('/append').text == '[1]'
    assert tight.data() == STORED


@both_managers
def test_a_subrequest_reads_with_the_connection_that_is_open(tight):
    """T1, T9: no request holds two connections, nor do those within it."""
    # The view has read its session before it used the database.
    sharing(tight)

    @tight.view
    def inner(request):
        return request.session['n']

    @tight.view
    def outer(request):
        assert request.session['n'] == 1
        add_note(request)
        request.dbsession.flush()
        return run(request, '/inner').text

    assert returning(tight).get('/outer').text == '1'
    assert tight.notes() == ['a note']


@both_managers
def test_a_subrequest_writes_with_the_connection_that_is_open(tight):
    """T1, T9: two connections of a transaction would wait for each other."""
    sharing(tight)

    @tight.view
    def inner(request):
        request.session['inner'] = request.session['n'] + 1

    @tight.view
    def outer(request):
        assert request.session['n'] == 1
        add_note(request)
        request.dbsession.flush()
        run(request, '/inner')

    returning(tight).get('/outer')
    assert tight.notes() == ['a note']
    assert tight.data() == STORED | {'inner': 2}


@both_managers
def test_the_view_reads_with_the_connection_of_a_subrequest(tight):
    """T1, T9: the subrequest's dbsession is open until the commit."""
    sharing(tight)

    @tight.view
    def inner(request):
        add_note(request)
        request.dbsession.flush()
        request.session['inner'] = True

    @tight.view
    def outer(request):
        run(request, '/inner')
        request.session['outer'] = request.session['n'] + 1

    returning(tight).get('/outer')
    assert tight.notes() == ['a note']
    assert tight.data() == STORED | {'inner': True, 'outer': 2}


@on_sqlite
def test_a_read_in_one_transaction_and_a_change_in_the_next(tight):
    """T9: each transaction has what was done in it."""

    @tight.view
    def work(request):
        session = request.session
        assert session['n'] == 1
        request.tm.abort()
        request.tm.begin()
        session['a'] = 1
        request.tm.commit()
        request.tm.begin()
        assert session['n'] == 1
        session['b'] = 1
        request.tm.abort()
        request.tm.begin()
        return sorted(session)

    browser = returning(tight)
    assert browser.get('/work').text == "['a', 'list', 'n']"
    assert tight.data() == STORED | {'a': 1}


@on_sqlite
def test_a_change_after_a_rolled_back_savepoint_takes_part_again(tight):
    """T2, T9: the rollback has ended the part that began after it."""

    @tight.view
    def work(request):
        session = request.session
        assert session['n'] == 1
        savepoint = request.tm.savepoint()
        session['a'] = 1
        savepoint.rollback()
        session['b'] = 1
        assert resources(request) == 1
        if 'abort' in request.params:
            request.tm.abort()
            request.tm.begin()
        return sorted(session)

    browser = returning(tight)
    assert browser.get('/work?abort=1').text == "['list', 'n']"
    assert tight.data() == STORED
    assert browser.get('/work').text == "['b', 'list', 'n']"
    assert tight.data() == STORED | {'b': 1}


@on_sqlite
def test_a_change_between_two_transactions_is_in_the_next(tight):
    """T9, T10: to look at the session is enough to have it there."""
    seen = []

    @tight.view
    def work(request):
        session = request.session
        assert session['n'] == 1
        request.tm.commit()
        session['a'] = 1
        seen.append(tight.data())
        request.tm.begin()
        assert session['n'] == 1
        request.tm.commit()
        seen.append(tight.data())
        request.tm.begin()

    returning(tight).get('/work')
    assert seen == [STORED, STORED | {'a': 1}]


@on_sqlite
def test_a_list_that_was_saved_is_followed_into_the_next(tight):
    """T2, T9: read once more, it belongs to the transaction of now."""

    @tight.view
    def work(request):
        session = request.session
        session['list'].append(2)
        request.tm.commit()
        request.tm.begin()
        session['list'].append(3)
        assert resources(request) == 1
        request.tm.abort()
        request.tm.begin()
        return session['list']

    assert returning(tight).get('/work').text == '[1, 2]'
    assert tight.data() == {'n': 1, 'list': [1, 2]}


@pytest.mark.parametrize('database', ['sqlite', 'postgresql'], indirect=True)
@pytest.mark.parametrize('is_nested', [False, True])
def test_a_look_after_the_application_has_written(tight, is_nested):
    """R2, T1: it sees what the request has written, also in a savepoint."""

    @tight.view
    def work(request):
        dbsession = request.dbsession
        table = tight.application.records.table
        dbsession.add(Note(text='a note'))
        with dbsession.begin_nested() if is_nested else nullcontext():
            dbsession.execute(sa.delete(table))
            # The savepoint has its connection of the transaction around it.
            found = dict(request.session)
        return found

    assert returning(tight).get('/work').text == '{}'


@pytest.mark.parametrize('database', ['sqlite', 'postgresql'], indirect=True)
def test_a_look_after_the_application_has_added(tight):
    """T0, T6: beside the transaction, of which no connection is held yet."""
    held = []

    @tight.view
    def work(request):
        request.dbsession.add(Note(text='a note'))
        session = request.session
        session['n'] += 1
        held.append(tight.engine.pool.checkedout())
        request.dbsession.flush()
        held.append(tight.engine.pool.checkedout())

    returning(tight).get('/work')
    assert held == [0, 1]
    assert tight.data() == {**STORED, 'n': 2}
    assert tight.notes() == ['a note']


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
def test_a_look_while_the_view_streams_what_nobody_else_sees(make_shop):
    """T7: a transaction of a test's own: no other connection has the row."""

    def get_dbsession(request):
        found = Session(outer, join_transaction_mode='create_savepoint')
        register(found, transaction_manager=request.tm)
        return found

    site = make_shop(with_dbsession=lambda config: config.add_request_method(
        get_dbsession, 'dbsession', reify=True
    ))

    @site.view
    def begin(request):
        request.dbsession.add(Note(text='a note'))
        request.session['n'] = 1

    @site.view
    def export(request):
        rows = request.dbsession.scalars(
            sa.select(Note.text), execution_options={'yield_per': 1}
        )
        next(rows)
        return request.session.get('n')

    with site.engine.connect() as outer:
        transaction = outer.begin()
        browser = site.browser()
        browser.get('/begin')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            assert browser.get('/export').text == '1'
        transaction.rollback()


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
@pytest.mark.filterwarnings('error')
def test_a_look_while_the_view_streams(make_shop):
    """R2: no row of the view's is lost, as the SELECT goes beside them."""
    site = make_shop()

    @site.view
    def export(request):
        for number in range(20):
            request.dbsession.add(Note(text=str(number)))
        rows = request.dbsession.scalars(
            sa.select(Note.text).order_by(Note.id),
            execution_options={'yield_per': 2},
        )
        found = [(text, request.session['n']) for text in rows]
        assert found == [(str(number), 1) for number in range(20)]
        request.session['found'] = len(found)

    browser = returning(site)
    browser.get('/export')
    assert browser.get('/show').text == str({**STORED, 'found': 20})
    assert site.engine.pool.checkedout() == 0
