"""The CSRF token of a session (R10, C6)."""

from pyramid.csrf import LegacySessionCSRFStoragePolicy
from pyramid.csrf import SessionCSRFStoragePolicy
from pyramid.response import Response
import pytest

from .visitor import Visitor


def test_csrf_token_stays(visitor):
    """R10: get_csrf_token() is one token, kept under _csrft_."""
    token = visitor.visit(lambda session: session.get_csrf_token())
    assert len(token) >= 32
    assert visitor.visit(
        lambda session: [session.get_csrf_token() for _ in range(2)]
    ) == [token, token]
    assert visitor.content == {'_csrft_': token}


def test_csrf_token_of_a_stored_session(visitor):
    """C6: the first token of a session is the same in each attempt."""
    visitor.store(a=1)
    token = visitor.visit(lambda session: session.get_csrf_token())
    assert visitor.content == {'a': 1, '_csrft_': token}
    visitor.visit(lambda session: session.pop('_csrft_'))
    assert visitor.visit(lambda session: session.get_csrf_token()) == token


def test_csrf_token_of_a_session_that_began_with_it(visitor):
    """C6: the first one is derived there, too: forms outlive a clear()."""
    token = visitor.visit(lambda session: session.get_csrf_token())
    visitor.visit(lambda session: session.clear())
    assert visitor.content == {}
    assert visitor.visit(lambda session: session.get_csrf_token()) == token


def test_new_csrf_token(visitor):
    """R10: new_csrf_token() is another one, from then on."""
    first = visitor.visit(lambda session: session.get_csrf_token())
    second = visitor.visit(lambda session: session.new_csrf_token())
    assert second != first
    assert visitor.visit(lambda session: session.get_csrf_token()) == second


def test_csrf_token_after_a_login_and_a_logout(visitor):
    """Section 3: rotate() and invalidate() bring another token."""
    tokens = [visitor.visit(lambda session: session.get_csrf_token())]

    def work(session):
        session.rotate()
        assert '_csrft_' not in session
        tokens.append(session.get_csrf_token())

    visitor.visit(work)
    visitor.visit(lambda session: session.rotate())
    assert '_csrft_' not in visitor.content
    tokens.append(visitor.visit(lambda session: session.get_csrf_token()))

    def leave(session):
        session.invalidate()
        tokens.append(session.get_csrf_token())

    visitor.visit(leave)
    assert len(set(tokens)) == 4
    assert visitor.visit(
        lambda session: session.get_csrf_token()
    ) == tokens[-1]


def test_csrf_token_of_a_new_visitor_who_logs_in(visitor):
    """Section 3: rotate() brings another one there, too."""

    def work(session):
        before = session.get_csrf_token()
        session.rotate()
        return before, session.get_csrf_token()

    before, after = visitor.visit(work)
    assert before != after
    assert visitor.visit(lambda session: session.get_csrf_token()) == after


def test_csrf_tokens_differ_between_browsers(site):
    """C6: derived from the secret, so each session has its own."""
    tokens = {
        Visitor(site).visit(lambda session: session.get_csrf_token())
        for _ in range(5)
    }
    assert len(tokens) == 5


@pytest.mark.parametrize('value', [None, 7, '', [], b'x'], ids=repr)
def test_a_csrf_token_that_is_none(quick, value):
    """R10: what cannot be a token is replaced by one."""
    quick.store(_csrft_=value)
    token = quick.visit(lambda session: session.get_csrf_token())
    assert isinstance(token, str)
    assert len(token) >= 32
    assert quick.visit(lambda session: session.get_csrf_token()) == token


@pytest.mark.parametrize('policy', [
    LegacySessionCSRFStoragePolicy, SessionCSRFStoragePolicy,
])
def test_pyramids_csrf_check(make_site, policy):
    """R10: Pyramid's own views with require_csrf work with it."""
    def configure(config):
        config.set_csrf_storage_policy(policy())
        config.add_route('form', '/form/')
        config.add_view(
            lambda request: Response('done'), route_name='form',
            require_csrf=True, request_method='POST',
        )

    visitor = Visitor(make_site(configure=configure))
    token = visitor.visit(lambda session: session.get_csrf_token())
    post = visitor.browser.post
    assert post('/form/', {'csrf_token': token}).text == 'done'
    assert post('/form/', {'csrf_token': 'x'}, status=400)
    visitor.visit(lambda session: session.rotate())
    assert post('/form/', {'csrf_token': token}, status=400)


def test_a_policy_that_makes_its_tokens_itself(make_site):
    """C6: for the docs: under a key of its own one outlasts the login."""
    policy = SessionCSRFStoragePolicy(key='own')
    site = make_site()
    site.views['token'] = policy.get_csrf_token
    site.views['login'] = lambda request: request.session.rotate()
    site.views['csrf'] = lambda request: request.session.get_csrf_token()
    browser = site.browser()
    before = [browser.get(path).text for path in ('/token', '/csrf')]
    browser.get('/login')
    after = [browser.get(path).text for path in ('/token', '/csrf')]
    assert before[0] == after[0]
    assert before[1] != after[1]
