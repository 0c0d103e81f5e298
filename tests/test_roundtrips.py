"""How often a request waits for PostgreSQL (D4 counts only statements)."""

import pytest
import sqlalchemy as sa

from .roundtrips import RoundTrips

pytestmark = pytest.mark.parametrize('database', ['postgresql'], indirect=True)

# psycopg prepares a statement at its sixth use, which takes a trip; and what
# a fresh connection asks the server is no affair of the sessions.
WARM_UP = 12


@pytest.fixture
def proxy(database):
    """The proxy that everything on *database* goes through."""
    with RoundTrips(database.url) as proxy:
        database.url = proxy.url
        yield proxy


@pytest.fixture
def shop(proxy, make_site):
    """A site with views that use the session, the dbsession, or both."""
    site = make_site()

    @site.view
    def create(request):
        request.session['n'] = 0

    @site.view
    def read(request):
        return request.session['n']

    @site.view
    def change(request):
        request.session['n'] += 1

    @site.view
    def rotate(request):
        request.session.rotate()

    @site.view
    def query(request):
        request.dbsession.execute(sa.text('SELECT 1'))

    @site.view
    def query_read(request):
        query(request)
        return read(request)

    @site.view
    def query_change(request):
        query(request)
        change(request)

    return site


def trips(proxy, browser, path, *, warm_up=WARM_UP):
    """Return the round trips of a request, as first words."""
    for _ in range(warm_up):
        browser.get(path)
    proxy.clear()
    browser.get(path)
    return proxy.verbs


@pytest.fixture
def browser(shop):
    """A browser with a stored session."""
    browser = shop.browser()
    browser.get('/create')
    return browser


def test_the_proxy_counts(proxy, database):
    """A driver's own transaction: begin, two statements, commit."""
    engine = database.create_engine()
    for _ in range(2):
        proxy.clear()
        with engine.begin() as connection:
            connection.execute(sa.text('SELECT 1'))
            connection.execute(sa.text('SELECT 2'))
    assert proxy.trips == ['BEGIN', 'SELECT 1', 'SELECT 2', 'COMMIT']


def test_read(proxy, browser):
    """One: no BEGIN, no COMMIT, nothing for an isolation level."""
    assert trips(proxy, browser, '/read') == ['SELECT']


def test_read_with_a_due_touch(proxy, shop, browser):
    """One more, in no transaction either."""
    for _ in range(WARM_UP):
        shop.clock.advance(minutes=5)
        browser.get('/read')
    shop.clock.advance(minutes=5)
    assert trips(proxy, browser, '/read', warm_up=0) == ['SELECT', 'UPDATE']


def test_change(proxy, browser):
    """One more than the read, in a view that uses no dbsession."""
    assert trips(proxy, browser, '/change') == ['SELECT', 'UPDATE']


def test_create(proxy, shop):
    """One."""
    for _ in range(WARM_UP):
        shop.browser().get('/create')
    assert trips(
        proxy, shop.browser(), '/create', warm_up=0
    ) == ['INSERT']


@pytest.mark.parametrize(('put_in', 'expected'), [
    ({}, ['SELECT', 'DELETE']),
    ({'n': 1}, ['SELECT', 'BEGIN', 'INSERT', 'DELETE', 'COMMIT']),
], ids=['nothing', 'a new session'])
def test_invalidate(proxy, shop, put_in, expected):
    """One more than the read; what comes after it is one with it."""

    @shop.view
    def end(request):
        request.session.get('n')
        request.session.invalidate()
        request.session.update(put_in)

    for _ in range(WARM_UP + 1):
        browser = shop.browser()
        browser.get('/create')
        proxy.clear()
        browser.get('/end')
    assert proxy.verbs == expected


def test_anonymous(proxy, shop):
    """None."""
    @shop.view
    def look(request):
        return request.session.get('n')

    assert trips(proxy, shop.browser(), '/look') == []


def test_read_in_a_view_that_queries(proxy, shop, browser):
    """One more than the view needs anyway."""
    alone = trips(proxy, shop.browser(), '/query')
    assert alone == ['BEGIN', 'SELECT', 'ROLLBACK']
    assert trips(proxy, browser, '/query_read') == [
        'BEGIN', 'SELECT', 'SELECT', 'ROLLBACK',
    ]


def test_change_in_a_view_that_queries(proxy, shop, browser):
    """One more than the read; the COMMIT stands for the ROLLBACK."""
    assert trips(proxy, browser, '/query_change') == [
        'BEGIN', 'SELECT', 'SELECT', 'UPDATE', 'COMMIT',
    ]


def test_rotate(proxy, browser):
    """As a change."""
    assert trips(proxy, browser, '/rotate') == ['SELECT', 'UPDATE']
