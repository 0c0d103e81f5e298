"""The token and the cookie that carries it; no SQL, no session.

A token is the public id (16 bytes) and a secret of 256 random bits.  The
database knows only the SHA-256 of the secret: a fast hash is right here, as
there is nothing to guess in 256 random bits (OWASP ASVS 5.0, 7.2.3 asks for
128).
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from dataclasses import field
import datetime as dt
from email.utils import format_datetime
import hashlib
import hmac
import re
import secrets
import time
from typing import Any
import uuid

from pyramid_sqlasession.settings import PLAIN
from pyramid_sqlasession.settings import Settings

SECRET_BYTES = 32

# 48 bytes in base64url are exactly 64 characters, without padding and
# without spare bits, so that each token has exactly one spelling.
_TOKEN_LENGTH = 64
_TOKEN_BYTES = 16 + SECRET_BYTES
_SIGNATURE = re.compile(r'[A-Za-z0-9_-]{43}')
# What base64url has not is no base64 afterwards.
_FROM_URLSAFE = bytes.maketrans(b'-_+/', b'+/..')
_TO_URLSAFE = bytes.maketrans(b'+/', b'-_')


# Not frozen, as each request makes one.
@dataclass(slots=True)
class Token:
    """What a cookie proves: which session, and that one may use it.  Nobody
    changes it.
    """

    id: uuid.UUID
    secret: bytes = field(repr=False)

    @property
    def secret_hash(self) -> bytes:
        """The SHA-256 of the secret, 32 bytes: what the database holds."""
        return hashlib.sha256(self.secret).digest()

    def csrf_token(self) -> str:
        """Return the session's first CSRF token, 64 hexadecimal digits.

        Derived, so that two requests of one session that both need it get
        the same one; by HMAC, so that it says nothing about the secret.
        """
        return hmac.digest(self.secret, b'csrf', 'sha256').hex()


def new_token(of: uuid.UUID | None = None) -> Token:
    """Return a new token, for the session *of* or for a new one."""
    if of is not None:
        return Token(of, secrets.token_bytes(SECRET_BYTES))
    # One call to the system instead of two.
    random = secrets.token_bytes(10 + SECRET_BYTES)
    return Token(_new_id(random[:10]), random[10:])


def _new_id(random: bytes) -> uuid.UUID:
    # UUID version 7 (RFC 9562): ids of one moment lie side by side in the
    # index, so that few of its pages are written.
    moment = time.time_ns() // 1_000_000 & (1 << 48) - 1
    number = moment << 80 | int.from_bytes(random)
    number = number & ~(0xF << 76) | 0x7 << 76
    return uuid.UUID(int=number & ~(0x3 << 62) | 0x2 << 62)


class CookiePolicy:
    """Reads and writes the cookie of one application."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = [
            # Keys of their own: the same secret may sign other things too.
            hashlib.sha256(b'pyramid_sqlasession.cookie:' + word.encode())
            .digest()
            for word in settings.secret if word != PLAIN
        ]
        #: Whether a cookie without a signature is a good one.
        self._takes_plain = not self._keys or PLAIN in settings.secret
        name = settings.cookie_name
        #: By which a browser tells cookies apart.
        self.key = name, settings.cookie_domain, settings.cookie_path
        self._prefix = f'{name}='
        #: The values of the cookies of this name in a header, with what
        #: blanks come after them.
        self._values_in = re.compile(
            rf'(?:^|;)[ \t]*{re.escape(self._prefix)}([^;]*)'
        ).findall
        always_secure = settings.cookie_secure or settings.name_demands_secure
        self._attributes = _attributes(settings, secure=bool(always_secure))
        self._secure_attributes = _attributes(settings, secure=True)

    def slides(self, touched: bool, extended: bool) -> bool:
        """Return whether the browser's copy has to be extended (R11).

        :param touched: the last access was noted.
        :param extended: the session's own end moved with it; near the
            absolute limit it does not, but a shorter ``cookie_max_age``
            goes on sliding.
        """
        settings = self._settings
        if settings.cookie_follows_expiry:
            return extended
        return touched and settings.cookie_max_age is not None

    def is_outdated(self, environ: dict[str, Any], token: Token) -> bool:
        """Return whether the cookie that came is signed with a word that is
        no longer the first one of ``secret``, or with none.
        """
        return len(self._settings.secret) > 1 and (
            self.pair(token) not in environ.get('HTTP_COOKIE', '')
        )

    def read(self, environ: dict[str, Any]) -> tuple[Token | None, bool]:
        """Return the token that came; without one, whether one was badly
        signed.

        Of several cookies of the name the first that is well formed (and
        well signed) counts: another path or a subdomain can set more.
        """
        header = environ.get('HTTP_COOKIE')
        if not header:
            return None, False
        forged = False
        # By hand: the parser of http.cookies gives up at the first oddity,
        # and keeps only the last cookie of a name.
        for value in self._values_in(header):
            value = value.rstrip(' \t')
            if value[:1] == value[-1:] == '"':
                value = value[1:-1]
            token, signed = self._parse(value)
            if token is not None and signed:
                return token, False
            forged = forged or token is not None
        return None, forged

    def _parse(self, value: str) -> tuple[Token | None, bool]:
        """Return the token if *value* is well formed, and its signature."""
        payload, dot, signature = value.partition('.')
        token = _decode(payload)
        if token is None:
            return None, False
        if not dot and self._takes_plain:
            return token, True
        if not self._keys:
            # A signature is from before the setting ``secret`` was removed.
            if _SIGNATURE.fullmatch(signature):
                return token, True
            return None, False
        if _SIGNATURE.fullmatch(signature) is None:
            return token, False
        # All keys are tried, whichever fits: no timing tells which.
        fits = [
            hmac.compare_digest(_sign(key, payload), signature)
            for key in self._keys
        ]
        return token, any(fits)

    def value(self, token: Token) -> str:
        """Return the value of the cookie that carries *token*."""
        payload = _base64(token.id.bytes + token.secret)
        if self._keys:
            return f'{payload}.{_sign(self._keys[0], payload)}'
        return payload

    def pair(self, token: Token) -> str:
        """Return the name and the value of the cookie that carries *token*,
        as a header has them.
        """
        return f'{self._prefix}{self.value(token)}'

    def set_header(self, token: Token, request: Any, seconds: float) -> str:
        """Return the Set-Cookie value that hands out *token*.

        :param seconds: how long the session lives if it is not used again.
        """
        settings = self._settings
        age = settings.cookie_max_age
        if settings.cookie_follows_expiry:
            age = seconds
        lifetime = '' if age is None else f'; Max-Age={max(1, round(age))}'
        return self._header(self.value(token), lifetime, request)

    def removal_header(self, request: Any) -> str:
        """Return the Set-Cookie value that removes the cookie."""
        # All attributes are repeated: a browser refuses to let a cookie
        # without Secure replace one with it, and takes another path or
        # domain for another cookie.
        past = format_datetime(dt.datetime.fromtimestamp(0, dt.UTC), True)
        return self._header('', f'; Max-Age=0; Expires={past}', request)

    def _header(self, value: str, lifetime: str, request: Any) -> str:
        attributes = self._attributes
        if self._settings.cookie_secure is None and request.scheme == 'https':
            attributes = self._secure_attributes
        return f'{self._prefix}{value}{lifetime}{attributes}'


def _attributes(settings: Settings, *, secure: bool) -> str:
    """Return the attributes that are the same for each cookie."""
    parts = [f'; Path={settings.cookie_path}']
    if settings.cookie_domain is not None:
        parts.append(f'Domain={settings.cookie_domain}')
    if secure:
        parts.append('Secure')
    if settings.cookie_httponly:
        parts.append('HttpOnly')
    parts.append(f'SameSite={settings.cookie_samesite}')
    if settings.cookie_partitioned:
        parts.append('Partitioned')
    return '; '.join(parts)


def _decode(payload: str) -> Token | None:
    """Return the token that is written so, None if none is."""
    if len(payload) != _TOKEN_LENGTH:
        return None
    try:
        raw = binascii.a2b_base64(payload.encode().translate(_FROM_URLSAFE))
    # Surrogates, or a number of characters that is none of base64's.
    except ValueError:
        return None
    # Fewer, as it passes over what is not base64.
    if len(raw) != _TOKEN_BYTES:
        return None
    return Token(uuid.UUID(bytes=raw[:16]), raw[16:])


def _sign(key: bytes, payload: str) -> str:
    return _base64(hmac.digest(key, payload.encode(), 'sha256')).rstrip('=')


def _base64(raw: bytes) -> str:
    coded = binascii.b2a_base64(raw, newline=False)
    return coded.translate(_TO_URLSAFE).decode()
