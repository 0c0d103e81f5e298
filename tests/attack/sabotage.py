"""Guards of the package, to be removed: the cases have to find out.

Each function breaks the package in this process; for demonstrations only.
"""

import datetime as dt

from pyramid_sqlasession.changes import split
from pyramid_sqlasession.codec import Codec
from pyramid_sqlasession.connections import Connections
from pyramid_sqlasession.cookie import CookiePolicy
from pyramid_sqlasession.cookie import Token
from pyramid_sqlasession.lifecycle import Binding
from pyramid_sqlasession.records import Record
from pyramid_sqlasession.records import Records
from pyramid_sqlasession.retired import Standing
from pyramid_sqlasession.session import SQLASession


def no_secret():
    """Whoever knows the public id is let in."""
    Record.standing = lambda self, token, now: Standing.CURRENT


def no_hash():
    """The table holds the secret itself."""
    Token.secret_hash = property(lambda self: self.secret)


def no_signature():
    """A cookie without a good signature goes to the database."""
    guarded = CookiePolicy._parse
    CookiePolicy._parse = lambda self, value: (
        guarded(self, value)[0], True
    )


def no_rotation():
    """A login keeps the token that was there before."""
    SQLASession.rotate = lambda self, *, login=False: None


def no_expiry():
    """Expired sessions are found; only the cleaner ends them."""
    look = Connections.find

    def find(self, id, now, manager, **options):
        past = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
        return look(self, id, past, manager, **options)

    Connections.find = find


def no_invalidation():
    """A logout removes the cookie and leaves the row."""
    Records.delete = lambda self, connection, id, secret_hash: True


def no_damage():
    """Errors of the serializer pass as they are."""
    Codec.read = lambda self, text: split(
        self._serializer.loads(self._raw(text))
    )


def adoption():
    """Whoever reads without a session begins one."""
    guarded = Binding._load_once

    def load_once(self):
        guarded(self)
        if self.state.base.record is None:
            self.session['seen'] = True

    Binding._load_once = load_once


GUARDS = {
    function.__name__.replace('_', '-'): function
    for function in (
        no_secret, no_hash, no_signature, no_rotation, no_expiry,
        no_invalidation, no_damage, adoption,
    )
}
