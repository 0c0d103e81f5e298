"""A transaction that outlives the request (T7)."""

from pyramid.request import Request
import pytest
import sqlalchemy as sa

from .failing import answering
from .failing import Failure
from .failing import on_sqlite
from .given import Given
from .shop import STORED
from .shop import with_views
from .site import Note
from .subrequests import run
from .subrequests import with_environ


@pytest.fixture
def make_given(make_site):
    """A function that makes a site, and a ``Given`` transaction of it."""
    ends = []

    def make(**settings):
        site = with_views(make_site(**settings))
        ends.append(Given(site))
        return site, ends[-1]

    yield make
    for given in ends:
        given.abort()


def test_what_is_stored_in_a_given_transaction_is_committed_with_it(
    make_given
):
    """T7, T1: also where the application itself has changed nothing."""
    site, given = make_given()
    browser = given.browser()
    browser.get('/fill')
    assert site.rows() == []
    given.commit()
    assert site.data() == STORED
    site.clock.advance(minutes=30)
    (before,) = site.rows()
    browser.get('/show')
    assert site.rows() == [before]
    given.commit()
    (after,) = site.rows()
    assert after['accessed'] > before['accessed']


def test_a_read_begins_a_given_transaction(make_given):
    """T7: all goes through it, also if a test has only added something."""
    _, given = make_given()
    browser = given.browser()
    browser.get('/fill')
    given.commit()
    begun = []
    given.dbsession.add(Note(text='a note'))
    sa.event.listen(
        given.dbsession, 'after_begin', lambda *args: begun.append(args)
    )
    browser.get('/show')
    assert len(begun) == 1


def test_surplus_sessions_end_in_a_given_transaction(make_given):
    """T7: ``max_sessions_per_user`` holds there, and ends with it."""
    site, given = make_given(
        additional_fields='user_id: Integer', max_sessions_per_user='1'
    )

    @site.view
    def login(request):
        request.session['user_id'] = 7

    for _ in range(2):
        given.browser().get('/login')
        site.clock.advance(seconds=1)
    given.commit()
    assert len(site.rows()) == 1


@pytest.mark.parametrize('database', ['sqlite', 'postgresql'], indirect=True)
def test_a_login_in_a_subrequest(make_given, caplog):
    """T7: the limit is held there alone, and waits for no lock."""
    site, given = make_given(
        additional_fields='user_id: Integer', max_sessions_per_user='1'
    )
    for _ in range(2):
        site.browser().get('/fill')
        site.clock.advance(seconds=1)
    site.execute('UPDATE sessions SET user_id = 7')

    @site.view
    def inner(request):
        request.session['user_id'] = 7

    @site.view
    def outer(request):
        return run(request, '/inner').text

    site.registry.way = with_environ, True
    given.browser().get('/outer')
    given.abort()
    assert 'surplus' not in caplog.text
    assert len(site.rows()) == 2


@on_sqlite
@pytest.mark.parametrize('kept', [True, False])
def test_a_plain_subrequest_in_a_given_transaction(make_given, kept):
    """T7, T9: what it stores is a part of it, though it says not so."""
    site, given = make_given()

    @site.view
    def outer(request):
        request.session.get('n')
        shared = ('tm.manager', 'app.dbsession')
        inner = Request.blank(
            '/fill', environ={name: request.environ[name] for name in shared}
        )
        request.invoke_subrequest(inner)

    given.browser().get('/outer')
    if kept:
        given.commit()
    else:
        given.abort()
    assert len(site.rows()) == kept


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
@pytest.mark.parametrize('what', ['touch', 'surplus'])
def test_a_given_transaction_that_broke_is_not_answered(make_given, what):
    """T7, T1: whoever commits it would store nothing, and not hear of it."""
    site, given = make_given(
        additional_fields='user_id: Integer', max_sessions_per_user='1',
        engine_options={'isolation_level': 'REPEATABLE READ'},
    )

    @site.view
    def login(request):
        request.session['user_id'] = 7

    @site.view
    def work(request):
        request.dbsession.add(Note(text='a note'))
        request.dbsession.flush()
        request.session.get('n')
        # Somebody else, whom the transaction does not see.
        site.execute('UPDATE sessions SET version = version + 1')
        if what == 'surplus':
            login(request)

    visitor = site.browser()
    visitor.get('/login')
    site.clock.advance(minutes=30)
    browser = given.browser()
    if what == 'touch':
        browser.set_cookie('session', site.token(visitor))
    with pytest.raises(sa.exc.OperationalError, match='could not serialize'):
        browser.get('/work')


@on_sqlite
def test_a_commit_when_an_exception_view_has_answered(make_given):
    """T3, T7: what the view did that failed is not stored with it."""

    def answer(request):
        request.add_finished_callback(lambda request: request.tm.commit())

    site, given = make_given(configure=answering(answer))

    @site.view
    def fail(request):
        request.session['view'] = 'Saved!'
        raise Failure

    browser = given.browser()
    browser.get('/fill')
    given.commit()
    browser.get('/fail')
    given.manager.begin()
    assert site.data() == STORED
