"""One attack each, many times over, on an application and its database.

    forged_cookies(Target, 1000).is_good

A case counts what it tried and what came of it; ``__main__`` shows it.
"""

import contextlib
from dataclasses import dataclass
from dataclasses import field
import json
import random
import time
import traceback

from pyramid_sqlasession.codec import Codec
from pyramid_sqlasession.codec import DamagedData
from pyramid_sqlasession.serializers import JSONSerializer
from pyramid_sqlasession.settings import read_settings

from . import chance
from .endings import ENDINGS
from .endings import SETTINGS
from .hostile import HOSTILE
from .target import ask
from .target import encoded
from .target import forge
from .target import forms_of
from .target import is_empty
from .target import SECRET
from .target import victim_of

# What one attempt may take on a slow machine, seconds.
_LONGEST = 3.0


@dataclass
class Result:
    """What came of an attack."""

    attack: str
    tried: int = 0
    #: A session was opened, or one that had ended.
    opened: int = 0
    #: An error, or a page that is none.
    broken: int = 0
    #: Rows that were added or changed.
    rows: int = 0
    #: The most for one attempt; None if they were not counted.
    statements: int | None = None
    #: Seconds of the processor.
    slowest: float = 0.0
    #: At most so many for one attempt.
    allowed: int = 1
    wrong: list = field(default_factory=list)

    @property
    def survived(self):
        return self.tried - self.opened - self.broken

    @property
    def is_good(self):
        return (
            self.tried > 0 and self.survived == self.tried
            and not self.rows and (self.statements or 0) <= self.allowed
            and self.slowest < _LONGEST
        )

    @contextlib.contextmanager
    def attempt(self, *expected):
        """Count one; errors but *expected* ones break it."""
        self.tried += 1
        started = time.process_time()
        try:
            yield
        except expected:
            pass
        except Exception:
            self.broken += 1
            self._note(traceback.format_exc(limit=-2))
        self.slowest = max(self.slowest, time.process_time() - started)

    def open(self, what):
        """Note that an attempt got through."""
        self.opened += 1
        self._note(f'opened by {what!r}')

    def _note(self, text):
        if len(self.wrong) < 3:
            self.wrong.append(text)


def _send(result, site, cookies):
    """Present *cookies*, none of which may open or write anything."""
    before = site.rows()
    site.listen()
    most = 0
    for value in cookies:
        with result.attempt():
            if not is_empty(site, value):
                result.open(value)
        most = max(most, len(site.statements))
        site.statements.clear()
    result.statements = max(result.statements or 0, most)
    result.rows += _changed(before, site.rows())


def _changed(before, after):
    """Return how many rows are not what they were."""
    return sum(row not in before for row in after) + sum(
        row not in after for row in before
    )


class _Live:
    """The public id of a session that lives."""

    def __init__(self, id):
        self.id = id


def _with_a_victim(make, **settings):
    site = make(**settings)
    victim = victim_of(site)
    return site, victim, _Live(site.rows()[0]['id'])


def forged_cookies(make, count):
    """R3: well formed cookies, a third of them with an id that exists."""
    result = Result('forged cookies')
    site, _, live = _with_a_victim(make)
    _send(result, site, (forge(site, live, n) for n in range(count)))
    return result


def forged_signatures(make, count):
    """R3: with ``secret`` they never reach the database."""
    result = Result('forged cookies, with secret', allowed=0)
    site, _, live = _with_a_victim(make, secret=SECRET)
    _send(result, site, (forge(site, live, n) for n in range(count)))
    return result


def odd_headers(make, count):
    """R3: whatever a Cookie header can be, near a real one for the most."""
    result = Result('Cookie headers of any kind')
    site, victim, _ = _with_a_victim(make)
    token = site.token(victim)
    draw = random.Random(1)
    before = site.rows()
    for _ in range(count):
        sent = chance.header(draw, token)
        if chance.is_own(sent, token):
            continue
        with result.attempt():
            response = ask(site, '/read', sent)
            assert response.status_int == 200
            if response.text != '[]' or 'Set-Cookie' in response.headers:
                result.open(sent)
    result.rows = _changed(before, site.rows())
    return result


def stolen_rows(make, count):
    """Section 1: who has read the table cannot log in with it."""
    result = Result('cookies made of what the table holds')
    for secret in ('', SECRET):
        site = make(secret=secret, renewal_interval='10m')
        for user in range(max(1, count // 2)):
            victim_of(site, user)
        site.clock.advance(minutes=11)
        forms = [form for row in site.rows() for form in forms_of(row)]
        _send(result, site, forms)
    return result


def planted_cookies(make, count):
    """C5: what was there before the login opens nothing after it."""
    result = Result('cookies planted before a login')
    site = make()
    for user in range(count):
        attacker = site.browser()
        attacker.get('/write')
        planted = site.token(attacker)
        victim = site.browser(like=attacker)
        victim.get(f'/login?user={user}')
        with result.attempt():
            if not is_empty(site, planted):
                result.open(planted)
        invented = site.browser()
        raw = random.Random(user).randbytes(48)
        invented.set_cookie('session', encoded(raw))
        invented.get(f'/login?user={user}')
        with result.attempt():
            if not is_empty(site, encoded(raw)):
                result.open(encoded(raw))
    return result


def replayed_tokens(make, count):
    """C4, C5, E1: a copy of a token ends with the token."""
    result = Result('tokens copied before the end of the session')
    for end in ENDINGS.values():
        for _ in range(count):
            site = make(**SETTINGS)
            browser = victim_of(site)
            copied = site.token(browser)
            end(site, browser)
            before = site.rows()
            with result.attempt():
                if not is_empty(site, copied):
                    result.open(copied)
            result.rows += _changed(before, site.rows())
            with result.attempt():
                thief = site.browser()
                thief.set_cookie('session', copied)
                thief.get('/write')
                shown = dict(json.loads(thief.get('/read').text))
                if 'user_id' in shown:
                    result.open(copied)
    return result


def hostile_bytes(make, count):
    """R8: whatever the serializer is given, data or ValueError."""
    result = Result('hostile bytes for the serializer')
    draw = random.Random(2)
    for raw in [*HOSTILE.values(), *(chance.stored(draw)
                                     for _ in range(count))]:
        with result.attempt(ValueError):
            JSONSerializer().loads(raw)
    return result


def hostile_texts(make, count):
    """R8: the same through encryption and base64: data or DamagedData."""
    result = Result('hostile texts for the codec')
    key = 'A' * 43 + '='
    codecs = [
        Codec(read_settings({'sqlasession.encryption_keys': keys}))
        for keys in ('', key)
    ]
    draw = random.Random(3)
    raws = [*HOSTILE.values(), *(chance.stored(draw) for _ in range(count))]
    for number, raw in enumerate(raws):
        text = raw.decode('utf-8', 'replace')
        prefix = ('', 'base64:', 'fernet:')[number % 3]
        with result.attempt(DamagedData):
            codecs[number // 3 % 2].read(prefix + text[:200_000])
    return result


def hostile_rows(make, count):
    """R8: through the whole application: a page, and the row stays."""
    result = Result('hostile rows in the table')
    draw = random.Random(4)
    site = make()
    browser = site.browser()
    browser.get('/write')
    header = f'session={site.token(browser)}'
    raws = [*HOSTILE.values(), *(chance.stored(draw) for _ in range(count))]
    for raw in raws:
        # PostgreSQL has no NUL in a text.
        text = raw.decode('utf-8', 'replace').replace('\x00', '')
        site.execute('UPDATE sessions SET data = :data', data=text)
        before = site.rows()
        with result.attempt():
            response = ask(site, '/look', header)
            assert response.status_int == 200
            assert 'Set-Cookie' not in response.headers
        result.rows += _changed(before, site.rows())
    return result


#: Each with how many times it is tried.
CASES = {
    'forged_cookies': (forged_cookies, 100_000),
    'forged_signatures': (forged_signatures, 100_000),
    'odd_headers': (odd_headers, 50_000),
    'stolen_rows': (stolen_rows, 100),
    'planted_cookies': (planted_cookies, 200),
    'replayed_tokens': (replayed_tokens, 10),
    'hostile_bytes': (hostile_bytes, 100_000),
    'hostile_texts': (hostile_texts, 50_000),
    'hostile_rows': (hostile_rows, 2_000),
}
