"""A site to be attacked, and what an attacker sends to it."""

import base64
import hashlib
import hmac
import json
import random

from pyramid.request import Request

from pyramid_sqlasession.authentication import SessionAuthenticationHelper

SECRET = 'a-secret-that-signs-1234567890'

#: What a site is made with that is to be furnished.
FIELDS = {'additional_fields': 'user_id: Integer index'}


def furnish(site):
    """Give *site* the views that attackers and their victims go to."""
    helper = SessionAuthenticationHelper()

    @site.view
    def read(request):
        return json.dumps(sorted(request.session.items()))

    @site.view
    def write(request):
        request.session['n'] = request.session.get('n', 0) + 1

    @site.view
    def flash(request):
        request.session.flash('x')
        return request.session.get_csrf_token()

    @site.view
    def rotate(request):
        request.session.rotate()

    @site.view
    def login(request):
        helper.remember(request, int(request.params['user']))

    @site.view
    def logout(request):
        helper.forget(request)

    @site.view
    def ignore(request):
        """Does nothing with the session."""

    return site


def ask(site, path, header=None, **environ):
    """Return the response to a request with exactly this Cookie header."""
    if header is not None:
        environ['HTTP_COOKIE'] = header
    return Request.blank(path, environ=environ).get_response(site.app)


def victim_of(site, user=7):
    """Return the browser of somebody who is logged in."""
    browser = site.browser()
    browser.get(f'/login?user={user}')
    return browser


def encoded(raw):
    return base64.urlsafe_b64encode(raw).decode().rstrip('=')


def is_empty(site, token):
    """Return whether *token* opens nothing, and gets no cookie."""
    response = ask(site, '/read', f'session={token}')
    assert response.status_int == 200
    assert response.headers.getall('Set-Cookie') == []
    return response.text == '[]'


def forge(site, live, number):
    """Return a cookie that is well formed and that nobody was given."""
    chance = random.Random(number)
    raw = chance.randbytes(48)
    if number % 3 == 0:
        # Somebody knows the public id.
        raw = live.id.bytes + raw[16:]
    token = encoded(raw)
    if number % 2:
        key = chance.randbytes(32)
        digest = hmac.new(key, token.encode(), hashlib.sha256).digest()
        token += f'.{encoded(digest)}'
    return token


def forms_of(row):
    """Return what one could make a cookie of who has read a row."""
    blobs = [
        row['secret_hash'], (row['retired'] or b'')[:32],
        row['id'].bytes * 2, bytes(32), b'',
        hashlib.sha256(row['secret_hash']).digest(),
        row['secret_hash'].hex().encode()[:32],
        row['data'].encode()[:32].ljust(32),
    ]
    forms = []
    for raw in blobs:
        token = encoded(row['id'].bytes + raw)
        forms += [token, f'{token}.{encoded(raw[:32].ljust(32))}']
    return [
        *forms,
        str(row['id']), row['id'].hex, encoded(row['id'].bytes),
        row['secret_hash'].hex(), encoded(row['secret_hash']),
        f'{row["id"]}:{row["secret_hash"].hex()}',
    ]
