"""Rows of a request that does not look at its session, beside a subrequest
that does (T1, T9).
"""

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
import zope.sqlalchemy

from .failing import give_up_early
from .failing import on_sqlite
from .shop import add_note
from .shop import both_managers
from .shop import flush_fails
from .shop import returning
from .shop import STORED
from .site import Note
from .subrequests import each_way
from .subrequests import inner
from .subrequests import run
from .subrequests import with_cookie
from .subrequests import with_environ
from .subrequests import with_transaction


def with_one_of_its_own(site):
    """Return the ways in which a subrequest runs in the outer transaction
    with a ``dbsession`` of its own.
    """
    ways = [(with_environ, True), (with_environ, False)]
    if site.registry.settings['tm.manager_hook'] is None:
        ways.append((with_cookie, False))
    return ways


def add_unflushed(request):
    add_note(request)


def add_flushed(request):
    add_note(request)
    request.dbsession.flush()


def add_unmarked(request):
    """Store a row in a way that zope.sqlalchemy does not see."""
    request.dbsession.connection().execute(
        sa.insert(Note.__table__).values(text='a note')
    )


@pytest.mark.parametrize('add', [add_unflushed, add_flushed, add_unmarked])
@both_managers
def test_a_subrequest_of_a_view_with_rows_that_does_not_look(shop, add):
    """T1, T9: one connection and one COMMIT have the rows and the session."""
    give_up_early(shop.engine)
    shop.view(inner)

    @shop.view
    def outer(request):
        add(request)
        run(request, '/inner')

    commits = []
    sa.event.listen(shop.engine, 'commit', commits.append)
    for browser in each_way(shop, with_one_of_its_own(shop)):
        commits.clear()
        browser.get('/outer')
        assert (shop.registry.way, len(commits)) == (shop.registry.way, 1)
        assert shop.data() == STORED | {'inner': True}
        assert shop.notes() == ['a note']


@pytest.mark.parametrize('add', [add_unflushed, add_flushed, add_unmarked])
@both_managers
def test_a_subrequest_that_queries_beside_such_rows(shop, add):
    """T1, T9: SQLite has one writer: who writes the rows."""
    give_up_early(shop.engine)

    @shop.view
    def inner(request):
        request.dbsession.scalars(sa.select(Note)).all()
        request.session['inner'] = True

    @shop.view
    def outer(request):
        add(request)
        run(request, '/inner')

    for browser in each_way(shop, with_one_of_its_own(shop)):
        browser.get('/outer')
        assert shop.data() == STORED | {'inner': True}
        assert shop.notes() == ['a note']


@pytest.mark.parametrize('looks', [False, True])
@both_managers
def test_a_subrequest_with_rows_that_does_not_look(shop, looks):
    """T1, T9: nor does the outer view wait for what they have locked."""
    give_up_early(shop.engine)
    shop.view(add_unflushed)

    @shop.view
    def outer(request):
        if looks:
            request.session.get('n')
        run(request, '/add_unflushed')
        request.session['outer'] = True

    for browser in each_way(shop, with_one_of_its_own(shop)):
        browser.get('/outer')
        assert shop.data() == STORED | {'outer': True}
        assert shop.notes() == ['a note']


@pytest.mark.parametrize('which', ['outer', 'inner'])
@both_managers
def test_a_rollback_by_hand_beside_a_subrequest(shop, which):
    """T1, T9: what both put in is stored, and the rows of the other one."""
    give_up_early(shop.engine)

    def work(request, name):
        request.session[name] = True
        request.dbsession.scalars(sa.select(Note)).all()
        if name == which:
            request.dbsession.rollback()
            request.dbsession.scalars(sa.select(Note)).all()
        else:
            add_note(request)

    @shop.view
    def inner(request):
        work(request, 'inner')

    @shop.view
    def outer(request):
        work(request, 'outer')
        run(request, '/inner')

    for browser in each_way(shop, with_one_of_its_own(shop)):
        browser.get('/outer')
        assert shop.data() == STORED | {'inner': True, 'outer': True}
        assert shop.notes() == ['a note']


@on_sqlite
def test_a_subrequest_with_rows_beside_one_that_shares(shop):
    """T1, T9: neither do two requests that share a dbsession."""
    give_up_early(shop.engine)
    shop.view(add_unflushed)

    @shop.view
    def inner(request):
        request.session['inner'] = True
        request.dbsession.scalars(sa.select(Note)).all()

    @shop.view
    def outer(request):
        run(request, '/add_unflushed')
        request.session['outer'] = True
        request.invoke_subrequest(with_transaction(request, '/inner'))

    for browser in each_way(shop, with_one_of_its_own(shop)):
        browser.get('/outer')
        assert shop.data() == STORED | {'outer': True, 'inner': True}
        assert shop.notes() == ['a note']


@both_managers
def test_a_subrequest_of_a_view_that_has_ended_the_session(shop):
    """C4, T9: it waits for no lock of its own transaction."""
    give_up_early(shop.engine)
    shop.view(inner)

    @shop.view
    def outer(request):
        assert request.session_store.revoke_all() == 1
        run(request, '/inner')

    for browser in each_way(shop, with_one_of_its_own(shop)):
        browser.get('/outer')
        assert shop.rows() == []


def roll_back(request, shop):
    """What the transaction does not commit any more is no way to it."""
    request.dbsession.scalars(sa.select(Note)).all()
    request.dbsession.rollback()


def fail_to_flush(request, shop):
    """A view that goes on all the same has lost its rows alone."""
    with pytest.raises(sa.exc.IntegrityError):
        flush_fails(request, shop)


def only_read(request, shop):
    """With what was registered for that nothing is written."""
    dbsession = Session(shop.engine)
    zope.sqlalchemy.register(
        dbsession, 'readonly', transaction_manager=request.tm
    )
    dbsession.scalars(sa.select(Note)).all()


@both_managers
@pytest.mark.parametrize('work', [roll_back, fail_to_flush, only_read])
def test_a_subrequest_of_a_view_with_no_way_to_the_commit(shop, work):
    """T9: what it changes is stored, by its own."""
    shop.view(inner)

    @shop.view
    def outer(request):
        work(request, shop)
        run(request, '/inner')

    for browser in each_way(shop, with_one_of_its_own(shop)):
        browser.get('/outer')
        assert shop.data() == STORED | {'inner': True}


def bound_to_another(engine):
    return Session(engine)


def bound_for_rows_to_another(engine):
    return Session(binds={Note: engine})


@pytest.mark.parametrize('make', [bound_to_another, bound_for_rows_to_another])
@on_sqlite
def test_a_subrequest_of_a_view_with_rows_elsewhere(shop, tmp_path, make):
    """T1, T9: sessions are not written to another database."""
    shop.view(inner)
    engine = sa.create_engine(f'sqlite:///{tmp_path}/other.sqlite')
    Note.metadata.create_all(engine)

    @shop.view
    def outer(request):
        dbsession = make(engine)
        zope.sqlalchemy.register(dbsession, transaction_manager=request.tm)
        dbsession.add(Note(text='elsewhere'))
        run(request, '/inner')

    for browser in each_way(shop, with_one_of_its_own(shop)):
        browser.get('/outer')
        assert shop.data() == STORED | {'inner': True}
        with engine.begin() as connection:
            notes = connection.execute(sa.delete(Note)).rowcount
        assert notes == 1
    engine.dispose()


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_a_connection_of_the_request_that_cannot_write(shop):
    """T1: without a subrequest it is request.dbsession alone that writes."""

    @shop.view
    def outer(request):
        dbsession = Session(shop.engine)
        zope.sqlalchemy.register(dbsession, transaction_manager=request.tm)
        dbsession.execute(sa.text('SET TRANSACTION READ ONLY'))
        request.session['outer'] = True

    returning(shop).get('/outer')
    assert shop.data() == STORED | {'outer': True}
