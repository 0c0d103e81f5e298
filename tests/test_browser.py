"""The demo in a real browser: Debian's Chromium, driven by Playwright.

What the package promises is asked of the browser: which cookie it keeps,
what it shows after a logout, what a second tab or a second browser does to
the first one.  And what the demo promises: that it can be used with a
keyboard, a screen reader and a phone.

Without Chromium the tests are skipped, unless ``REQUIRE=all``.  With
``SCREENSHOTS=1`` each page is kept as a picture in screenshots/.
"""

import itertools
import os
import threading
import time

import pytest

from demo.cart import Cart
from demo.models import Order

from .browser.audit import audit
from .browser.audit import LANDMARKS
from .browser.serving import serving
from .browser.visitor import Browsers
from .browser.visitor import FIREFOX
from .browser.visitor import SAFARI
from .conftest import _missing
from .services.common import find_program

DAY = 24 * 60 * 60


@pytest.fixture(scope='module')
def chromium():
    """The browser, for all tests; each visitor has a context of its own."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing('Playwright is not installed (pip install playwright)')
    program = find_program('chromium', 'chromium-browser', 'google-chrome')
    if program is None:
        _missing('Chromium is not installed (Debian: apt install chromium)')
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            # root has no sandbox to give to it.
            args=[] if os.geteuid() else ['--no-sandbox'],
            # Going back is as for everybody: to the page as it was left.
            ignore_default_args=['--disable-back-forward-cache'],
        )
        yield browser
        browser.close()


@pytest.fixture(scope='module')
def served(tmp_path_factory):
    """The demo, running for all tests."""
    with serving(tmp_path_factory.mktemp('shop')) as shop:
        yield shop


@pytest.fixture
def shop(served):
    """The demo, with no session, no order and the right time."""
    served.open_anew()
    return served


@pytest.fixture(scope='module')
def browsers(chromium):
    """Browsers for all visitors."""
    browsers = Browsers(chromium)
    yield browsers
    browsers.close()


@pytest.fixture
def visit(browsers, shop):
    """A function that opens a browser at the shop; at the end none of them
    must have seen a 5xx, a script error or somebody else's server.
    """
    visitors = []

    def make(at=shop, **options):
        visitors.append(browsers.open(at, **options))
        return visitors[-1]

    yield make
    for visitor in visitors:
        visitor.leave()
    assert [visitor.faults for visitor in visitors] == [[]] * len(visitors)


@pytest.fixture
def ada(visit):
    """Somebody who is logged in as ada."""
    return visit().come_in('ada')


# -- the cookie, as the browser has it ----------------------------------------


def test_a_passer_by_gets_no_cookie(visit, shop):
    """R1: who only looks gets no cookie and no row."""
    visitor = visit()
    visitor.go('/')
    visitor.go('/session')
    assert 'You have none' in visitor.text
    assert visitor.cookie is None
    assert shop.session_count == 0


def test_the_cookie_over_http(visit):
    """Section 2: HttpOnly, Lax, this host, path /, 24 hours; not Secure."""
    visitor = visit()
    visitor.go('/teas/uji-sencha')
    cookie = visitor.cookie
    left = cookie.pop('expires') - time.time()
    assert DAY - 60 < left <= DAY + 1
    assert len(cookie.pop('value')) > 64
    assert cookie == {
        'name': 'leaf_and_ledger',
        'domain': 'localhost',
        'path': '/',
        'httpOnly': True,
        'secure': False,
        'sameSite': 'Lax',
    }


def test_the_cookie_over_https(visit, tmp_path):
    """Section 2: ``auto``: it is Secure, from the first page to the logout."""
    # Chromium finds nothing wrong with ``__Host-``.
    with serving(
        tmp_path,
        is_https=True,
        **{'sqlasession.cookie_name': '__Host-shop'},
    ) as shop:
        visitor = visit(shop)
        visitor.go('/teas/uji-sencha')
        assert visitor.cookie['secure']
        visitor.log_in()
        assert visitor.user == 'ada'
        assert visitor.cookie['secure']
        visitor.log_out()
        assert visitor.user is None
        assert visitor.cookie['secure']
        assert len(visitor.context.cookies()) == 1


def test_no_script_sees_the_cookie(ada):
    """Section 2: document.cookie does not have it."""
    assert ada.token
    assert ada.page.evaluate('document.cookie') == ''


def test_the_cookie_slides(ada, shop):
    """R11: a visit after the touch interval extends it, one within it not."""
    before = ada.cookie
    ada.go('/orders')
    assert ada.cookie == before
    shop.skip(minutes=2)
    ada.go('/orders')
    assert ada.cookie['expires'] > before['expires']
    assert ada.token == before['value']


def test_a_made_up_cookie(visit, shop):
    """R3: it is not adopted, not answered, and costs no row."""
    visitor = visit()
    for value in ('x', '%00', 'y' * 3000, 'a' * 64,
                  'A' * 64 + '.' + 'A' * 43):
        visitor.bring(value)
        assert visitor.go('/session').status == 200
        assert 'You have none' in visitor.text
        assert visitor.token == value
    assert shop.session_count == 0
    visitor.log_in()
    assert visitor.user == 'ada'
    assert visitor.token != value


# -- logging in and out -------------------------------------------------------


def test_login_takes_the_cart_along(visit, shop):
    """Rotation: the same session and cart under a new token."""
    visitor = visit().fill_cart('red-bush', 3)
    before = visitor.token
    visitor.log_in()
    assert visitor.messages == {'success': 'Welcome back, ada.'}
    assert (visitor.user, visitor.tins) == ('ada', 3)
    assert visitor.token != before
    assert shop.session_count == 1


def test_a_wrong_password(visit):
    """The page says so beside the form, and nobody is logged in."""
    visitor = visit()
    visitor.go('/login')
    before = visitor.token
    visitor.page.get_by_label('Name').fill('ada')
    visitor.page.get_by_label('Password').fill('byron')
    visitor.page.get_by_label('Password').press('Enter')
    visitor.page.get_by_role('alert').wait_for()
    assert 'do not belong together' in visitor.messages['error']
    assert visitor.page.get_by_label('Name').input_value() == 'ada'
    assert visitor.page.get_by_label('Password').input_value() == ''
    assert visitor.user is None
    assert visitor.token == before


def test_a_planted_token_is_worth_nothing_after_the_login(visit):
    """Session fixation: who planted the token does not get the login."""
    attacker = visit()
    attacker.go('/teas/uji-sencha')
    victim = visit()
    victim.bring(attacker.token)
    victim.log_in()
    assert victim.token != attacker.token
    attacker.go('/orders')
    assert attacker.path == '/login'
    assert victim.go('/orders').status == 200
    assert (victim.path, victim.user) == ('/orders', 'ada')


def test_logout_ends_the_session_for_good(ada, visit):
    """The token from before the logout opens nothing any more."""
    token = ada.token
    ada.log_out()
    assert ada.messages == {'success': 'You are logged out. Come again!'}
    assert ada.user is None
    assert ada.token != token
    thief = visit()
    thief.bring(token)
    thief.go('/orders')
    assert thief.path == '/login'


def test_the_back_button_after_logout(ada):
    """No page from before the logout shows up again."""
    ada.fill_cart('pine-smoke', 7)
    paths = ('/', '/teas/red-bush', '/cart', '/checkout', '/orders',
             '/devices', '/session')
    for path in paths:
        ada.go(path)
        assert ada.user == 'ada', path
    ada.log_out()
    for path in reversed(paths):
        # Not until it is loaded: what comes out of the back-forward cache
        # (nothing should) is not loaded again.
        ada.page.go_back(wait_until='commit')
        ada.page.get_by_role('contentinfo').wait_for()
        assert ada.user is None, path
        assert ada.tins == 0, path
        assert ada.path in (path, '/login', '/cart')


def test_a_login_in_another_tab(visit):
    """The tab that was open before the login has it at its next request."""
    visitor = visit()
    visitor.go('/cart')
    with visitor.context.new_page() as other:
        other.goto('/login')
        other.get_by_label('Name').fill('grace')
        other.get_by_label('Password').fill('hopper')
        other.get_by_label('Password').press('Enter')
        other.wait_for_url('**/')
    assert visitor.user is None
    visitor.page.reload()
    assert visitor.user == 'grace'


# -- forged requests ----------------------------------------------------------


def test_a_form_with_a_wrong_token(ada):
    """It is refused with a page of words, and changes nothing."""
    ada.go('/teas/uji-sencha')
    ada.page.locator('.buy [name=csrf_token]').evaluate(
        'field => { field.value = "0".repeat(64) }'
    )
    ada.press('Put in the cart')
    assert ada.responses[-1].status < 500
    assert ada.heading == 'That form has gone cold'
    ada.go('/cart')
    assert ada.tins == 0


def test_a_form_from_before_the_login(visit):
    """Rotation: the CSRF token of the visitor is none of the account."""
    visitor = visit()
    visitor.go('/teas/uji-sencha')
    with visitor.context.new_page() as other:
        visitor.page, first = other, visitor.page
        visitor.log_in()
        visitor.page = first
    visitor.press('Put in the cart')
    assert visitor.heading == 'That form has gone cold'
    visitor.page.go_back(wait_until='commit')
    visitor.press('Put in the cart')
    assert (visitor.user, visitor.tins) == ('ada', 1)


def test_another_site_sends_a_form(ada):
    """SameSite=Lax: it has no cookie, and is refused; it comes with a link."""
    # The login stays.
    token = ada.token
    ada.context.route(
        'http://evil.example/',
        lambda route: route.fulfill(
            content_type='text/html',
            body=f'<form method="post" action="{ada.shop.address}/logout">'
            f'<button>Win</button></form>'
            f'<a href="{ada.shop.address}/orders">See</a>',
        ),
    )
    ada.go('http://evil.example/')
    ada.press('Win')
    assert 'leaf_and_ledger' not in ada.page.content()
    assert ada.heading == 'That form has gone cold'
    assert ada.token == token
    ada.go('http://evil.example/')
    ada.press('See', 'link')
    assert (ada.path, ada.user) == ('/orders', 'ada')
    ada.faults.clear()


# -- two tabs at once ---------------------------------------------------------


@pytest.fixture
def meet_in_the_cart(monkeypatch):
    """Two requests that both have put their tea into the cart wait there
    for each other, so that neither sees what the other saves.
    """
    real, barrier = Cart.add, threading.Barrier(2)
    turns = iter((1, 2))
    met = []

    def add(cart, slug, quantity):
        real(cart, slug, quantity)
        if next(turns, None):
            barrier.wait(10)
            met.append(slug)

    monkeypatch.setattr(Cart, 'add', add)
    return met


@pytest.mark.parametrize(
    'teas',
    [('uji-sencha', 'red-bush'), ('uji-sencha', 'uji-sencha')],
    ids=['different', 'same'],
)
def test_two_tabs_fill_the_cart_at_once(ada, meet_in_the_cart, teas):
    """C1, C2: no tin and no message is lost, and nobody sees an error."""
    with ada.context.new_page() as other:
        tabs = (ada.page, other)
        for tab, tea in zip(tabs, teas, strict=True):
            tab.goto(f'/teas/{tea}')
        for tab in tabs:
            tab.get_by_role('button', name='Put in the cart').click(
                no_wait_after=True
            )
        for tab in tabs:
            tab.wait_for_url('**/cart')
        assert sorted(meet_in_the_cart) == sorted(teas)
        said = [text for tab in tabs
                for text in tab.locator('.flash').all_inner_texts()]
    assert len(said) == 2
    ada.go('/cart')
    assert ada.tins == 2
    assert ada.page.locator('.lines li').count() == len(set(teas))


# -- paying -------------------------------------------------------------------


def test_a_checkout_that_fails(ada, shop):
    """T3: the reason is told; no order, the cart as it was, no good news."""
    ada.fill_cart('silver-moon', 2)
    ada.press('Check out', 'link')
    ada.press('Pay with the broken card')
    assert ada.path == '/cart'
    assert list(ada.messages) == ['error']
    assert 'The bank declined that card' in ada.messages['error']
    assert 'placed' not in ada.text
    assert ada.tins == 2
    ada.go('/orders')
    assert 'None yet' in ada.text
    assert shop.count(Order) == 0


def test_a_checkout_that_works(ada, shop):
    """T1: order and empty cart come together; the message shows once."""
    ada.fill_cart('silver-moon', 2)
    ada.press('Check out', 'link')
    ada.press('Pay €\N{NO-BREAK SPACE}44.00')
    number = ada.heading.rsplit(' ')[-1]
    assert ada.path == f'/orders/{number}'
    assert ada.messages == {'success': f'Order no. {number} placed.'}
    assert ada.tins == 0
    ada.page.reload()
    assert ada.messages == {}
    assert ada.path == f'/orders/{number}'
    ada.press('All your orders', 'link')
    assert ada.page.locator('tbody tr').count() == 1
    assert shop.count(Order) == 1


def test_paying_twice_from_two_tabs(ada, shop):
    """A second tab with the same bill finds the cart empty."""
    ada.fill_cart()
    ada.go('/checkout')
    with ada.context.new_page() as other:
        other.goto('/checkout')
        ada.page.get_by_role('button', name='Pay €').click()
        ada.page.wait_for_url('**/orders/*')
        other.get_by_role('button', name='Pay €').click()
        other.wait_for_url('**/cart')
        assert 'nothing in your cart' in other.locator('.flash').inner_text()
    assert shop.count(Order) == 1


# -- devices ------------------------------------------------------------------


def devices(visitor):
    """Return the names on the page "Your devices", in its order."""
    visitor.go('/devices')
    return visitor.page.locator('.devices h2').all_inner_texts()


def test_a_remote_logout(ada, visit):
    """Section 3: the other browser is listed, and out at its next request."""
    # Logged out from here, with its page of before still open.
    other = visit(user_agent=FIREFOX).come_in()
    other.go('/orders')
    assert devices(ada) == ['Chrome on Windows this one', 'Firefox on Linux']
    ada.press('Log out Firefox on Linux')
    assert ada.messages == {'success': 'That device is logged out.'}
    assert devices(ada) == ['Chrome on Windows this one']
    assert other.user == 'ada'
    other.press('Devices', 'link')
    assert other.path == '/login'
    assert other.messages == {'notice': 'Please log in first.'}
    assert other.user is None
    # Back in, and where it wanted to go.
    other.log_in()
    assert other.path == '/devices'


def test_logging_out_all_others(ada, visit):
    """revoke_where: everybody else of this account is out, no one more."""
    others = [visit(user_agent=agent).come_in() for agent in (FIREFOX, SAFARI)]
    grace = visit().come_in('grace')
    assert len(devices(ada)) == 3
    assert len(devices(grace)) == 1
    ada.press('Log out all others')
    assert ada.messages == {'success': '2 other devices are logged out.'}
    assert len(devices(ada)) == 1
    assert len(devices(grace)) == 1
    for other in others:
        other.page.reload()
        assert other.user is None
    ada.press('Log out all others')
    assert ada.messages == {'success': 'You were logged in nowhere else.'}


def test_logging_out_this_device_on_the_page(ada, visit):
    """This one is marked, and can be logged out as any other."""
    other = visit(user_agent=FIREFOX).come_in()
    ada.go('/devices')
    ada.press('Log out Chrome on Windows, this one')
    assert (ada.path, ada.user) == ('/', None)
    assert devices(other) == ['Firefox on Linux this one']


def test_a_form_of_a_revoked_browser(ada, visit):
    """C4: what it sends changes nothing, and brings no session back."""
    other = visit(user_agent=FIREFOX).come_in()
    other.go('/teas/uji-sencha')
    ada.go('/devices')
    ada.press('Log out all others')
    other.press('Put in the cart')
    assert other.heading == 'That form has gone cold'
    assert devices(ada) == ['Chrome on Windows this one']


def test_no_page_has_what_the_cookie_has(ada):
    """Section 1: no token or part of its secret in any page or address."""
    ada.fill_cart()
    secret = ada.token[24:64]
    for path in ('/', '/teas/uji-sencha', '/cart', '/checkout', '/orders',
                 '/devices', '/session'):
        ada.go(path)
        assert ada.user == 'ada'
        assert secret not in ada.page.content(), path
    assert not [seen.url for seen in ada.responses if secret in seen.url]


# -- expiry -------------------------------------------------------------------


def test_expiry_while_a_page_is_open(ada, shop):
    """E1: a minute later a click leads to the login, and on from there."""
    # By ``set_expiry``; the login leads to where she was going.
    ada.go('/session')
    ada.press('Expire in one minute')
    assert 'ends after one minute' in ada.messages['notice']
    shop.skip(seconds=61)
    assert ada.user == 'ada'
    ada.press('Orders', 'link')
    assert ada.path == '/login'
    assert ada.messages == {'notice': 'Please log in first.'}
    ada.log_in()
    assert (ada.path, ada.user) == ('/orders', 'ada')


def test_a_short_expiry_slides_and_goes_back_to_normal(ada, shop):
    """set_expiry: it counts from the last use; None is the setting again."""
    ada.go('/session')
    ada.press('Expire in one minute')
    for _ in range(3):
        shop.skip(seconds=45)
        ada.go('/session')
        assert ada.user == 'ada'
    ada.press('Back to normal')
    assert DAY - 60 < ada.cookie['expires'] - time.time() <= DAY + 1
    shop.skip(hours=23)
    ada.go('/session')
    assert ada.user == 'ada'


def test_a_form_of_an_expired_session(ada, shop):
    """R3: the form is refused in words, and nothing comes of it."""
    ada.fill_cart()
    ada.go('/checkout')
    shop.skip(hours=25)
    with ada.page.expect_navigation():
        ada.page.get_by_role('button', name='Pay €').click()
    assert (ada.path, ada.user, ada.tins) == ('/login', None, 0)
    assert ada.messages == {'notice': 'Please log in first.'}
    assert shop.count(Order) == 0


# -- keyboard -----------------------------------------------------------------

FOCUS = """
() => {
  const element = document.activeElement;
  const style = getComputedStyle(element);
  const box = element.getBoundingClientRect();
  return {
    name: (element.labels?.[0] ?? element).textContent.trim()
      .replace(/\\s+/g, ' '),
    ring: style.outlineStyle === 'none' ? 0 : parseFloat(style.outlineWidth),
    isVisible: box.width > 1 && box.height > 1 && box.top >= 0
      && box.bottom <= innerHeight && box.left >= 0 && box.right <= innerWidth,
  };
}
"""


def tab_stops(visitor, count):
    """Press Tab so often; return the names of what had the focus, each of
    which must have been in sight and have had a ring.
    """
    stops = []
    for _ in range(count):
        visitor.page.keyboard.press('Tab')
        stop = visitor.page.evaluate(FOCUS)
        assert stop['isVisible'], stop
        assert stop['ring'] >= 2, stop
        stops.append(stop['name'])
    return stops


def test_shopping_without_a_mouse(visit, shop):
    """Every step from the login to the order by Tab, Enter and typing."""
    visitor = visit()
    keyboard = visitor.page.keyboard
    visitor.go('/login')
    assert tab_stops(visitor, 7) == [
        'Skip to the content', 'Leaf & Ledger', 'Teas', 'Cart holds 0 tins',
        'Session', 'Log in', 'Name',
    ]
    keyboard.type('grace')
    assert tab_stops(visitor, 1) == ['Password']
    keyboard.type('hopper')
    with visitor.page.expect_navigation():
        keyboard.press('Enter')
    assert visitor.user == 'grace'

    visitor.go('/teas/iron-goddess')
    tab_stops(visitor, 1)
    keyboard.press('Enter')
    assert tab_stops(visitor, 1) == ['Tins']
    keyboard.type('3')
    with visitor.page.expect_navigation():
        keyboard.press('Enter')
    assert (visitor.path, visitor.tins) == ('/cart', 3)

    # Enter in the field changes; it does not remove.
    visitor.page.get_by_label('Tins of Iron Goddess').focus()
    keyboard.press('ArrowUp')
    with visitor.page.expect_navigation():
        keyboard.press('Enter')
    assert visitor.tins == 4
    visitor.page.get_by_label('Tins of Iron Goddess').focus()
    assert tab_stops(visitor, 3) == [
        'Change Iron Goddess', 'Remove Iron Goddess', 'Check out'
    ]
    with visitor.page.expect_navigation():
        keyboard.press('Enter')
    visitor.page.locator('main').focus()
    assert tab_stops(visitor, 1)[0].startswith('Pay €')
    with visitor.page.expect_navigation():
        keyboard.press('Enter')
    assert visitor.path.startswith('/orders/')
    assert shop.count(Order) == 1


def test_the_skip_link(visit):
    """The first Tab shows it; behind it the focus is in the content."""
    visitor = visit()
    visitor.go('/')
    link = visitor.page.locator('.skip')
    assert link.bounding_box()['y'] < 0
    assert tab_stops(visitor, 1) == ['Skip to the content']
    assert link.bounding_box()['y'] >= 0
    visitor.take_picture('skip-link')
    visitor.page.keyboard.press('Enter')
    assert visitor.page.evaluate('document.activeElement.id') == 'content'
    assert tab_stops(visitor, 1) == ['Uji Sencha Green € 14.50']
    visitor.take_picture('focus')


# -- every page, audited ------------------------------------------------------


def walk(visit):
    """Visit every page there is; yield its name and who sees it."""

    def at(visitor, *paths):
        for path in paths:
            visitor.go(path)
            yield path, visitor

    stranger = visit()
    yield from at(stranger, '/', '/session', '/cart', '/login', '/signup',
                  '/nowhere')
    stranger.go('/login')
    stranger.page.get_by_label('Name').fill('ada')
    stranger.page.get_by_label('Password').fill('byron')
    stranger.press('Log in')
    yield 'login refused', stranger
    stranger.go('/signup')
    stranger.press('Open the account')
    yield 'signup refused', stranger

    ada = visit().log_in()
    yield 'welcome', ada
    visit(user_agent=SAFARI).come_in()
    visit(user_agent=FIREFOX).come_in()
    yield from at(ada, '/orders', '/teas/earl-bergamot')
    ada.press('Put in the cart')
    yield 'cart', ada
    ada.fill_cart('iron-goddess', 20)
    yield from at(ada, '/checkout')
    ada.press('Pay with the broken card')
    yield 'payment refused', ada
    ada.go('/checkout')
    ada.page.get_by_role('button', name='Pay €').click()
    ada.page.wait_for_url('**/orders/*')
    yield 'order', ada
    yield from at(ada, '/orders', '/devices')
    ada.fill_cart('red-bush')
    yield from at(ada, '/session')
    ada.press('Expire in one minute')
    yield 'expiry', ada
    ada.shop.skip(minutes=2)
    ada.press('Back to normal')
    yield 'form refused', ada


@pytest.fixture(scope='module')
def audits(browsers, served):
    """What the audit found on each page, by the page's name."""
    served.open_anew()
    found, visitors = {}, []

    def visit(**options):
        visitors.append(browsers.open(served, **options))
        return visitors[-1]

    for name, visitor in walk(visit):
        name = f'{len(found):02} {name}'
        found[name] = audit(visitor)
        visitor.take_pictures(name)
    for visitor in visitors:
        visitor.leave()
    return found


def findings(audits, key):
    """Return what the audits found under a key, where there is something."""
    return {name: found[key] for name, found in audits.items() if found[key]}


def test_all_pages_are_audited(audits):
    """There are so many pages, and each shows something."""
    assert len(audits) == 20
    assert min(found['texts'] for found in audits.values()) > 200


def test_every_page_says_its_language_and_what_it_is(audits):
    """WCAG 3.1.1, 2.4.2: a language; the title begins with what is special."""
    for name, found in audits.items():
        assert found['language'] == 'en', name
        assert found['title'].endswith(' · Leaf & Ledger'), name
        assert len(found['title']) > len(' · Leaf & Ledger'), name


def test_every_page_has_its_landmarks(audits):
    """One head, one main part, one foot, in this order."""
    for name, found in audits.items():
        assert found['landmarks'] == list(LANDMARKS), name


def test_every_page_has_one_main_heading(audits):
    """One h1, the first of all; below it no level is left out."""
    for name, found in audits.items():
        levels = [level for level, _ in found['headings']]
        assert levels[0] == 1, name
        assert levels.count(1) == 1, name
        for above, below in itertools.pairwise(levels):
            assert below <= above + 1, (name, found['headings'])
        assert all(text for _, text in found['headings']), name


def test_everything_has_a_name(audits):
    """WCAG 4.1.2, 3.3.2: controls, pictures, fields have names or labels."""
    # No id stands twice, no tabindex bends the order.
    for key in ('nameless', 'unlabelled', 'repeatedIds', 'jumpers'):
        assert findings(audits, key) == {}


def test_contrast(audits):
    """WCAG 1.4.3, 1.4.11: texts and the edges of fields stand out."""
    assert findings(audits, 'faint') == {}


def test_targets_can_be_hit(audits):
    """WCAG 2.5.8: no control is smaller than 24 by 24 pixels."""
    assert findings(audits, 'small') == {}


def test_no_page_scrolls_sideways(audits):
    """On a desktop, a phone, and at 400 % zoom every page fits (1.4.10)."""
    for name, found in audits.items():
        for width, needed in found['widths'].items():
            assert needed <= width, name


# -- the toolbar --------------------------------------------------------------


def test_the_toolbar_panel(visit, tmp_path):
    """The toolbar's panel tells what a page did, not what the cookie holds."""
    includes = {'pyramid.includes': 'pyramid_debugtoolbar'}
    with serving(tmp_path, **includes) as shop:
        visitor = visit(shop)
        visitor.fill_cart()
        link = visitor.page.locator('#pDebugToolbarHandle a')
        visitor.go(link.get_attribute('href'))
        visitor.page.get_by_role('link', name='SQLA session').click()
        panel = visitor.page.locator('#pDebugPanel-sqlasession-content')
        panel.wait_for(state='visible')
        assert 'The session was loaded.' in panel.inner_text()
        assert 'UPDATE sessions' in panel.inner_text()
        assert visitor.token[24:64] not in panel.inner_html()
        visitor.take_picture('toolbar')
