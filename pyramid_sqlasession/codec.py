"""Between a session's data and the text in the record."""

from __future__ import annotations

import base64
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from pyramid_sqlasession.changes import join
from pyramid_sqlasession.changes import split
from pyramid_sqlasession.errors import SessionTooLarge
from pyramid_sqlasession.settings import Settings

_BASE64 = 'base64:'


class DamagedData(ValueError):
    """The text of a record cannot be read."""


class Codec:
    """Reads and writes ``data`` with the serializer of one application."""

    def __init__(self, settings: Settings) -> None:
        self._serializer = settings.serializer
        self._max_size = settings.max_size

    def encode(self, key: str, value: Any) -> bytes:
        """Return bytes that are equal for equal values.

        :raises SessionNotSerializable: if the value cannot be stored.
        """
        return self._serializer.dumps({key: value})

    def write(self, data: Mapping[str, Any], heads: Mapping[str, int]) -> str:
        """Return the text to store.

        :raises SessionNotSerializable: if a value cannot be stored.
        :raises SessionTooLarge: above ``sqlasession.max_size``.
        """
        raw = self._serializer.dumps(join(data, heads))
        if len(raw) > self._max_size:
            raise SessionTooLarge(len(raw), self._max_size)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            return _BASE64 + base64.b64encode(raw).decode()
        # PostgreSQL has no NUL in text.
        if '\x00' in text or text.startswith(_BASE64):
            return _BASE64 + base64.b64encode(raw).decode()
        return text

    def read(self, text: str) -> tuple[dict[str, Any], dict[str, int]]:
        """Return data and flash heads of a record's text.

        :raises DamagedData: if the text is not what was written.
        """
        try:
            if text.startswith(_BASE64):
                raw = base64.b64decode(text[len(_BASE64):], validate=True)
            else:
                raw = text.encode()
            stored = self._serializer.loads(raw)
        # A serializer of the application may raise anything.
        except Exception as error:
            raise DamagedData(f'{type(error).__name__}: {error}') from error
        if not isinstance(stored, dict):
            raise DamagedData(f'a dict was expected, not {type(stored)}')
        return split(stored)

    def reader(
        self, text: str
    ) -> Callable[[], tuple[dict[str, Any], dict[str, int]]]:
        """Return a function that reads *text* anew at each call."""
        return lambda: self.read(text)
