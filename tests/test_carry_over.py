"""docs/migrating.rst: the sessions of another store are carried over once.

The old stores are the real ones, set up by the blocks of the page.
"""

import copy
import importlib
from pathlib import Path
import sys

from pyramid import authentication
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response
from pyramid.security import forget
from pyramid.security import remember
from pyramid.session import SignedCookieSessionFactory
import pytest
import sqlalchemy as sa
from translationstring import TranslationString
from webtest import TestApp

from pyramid_sqlasession import SessionNotSerializable
from pyramid_sqlasession.authentication import SessionAuthenticationHelper

from .pages import blocks

PAGE = Path(__file__).parents[1] / 'docs' / 'migrating.rst'

# pyramid_session_redis calls what redis-py has deprecated.
pytestmark = pytest.mark.filterwarnings(
    'ignore:Call to deprecated setex:DeprecationWarning'
)

#: By the number of the block on the page.
STORES = ['signed', 'beaker', 'redis']


class Store:
    """An old store: its settings, and its factory as it was set before."""

    def __init__(self, name, settings, cookie):
        self.name = name
        self.settings = settings
        self.cookie = cookie

    def set_up(self, config):
        """Use it for ``request.session``, as before."""
        if self.name == 'signed':
            config.set_session_factory(
                SignedCookieSessionFactory('the old secret', timeout=1200)
            )
        elif self.name == 'beaker':
            config.include('pyramid_beaker')
        else:
            config.include('pyramid_session_redis')

    def carry_over(self, config):
        """Do what the page says."""
        config.include('pyramid_sqlasession')
        block = [
            block for block in blocks(PAGE, 'python') if 'carry_over' in block
        ][STORES.index(self.name)]
        names = {
            'config': config, 'settings': config.registry.settings,
            'carry_over': importlib.import_module('migrating').carry_over,
        }
        exec(compile(block, str(PAGE), 'exec'), names)  # noqa: S102


@pytest.fixture(params=STORES)
def store(request, tmp_path):
    """Each of the stores that the page names."""
    if request.param == 'signed':
        return Store('signed', {}, 'session')
    if request.param == 'beaker':
        return Store('beaker', {
            'session.type': 'file',
            'session.data_dir': f'{tmp_path}/beaker',
            'session.key': 'old',
            'session.secret': 'the old secret',
        }, 'old')
    server = request.getfixturevalue('redis')
    return Store('redis', {
        'redis.sessions.secret': 'the old secret',
        'redis.sessions.redis_url': server.url,
        'redis.sessions.cookie_name': 'old',
    }, 'old')


on_server = pytest.mark.parametrize(
    'store', ['beaker', 'redis'], indirect=True
)


@pytest.fixture
def make(store, tmp_path, monkeypatch):
    """A function that makes a browser of the old or the new application."""
    monkeypatch.syspath_prepend(str(PAGE.parent / 'examples'))
    engines = []

    def make(set_up):
        config = Configurator(settings={
            'sqlalchemy.url': f'sqlite:///{tmp_path}/new.sqlite',
            'sqlasession.cookie_name': 'sid',
            'sqlasession.create_table': True,
            'sqlasession.check_expiration_interval': 0,
            **store.settings,
        })
        set_up(config)
        config.add_route('any', '/{name}')
        config.add_view(view, route_name='any', renderer='json')
        config.add_exception_view(failed, context=ZeroDivisionError)
        config.add_route('login', '/login/{id}')
        config.add_view(login, route_name='login', renderer='json')
        app = config.make_wsgi_app()
        if 'sqlasession' in app.registry:
            engines.append(app.registry['sqlasession'].engine)
        return TestApp(app)

    yield make
    for engine in engines:
        engine.dispose()
    sys.modules.pop('migrating', None)


def view(request):
    """Fill the session, change it, fail, or look at it."""
    name = request.matchdict['name']
    if name == 'fill':
        request.session['auth.userid'] = 7
        request.session['cart'] = ['tea']
        request.session['other'] = 'x'
    elif name == 'change':
        request.session['cart'] = ['cup']
    elif name == 'other':
        request.session['other'] = 'y'
    elif name == 'fail':
        raise ZeroDivisionError
    elif name == 'logout':
        request.session.invalidate()
    found = {
        key: request.session[key]
        for key in ('auth.userid', 'user_id', 'cart', 'other')
        if key in request.session
    }
    if SessionAuthenticationHelper(field='user_id').fresh(request, '15m'):
        found['fresh'] = True
    return found


def login(request):
    """Log in where the helper does it; say nothing of an older login."""
    helper = SessionAuthenticationHelper()
    helper.remember(request, int(request.matchdict['id']))
    if 'forgets' in request.params:
        del request.session['user_id']
    return None


def failed(error, request):
    request.session.flash('Sorry')
    return Response(status=500)


@pytest.fixture
def old(make, store):
    """Somebody who has a session in the old application."""
    browser = make(store.set_up)
    browser.get('/fill')
    return browser


@pytest.fixture
def new(make, store):
    """Somebody who has none in the new one."""
    return make(store.carry_over)


def take_cookie(old, new, value=None):
    """Come to *new* with the cookie that *old* has; return a copy of it."""
    (cookie,) = old.cookiejar
    cookie = copy.copy(cookie)
    cookie.value = value or cookie.value
    new.cookiejar.set_cookie(copy.copy(cookie))
    return cookie


def count(browser):
    """Return how many sessions are in the database."""
    engine = browser.app.registry['sqlasession'].engine
    with engine.connect() as connection:
        return connection.scalar(sa.text('SELECT count(*) FROM sessions'))


def test_named_keys_come_along(store, old, new):
    """The first request has them, the next too; the old cookie goes."""
    take_cookie(old, new)
    found = {'user_id': 7, 'cart': ['tea']}
    assert new.get('/look').json == found
    assert set(new.cookies) == {'sid'}
    assert new.get('/look').json == found
    assert count(new) == 1


def test_the_old_store_says_nothing_to_the_browser(store, old, new):
    """One cookie is set, one is removed; the old store sends none."""
    take_cookie(old, new)
    said = new.get('/look').headers.getall('Set-Cookie')
    assert sorted(cookie.partition('=')[0] for cookie in said) == sorted(
        ['sid', store.cookie]
    )
    (removal,) = [c for c in said if c.startswith(f'{store.cookie}=')]
    assert 'Max-Age=0' in removal


@on_server
def test_the_old_session_is_gone(make, store, old, new):
    """Neither application opens anything with a copy of the old cookie."""
    cookie = take_cookie(old, new)
    new.get('/look')
    assert old.get('/look').json == {}
    thief = make(store.carry_over)
    thief.cookiejar.set_cookie(cookie)
    assert thief.get('/look').json == {}
    assert count(thief) == 1


@on_server
def test_a_logout_is_not_revived(store, old, new):
    """Who has logged out and brings the old cookie again is a visitor."""
    cookie = take_cookie(old, new)
    new.get('/look')
    new.get('/logout')
    new.cookiejar.set_cookie(cookie)
    assert new.get('/look').json == {}
    assert count(new) == 0


@pytest.mark.parametrize('store', ['signed'], indirect=True)
def test_a_signed_cookie_cannot_be_ended(make, store, old, new):
    """What the page warns of: a copy of it is carried over once more."""
    take_cookie(old, new)
    new.get('/look')
    thief = make(store.carry_over)
    take_cookie(old, thief)
    assert thief.get('/look').json['user_id'] == 7


def test_it_is_a_login(store, old, new):
    """A token that somebody had planted before opens nothing (C5)."""
    new.get('/other')
    before = new.cookies['sid']
    take_cookie(old, new)
    assert new.get('/look').json == {
        'user_id': 7, 'cart': ['tea'], 'other': 'y',
    }
    assert new.cookies['sid'] != before


def test_a_login_is_not_taken_over(store, old, new):
    """R3: a planted old cookie makes nobody of who is logged in; it goes."""
    new.get('/login/8')
    take_cookie(old, new)
    assert new.get('/look').json == {'user_id': 8, 'fresh': True}
    assert set(new.cookies) == {'sid'}
    assert new.get('/look').json == {'user_id': 8, 'fresh': True}


def test_what_is_in_use_takes_nothing_over(store, old, new):
    """R3: nor does a session with one of the keys become somebody's."""
    new.get('/change')
    take_cookie(old, new)
    assert new.get('/look').json == {'cart': ['cup']}
    assert set(new.cookies) == {'sid'}


def test_who_is_carried_over_is_not_fresh(store, old, new):
    """Section 3: a login that is over makes no carried one a fresh one."""
    new.get('/login/8?forgets')
    take_cookie(old, new)
    assert 'fresh' not in new.get('/look').json


def test_it_is_read_once(store, old, new):
    """An old cookie that comes again overwrites nothing."""
    cookie = take_cookie(old, new)
    new.get('/look')
    new.get('/change')
    new.cookiejar.set_cookie(cookie)
    assert new.get('/look').json == {'user_id': 7, 'cart': ['cup']}
    assert set(new.cookies) == {'sid'}


def test_a_request_that_fails_leaves_it_to_the_next(store, old, new):
    """After an abort the old session is there, and is tried again."""
    take_cookie(old, new)
    new.get('/fail', status=500)
    assert set(new.cookies) == {store.cookie, 'sid'}
    assert new.get('/look').json == {'user_id': 7, 'cart': ['tea']}
    assert set(new.cookies) == {'sid'}


def test_a_form_of_before(store, make, old):
    """T2: its token is the old session's; the next page has all the same."""

    def set_up(config):
        store.carry_over(config)
        config.set_default_csrf_options(require_csrf=True)

    new = make(set_up)
    take_cookie(old, new)
    new.post('/change', {'csrf_token': 'of before'}, status=400)
    assert new.get('/look').json == {'user_id': 7, 'cart': ['tea']}


@pytest.mark.parametrize('store', ['beaker', 'redis'], indirect=True)
def test_the_old_cookie_has_the_default_name(store, make):
    """What the page says is the default name of the cookie is it."""
    for name in ('session.key', 'redis.sessions.cookie_name'):
        store.settings.pop(name, None)
    old = make(store.set_up)
    old.get('/fill')
    new = make(store.carry_over)
    take_cookie(old, new)
    assert new.get('/look').json == {'user_id': 7, 'cart': ['tea']}


@pytest.mark.parametrize('value', ['x', 'a.b', '"'])
def test_a_dead_old_cookie_goes(store, old, new, value):
    """One that opens nothing is removed, and no row is made for it."""
    take_cookie(old, new, value)
    assert new.get('/look').json == {}
    assert set(new.cookies) == set()
    assert count(new) == 0


def test_who_has_no_old_cookie_costs_nothing(store, new):
    """A visitor gets neither a row nor a cookie."""
    assert 'Set-Cookie' not in new.get('/look').headers
    assert count(new) == 0


# -- what is another thing here -----------------------------------------------


def act(request):
    """Do what the old stores and this one understand in another way."""
    session, name = request.session, request.matchdict['name']
    if name == 'redirect':
        session.flash('Saved')
        raise HTTPFound('/do/look')
    if name == 'in':
        remember(request, 7)
    if name == 'out':
        session.flash('Good-bye')
        forget(request)
    if name == 'as':
        session.flash('Hello')
        remember(request, 8)
    if name == 'buy':
        session['cart'] = {7: 2}
    if name == 'say':
        session.flash(TranslationString('Saved'))
    if name == 'pop':
        return session.pop('none')
    if name == 'names':
        return [n for n in OLD_NAMES if hasattr(session, n)]
    if name != 'look':
        return None
    return {
        'flashed': [type(said).__name__ for said in session.pop_flash()],
        'cart': [type(key).__name__ for key in session.get('cart', ())],
    }


#: The left side of the table: which store has a name that is not ours.
OLD_NAMES = {
    'save': 'beaker', 'persist': 'beaker', 'delete': 'beaker',
    'regenerate_id': 'beaker', 'last_accessed': 'beaker',
    'session_id': 'redis', 'adjust_session_timeout': 'redis',
    'adjust_session_expires': 'redis', 'has_key': 'beaker redis',
}


class Policy:
    """As much of a security policy as a helper needs."""

    def __init__(self, helper):
        self.remember = helper.remember
        self.forget = helper.forget
        self.authenticated_userid = helper.authenticated_userid


@pytest.fixture
def both(make, store):
    """A browser of an application with the old store, and one of ours."""

    def of(set_up, helper):
        def with_acts(config):
            set_up(config)
            config.set_security_policy(Policy(helper))
            config.add_route('do', '/do/{name}')
            config.add_view(act, route_name='do', renderer='json')

        return make(with_acts)

    return (
        of(store.set_up, authentication.SessionAuthenticationHelper()),
        of(
            lambda config: config.include('pyramid_sqlasession'),
            SessionAuthenticationHelper(),
        ),
    )


@pytest.mark.parametrize('path', [['redirect'], ['out'], ['in', 'as']])
def test_what_was_flashed_before(store, both, path):
    """T2: a message before an abort, or before the session's end, is gone."""
    shown = []
    for browser in both:
        for name in path:
            browser.get(f'/do/{name}')
        shown.append(len(browser.get('/do/look').json['flashed']))
    assert shown == [1, 0]


def test_numbers_as_keys(store, both):
    """R6: they came back, as a text from a signed cookie; here they raise."""
    old, new = both
    old.get('/do/buy')
    expected = 'str' if store.name == 'signed' else 'int'
    assert old.get('/do/look').json['cart'] == [expected]
    with pytest.raises(SessionNotSerializable, match='keys of a dict'):
        new.get('/do/buy')


@pytest.mark.parametrize('store', ['beaker'], indirect=True)
def test_a_value_that_cannot_be_carried_over(store, both, new):
    """R6: what the page warns of: each request of its visitor fails."""
    old, _ = both
    old.get('/do/buy')
    take_cookie(old, new)
    for _ in range(2):
        with pytest.raises(SessionNotSerializable):
            new.get('/look')


def test_a_translation_string(store, both):
    """R6: it is a text afterwards, as from a signed cookie."""
    kinds = []
    for browser in both:
        browser.get('/do/say')
        kinds += browser.get('/do/look').json['flashed']
    before = 'str' if store.name == 'signed' else 'TranslationString'
    assert kinds == [before, 'str']


def test_pop_of_a_key_that_is_not_there(store, both):
    """R10: it raises, as it does in a signed cookie's session."""
    old, new = both
    if store.name == 'signed':
        with pytest.raises(KeyError):
            old.get('/do/pop')
    else:
        assert old.get('/do/pop').json is None
    with pytest.raises(KeyError):
        new.get('/do/pop')


def test_names_that_are_not_ours(store, both):
    """The left side of the table is what that store has, and we have not."""
    old, new = both
    named = [n for n in OLD_NAMES if store.name in OLD_NAMES[n]]
    assert old.get('/do/names').json == named
    assert new.get('/do/names').json == []
