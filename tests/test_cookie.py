"""The cookie: what is believed, what is sent, and what is never said."""

import base64
from concurrent.futures import ThreadPoolExecutor
import datetime as dt
import hashlib
import logging
import pickle
import re
import string
import time
import uuid

from hypothesis import example
from hypothesis import given
from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis import strategies as st
from pyramid.events import NewResponse
from pyramid.httpexceptions import HTTPFound
from pyramid.request import Request
from pyramid.response import Response
from pyramid.scripting import prepare
import pytest

from pyramid_sqlasession import SuspiciousCookie
from pyramid_sqlasession.cookie import new_token
from pyramid_sqlasession.response import put_cookie
from pyramid_sqlasession.response import take_foreign

from .site import Note

B64 = string.ascii_letters + string.digits + '-_'
# What the database has no part in.
sqlite = pytest.mark.parametrize('database', ['sqlite'], indirect=True)

WELL_FORMED = re.compile(r'[A-Za-z0-9_-]{64}(\.[A-Za-z0-9_-]{43})?')


@pytest.fixture
def views(make_site):
    """Return a function that makes a site with views."""

    def make(**settings):
        site = make_site(**settings)

        @site.view
        def ignore(request):
            request.session  # noqa: B018

        @site.view
        def read(request):
            return f'{request.session.new} {sorted(request.session.items())}'

        @site.view
        def look_twice(request):
            assert 'a' not in request.session
            assert len(request.session) == 0

        @site.view
        def write(request):
            request.session['a'] = request.session.get('a', 0) + 1

        @site.view
        def empty(request):
            request.session['a'] = 1
            del request.session['a']

        @site.view
        def rotate(request):
            request.session.rotate()

        @site.view
        def end(request):
            request.session.invalidate()

        @site.view
        def again(request):
            request.session.invalidate()
            request.session['b'] = 1

        return site

    return make


@pytest.fixture
def shop(views):
    """A site with the default settings."""
    return views()


def ask(site, path, cookie=None, **environ):
    """Return the response to a request with exactly this Cookie header."""
    if cookie is not None:
        environ['HTTP_COOKIE'] = cookie
    return Request.blank(path, environ=environ).get_response(site.app)


def stored(site):
    """Store a session; return the value of its cookie."""
    response = ask(site, '/write', **{'wsgi.url_scheme': 'https'})
    return cookie_of(response)[0]


def cookie_of(response):
    """Return value and attributes of the only cookie of *response*."""
    (header,) = response.headers.getall('Set-Cookie')
    first, *attributes = header.split('; ')
    return first.partition('=')[2], attributes


# -- refused ------------------------------------------------------------------

@sqlite
@pytest.mark.parametrize('path', ['/read', '/look_twice'])
@pytest.mark.parametrize(
    'cookie',
    [
        'session=', 'session', '=', ';', 'session=;session=', 'session="',
        'session=""', 'session=x', 'session=%00', 'session=\x00',
        'session=' + 'A' * 63, 'session=' + 'A' * 65,
        'session=' + 'A' * 63 + '\x00', 'session=' + 'A' * 63 + 'ä',
        'session=' + 'A' * 63 + '\n', 'session=' + 'A' * 64 + '\n',
        'session=' + 'A' * 62 + '==', 'session=' + 'A' * 63 + '+',
        'session=' + 'A' * 63 + '/', 'session=\xb2' + 'A' * 63,
        'session=' + 'A' * 64 + '.', 'session=' + 'A' * 64 + '.A',
        'session=' + 'A' * 64 + '.' + 'A' * 44,
        'session="' + 'A' * 64, 'session=' + 'A' * 64 + '"',
        'session=' + 'A' * 100_000, 'session=' + 'session=' * 10_000,
        'session=;' * 5_000, 'SESSION=' + 'A' * 64, 'xsession=' + 'A' * 64,
        'session =' + 'A' * 64, 'x="; session=' + 'A' * 10 + '"',
        'session=' + 'A' * 64 + ' x', 'session=A A',
        ', session=' + 'A' * 64, '$Version=1; session=x', '\xff\xfe',
        'session=' + str(uuid.UUID(int=0)),
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_malformed_cookies(shop, path, cookie):
    """R3: what cannot be well formed is an empty session, 0 statements."""
    shop.listen()
    with shop.events() as events:
        response = ask(shop, path, cookie)
    assert response.status_int == 200
    assert response.headers.getall('Set-Cookie') == []
    assert shop.statements == []
    assert not any(isinstance(event, SuspiciousCookie) for event in events)


quickly = settings(
    max_examples=60, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
_latin = st.text(st.characters(max_codepoint=255), max_size=80)


@sqlite
@pytest.mark.parametrize('secret', ['', 'old'])
@given(
    st.one_of(
        _latin,
        st.lists(_latin.map('session={}'.format), max_size=4).map('; '.join),
        st.text(st.sampled_from(B64 + '.="'), min_size=60, max_size=112)
        .map('session={}'.format),
    )
)
@quickly
@example('session=' + 'A' * 64)
@example('session=' + 'A' * 64 + '.' + 'A' * 43)
def test_no_header_is_an_error(site_by_secret, secret, header):
    """R3: no Cookie header makes an error, a row or a cookie."""
    site = site_by_secret[secret]
    site.listen()
    response = ask(site, '/read', header)
    assert (response.status_int, response.text) == (200, 'True []')
    assert response.headers.getall('Set-Cookie') == []
    assert len(site.statements) <= 1
    assert set(site.statements.verbs) <= {'SELECT'}
    if secret or not WELL_FORMED.search(header):
        assert site.statements == []
    assert site.rows() == []


@pytest.fixture
def site_by_secret(views):
    """Sites without and with the setting ``secret``, on one database."""
    return {secret: views(secret=secret) for secret in ('', 'old')}


@sqlite
@given(st.integers(0, 63), st.sampled_from(B64))
@quickly
def test_each_character_of_the_token_counts(kept, position, character):
    """R3: a token that differs anywhere opens nothing."""
    site, token, events = kept
    changed = token[:position] + character + token[position + 1:]
    events.clear()
    site.listen()
    response = ask(site, '/read', f'session={changed}')
    assert response.status_int == 200
    assert response.headers.getall('Set-Cookie') == []
    assert site.statements.verbs == ['SELECT']
    if changed == token:
        assert response.text == "False [('a', 1)]"
        return
    assert response.text == 'True []'
    same_id = raw_of(changed)[:16] == raw_of(token)[:16]
    assert [event.reason for event in events] == ['secret'] * same_id


def raw_of(token):
    """Return the bytes of a token."""
    return base64.urlsafe_b64decode(token)


@pytest.fixture
def kept(shop):
    """A site, the token of its only session, and the suspicious cookies."""
    token = stored(shop)
    with shop.events(SuspiciousCookie) as events:
        yield shop, token, events


@pytest.mark.parametrize('path', ['/read', '/write', '/end', '/rotate'])
def test_a_wrong_secret_never_works(kept, path):
    """R3: with a wrong secret nothing is read, written, ended or rotated."""
    site, token, events = kept
    before = site.rows()
    forged = base64.urlsafe_b64encode(raw_of(token)[:16] + bytes(32)).decode()
    response = ask(site, path, f'session={forged}')
    assert response.status_int == 200
    assert [event.reason for event in events] == ['secret']
    rows = site.rows()
    assert before[0] in rows
    if path == '/write':
        # It is never adopted: the new session has another id.
        assert len(rows) == 2
        assert cookie_of(response)[0] not in (forged, token)
        assert raw_of(cookie_of(response)[0])[:16] != raw_of(token)[:16]
    else:
        assert len(rows) == 1
        assert response.headers.getall('Set-Cookie') == []


def test_an_unknown_id_is_never_adopted(shop):
    """R3: who brings an id of his own gets another one."""
    mine = 'A' * 64
    with shop.events(SuspiciousCookie) as events:
        response = ask(shop, '/write', f'session={mine}')
    assert events == []
    (row,) = shop.rows()
    assert row['id'] != uuid.UUID(bytes=raw_of(mine)[:16])
    assert raw_of(cookie_of(response)[0])[:16] == row['id'].bytes


@sqlite
@pytest.mark.parametrize('path', ['/read', '/end', '/rotate', '/empty'])
@pytest.mark.parametrize('kind', ['malformed', 'unknown', 'expired'])
def test_nothing_answers_a_dead_cookie(shop, path, kind):
    """R3: no cookie, also no deletion, unless something is stored."""
    value = {'malformed': 'x', 'unknown': 'A' * 64}.get(kind)
    if kind == 'expired':
        value = stored(shop)
        shop.clock.advance(hours=24)
    before = shop.rows()
    shop.listen()
    response = ask(shop, path, f'session={value}')
    assert response.headers.getall('Set-Cookie') == []
    assert shop.statements.verbs == ['SELECT'] * (kind != 'malformed')
    assert shop.rows() == before


def test_an_expired_session_is_replaced(shop):
    """R3, E1: a write after the expiry begins a session of its own."""
    value = stored(shop)
    shop.clock.advance(hours=24)
    response = ask(shop, '/write', f'session={value}')
    assert cookie_of(response)[0] != value
    assert len({row['id'] for row in shop.rows()}) == 2


# -- several cookies ----------------------------------------------------------

@sqlite
@pytest.mark.parametrize(
    'header',
    [
        'session={}', 'session="{}"', 'a=b; session={}; c=d',
        'session={};', ';session={}', ' session={} ', 'a;session={}',
        'session=x; session={}', 'session=; session={}',
        'session={}; session=x', 'session={}; session=' + 'A' * 64,
        'a="; session={}', 'ä=ö;session={}', '\x00=1; session={}',
        'session=' + 'x' * 9_000 + ';session={}', 'a={{}}; session={}',
        '[]={{"json": 1}}; session={}; $Path=/', 'session;session={}',
        'session=' + 'A' * 63 + '; session={}', 'Session=x; session={}',
        'session=one\ttwo; session={}', 'session={}\t; b=c',
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_the_first_well_formed_cookie_counts(shop, header):
    """R3: odd neighbours do not hide the session's cookie."""
    value = stored(shop)
    shop.listen()
    response = ask(shop, '/read', header.format(value))
    assert response.text == "False [('a', 1)]"
    assert shop.statements.verbs == ['SELECT']


def test_the_first_of_two_well_formed_cookies(shop):
    """R3: the first counts, also if only the second opens a session."""
    value = stored(shop)
    response = ask(shop, '/read', f'session={"A" * 64}; session={value}')
    assert response.text == 'True []'


def test_the_first_well_signed_cookie_counts(views):
    """R3: with a secret, forged cookies before it do not hide the own."""
    site = views(secret='one')
    value = stored(site)
    with site.events(SuspiciousCookie):
        response = ask(
            site, '/read',
            f'session={"A" * 64}; session={value[:-1]}!; session=x; '
            f'session={"A" * 64}.{"B" * 43}; session={value}',
        )
    assert response.text == "False [('a', 1)]"


# -- signatures ---------------------------------------------------------------

def test_the_signature_comes_with_the_token(views):
    """R3: with a secret the cookie is signed, without one it is not."""
    assert '.' in stored(views(secret='one'))
    assert '.' not in stored(views())


def test_forged_cookies_never_reach_the_database(views):
    """Section 2: with a secret a forged cookie costs 0 statements."""
    site = views(secret='one')
    value = stored(site)
    other = stored(site)
    token, _, signature = value.partition('.')
    forged = [
        token, f'{token}.{"A" * 43}', f'{"A" * 64}.{signature}',
        f'{token}.{other.partition(".")[2]}',
        f'{token}.{signature[:-1]}{"B" if signature[-1] != "B" else "C"}',
        'A' * 64,
        # Cut, or longer by a character.
        value[:-1], f'{token}.', f'{value}A', f'{token}.{signature[:42]}!',
    ]
    site.listen()
    for cookie in forged:
        with site.events(SuspiciousCookie) as events:
            response = ask(site, '/look_twice', f'session={cookie}')
        assert response.status_int == 200
        assert response.headers.getall('Set-Cookie') == []
        assert [event.reason for event in events] == ['signature'], cookie
    assert site.statements == []


def test_one_event_for_several_forged_cookies(views):
    """R3: one SuspiciousCookie for a request, with the request in it."""
    site = views(secret='one')
    with site.events(SuspiciousCookie) as events:
        ask(site, '/read', f'session={"A" * 64}; session={"B" * 64}')
    (event,) = events
    assert event.reason == 'signature'
    assert event.request.path == '/read'


def test_the_log_hears_of_many_forged_cookies_once(views, caplog):
    """R3: anybody can send them; the events are as many as the requests."""
    site = views(secret='one')
    with site.events(SuspiciousCookie) as events:
        for _ in range(3):
            ask(site, '/read', f'session={"A" * 64}')
    assert len(events) == 3
    assert [
        r.levelname for r in caplog.records
        if r.getMessage() == 'a cookie with a wrong signature was refused'
    ] == ['WARNING']


@pytest.mark.parametrize('secret', ['', 'one'])
@pytest.mark.parametrize('before', [0, 1])
def test_who_is_told_of_a_cookie_looks_at_the_session(views, secret, before):
    """R10: it is an empty dict for a subscriber, whose words are kept."""
    seen = []

    def note(event):
        session = event.request.session
        seen.append((dict(session), len(session), bool(session)))
        session['a'] = before

    site = views(
        secret=secret,
        configure=lambda config: config.add_subscriber(
            note, SuspiciousCookie
        ),
    )
    value = stored(site)
    token = value.partition('.')[0]
    forged = base64.urlsafe_b64encode(raw_of(token)[:16] + bytes(32)).decode()
    if secret:
        forged = f'{token}.{"A" * 43}'
    response = ask(site, '/write', f'session={forged}')
    assert seen == [({}, 0, False)]
    assert ask(
        site, '/read', f'session={cookie_of(response)[0]}'
    ).text == f"False [('a', {before + 1})]"


def test_a_forged_cookie_before_a_malformed_one(views):
    """R3: is told of all the same."""
    site = views(secret='one')
    with site.events(SuspiciousCookie) as events:
        ask(site, '/read', f'session={"A" * 64}; session=nonsense')
    assert [event.reason for event in events] == ['signature']


def test_secrets_rotate(views):
    """Section 2: the first secret signs, all verify, a removed one not."""
    old = views(secret='old')
    value = stored(old)
    both = views(secret='new\n  old')
    assert ask(both, '/read', f'session={value}').text == "False [('a', 1)]"
    fresh = stored(both)
    new = views(secret='new')
    assert ask(new, '/read', f'session={fresh}').text == "False [('a', 1)]"
    for site, cookie in ((new, value), (old, fresh)):
        assert ask(site, '/read', f'session={cookie}').text == 'True []'


def test_the_first_secret_logs_nobody_out(views):
    """Section 2, R11: before it, beside it and after it is set."""
    before, during = views(), views(secret='one none')
    value = stored(before)
    kept = "False [('a', 1)]"
    assert ask(during, '/read', f'session={value}').text == kept
    during.clock.advance(minutes=2)
    signed, _ = cookie_of(ask(during, '/read', f'session={value}'))
    assert signed.partition('.')[::2] != (value, '')
    # Before all processes are started anew, and by the last setting.
    for site in (before, during, views(secret='one')):
        assert ask(site, '/read', f'session={signed}').text == kept
    with during.events(SuspiciousCookie) as events:
        forged = f'{signed[:-2]}AA'
        assert ask(during, '/read', f'session={forged}').text == 'True []'
    assert [event.reason for event in events] == ['signature']


def test_the_last_secret_logs_nobody_out(views):
    """Section 2: on the way to no setting, and back."""
    signing, during, plain = views(secret='one'), views(secret='one none'), (
        views()
    )
    kept = "False [('a', 1)]"
    for value in (stored(signing), stored(during)):
        for site in (signing, during, plain):
            assert ask(site, '/read', f'session={value}').text == kept
    value = stored(plain)
    for site in (during, plain):
        assert ask(site, '/read', f'session={value}').text == kept


@sqlite
def test_a_secret_that_is_set_no_more(views):
    """Section 2: without the setting nobody is logged out by a signature."""
    value = stored(views(secret='old'))
    assert ask(views(), '/read', f'session={value}').text == "False [('a', 1)]"


def test_the_order_of_secrets_decides_which_signs(views):
    """Section 2: a list of secrets works as text does."""
    value = stored(views(secret=['one', 'two']))
    assert ask(
        views(secret='one'), '/read', f'session={value}'
    ).text == "False [('a', 1)]"
    assert ask(
        views(secret='two'), '/read', f'session={value}'
    ).text == 'True []'


def test_a_cookie_is_signed_anew_when_it_is_sent_again(views):
    """Section 2, R11: a touch sends the cookie signed by the first secret."""
    value = stored(views(secret='old'))
    both = views(secret='new old')
    both.clock.advance(minutes=2)
    again, _ = cookie_of(ask(both, '/read', f'session={value}'))
    assert again.partition('.')[0] == value.partition('.')[0]
    assert ask(
        views(secret='new'), '/read', f'session={again}'
    ).text == "False [('a', 1)]"


@pytest.mark.parametrize('settings', [
    {}, {'cookie_max_age': 'session'}, {'cookie_max_age': '30d'},
])
def test_a_cookie_in_use_outlives_its_secret(views, settings):
    """R11, Section 2: whatever its Max-Age, a touch signs it anew."""
    value = stored(views(secret='old'))
    both = views(secret='new old', **settings)
    both.clock.advance(minutes=2)
    again, _ = cookie_of(ask(both, '/read', f'session={value}'))
    assert ask(
        views(secret='new'), '/read', f'session={again}'
    ).text == "False [('a', 1)]"
    both.clock.advance(minutes=2)
    answer = ask(both, '/read', f'session={again}')
    is_sliding = settings.get('cookie_max_age') != 'session'
    assert ('Set-Cookie' in answer.headers) == is_sliding


# -- sent ---------------------------------------------------------------------

def test_the_name_alone_sends_nothing(shop):
    """R4: a session that nobody looked into: no Vary, no cookie."""
    value = stored(shop)
    shop.clock.advance(minutes=2)
    for cookie in (None, f'session={value}', 'session=x'):
        response = ask(shop, '/ignore', cookie)
        assert 'Vary' not in response.headers
        assert 'Set-Cookie' not in response.headers
        assert 'Cache-Control' not in response.headers


def test_set_when_there_is_something_new_to_say(shop):
    """R4: for a new, rotated, expiry-extended session; else not."""
    value = stored(shop)
    mine = f'session={value}'
    assert 'Set-Cookie' not in ask(shop, '/write', mine).headers
    assert 'Set-Cookie' not in ask(shop, '/read', mine).headers
    shop.clock.advance(minutes=2)
    assert cookie_of(ask(shop, '/read', mine))[0] == value
    shop.clock.advance(minutes=2)
    assert cookie_of(ask(shop, '/write', mine))[0] == value
    rotated, _ = cookie_of(ask(shop, '/rotate', mine))
    assert rotated != value
    assert raw_of(rotated)[:16] == raw_of(value)[:16]
    assert ask(shop, '/read', f'session={rotated}').text == "False [('a', 3)]"


def test_one_cookie_for_everything_that_happened(shop):
    """R4: invalidate() and a new session in one request: one cookie."""
    value = stored(shop)
    fresh, attributes = cookie_of(ask(shop, '/again', f'session={value}'))
    assert raw_of(fresh)[:16] != raw_of(value)[:16]
    assert 'Max-Age=0' not in attributes
    (row,) = shop.rows()
    assert row['id'].bytes == raw_of(fresh)[:16]


@pytest.mark.parametrize('how', ['raise', 'doom', 'veto', 'conflict'])
def test_no_cookie_without_a_commit(views, how):
    """R4, T2: nothing is sent of what was not really committed."""
    site = views(**{'tm.commit_veto': 'pyramid_tm.default_commit_veto'})

    @site.view
    def fail(request):
        request.session['a'] = 'lost'
        if how == 'raise':
            raise ZeroDivisionError
        if how == 'doom':
            request.tm.doom()
        if how == 'conflict':
            request.dbsession.execute(
                Note.__table__.insert(), [{'text': 'x'}, {'text': 'x'}]
            )
        return Response('', headers={'X-Tm': 'abort'} if how == 'veto' else {})

    value = stored(site)
    for cookie in (None, f'session={value}'):
        try:
            response = ask(site, '/fail', cookie)
        except Exception:
            assert how in ('raise', 'conflict')
        else:
            assert 'Set-Cookie' not in response.headers
            assert response.headers['Vary'] == 'Cookie'
    assert site.data() == {'a': 1}


# -- attributes ---------------------------------------------------------------

HTTPS = {'wsgi.url_scheme': 'https'}
HTTP = {'wsgi.url_scheme': 'http'}


@pytest.mark.parametrize(
    ('given', 'environ', 'name', 'attributes'),
    [
        ({}, HTTP, 'session',
         ['Max-Age=86400', 'Path=/', 'HttpOnly', 'SameSite=Lax']),
        ({}, HTTPS, 'session',
         ['Max-Age=86400', 'Path=/', 'Secure', 'HttpOnly', 'SameSite=Lax']),
        ({'cookie_secure': 'true'}, HTTP, 'session',
         ['Max-Age=86400', 'Path=/', 'Secure', 'HttpOnly', 'SameSite=Lax']),
        ({'cookie_secure': 'false'}, HTTPS, 'session',
         ['Max-Age=86400', 'Path=/', 'HttpOnly', 'SameSite=Lax']),
        ({'cookie_httponly': 'false', 'cookie_samesite': 'strict'}, HTTP,
         'session', ['Max-Age=86400', 'Path=/', 'SameSite=Strict']),
        ({'cookie_samesite': 'none', 'cookie_secure': 'true',
          'cookie_partitioned': 'true'}, HTTP, 'session',
         ['Max-Age=86400', 'Path=/', 'Secure', 'HttpOnly', 'SameSite=None',
          'Partitioned']),
        ({'cookie_path': '/shop', 'cookie_domain': 'example.com',
          'cookie_name': 'sid'}, HTTP, 'sid',
         ['Max-Age=86400', 'Path=/shop', 'Domain=example.com', 'HttpOnly',
          'SameSite=Lax']),
        ({'cookie_max_age': 'session'}, HTTP, 'session',
         ['Path=/', 'HttpOnly', 'SameSite=Lax']),
        ({'cookie_max_age': '7d'}, HTTP, 'session',
         ['Max-Age=604800', 'Path=/', 'HttpOnly', 'SameSite=Lax']),
        ({'expiration': '90m'}, HTTP, 'session',
         ['Max-Age=5400', 'Path=/', 'HttpOnly', 'SameSite=Lax']),
        ({'cookie_name': '__Host-s'}, HTTP, '__Host-s',
         ['Max-Age=86400', 'Path=/', 'Secure', 'HttpOnly', 'SameSite=Lax']),
        ({'cookie_name': '__Secure-s', 'cookie_path': '/a'}, HTTP,
         '__Secure-s',
         ['Max-Age=86400', 'Path=/a', 'Secure', 'HttpOnly', 'SameSite=Lax']),
        ({'cookie_name': '__Http-s'}, HTTP, '__Http-s',
         ['Max-Age=86400', 'Path=/', 'Secure', 'HttpOnly', 'SameSite=Lax']),
    ],
    ids=lambda given: str(given)[:40] if isinstance(given, dict) else '',
)
@sqlite
def test_attributes(views, given, environ, name, attributes):
    """Section 2, R4: the settings decide; a removal has the same ones."""
    site = views(**given)
    response = ask(site, '/write', **environ)
    (header,) = response.headers.getall('Set-Cookie')
    assert header.startswith(f'{name}=')
    value, sent = cookie_of(response)
    assert sorted(sent) == sorted(attributes)
    removal = ask(site, '/end', f'{name}={value}', **environ)
    (header,) = removal.headers.getall('Set-Cookie')
    assert header.startswith(f'{name}=;')
    _, removed = cookie_of(removal)
    lifetime = [a for a in removed if a.startswith(('Max-Age', 'Expires'))]
    # RFC 6265, section 4.1.1: in GMT.
    assert lifetime == ['Max-Age=0', 'Expires=Thu, 01 Jan 1970 00:00:00 GMT']
    assert sorted(a for a in removed if a not in lifetime) == sorted(
        a for a in sent if not a.startswith('Max-Age')
    )
    assert site.rows() == []


def test_auto_follows_the_scheme_of_each_request(shop):
    """Section 2: auto asks request.scheme, so a trusted proxy works."""
    assert 'Secure' in cookie_of(ask(shop, '/write', **HTTPS))[1]
    assert 'Secure' not in cookie_of(ask(shop, '/write', **HTTP))[1]


# -- how long -----------------------------------------------------------------

def max_age(response):
    """Return the Max-Age of the only cookie of *response*, or None."""
    for attribute in cookie_of(response)[1]:
        if attribute.startswith('Max-Age='):
            return int(attribute[8:])
    return None


def test_the_cookie_slides_with_the_session(shop):
    """R11: each extension sends the cookie with its whole time anew."""
    value = stored(shop)
    for _ in range(3):
        shop.clock.advance(hours=20)
        response = ask(shop, '/read', f'session={value}')
        assert max_age(response) == 86400
        assert response.text == "False [('a', 1)]"


@pytest.mark.parametrize(
    'given',
    [
        {'cookie_max_age': '1h'},
        {'cookie_max_age': '1h', 'touch_interval': '30m'},
        {'cookie_max_age': '1h', 'expiration': '2h',
         'absolute_timeout': '12h'},
        # No write and no touch extends the expiry beyond the limit.
        {'cookie_max_age': '1h', 'expiration': '12h',
         'absolute_timeout': '12h'},
        {'cookie_max_age': '1h', 'disable_touch': 'true'},
    ],
    ids=str,
)
@pytest.mark.parametrize('path', ['/read', '/write'])
@sqlite
def test_the_cookie_of_an_active_user_does_not_run_out(views, given, path):
    """R11: whoever comes every 20 minutes has a cookie all the time."""
    if 'disable_touch' in given:
        # By that setting reading extends nothing.
        path = '/write'
    site = views(**given)
    response = ask(site, '/write')
    value, ends = cookie_of(response)[0], max_age(response)
    for minute in range(20, 600, 20):
        site.clock.advance(minutes=20)
        assert minute * 60 < ends, 'the browser has dropped the cookie'
        response = ask(site, path, f'session={value}')
        if 'Set-Cookie' in response.headers:
            ends = minute * 60 + max_age(response)


def test_the_cookie_of_a_fixed_end_does_not_run_out(views):
    """R11: nor after set_expiry() with a moment."""
    site = views(cookie_max_age='1h')

    @site.view
    def fix(request):
        request.session['a'] = 1
        request.session.set_expiry(site.clock() + dt.timedelta(hours=12))

    response = ask(site, '/fix')
    value, ends = cookie_of(response)[0], max_age(response)
    for minute in range(20, 600, 20):
        site.clock.advance(minutes=20)
        assert minute * 60 < ends, 'the browser has dropped the cookie'
        response = ask(site, '/read', f'session={value}')
        assert response.text == "False [('a', 1)]"
        if 'Set-Cookie' in response.headers:
            ends = minute * 60 + max_age(response)


def test_a_cookie_until_the_browser_closes(views):
    """Section 2, R4: it has no lifetime that would have to be extended."""
    site = views(cookie_max_age='session')
    response = ask(site, '/write')
    assert max_age(response) is None
    value = cookie_of(response)[0]
    site.clock.advance(hours=20)
    response = ask(site, '/read', f'session={value}')
    assert 'Expires' not in str(response.headers)
    assert len(response.headers.getall('Set-Cookie')) <= 1
    site.clock.advance(hours=20)
    assert ask(
        site, '/read', f'session={value}'
    ).text == "False [('a', 1)]"


def test_the_absolute_limit_ends_the_cookie_too(views):
    """R11, E1: a cookie is not promised beyond the absolute limit."""
    site = views(expiration='1h', absolute_timeout='90m')
    value = stored(site)
    site.clock.advance(minutes=50)
    assert max_age(ask(site, '/read', f'session={value}')) == 40 * 60


# -- caches -------------------------------------------------------------------

LOOKS = {
    'in': lambda session: 'a' in session,
    'len': len,
    'iter': list,
    'bool': bool,
    'equal': lambda session: session == {},
    'unequal': lambda session: session != {},
    'repr': repr,
    'get': lambda session: session.get('a'),
    'keys': lambda session: session.keys(),
    'values': lambda session: session.values(),
    'items': lambda session: session.items(),
    'copy': lambda session: session.copy(),
    'or': lambda session: session | {},
    'ror': lambda session: {} | session,
    'dict': dict,
    'reversed': lambda session: list(reversed(session)),
    'new': lambda session: session.new,
    'created': lambda session: session.created,
    'id': lambda session: session.id,
    'accessed': lambda session: session.accessed,
    'expires': lambda session: session.expires,
    'peek_flash': lambda session: session.peek_flash(),
    'pop_flash': lambda session: session.pop_flash(),
    'pop': lambda session: session.pop('x', None),
    'clear': lambda session: session.clear(),
    'update': lambda session: session.update(),
    'changed': lambda session: session.changed(),
    'touch': lambda session: session.touch(),
    'set_expiry': lambda session: session.set_expiry(60),
    'rotate': lambda session: session.rotate(),
    'invalidate': lambda session: session.invalidate(),
}


@pytest.mark.parametrize('look', LOOKS.values(), ids=LOOKS)
@sqlite
def test_each_look_varies(shop, look):
    """R5, R2: every look says Vary: Cookie, and costs one SELECT at most."""
    @shop.view
    def page(request):
        look(request.session)
        look(request.session)

    assert ask(shop, '/page').headers['Vary'] == 'Cookie'
    assert shop.rows() == []
    value = stored(shop)
    shop.listen()
    response = ask(shop, '/page', f'session={value}')
    assert response.headers['Vary'] == 'Cookie'
    assert shop.statements.verbs.count('SELECT') == 1


def test_error_pages_vary_too(shop):
    """R5: also the answer of an exception that is a response."""
    @shop.view
    def away(request):
        assert not request.session
        raise HTTPFound('/read')

    assert ask(shop, '/away').headers['Vary'] == 'Cookie'


@pytest.mark.parametrize('moment', ['NewResponse', 'finished'])
@sqlite
def test_the_first_look_may_be_a_late_one(views, moment):
    """R5: also a look after the response callbacks varies the response."""
    def look(event):
        event.response.headers['X-New'] = str(event.request.session.new)

    def configure(config):
        if moment == 'NewResponse':
            config.add_subscriber(look, NewResponse)

    site = views(configure=configure)

    @site.view
    def page(request):
        if moment == 'finished':
            request.add_finished_callback(lambda r: 'a' in r.session)

    value = stored(site)
    assert ask(site, '/page', f'session={value}').headers['Vary'] == 'Cookie'


def respond(site, headers):
    """Make the view ``/write`` answer with these headers."""
    @site.view
    def write(request):
        request.session['a'] = 1
        response = Response('')
        for name, value in headers:
            response.headers.add(name, value)
        return response


@pytest.mark.parametrize(
    ('given', 'names'),
    [
        ([], {'cookie'}),
        (['Accept'], {'accept', 'cookie'}),
        (['Accept, Accept-Language'], {'accept', 'accept-language', 'cookie'}),
        (['Accept', 'Accept-Language'],
         {'accept', 'accept-language', 'cookie'}),
        (['cookie'], {'cookie'}),
        (['Cookie', 'Accept'], {'cookie', 'accept'}),
        (['*'], {'*'}),
        (['*', 'Accept'], {'*', 'accept'}),
        ([''], {'cookie'}),
        (['X-Cookie'], {'x-cookie', 'cookie'}),
    ],
    ids=str,
)
@sqlite
def test_vary_is_added_to(shop, given, names):
    """R5: what the application varies by stays, Cookie is there once."""
    respond(shop, [('Vary', value) for value in given])
    response = ask(shop, '/write')
    listed = [
        name.strip().lower()
        for header in response.headers.getall('Vary')
        for name in header.split(',')
        if name.strip()
    ]
    assert sorted(listed) == sorted({*names, *listed})
    assert set(listed) - {'cookie'} == names - {'cookie'}
    assert '*' in names or 'cookie' in listed


@pytest.mark.parametrize(
    ('given', 'directives', 'is_private'),
    [
        ([], set(), True),
        (['max-age=60'], {'max-age=60'}, True),
        (['no-cache'], {'no-cache'}, True),
        (['must-revalidate, max-age=0'],
         {'must-revalidate', 'max-age=0'}, True),
        (['no-store'], {'no-store'}, False),
        (['private'], {'private'}, True),
        (['Private="X-A"'], None, True),
        (['public, max-age=60'], {'public', 'max-age=60'}, False),
        (['PUBLIC'], {'public'}, False),
        (['s-maxage=60'], {'s-maxage=60'}, False),
        (['public', 'max-age=60'], {'public', 'max-age=60'}, False),
        (['max-age=60', 'must-revalidate'],
         {'max-age=60', 'must-revalidate'}, True),
        (['max-age=60', 'public'], {'public', 'max-age=60'}, False),
    ],
    ids=str,
)
@sqlite
def test_shared_caches_do_not_store_cookies(
    shop, given, directives, is_private
):
    """R5: private with a cookie, unless the application said otherwise."""
    respond(shop, [('Cache-Control', value) for value in given])
    response = ask(shop, '/write')
    found = {
        part.strip().lower()
        for header in response.headers.getall('Cache-Control')
        for part in header.split(',')
    }
    assert 'Set-Cookie' in response.headers
    if directives is not None:
        assert found - {'private'} == directives - {'private'}
        assert ('private' in found) == is_private
    else:
        assert any(name.startswith('private') for name in found)


def test_no_cache_control_without_a_cookie(shop):
    """R5: a page that only looks keeps its own Cache-Control."""
    value = stored(shop)
    for cookie in (None, f'session={value}'):
        assert 'Cache-Control' not in ask(shop, '/read', cookie).headers


def test_removal_is_private_too(shop):
    """R5: a response that removes the cookie sets one."""
    value = stored(shop)
    response = ask(shop, '/end', f'session={value}')
    assert 'private' in response.headers['Cache-Control']
    assert response.headers['Vary'] == 'Cookie'


# -- secrecy ------------------------------------------------------------------

def test_the_database_holds_a_hash_only(shop):
    """Section 1: the id and SHA-256 of a secret of 128 bits or more."""
    value = stored(shop)
    (row,) = shop.rows()
    raw = raw_of(value)
    assert raw[:16] == row['id'].bytes
    assert len(raw[16:]) >= 16
    assert row['secret_hash'] == hashlib.sha256(raw[16:]).digest()
    shown = repr(row)
    for part in (value, value[22:], raw[16:].hex(), repr(raw[16:])):
        assert part not in shown


def test_no_log_and_no_repr_shows_what_works_as_a_cookie(views, caplog):
    """Section 1: nor a debug log with SQL echo, nor a repr or an event."""
    site = views(secret='sesame', engine_options={'echo': 'debug'})
    for name in (None, 'sqlalchemy', 'pyramid_sqlasession', 'txn'):
        caplog.set_level(logging.DEBUG, name)
    shown = []

    @site.view
    def show(request):
        session = request.session
        session['a'] = session.get('a', 0) + 1
        session.get_csrf_token()
        if request.params:
            session.rotate()
        shown.extend([
            repr(vars(session)), repr(vars(session._source)),
            repr(site.application.settings), str(session.id),
        ])

    with site.events() as events:
        value, _ = cookie_of(ask(site, '/show'))
        ask(site, '/show', f'session={value}')
        rotated, _ = cookie_of(ask(site, '/show?x=1', f'session={value}'))
        ask(site, '/read', f'session={value}')
        ask(site, '/end', f'session={rotated}')
    shown += [repr(events), caplog.text]
    assert 'INSERT' in caplog.text
    text = '\n'.join(shown)
    for cookie in (value, rotated):
        secret = raw_of(cookie.partition('.')[0])[16:]
        for form in (
            cookie[22:64], secret.hex(), repr(secret), repr(secret)[2:-1],
        ):
            assert form not in text
    assert 'sesame' not in text


def test_tokens_and_ids_differ(shop):
    """Section 1: no two sessions share anything."""
    values = [raw_of(stored(shop)) for _ in range(20)]
    assert len({raw[:16] for raw in values}) == 20
    assert len({raw[16:] for raw in values}) == 20


def test_an_id_is_a_uuid_of_its_moment():
    """R3: version 7 (RFC 9562), and random in all other bits."""
    # So new ids lie side by side in the index.
    before = time.time_ns() // 1_000_000
    ids = [new_token().id for _ in range(300)]
    after = time.time_ns() // 1_000_000
    assert {(id.version, id.variant) for id in ids} == {(7, uuid.RFC_4122)}
    assert all(before <= id.int >> 80 <= after for id in ids)
    # Each of them is set in one id and not in another.
    random = 0xFFF << 64 | (1 << 62) - 1
    always, ever = random, 0
    for id in ids:
        always &= id.int
        ever |= id.int & random
    assert (always, ever) == (0, random)


# -- one response for many ----------------------------------------------------

@pytest.fixture
def common(shop):
    """A shop whose view ``icon`` returns one response to all who ask."""
    response = Response('an icon')

    def icon(request):
        if 'look' in request.GET:
            request.session.get('a')
        if 'rotate' in request.GET:
            request.session.rotate()
        return response

    shop.views['icon'] = icon
    return shop


@pytest.mark.parametrize('path', ['/icon', '/icon?look'])
def test_a_response_for_many_carries_nobodys_cookie(common, caplog, path):
    """R4: what one visitor's session adds goes to no other visitor."""
    ann, other = common.browser(), common.browser()
    ann.get('/write')
    common.clock.advance(hours=1)
    assert 'Set-Cookie' in ann.get('/icon?look').headers
    assert 'Set-Cookie' not in other.get(path).headers
    assert other.cookies == {}
    (record,) = caplog.records
    assert record.levelname == 'ERROR'
    assert "several requests ('/icon', for one)" in record.message
    # Nor does it from now on: two may ask at the same time.
    assert 'Set-Cookie' not in ann.get('/icon?rotate').headers
    assert caplog.records == [record]


@sqlite
def test_a_response_for_many_that_carries_two_cookies(common, caplog):
    """R4: whose turn it is, nobody gets another one's."""
    browsers = [common.browser() for _ in range(2)]
    for browser in browsers:
        browser.get('/write')
    common.clock.advance(hours=1)
    first, second = (browser.get('/icon?look') for browser in browsers)
    assert 'Set-Cookie' in first.headers
    assert 'Set-Cookie' not in second.headers
    assert len(caplog.records) == 1


@sqlite
def test_a_response_for_many_within_one_request(shop):
    """R4: a subrequest's response, which the view returns, has the cookie."""

    @shop.view
    def around(request):
        return request.invoke_subrequest(
            Request.blank('/write', cookies=request.cookies)
        )

    browser = shop.browser()
    assert 'Set-Cookie' in browser.get('/around').headers
    assert browser.get('/read').text == "False [('a', 1)]"


class Meanwhile(list):
    """The headers of a response; before one is added, somebody is called."""

    def __init__(self, headers, call):
        super().__init__(headers)
        self._call = call

    def append(self, header):
        """Add *header*."""
        self._call()
        super().append(header)


def test_a_response_for_many_that_another_gets_meanwhile(caplog):
    """R4: two at the same time, and nobody later, may get a wrong cookie."""
    response, ann, bob = Response(), *map(Request.blank, ('/ann', '/bob'))

    def take():
        take_foreign(bob, response)

    put_cookie(ann, response, 'session=1; Path=/', yields=False)
    response.headerlist = Meanwhile(response.headerlist, take)
    put_cookie(ann, response, 'session=2; Path=/', yields=False)
    assert 'Set-Cookie' not in response.headers
    assert len(caplog.records) == 1


@sqlite
def test_a_response_for_many_whose_headers_are_copied(make_site):
    """R4: an error at the response is answered without others' cookies."""
    sorry = Response('sorry', status=500)

    def answer(error, request):
        if isinstance(error, KeyError):
            request.session['seen'] = True
        return sorry

    site = make_site(
        **{'pyramid.tweens': 'pyramid.tweens.excview_tween_factory'},
        configure=lambda config: config.add_exception_view(answer, Exception),
    )

    @site.view
    def fail(request):
        raise KeyError

    @site.view
    def spoil(request):
        request.session['a'] = object()

    ann, bob = site.browser(), site.browser()
    assert 'Set-Cookie' in ann.get('/fail', status=500).headers
    assert 'Set-Cookie' not in bob.get('/spoil', status=500).headers


@sqlite
def test_a_subrequest_of_a_thread_keeps_its_cookie(shop):
    """T9: its response is the view's, whatever thread it comes from."""

    @shop.view
    def around(request):
        with ThreadPoolExecutor() as pool:
            return pool.submit(
                request.invoke_subrequest, Request.blank('/write')
            ).result()

    browser = shop.browser()
    assert 'Set-Cookie' in browser.get('/around').headers
    assert browser.get('/read').text == "False [('a', 1)]"


@sqlite
def test_a_response_for_many_below_a_request_of_a_script(common, caplog):
    """R4: one that was prepared in the thread is part of no other."""
    ann, other = common.browser(), common.browser()
    ann.get('/write')
    common.clock.advance(hours=1)
    with prepare(registry=common.registry):
        assert 'Set-Cookie' in ann.get('/icon?look').headers
        assert 'Set-Cookie' not in other.get('/icon').headers
    assert len(caplog.records) == 1


class Bare:
    """A response of the application's own, with no place for more."""

    __slots__ = ('headerlist',)

    def __init__(self):
        self.headerlist = []


def test_a_response_that_cannot_be_marked():
    """R4: it gets its cookie."""
    bare = Bare()
    put_cookie(Request.blank('/'), bare, 'session=a; Path=/', yields=False)
    assert bare.headerlist == [('Set-Cookie', 'session=a; Path=/')]


@sqlite
def test_a_response_with_a_cookie_is_pickled(shop):
    """R4: as it can be without."""
    shop.views['around'] = lambda request: pickle.loads(pickle.dumps(  # noqa: S301
        request.invoke_subrequest(Request.blank('/write'))
    ))
    assert 'Set-Cookie' in shop.browser().get('/around').headers
