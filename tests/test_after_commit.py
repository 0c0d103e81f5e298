"""Errors that come when the data are committed: nothing is taken back."""

import ast
import sqlite3

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from pyramid_sqlasession import savepoints
from pyramid_sqlasession import SessionCreated
from pyramid_sqlasession import SessionInvalidated
from pyramid_sqlasession import SessionRotated
from pyramid_sqlasession import SessionWriteDropped

from .failing import answering
from .failing import Failure
from .failing import Mailer
from .failing import on_sqlite
from .failing import raiser
from .failing import Voter
from .shop import add_note
from .shop import both_managers
from .shop import flash_error
from .shop import returning

EVENTS = (
    SessionCreated, SessionRotated, SessionInvalidated, SessionWriteDropped
)


def mail(request):
    """Write nothing of the application's, and send a mail."""
    Mailer(request)


def order_and_mail(request):
    """Write, and send a mail."""
    add_note(request)
    Mailer(request)


def order_and_start_a_task(request):
    """Write; what is to follow the COMMIT fails."""
    add_note(request)

    @sa.event.listens_for(request.dbsession, 'after_commit')
    def start(dbsession):
        raise Failure


def roll_back_and_mail(request):
    """Write nothing after all, and send a mail."""
    request.dbsession.execute(sa.text('SELECT 1'))
    request.dbsession.rollback()
    Mailer(request)


#: What a view does, and what has failed when its session is stored.
WAYS = [mail, order_and_mail, order_and_start_a_task, roll_back_and_mail]


@pytest.fixture
def make_late(make_shop):
    """A function that makes a site whose views fail when all is committed."""

    def make(work, way, answer=flash_error, **settings):
        site = make_shop(configure=answering(answer), **settings)

        @site.view
        def fail(request):
            work(request)
            way(request)

        return site

    return make


def put(request):
    """Change the session."""
    request.session['n'] = 2


def log_in(request):
    """Change the session and its token."""
    request.session['n'] = 2
    request.session.rotate()


@both_managers
@pytest.mark.parametrize('way', WAYS)
def test_a_new_visitor(make_late, way):
    """T1, R4: the session is stored, and the visitor has its cookie."""
    site = make_late(put, way)
    browser = site.browser()
    with site.events(*EVENTS) as seen:
        browser.get('/fail')
    assert [type(event) for event in seen] == [SessionCreated]
    assert len(site.rows()) == 1
    assert ast.literal_eval(browser.get('/show').text) == {
        'n': 2, '_f_': ['Please log in'],
    }


@both_managers
@pytest.mark.parametrize('way', WAYS)
def test_a_login(make_late, way):
    """T1, R4, C5: the visitor stays in, with the new token."""
    site = make_late(log_in, way)
    browser = returning(site)
    with site.events(*EVENTS) as seen:
        browser.get('/fail')
    assert [type(event) for event in seen] == [SessionRotated]
    site.clock.advance(minutes=2)
    assert ast.literal_eval(browser.get('/show').text) == {
        'n': 2, 'list': [1], '_f_': ['Please log in'],
    }


@both_managers
@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('answer', [flash_error, lambda request: 'sorry'])
def test_a_logout(make_late, way, answer):
    """T1, R4, C4: the session is gone, and so is its cookie."""
    site = make_late(lambda request: request.session.invalidate(), way, answer)
    browser = returning(site)
    old = site.token(browser)
    with site.events(SessionInvalidated, SessionWriteDropped) as seen:
        browser.get('/fail')
    assert [type(event) for event in seen] == [SessionInvalidated]
    if answer is flash_error:
        assert site.token(browser) not in (None, old)
        assert site.data() == {'_f_': ['Please log in']}
    else:
        assert site.token(browser) is None


def send(request, error):
    """Have a queue written to, by a connection of its own, that fails."""
    Mailer(request, error)


def start(request, error):
    """The same, by SQLAlchemy's event."""

    @sa.event.listens_for(request.dbsession, 'after_commit')
    def fail(dbsession):
        raise error


@both_managers
@pytest.mark.parametrize('way', [send, start])
@pytest.mark.parametrize('key', ['n', None])
def test_a_wait_for_a_lock(make_shop, way, key):
    """T5: the order is stored, and is not placed once more."""
    error = sa.exc.OperationalError(
        'INSERT INTO jobs', {}, sqlite3.OperationalError('database is locked')
    )
    site = make_shop(retry=True)
    attempts = []

    @site.view
    def order(request):
        attempts.append(request)
        add_note(request)
        request.session.get('n')
        if key:
            request.session[key] = 2
        way(request, error)

    browser = returning(site)
    with pytest.raises(sa.exc.OperationalError):
        browser.get('/order')
    assert len(attempts) == 1
    assert len(site.notes()) == 1


@pytest.fixture
def early_listener():
    """A listener to all commits that the application has registered before it
    included the package, and that fails from now on.
    """
    ours = [
        ('after_transaction_create', savepoints._begun),
        ('after_commit', savepoints._released),
        ('after_transaction_end', savepoints._ended),
    ]
    is_away = []

    def start(dbsession):
        if is_away:
            raise Failure

    for name, listener in ours:
        sa.event.remove(Session, name, listener)
    sa.event.listen(Session, 'after_commit', start)
    savepoints.follow_savepoints()
    yield is_away
    sa.event.remove(Session, 'after_commit', start)


@on_sqlite
def test_a_listener_that_was_there_before(make_shop, early_listener):
    """T1, R4: the visitor who logged in has the new token."""
    site = make_shop(configure=answering(lambda request: 'sorry'))

    @site.view
    def order(request):
        log_in(request)
        add_note(request)
        early_listener.append(True)

    browser = returning(site)
    assert 'Set-Cookie' in browser.get('/order').headers
    early_listener.clear()
    assert ast.literal_eval(browser.get('/show').text)['n'] == 2


@pytest.mark.parametrize('way', WAYS)
def test_the_exception_view_sees_what_is_stored(make_late, way):
    """T3, T4: it goes on from the COMMIT, and conflicts with nobody."""
    site = make_late(put, way, lambda request: request.session.update(
        seen=request.session['n'], n=3
    ), conflict='retry')
    browser = returning(site)
    browser.get('/fail')
    assert site.data() == {'n': 3, 'list': [1], 'seen': 2}


@on_sqlite
@pytest.mark.parametrize('way', [mail, order_and_mail])
def test_a_database_of_the_sessions_own(make_late, tmp_path, way):
    """T0, R4: what was committed there counts, too."""
    site = make_late(
        log_in, way, url=f'sqlite:///{tmp_path}/own.sqlite',
        create_table='true',
    )
    browser = returning(site)
    browser.get('/fail')
    site.clock.advance(minutes=2)
    assert ast.literal_eval(browser.get('/show').text) == {
        'n': 2, 'list': [1], '_f_': ['Please log in'],
    }


@both_managers
def test_a_commit_that_fails_itself(make_late):
    """T2, R4: nothing is stored, and no cookie sent for it."""

    def refuse(request):
        add_note(request)
        Voter(request, raiser(), '~sqlalchemy!!')

    site = make_late(log_in, refuse)
    browser = returning(site)
    browser.get('/fail')
    assert site.notes() == []
    assert site.data() == {'n': 1, 'list': [1], '_f_': ['Please log in']}
