"""What somebody can do who means harm: to the cookie, the headers, the bytes
in the table, the caches on the way, and the logs.

``make attack`` does some of it in large numbers.
"""

import ast
import base64
import datetime as dt
from decimal import Decimal
import hashlib
import hmac
import itertools
import json
import logging
from pathlib import Path
import pickle
import random
import re
import subprocess
import sys
import time
import traceback
import tracemalloc
import uuid

from hypothesis import example
from hypothesis import given
from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis import strategies as st
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column

import pyramid_sqlasession
from pyramid_sqlasession import cookie
from pyramid_sqlasession import records
from pyramid_sqlasession import SessionMixin
from pyramid_sqlasession import SuspiciousCookie
from pyramid_sqlasession.codec import Codec
from pyramid_sqlasession.codec import DamagedData
from pyramid_sqlasession.serializers import JSONSerializer
from pyramid_sqlasession.settings import read_settings

from .attack import sabotage
from .attack.cases import CASES
from .attack.endings import ENDINGS
from .attack.endings import renewed
from .attack.endings import SETTINGS
from .attack.hostile import HOSTILE
from .attack.target import ask
from .attack.target import encoded
from .attack.target import FIELDS
from .attack.target import forge
from .attack.target import forms_of
from .attack.target import furnish
from .attack.target import is_empty
from .attack.target import SECRET
from .attack.target import victim_of
from .failing import on_sqlite

PACKAGE = Path(pyramid_sqlasession.__file__).parent
FORGED = 400

quickly = settings(
    max_examples=50, deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def make_target(make_site):
    """A function that makes a site to be attacked."""

    def make(**given):
        return furnish(make_site(**FIELDS, **given))

    return make


@pytest.fixture
def target(make_target):
    """A site with the default settings."""
    return make_target()


# -- the cookie ---------------------------------------------------------------

_any = st.text(st.characters(max_codepoint=255), max_size=60)
_part = st.one_of(
    _any,
    st.binary(max_size=40).map(lambda raw: raw.decode('latin-1')),
    st.sampled_from(['', '"', '""', '\x00', '=', ';', ',', '\t', '$Path=/']),
)


def _mutations(token):
    """Return a strategy of what is nearly *token*."""
    places = st.integers(0, len(token))
    return st.one_of(
        st.builds(lambda i, x: token[:i] + x + token[i:], places, _part),
        st.builds(lambda i, x: token[:i] + x + token[i + 1:], places, _part),
        st.builds(lambda i, j: token[i:j], places, places),
        st.builds(lambda n: token * n, st.integers(2, 2_000)),
        st.sampled_from([
            token.lower(), token.swapcase(), f'"{token}', f'{token}"',
            f"'{token}'", f'{token}=', f'{token}==', f' {token} x',
            token.replace('A', '%41'), token + '\x00', '\ufeff' + token,
            f'{token}.', f'{token}.{token}', token[::-1],
        ]),
    )


@pytest.fixture
def under_fire(make_target):
    """Sites without and with ``secret``, a live token of each, and a clock of
    statements.
    """
    made = {}
    for secret in ('', SECRET):
        site = make_target(secret=secret)
        made[secret] = (site, site.token(victim_of(site)))
    return made


@on_sqlite
@pytest.mark.parametrize('secret', ['', SECRET], ids=['plain', 'signed'])
@pytest.mark.parametrize('path', ['/read', '/write', '/flash', '/rotate'])
@given(st.data())
@quickly
def test_no_cookie_header_opens_or_breaks_anything(
    under_fire, secret, path, data
):
    """R3: whatever the header: no error, no row of another, no adoption."""
    site, token = under_fire[secret]
    near = _mutations(token).map('session={}'.format)
    parts = data.draw(
        st.lists(st.one_of(near, _part, _any.map('session={}'.format)),
                 max_size=6)
    )
    header = data.draw(st.sampled_from([';', '; ', ',', '\t'])).join(parts)
    # Of several cookies the first well formed one counts; if that is the
    # victim's own, it is no attack.
    own = {f'session={token}', f'session="{token}"'}
    if own & {part.strip(' \t') for part in header.split(';')}:
        return
    before = site.rows()
    site.listen()
    response = ask(site, path, _wsgi(header))
    assert response.status_int == 200
    ids = {row['id'] for row in before}
    assert [row for row in site.rows() if row['id'] in ids] == before
    if path == '/read':
        assert response.text == '[]'
        assert response.headers.getall('Set-Cookie') == []
        assert len(site.statements) <= 1
    made = [row for row in site.rows() if row['id'] not in ids]
    for row in made:
        # Its id is ours, not the cookie's.
        assert encoded(row['id'].bytes)[:20] not in header
        assert row['created'] == site.clock()
    assert len(made) <= 1


def _wsgi(text):
    """Return *text* as a server hands it to the application (PEP 3333)."""
    return text.encode('utf-8', 'surrogatepass').decode('latin-1')


@on_sqlite
@given(
    st.dictionaries(
        st.sampled_from([
            'HTTP_HOST', 'HTTP_X_FORWARDED_PROTO', 'HTTP_X_FORWARDED_FOR',
            'HTTP_X_FORWARDED_HOST', 'HTTP_FORWARDED', 'HTTP_USER_AGENT',
            'HTTP_ACCEPT', 'HTTP_REFERER', 'HTTP_CACHE_CONTROL',
            'HTTP_IF_NONE_MATCH', 'HTTP_X_CSRF_TOKEN', 'HTTP_COOKIE2',
            'HTTP_AUTHORIZATION', 'QUERY_STRING', 'REMOTE_ADDR',
            'HTTP_X_SCHEME', 'HTTP_FRONT_END_HTTPS', 'HTTP_SESSION',
        ]),
        _part,
    )
)
@example({'QUERY_STRING': 'session=' + 'A' * 64})
@quickly
def test_no_other_header_is_looked_at(under_fire, environ):
    """R3: the token comes from the cookie and nowhere else."""
    site, token = under_fire['']
    plain = ask(site, '/read', f'session={token}')
    response = ask(site, '/read', f'session={token}', **environ)
    assert (response.text, response.headers.getall('Set-Cookie')) == (
        plain.text, []
    )
    environ = {
        name: token if name != 'QUERY_STRING' else f'session={token}'
        for name in environ
    }
    assert ask(site, '/read', **environ).text == '[]'


@on_sqlite
@pytest.mark.parametrize(
    'header',
    [
        'session=' + 'A' * 10_000_000,
        'session=A; ' * 500_000,
        'session=' + 'A' * 64 + '; ' + '; ' * 1_000_000,
        ('session=' + 'A' * 64 + '.' + 'B' * 43 + ';') * 50_000,
        '"' * 3_000_000 + 'session=',
    ],
    ids=['long', 'many', 'empty', 'signed', 'quotes'],
)
@pytest.mark.parametrize('secret', ['', SECRET], ids=['plain', 'signed'])
def test_a_huge_header_costs_no_more_than_its_length(
    under_fire, secret, header
):
    """R3: servers refuse megabytes; whatever they let through is cheap."""
    site, _ = under_fire[secret]
    started = time.process_time()
    assert ask(site, '/read', header).text == '[]'
    # 50,000 signatures are the most expensive ones; a quadratic scan of a
    # megabyte would take hours.
    assert time.process_time() - started < 10


# -- forged cookies -----------------------------------------------------------


def test_forged_cookies_cost_at_most_a_select_and_leave_no_row(target):
    """R3: at most one SELECT each, no row, no cookie."""
    target.browser().get('/write')
    before = target.rows()
    (live,) = before
    live = type('Live', (), {'id': live['id']})
    target.listen()
    with target.events(SuspiciousCookie) as events:
        for number in range(FORGED):
            token = forge(target, live, number)
            assert is_empty(target, token)
    assert set(target.statements.verbs) <= {'SELECT'}
    assert len(target.statements) <= FORGED
    assert target.rows() == before
    # A wrong secret to an id that exists is what nobody comes by honestly.
    assert len(events) == len(range(0, FORGED, 3))


def test_with_a_secret_forged_cookies_never_reach_the_database(make_target):
    """R3: with ``secret`` no forged cookie costs a statement."""
    site = make_target(secret=f'{SECRET} {SECRET}-old')
    site.browser().get('/write')
    (row,) = before = site.rows()
    live = type('Live', (), {'id': row['id']})
    site.listen()
    with site.events(SuspiciousCookie) as events:
        for number in range(FORGED):
            assert is_empty(site, forge(site, live, number))
    assert site.statements == []
    assert site.rows() == before
    assert {event.reason for event in events} == {'signature'}
    assert len(events) == FORGED


# -- fixation -----------------------------------------------------------------


def test_a_planted_cookie_is_dead_after_the_login(make_target):
    """C5: what the attacker had before the victim's login opens nothing."""
    site = make_target(renewal_grace='60s')
    attacker = site.browser()
    csrf = attacker.get('/flash').text
    victim = site.browser(like=attacker)
    planted = site.token(attacker)
    victim.get('/login?user=7')
    assert site.token(victim) != planted
    for seconds in (0, 30, 61):
        site.clock.advance(seconds=seconds)
        assert is_empty(site, planted)
    # Nor does what it writes get into the victim's session, in the grace or
    # after it.
    thief = site.browser(like=attacker)
    assert thief.get('/write').headers.getall('Set-Cookie') != []
    assert site.token(thief) not in (planted, site.token(victim))
    shown = dict(json.loads(victim.get('/read').text))
    assert shown['user_id'] == 7
    assert 'n' not in shown
    assert victim.get('/flash').text != csrf


def test_an_invented_cookie_is_never_adopted(target):
    """R3: neither the id nor the secret of a planted cookie is used."""
    raw = bytes(range(48))
    victim = target.browser()
    victim.set_cookie('session', encoded(raw))
    victim.get('/login?user=7')
    (row,) = target.rows()
    assert row['id'] != uuid.UUID(bytes=raw[:16])
    assert row['secret_hash'] != hashlib.sha256(raw[16:]).digest()
    assert target.token(victim) != encoded(raw)
    assert is_empty(target, encoded(raw))


#: Names that browsers let a subdomain, or a page over http, set a cookie by,
#: as they do not begin with the prefix, and that a lax server takes for it.
MASKS = [
    '\xa0{}', '\x85{}', '\u2000{}', '\u3000{}', '\x1c{}', '\x0b{}', '{} ',
    '{}\t', '={}', '{}[]', '{}.x', '"{}', '$Version=1,{}', '$Path={}', 'x={}',
    'x=,{}', '%5F%5FHost-session', 'x="{}',
]


@on_sqlite
@pytest.mark.parametrize('mask', MASKS, ids=ascii)
def test_no_other_name_passes_for_one_with_a_prefix(make_target, mask):
    """Section 2: what a sibling domain can plant is not ``__Host-session``."""
    site = make_target(cookie_name='__Host-session')

    def token_of(user):
        answer = ask(site, f'/login?user={user}')
        header = answer.headers['Set-Cookie'].partition(';')[0]
        return header.partition('=')[2]

    own, planted = token_of(7), token_of(66)
    name = mask.format('__Host-session').encode().decode('latin-1')
    for header in (
        f'{name}={planted}', f'a=b; {name}={planted}',
        f'{name}={planted}; __Host-session={own}',
    ):
        shown = dict(json.loads(ask(site, '/read', header).text))
        assert shown.get('user_id') == (7 if own in header else None)


def test_a_second_login_does_not_inherit(target):
    """C5: who logs in over the attacker's login has a session of their own."""
    attacker = victim_of(target, user=1)
    attacker.get('/write')
    victim = target.browser(like=attacker)
    victim.get('/login?user=2')
    assert dict(json.loads(victim.get('/read').text))['user_id'] == 2
    assert 'n' not in dict(json.loads(victim.get('/read').text))
    assert is_empty(target, target.token(attacker))


# -- replay -------------------------------------------------------------------


@pytest.mark.parametrize('ending', ENDINGS)
def test_an_old_token_is_dead(make_target, ending):
    """C4, C5, E1: a token that was copied before works no more afterwards."""
    site = make_target(**SETTINGS)
    browser = victim_of(site)
    copied = site.token(browser)
    stranger = site.browser()
    stranger.set_cookie('session', copied)
    assert '7' in stranger.get('/read').text
    ENDINGS[ending](site, browser)
    assert is_empty(site, copied)
    before = site.rows()
    thief = site.browser()
    thief.set_cookie('session', copied)
    thief.get('/write')
    # Nothing is revived, and what the thief writes is the thief's own.
    ids = [row['id'] for row in before]
    assert [row for row in site.rows() if row['id'] in ids] == before
    for row in site.rows():
        if row['id'] not in ids:
            assert row['user_id'] is None
    assert '7' not in ask(site, '/read', f'session={copied}').text
    # And forever.
    site.clock.advance(days=1)
    assert is_empty(site, copied)


# -- what is stored, as a cookie ----------------------------------------------


@pytest.mark.parametrize('secret', ['', SECRET], ids=['plain', 'signed'])
def test_nothing_in_the_row_works_as_a_cookie(make_target, secret):
    """Section 1: not the hash, not the id, in no form that one could try."""
    site = make_target(secret=secret, renewal_interval='10m')
    browser = victim_of(site)
    renewed(site, browser)
    (row,) = site.rows()
    for text in forms_of(row):
        assert is_empty(site, text), text


# -- timing -------------------------------------------------------------------

SECRETS = re.compile(
    r'(secret|hash|signature|digest|hmac|_sign\b|csrf_token|presented)'
)


def _comparisons(path):
    """Yield the source of each comparison of a secret by an operator."""
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare) or not any(
            isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn)
            for op in node.ops
        ):
            continue
        sides = [node.left, *node.comparators]
        if any(isinstance(side, ast.Constant) for side in sides):
            continue
        text = ast.get_source_segment(source, node)
        if SECRETS.search(text):
            yield text


#: Comparisons of two values that both come from the server.
HARMLESS = {
    # SQL: the hash that was read before, against the row's.
    "c.secret_hash == sa.bindparam('__hash')",
    # Whoever has come so far has proven the secret; is it the newest one?
    'self.token.secret_hash == self.record.secret_hash',
    # Did this very save change it?
    'after.secret_hash != record.secret_hash',
    # At the start: is a word of the setting the one that stands for no secret?
    'PLAIN in settings.secret', 'settings.secret[:1] == (PLAIN,)',
    'secret != PLAIN',
}


@pytest.mark.parametrize(
    'path', sorted(PACKAGE.glob('*.py')), ids=lambda path: path.stem
)
def test_secrets_are_compared_in_constant_time(path):
    """Section 1: no ``==`` on a secret, a hash of one or a signature."""
    assert set(_comparisons(path)) <= HARMLESS


def test_the_test_above_can_fail(tmp_path):
    """What it looks for is what it finds."""
    path = tmp_path / 'bad.py'
    path.write_text('if token.secret_hash == record.secret_hash: pass')
    assert list(_comparisons(path)) == [
        'token.secret_hash == record.secret_hash'
    ]


@on_sqlite
@pytest.mark.parametrize('change', ['first', 'last', 'none'])
def test_every_presented_secret_goes_through_compare_digest(
    make_target, monkeypatch, change
):
    """Section 1: right or wrong, early or late, the same comparison."""
    site = make_target(secret=f'{SECRET} old-{SECRET}')
    token = site.token(victim_of(site))
    payload, _, signature = token.partition('.')
    raw = bytearray(base64.urlsafe_b64decode(payload))
    if change != 'none':
        raw[16 if change == 'first' else -1] ^= 1
    seen = []

    class Noting:
        """``hmac``, whose comparisons are noted."""

        digest = staticmethod(hmac.digest)

        @staticmethod
        def compare_digest(a, b):
            seen.append((a, b))
            return hmac.compare_digest(a, b)

    monkeypatch.setattr(cookie, 'hmac', Noting)
    monkeypatch.setattr(records, 'hmac', Noting)
    forged = encoded(bytes(raw))
    assert is_empty(site, f'{forged}.{signature}') == (change != 'none')
    # Both keys are tried, whichever fits.
    assert [b for _, b in seen[:2]] == [signature, signature]
    # A right signature on a wrong secret: as if a key had leaked.
    seen.clear()
    key = hashlib.sha256(
        b'pyramid_sqlasession.cookie:' + SECRET.encode()
    ).digest()
    good = hmac.new(key, forged.encode(), hashlib.sha256).digest()
    assert is_empty(site, f'{forged}.{encoded(good)}') == (change != 'none')
    hashes = [pair for pair in seen if isinstance(pair[0], bytes)]
    (row,) = site.rows()
    assert hashes == [
        (hashlib.sha256(bytes(raw[16:])).digest(), row['secret_hash'])
    ]


# -- forwarded schemes --------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize(
    'environ',
    [
        {'HTTP_X_FORWARDED_PROTO': 'https'},
        {'HTTP_X_FORWARDED_PROTOCOL': 'ssl'},
        {'HTTP_X_FORWARDED_SSL': 'on'},
        {'HTTP_FRONT_END_HTTPS': 'on'},
        {'HTTP_FORWARDED': 'proto=https;host=evil.example'},
        {'HTTP_X_SCHEME': 'https'},
        {'HTTP_X_FORWARDED_HOST': 'evil.example'},
        {'HTTPS': 'on'},
    ],
    ids=lambda environ: next(iter(environ)),
)
def test_a_forwarded_header_alone_decides_nothing(target, environ):
    """Section 2: only the request's scheme counts, which the server sets."""
    # ``cookie_secure``: the server sets it for proxies that it trusts.
    for scheme in ('http', 'https'):
        url = {'wsgi.url_scheme': scheme}
        plain, = ask(target, '/write', **url).headers.getall('Set-Cookie')
        sent, = ask(
            target, '/write', **url, **environ
        ).headers.getall('Set-Cookie')
        attributes = plain.split('; ')[1:]
        assert sent.split('; ')[1:] == attributes
        assert ('Secure' in attributes) == (scheme == 'https')
        assert not any(a.startswith('Domain') for a in attributes)


@on_sqlite
def test_secure_can_be_made_sure(make_target):
    """Section 2: with ``true``, or a prefix, no scheme takes it away."""
    for given_ in ({'cookie_secure': 'true'},
                   {'cookie_name': '__Host-session'}):
        site = make_target(**given_)
        header, = ask(
            site, '/write', **{'wsgi.url_scheme': 'http',
                               'HTTP_X_FORWARDED_PROTO': 'http'}
        ).headers.getall('Set-Cookie')
        assert 'Secure' in header.split('; ')


# -- caches -------------------------------------------------------------------


class SharedCache:
    """A shared cache as bad as RFC 9111 allows: what it may keep it keeps."""

    def __init__(self, site):
        self.site = site
        self.kept = {}
        self.hits = 0

    def get(self, path, cookie_header=''):
        """Return a response, from memory if that is allowed."""
        for vary, (seen, response) in self.kept.get(path, {}).items():
            if all(seen[name] == cookie_header for name in vary):
                self.hits += 1
                return response
        response = ask(self.site, path, cookie_header or None)
        vary = tuple(
            name.strip().lower()
            for name in response.headers.get('Vary', '').split(',')
            if name.strip()
        )
        control = response.headers.get('Cache-Control', '').lower()
        if not any(
            word in control for word in ('private', 'no-store', 'no-cache')
        ) and '*' not in vary:
            self.kept.setdefault(path, {})[vary] = (
                dict.fromkeys(vary, cookie_header), response
            )
        return response


@pytest.mark.parametrize(
    'control', [None, 'max-age=600', 'no-transform'],
)
def test_a_cache_hands_nobody_anothers_session(target, control):
    """R5: through a shared cache nobody gets another's page or cookie."""

    def with_control(function):
        def view(request):
            response = function(request)
            if not isinstance(response, Response):
                response = Response(str(response))
            if control:
                response.headers['Cache-Control'] = control
            return response

        return view

    for name in ('read', 'write', 'flash', 'rotate', 'ignore', 'logout'):
        target.views[name] = with_control(target.views[name])
    target.views['moved'] = with_control(
        lambda request: HTTPFound(
            '/read' if request.session.new else '/write'
        )
    )
    cache = SharedCache(target)
    users = {
        user: f'session={target.token(victim_of(target, user))}'
        for user in (7, 8)
    }
    paths = ['/ignore', '/read', '/moved', '/flash', '/write']
    handed_out = set()
    # The second time round a touch is due, which sends cookies too.
    for turn, path in itertools.product(range(2), paths):
        target.clock.advance(minutes=2 * turn)
        for header in (*users.values(), '', '', *users.values()):
            response = cache.get(path, header)
            for sent in response.headers.getall('Set-Cookie'):
                value = sent.partition(';')[0]
                # To whoever has it already, or to one visitor alone.
                assert value == header or sent not in handed_out
                handed_out.add(sent)
            for user, own in users.items():
                if path == '/read' and own != header:
                    assert f'"user_id", {user}' not in response.text
    # It can do its work.
    assert cache.hits


# -- what is at rest ----------------------------------------------------------

_json = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(),
        st.text(max_size=8),
        st.sampled_from(['nan', '0x1', '-0x', '2026-01-01', '12:00', 'AA==']),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(
                st.text(max_size=4),
                st.sampled_from([
                    '$dict', '$tuple', '$set', '$datetime', '$date', '$time',
                    '$timedelta', '$decimal', '$uuid', '$bytes', '$int',
                    '$float', '$x', '_csrft_', '_f_', '_f_q',
                ]),
            ),
            inner, max_size=3,
        ),
    ),
    max_leaves=12,
)


@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_bytes_are_data_or_a_value_error(name):
    """R8: in bounded time and memory, and never another exception."""
    raw = HOSTILE[name]
    tracemalloc.start()
    started = time.process_time()
    try:
        JSONSerializer().loads(raw)
    except ValueError:
        pass
    finally:
        spent = time.process_time() - started
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert spent < 3
    assert peak < 100_000_000


@pytest.mark.parametrize('name', HOSTILE)
@pytest.mark.parametrize('encrypted', [False, True])
def test_hostile_texts_are_data_or_damaged(name, encrypted):
    """R8: nor does the codec let any other exception through."""
    key = base64.urlsafe_b64encode(bytes(32)).decode()
    codec = Codec(read_settings(
        {'sqlasession.encryption_keys': key} if encrypted else {}
    ))
    text = HOSTILE[name].decode('utf-8', 'replace')
    based = base64.b64encode(HOSTILE[name]).decode()
    for stored in (text, f'base64:{text}', f'base64:{based}',
                   f'fernet:{text[:100_000]}'):
        try:
            data, heads = codec.read(stored)
        except DamagedData:
            continue
        assert isinstance(data, dict)
        assert isinstance(heads, dict)


@given(_json)
@example({'$set': [{'$set': []}]})
@example({'$timedelta': [None]})
@example({'$tuple': {}})
@settings(quickly, max_examples=150)
def test_invented_tags_are_data_or_a_value_error(value):
    """R8: JSON with tags in every wrong place."""
    try:
        raw = json.dumps(value).encode()
        found = JSONSerializer().loads(raw)
    except ValueError:
        return
    assert isinstance(
        found,
        dict | list | str | int | float | None | set | tuple | bytes
        | Decimal | uuid.UUID | dt.date | dt.time | dt.timedelta,
    )


@given(st.one_of(st.binary(max_size=200), _json.map(
    lambda value: json.dumps(value).encode()
)), st.binary(max_size=4), st.integers(0, 200))
@settings(quickly, max_examples=150)
def test_bytes_cut_and_spliced_are_data_or_a_value_error(raw, piece, place):
    """R8: text that was cut, or that has a piece of another in it."""
    for bad in (raw[:place], raw[:place] + piece + raw[place:]):
        try:
            JSONSerializer().loads(bad)
        except ValueError:
            continue


@on_sqlite
@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_rows_never_break_a_page(target, name):
    """R8: through the whole application: a page, and the row stays."""
    browser = target.browser()
    browser.get('/write')
    text = HOSTILE[name].decode('utf-8', 'replace')
    target.execute('UPDATE sessions SET data = :data', data=text)
    (before,) = target.rows()

    @target.view
    def look(request):
        return f'{len(request.session)} {sorted(request.session)[:1]}'

    header = f'session={target.token(browser)}'
    for path in ('/look', '/ignore'):
        assert ask(target, path, header).status_int == 200
        assert target.rows() == [before]
    assert ask(target, '/logout', header).status_int == 200
    assert target.rows() == []


class PickleSerializer:
    """As Pyramid 1 had one."""

    dumps = staticmethod(pickle.dumps)
    loads = staticmethod(pickle.loads)


@on_sqlite
@pytest.mark.parametrize(
    'name', ['pickle', 'marshal', f'{__name__}:PickleSerializer']
)
def test_what_can_run_code_is_no_serializer(make_target, name):
    """R6: no pickle, ever."""
    with pytest.raises(ConfigurationError, match='to run code'):
        make_target(serializer=name)


class Wrapped(sa.types.TypeDecorator):
    """A pickle, of which one does not see it."""

    impl = sa.PickleType
    cache_ok = True


class Base(DeclarativeBase):
    """Of the model below alone."""


class Pickled(SessionMixin, Base):
    """A model of an application from the time of Pyramid 1."""

    __tablename__ = 'sessions'
    prefs: Mapped[list | None] = mapped_column(sa.PickleType)


@on_sqlite
@pytest.mark.parametrize(
    'given',
    [
        {'additional_fields': 'prefs: PickleType'},
        {'additional_fields': f'prefs: {__name__}.Wrapped'},
        {'additional_fields': {'prefs': sa.PickleType()}},
        {'model': f'{__name__}.Pickled'},
    ],
    ids=str,
)
def test_what_can_run_code_is_no_field(make_site, given):
    """R6: nor is a column read, by a list of devices, as a pickle."""
    with pytest.raises(ConfigurationError, match='to run code') as caught:
        make_site(**given)
    assert 'prefs' in str(caught.value)


# -- logs and tracebacks ------------------------------------------------------


def _spellings(token):
    """Return what must not be seen anywhere, as regular expression."""
    payload = token.partition('.')[0]
    raw = base64.urlsafe_b64decode(payload)
    secret = raw[16:]
    return [
        payload[24:], secret.hex(), repr(secret)[2:-1],
        base64.b64encode(secret).decode(), str(int.from_bytes(secret)),
    ]


def _frames(error):
    """Return the traceback of *error* as collectors of errors show it, with
    all local variables of our frames and of SQLAlchemy's.
    """
    lines = []
    while error is not None:
        shown = traceback.TracebackException.from_exception(
            error, capture_locals=True
        )
        for frame in shown.stack:
            if 'pyramid_sqlasession' in frame.filename or (
                'sqlalchemy' in frame.filename
            ):
                lines += [frame.name, *(frame.locals or {}).values()]
        lines.append(str(error))
        error = error.__cause__ or error.__context__
    return '\n'.join(lines)


FAILURES = {
    'table': ('DROP TABLE sessions', ['/read', '/write', '/rotate']),
    'column': (
        'ALTER TABLE sessions RENAME COLUMN data TO gone',
        ['/read', '/write', '/rotate'],
    ),
    'value': (None, ['/unstorable']),
    'field': (None, ['/wrong_field']),
    'size': (None, ['/large']),
}


@pytest.mark.parametrize('failure', FAILURES)
def test_no_traceback_shows_a_token(make_target, caplog, failure):
    """Section 1: nor does its log, with all local variables printed."""
    caplog.set_level(logging.DEBUG)
    site = make_target(
        secret=SECRET, max_size='2000', renewal_interval='1m',
        renewal_grace='10s',
    )

    @site.view
    def unstorable(request):
        request.session['x'] = object()

    @site.view
    def wrong_field(request):
        request.session['user_id'] = 'seven'

    @site.view
    def large(request):
        request.session['x'] = 'x' * 5000

    logging.getLogger('sqlalchemy.engine').setLevel(logging.DEBUG)
    try:
        browser = victim_of(site)
        sql, paths = FAILURES[failure]
        if sql is not None:
            site.execute(sql)
        site.clock.advance(minutes=5)
        shown = []
        for path in paths:
            with pytest.raises(Exception) as caught:
                browser.get(path)
            shown.append(_frames(caught.value))
    finally:
        logging.getLogger('sqlalchemy.engine').setLevel(logging.NOTSET)
    text = '\n'.join(shown) + caplog.text
    assert len(text) > 1000
    for spelling in _spellings(site.token(browser)):
        assert spelling not in text
    assert SECRET not in text


@on_sqlite
def test_no_repr_shows_a_token(make_target):
    """Section 1: of nothing that an application can get hold of."""
    site = make_target(secret=SECRET, encryption_keys=base64.urlsafe_b64encode(
        b'k' * 32
    ).decode())
    shown = []

    @site.view
    def reprs(request):
        session = request.session
        session.get('n')
        objects = [session, request.session_store, *vars(session).values()]
        source = session._source
        objects += [source, *vars(source).values(), source.application]
        objects += vars(source.application).values()
        objects += [source.base.record, source.base.token]
        objects += request.session_store.find(user_id=7)
        # WebOb's own str() of a request is the request, with its cookies.
        objects = [one for one in objects if one is not request]
        shown.extend(map(repr, objects))
        shown.extend(map(str, objects))

    browser = victim_of(site)
    tokens = [site.token(browser)]
    with site.events() as events:
        browser.get('/write')
        browser.get('/reprs')
        browser.get('/rotate')
        browser.get('/reprs')
    tokens.append(site.token(browser))
    assert len(set(tokens)) == 2
    shown += [
        repr(event) for event in events
        if type(event).__module__.startswith('pyramid_sqlasession')
    ]
    text = '\n'.join(shown)
    assert len(shown) > 40
    for spelling in (
        *_spellings(tokens[0]), *_spellings(tokens[1]), SECRET, 'a2tr', 'kkkk',
    ):
        assert spelling not in text


# -- the dice -----------------------------------------------------------------


@on_sqlite
def test_secrets_come_from_the_system_and_never_repeat(
    target, monkeypatch
):
    """Section 1: 128 random bits at least, of ``secrets``, for each token."""
    random.seed(1)
    drawn = []
    real = cookie.secrets.token_bytes
    monkeypatch.setattr(
        cookie.secrets, 'token_bytes',
        lambda size: drawn.append(size) or real(size),
    )
    values = set()
    for _ in range(20):
        random.seed(1)
        browser = victim_of(target)
        values.add(target.token(browser)[24:])
        browser.get('/rotate')
        values.add(target.token(browser)[24:])
    assert len(values) == 40
    # Of a rotation; of a new session, with ten for its id.
    assert set(drawn) == {32, 10 + 32}
    # The whole secret differs, not a counter in it.
    columns = zip(*values, strict=True)
    assert all(len(set(column)) > 5 for column in list(columns)[:-1])


@on_sqlite
@pytest.mark.parametrize(
    ('secret', 'length'), [('', 64), (SECRET, 108)]
)
def test_the_cookie_is_small(make_target, secret, length):
    """ASVS 3.3.5: browsers store 4096 bytes; this is far below."""
    site = make_target(secret=secret, cookie_name='__Host-session')
    header, = ask(site, '/write').headers.getall('Set-Cookie')
    name, _, value = header.partition(';')[0].partition('=')
    assert (name, len(value)) == ('__Host-session', length)


# -- in numbers ---------------------------------------------------------------

#: A guard of the package -> an attack that gets through without it.
BREACHES = {
    'no-secret': 'forged_cookies',
    'no-hash': 'stolen_rows',
    'no-signature': 'forged_signatures',
    'no-rotation': 'planted_cookies',
    'no-expiry': 'replayed_tokens',
    'no-invalidation': 'replayed_tokens',
    'no-damage': 'hostile_rows',
    'adoption': 'odd_headers',
}


def test_every_removable_guard_is_removed():
    """No attack is left that cannot get through."""
    assert BREACHES.keys() == sabotage.GUARDS.keys()
    assert set(BREACHES.values()) | {'hostile_bytes', 'hostile_texts'} == (
        set(CASES)
    )


@pytest.mark.parametrize('guard', [None, *BREACHES])
def test_the_numbers_tell_a_broken_guard(guard):
    """``make attack`` finds nothing, and each guard's absence."""
    options = ['--database', 'sqlite', '--share', '0.002']
    if guard is not None:
        options += ['--sabotage', guard, '-k', BREACHES[guard]]
    found = subprocess.run(
        [sys.executable, '-W', 'ignore', '-m', 'tests.attack', *options],
        cwd=Path(__file__).parents[1], capture_output=True, text=True,
        check=False,
    )
    assert found.stderr == ''
    assert ('FAIL' in found.stdout) is (guard is not None)
    assert found.returncode == (guard is not None)
