"""JSON, compressed."""

from typing import Any
import zlib

from pyramid_sqlasession.serializers import JSONSerializer

LIMIT = 16 * 1024 * 1024


class CompressedJSON:
    def __init__(self) -> None:
        self.json = JSONSerializer()

    def dumps(self, data: dict[str, Any]) -> bytes:
        return zlib.compress(self.json.dumps(data))

    def loads(self, raw: bytes) -> Any:
        if raw.startswith(b'{'):
            # From before, when it was plain JSON.
            return self.json.loads(raw)
        # A small text can claim to be gigabytes.
        inflate = zlib.decompressobj()
        found = inflate.decompress(raw, LIMIT)
        if inflate.unconsumed_tail:
            raise ValueError('too large')
        return self.json.loads(found)


class StillJSON(CompressedJSON):
    def dumps(self, data: dict[str, Any]) -> bytes:
        return self.json.dumps(data)
