"""Who is asking: passwords, and a security policy on the session."""

from base64 import b64decode
from base64 import b64encode
import hashlib
import secrets
from typing import Any
from typing import NamedTuple

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.request import RequestLocalCache
from pyramid.security import Allowed
from pyramid.security import Denied
from sqlalchemy import select

from pyramid_sqlasession.authentication import SessionAuthenticationHelper

from .models import User

Headers = list[tuple[str, str]]

# 16 MiB and some 50 ms for each guess (RFC 7914). Stored with each hash, so
# that raising them locks nobody out.
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**14, 8, 1


class Identity(NamedTuple):
    """The account behind a request.

    A plain value rather than the ``User`` row, which cannot be read any more
    when an exception view answers for a broken transaction.
    """

    id: int
    name: str


def hash_password(password: str) -> str:
    """Return a salted hash to be kept instead of the password."""
    salt = secrets.token_bytes(16)
    digest = _scrypt(password, salt, SCRYPT_N, SCRYPT_R, SCRYPT_P)
    return '$'.join(
        [
            'scrypt',
            *map(str, (SCRYPT_N, SCRYPT_R, SCRYPT_P)),
            *(b64encode(part).decode() for part in (salt, digest)),
        ]
    )


def verify_password(password: str, stored: str) -> bool:
    """Tell whether ``password`` is the one that was hashed."""
    _, n, r, p, salt, digest = stored.split('$')
    found = _scrypt(password, b64decode(salt), int(n), int(r), int(p))
    return secrets.compare_digest(found, b64decode(digest))


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    # A form can bring lone surrogates, which strict UTF-8 refuses.
    raw = password.encode('utf-8', 'surrogatepass')
    return hashlib.scrypt(raw, salt=salt, n=n, r=r, p=p)


# Verified when there is no such account, so that the time taken does not
# tell which names exist.
NOBODY = hash_password(secrets.token_hex())


def find_user(request: Request, name: str, password: str) -> User | None:
    """Return the account that name and password belong to, or None."""
    user = request.dbsession.scalar(select(User).where(User.name == name))
    matches = verify_password(password, user.password if user else NOBODY)
    return user if matches else None


class ShopPolicy:
    """Everybody may look; what asks for a permission asks for an account."""

    def __init__(self) -> None:
        self.helper = SessionAuthenticationHelper()
        self.identities = RequestLocalCache()

    def _load_identity(self, request: Request) -> Identity | None:
        userid = self.helper.authenticated_userid(request)
        # None spares the visitor without an account a look into ``users``.
        user = None if userid is None else request.dbsession.get(User, userid)
        return None if user is None else Identity(user.id, user.name)

    def identity(self, request: Request) -> Identity | None:
        """Return the account, or None for a visitor."""
        found: Identity | None = self.identities.get(request)
        if found is RequestLocalCache.NO_VALUE:
            found = self._load_identity(request)
            # Nobody is no answer to keep: it may be that of a database that
            # is away, and the view has to hear of that.
            if found is not None:
                self.identities.set(request, found)
        return found

    def authenticated_userid(self, request: Request) -> int | None:
        """Return the account's id, or None for a visitor."""
        identity = self.identity(request)
        return None if identity is None else identity.id

    def permits(
        self, request: Request, context: object, permission: str
    ) -> Allowed | Denied:
        """Allow everything to everybody who is logged in."""
        if self.identity(request) is None:
            return Denied('Log in for %r', permission)
        return Allowed('Logged in')

    def remember(self, request: Request, userid: int, **kw: Any) -> Headers:
        """Log ``userid`` in."""
        self.identities.clear(request)
        return self.helper.remember(request, userid, **kw)

    def forget(self, request: Request, **kw: Any) -> Headers:
        """Log out whoever is logged in."""
        self.identities.clear(request)
        return self.helper.forget(request, **kw)


def includeme(config: Configurator) -> None:
    """Set the policy, and ask for a CSRF token on every POST."""
    config.set_security_policy(ShopPolicy())
    config.set_default_csrf_options(require_csrf=True)
