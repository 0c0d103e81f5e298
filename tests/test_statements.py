"""How many statements a request costs (D4, R1, R2)."""

import pytest


@pytest.fixture
def shop(site):
    """A site with one view for each thing that a session does."""

    @site.view
    def ignore(request):
        """Does nothing with the session."""

    @site.view
    def name_only(request):
        assert request.session is not None

    @site.view
    def read(request):
        return request.session.get('n')

    @site.view
    def change(request):
        request.session['n'] = request.session.get('n', 0) + 1

    @site.view
    def rotate(request):
        request.session.rotate()

    @site.view
    def invalidate(request):
        request.session.invalidate()

    @site.view
    def revoke(request):
        return request.session_store.revoke_where(user_id=7)

    return site


@pytest.mark.parametrize('path', ['/ignore', '/name_only', '/read'])
def test_nothing_stored(shop, path):
    """R1, D4: without cookie and content, no statement and no cookie."""
    shop.listen()
    response = shop.browser().get(path)
    assert shop.statements == []
    assert 'Set-Cookie' not in response.headers


@pytest.mark.parametrize(
    ('path', 'verbs'),
    [
        ('/ignore', []),
        ('/name_only', []),
        ('/read', ['SELECT']),
        ('/change', ['SELECT', 'UPDATE']),
        ('/rotate', ['SELECT', 'UPDATE']),
        ('/invalidate', ['SELECT', 'DELETE']),
        ('/revoke', ['DELETE']),
    ],
)
def test_statements_of_a_stored_session(shop, path, verbs):
    """D4, R2: each thing costs the statements that were promised."""
    browser = shop.browser()
    browser.get('/change')
    shop.listen()
    browser.get(path)
    assert shop.statements.verbs == verbs


def test_create(shop):
    """D4: a new session is one INSERT."""
    shop.listen()
    shop.browser().get('/change')
    assert shop.statements.verbs == ['INSERT']


def test_due_touch(shop):
    """D4, E2: a read whose touch is due is one UPDATE more."""
    browser = shop.browser()
    browser.get('/change')
    shop.clock.advance(minutes=2)
    shop.listen()
    browser.get('/read')
    assert shop.statements.verbs == ['SELECT', 'UPDATE']
