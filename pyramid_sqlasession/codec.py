"""Between a session's data and the text in the record."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from pyramid.exceptions import ConfigurationError

from pyramid_sqlasession.changes import DataAndHeads
from pyramid_sqlasession.changes import Heads
from pyramid_sqlasession.changes import join
from pyramid_sqlasession.changes import split
from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.errors import SessionNotSerializable
from pyramid_sqlasession.errors import SessionTooLarge
from pyramid_sqlasession.serializers import JSONSerializer
from pyramid_sqlasession.settings import PLAIN
from pyramid_sqlasession.settings import Settings

_JSON = JSONSerializer()

_BASE64 = 'base64:'
_ENCRYPTED = 'fernet:'

#: What makes a key, to be typed.
MAKE_A_KEY = (
    'python -c "from cryptography.fernet import Fernet; '
    'print(Fernet.generate_key().decode())"'
)

# 32 bytes in base64.
_KEY_LENGTH = 44


class DamagedData(ValueError):
    """The text of a record cannot be read."""


class Cipher:
    """Encrypts with the first of some Fernet keys, decrypts with all.

    :raises ConfigurationError: for a key that is none, or if the package
        ``cryptography`` (the extra ``encryption``) is missing.
    """

    #: Whether anything is to be encrypted.
    encrypts = True

    def __init__(self, keys: tuple[str, ...]) -> None:
        try:
            from cryptography import fernet
        except ImportError as error:
            raise ConfigurationError(
                'sqlasession.encryption_keys needs the package cryptography: '
                'pip install "pyramid_sqlasession[encryption]"'
            ) from error
        self._invalid: type[Exception] = fernet.InvalidToken
        fernets = []
        first = 1
        if keys[0] == PLAIN:
            self.encrypts, first, keys = False, 2, keys[1:]
            if not keys:
                raise ConfigurationError(
                    f'sqlasession.encryption_keys = {PLAIN}: stands before '
                    f'the keys that are to be read, as in "{PLAIN} KEY"; '
                    f'without any remove the setting'
                )
        for number, key in enumerate(keys, first):
            try:
                # Two keys without a blank between are the first one, for
                # Python's base64.
                if len(key) != _KEY_LENGTH:
                    raise ValueError
                fernets.append(fernet.Fernet(key))
            except ValueError:
                raise ConfigurationError(
                    f'sqlasession.encryption_keys: number {number} is no '
                    f'Fernet key, which is 32 bytes in base64url (nor is it '
                    f'the word "{PLAIN}", which may only be the first). Make '
                    f'one with: {MAKE_A_KEY}'
                ) from None
        self._first = fernets[0]
        self._all = fernet.MultiFernet(fernets)

    def encrypt(self, raw: bytes) -> bytes:
        """Return *raw* encrypted and authenticated."""
        return self._first.encrypt(raw)

    def decrypt(self, token: bytes) -> bytes:
        """Return what was encrypted.

        :raises DamagedData: if none of the keys fits.
        """
        try:
            return self._all.decrypt(token)
        except self._invalid:
            raise DamagedData(
                'none of sqlasession.encryption_keys decrypts it; is a key '
                'missing?'
            ) from None

    def is_first(self, token: bytes) -> bool:
        """Return whether the first key decrypts *token*."""
        try:
            self._first.decrypt(token)
        except self._invalid:
            return False
        return True


class Codec:
    """Reads and writes ``data`` with the serializer of one application."""

    def __init__(self, settings: Settings) -> None:
        self._serializer = settings.serializer
        self._is_json = isinstance(settings.serializer, JSONSerializer)
        self._max_size = settings.max_size
        keys = settings.encryption_keys
        self._cipher = Cipher(keys) if keys else None
        #: Whether it encrypts what it writes.
        self.encrypts = self._cipher is not None and self._cipher.encrypts

    def differ(self, one: dict[str, Any], other: dict[str, Any]) -> bool:
        """Return whether the values of *one* are stored as others than those
        of *other*.

        :raises SessionNotSerializable: if a value cannot be stored.
        """
        dumps = self._serializer.dumps
        written = dumps(one)
        if written == dumps(other):
            return False
        if self._is_json or written == dumps(one):
            return True
        # One of the application's that encrypts has other bytes each time.
        try:
            return _JSON.dumps(one) != _JSON.dumps(other)
        except SessionNotSerializable:
            return True

    def write(self, data: Mapping[str, Any], heads: Heads) -> str:
        """Return the text to store.

        :raises SessionNotSerializable: if a value cannot be stored.
        :raises SessionTooLarge: above ``sqlasession.max_size``.
        :raises SessionError: if the serializer makes no bytes.
        """
        raw = self._dumps(data, heads)
        if len(raw) > self._max_size:
            # What goes with them is ours, and counts for nothing: a renewal
            # adds to it, and must not fail for that.
            size = len(self._serializer.dumps(join(data, {})))
            if size > self._max_size:
                raise SessionTooLarge(size, self._max_size)
        return self._stored(raw)

    def write_again(self, data: Mapping[str, Any], heads: Heads) -> str:
        """Return the text of data that are stored, whatever their size: the
        limit may have been lowered since.
        """
        return self._stored(self._dumps(data, heads))

    def _dumps(self, data: Mapping[str, Any], heads: Heads) -> bytes:
        raw = self._serializer.dumps(join(data, heads))
        if type(raw) is not bytes:
            self._check_raw(raw)
        return raw

    def _check_raw(self, raw: object) -> None:
        # A serializer of the application may return anything: json.dumps()
        # makes text.
        if not isinstance(raw, bytes | bytearray):
            raise SessionError(
                f'sqlasession.serializer = {self._serializer!r}: its dumps() '
                f'returned a {type(raw).__name__} and must return bytes; '
                f'a str is made bytes by its encode()'
            )

    def read(self, text: str) -> DataAndHeads:
        """Return data and heads of a record's text.

        :raises DamagedData: if the text is not what was written.
        """
        try:
            # JSON as it is, which nearly all are.
            raw = text.encode() if text[:1] == '{' else self._raw(text)
            stored = self._serializer.loads(raw)
        except DamagedData:
            raise
        # A serializer of the application may raise anything.
        except Exception as error:
            raise DamagedData(f'{type(error).__name__}: {error}') from error
        if not isinstance(stored, dict):
            raise DamagedData(f'a dict was expected, not {type(stored)}')
        return split(stored)

    def is_current(self, text: str) -> bool:
        """Return whether *text* is encrypted with the first key; whether it
        is plain text, if that is what is written.
        """
        is_encrypted = text.startswith(_ENCRYPTED)
        if self._cipher is None or not self.encrypts:
            return not is_encrypted
        return is_encrypted and self._cipher.is_first(
            text[len(_ENCRYPTED):].encode()
        )

    def reencrypted(self, text: str) -> str:
        """Return *text* as it would be stored now; the bytes of the
        serializer are the same.

        :raises DamagedData: if no key fits.
        """
        try:
            return self._stored(self._raw(text))
        # No base64; DamagedData is one.
        except ValueError as error:
            raise DamagedData(str(error)) from error

    def _stored(self, raw: bytes) -> str:
        if self._cipher is not None and self._cipher.encrypts:
            return _ENCRYPTED + self._cipher.encrypt(raw).decode()
        try:
            text = raw.decode()
            # PostgreSQL has no NUL in text.
            if '\x00' not in text and (
                not text.startswith((_BASE64, _ENCRYPTED))
            ):
                return text
        except UnicodeDecodeError:
            pass
        return _BASE64 + base64.b64encode(raw).decode()

    def _raw(self, text: str) -> bytes:
        """Return the bytes of the serializer.

        :raises ValueError: if *text* is not what was written.
        """
        if text.startswith(_BASE64):
            return base64.b64decode(text[len(_BASE64):], validate=True)
        if not text.startswith(_ENCRYPTED):
            return text.encode()
        if self._cipher is None:
            raise DamagedData(
                'it is encrypted; set sqlasession.encryption_keys'
            )
        return self._cipher.decrypt(text[len(_ENCRYPTED):].encode())


class Content:
    """What the text of a record holds, read as often as it is needed.

    :param first: what a reading gave already.
    """

    __slots__ = ('_codec', '_first', '_known', '_text')

    def __init__(
        self, codec: Codec, text: str, first: DataAndHeads | None = None
    ) -> None:
        self._codec = codec
        self._text = text
        self._first = first
        self._known: DataAndHeads | None = None

    def copy(self) -> DataAndHeads:
        """Return data and heads, anew at each call."""
        first, self._first = self._first, None
        return self._codec.read(self._text) if first is None else first

    def known(self) -> DataAndHeads:
        """Return the same each time; nobody may change it."""
        if self._known is None:
            self._known = self.copy()
        return self._known
