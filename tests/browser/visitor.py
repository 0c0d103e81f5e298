"""A person with a browser: one cookie jar, one or more tabs."""

import os
from pathlib import Path
import re
from urllib.parse import urlsplit

PASSWORDS = {'ada': 'lovelace', 'grace': 'hopper'}

CHROME = (
    'Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 '
    '(KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36'
)
FIREFOX = (
    'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0'
)
SAFARI = (
    'Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) '
    'AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 '
    'Safari/604.1'
)

DESKTOP = {'width': 1280, 'height': 800}
PHONE = {'width': 390, 'height': 844}

SCREENSHOTS = Path(__file__).parents[2] / 'screenshots'


class Browsers:
    """Makes visitors.  A new context takes the browser half a second, so that
    of a former visitor is used again, without its cookies.
    """

    def __init__(self, chromium):
        self._chromium = chromium
        self._unused = {}

    def open(self, shop, user_agent=CHROME):
        """Return a visitor with a browser that knows nothing yet."""
        key = shop.address, user_agent
        unused = self._unused.setdefault(key, [])
        context = unused.pop() if unused else self._chromium.new_context(
            base_url=shop.address,
            user_agent=user_agent,
            viewport=DESKTOP,
            ignore_https_errors=True,
        )
        return Visitor(context, shop, unused)

    def close(self):
        """Close all contexts; the visitors have left."""
        for unused in self._unused.values():
            while unused:
                unused.pop().close()


class Visitor:
    """Drives one browser context; ``page`` is its first tab.

    What no visit may bring, in whichever test, is collected in ``faults``.
    """

    def __init__(self, context, shop, unused):
        self.shop = shop
        self.context = context
        self._unused = unused
        context.set_default_timeout(15_000)
        self.faults = []
        #: Every response of the shop, the oldest first.
        self.responses = []
        context.on('response', self._note_response)
        context.on('weberror', self._note_error)
        self.page = context.pages[0] if context.pages else context.new_page()

    def leave(self):
        """Close all tabs but one, and leave the browser to somebody else."""
        for page in self.context.pages[1:]:
            page.close()
        self.context.pages[0].goto('about:blank')
        self.context.remove_listener('response', self._note_response)
        self.context.remove_listener('weberror', self._note_error)
        self.context.unroute_all()
        self.context.clear_cookies()
        self._unused.append(self.context)

    def _note_response(self, response):
        self.responses.append(response)
        if response.status >= 500:
            self.faults.append(f'{response.status} from {response.url}')
        if urlsplit(response.url).hostname != 'localhost':
            self.faults.append(f'asked somebody else: {response.url}')

    def _note_error(self, error):
        self.faults.append(f'script error: {error.error}')

    # -- going about ---------------------------------------------------------

    def go(self, path):
        """Open an address in the first tab; return the response."""
        return self.page.goto(path)

    def press(self, name, role='button'):
        """Press a button or a link of the first tab by its name."""
        with self.page.expect_navigation():
            self.page.get_by_role(role, name=name, exact=True).click()

    def log_in(self, name='ada'):
        """Log in by the form of the page that is open, or of /login."""
        if self.path != '/login':
            self.go('/login')
        self.page.get_by_label('Name').fill(name)
        self.page.get_by_label('Password').fill(PASSWORDS[name])
        with self.page.expect_navigation():
            self.page.get_by_role('main').get_by_role('button').click()
        return self

    def come_in(self, name='ada'):
        """Be logged in, by requests that no page is painted for."""
        self._send('/login', '/login', name=name, password=PASSWORDS[name])
        self.go('/orders')
        return self

    def fill_cart(self, slug='uji-sencha', tins=1):
        """Have tins of a tea in the cart, without a page being painted."""
        self._send(f'/teas/{slug}', f'/cart/add/{slug}', quantity=str(tins))
        self.go('/cart')
        return self

    def _send(self, page, action, **form):
        text = self.context.request.get(page).text()
        token = re.search(r'name="csrf_token" value="(\w+)"', text)[1]
        answer = self.context.request.post(
            action, form={'csrf_token': token, **form}, max_redirects=0
        )
        assert answer.status == 303, answer.status

    def log_out(self):
        """Log out by the button in the head of the page."""
        with self.page.expect_navigation():
            self.page.locator('.nav button').click()

    # -- what there is to see ------------------------------------------------

    @property
    def path(self):
        """The path of the first tab."""
        return urlsplit(self.page.url).path

    @property
    def heading(self):
        """The page's main heading."""
        return self.page.get_by_role('heading', level=1).inner_text()

    @property
    def messages(self):
        """The flash messages of the page, as {kind: text}."""
        return {
            flash.get_attribute('class').split()[-1]: flash.inner_text()
            for flash in self.page.locator('.flash').all()
        }

    @property
    def text(self):
        """Everything that can be read on the page."""
        return self.page.locator('body').inner_text()

    @property
    def tins(self):
        """How many tins the head of the page counts in the cart."""
        return int(re.search(r'\d+', self.page.locator('.count').inner_text())
                   .group())

    @property
    def user(self):
        """Who the page says is logged in, or None."""
        who = self.page.locator('.nav .who')
        return who.inner_text() if who.count() else None

    @property
    def cookie(self):
        """The session's cookie as the browser has it, or None."""
        cookies = [
            cookie for cookie in self.context.cookies(self.shop.address)
            if cookie['name'] == self.shop.cookie_name
        ]
        assert len(cookies) <= 1
        return cookies[0] if cookies else None

    @property
    def token(self):
        """What the session's cookie holds, or None."""
        return self.cookie and self.cookie['value']

    def bring(self, token):
        """Have this cookie instead of one's own."""
        self.context.clear_cookies()
        self.context.add_cookies([
            {'name': self.shop.cookie_name, 'value': token, 'httpOnly': True,
             'url': self.shop.address}
        ])

    def take_pictures(self, name):
        """Keep the page as a desktop and as a phone show it."""
        stem = name.replace('/', '').replace(' ', '-')
        self.take_picture(f'{stem}-desktop')
        self.page.set_viewport_size(PHONE)
        self.take_picture(f'{stem}-phone')
        self.page.set_viewport_size(DESKTOP)

    def take_picture(self, name):
        """Keep a screenshot, if SCREENSHOTS is set in the environment."""
        if os.environ.get('SCREENSHOTS'):
            path = SCREENSHOTS / f'{name}.png'
            self.page.screenshot(path=path, full_page=True)
