"""Cursors for keyset pagination: the sort key of the last row seen, signed.

The signature covers the list as well, so only a cursor that this service made for that list reaches the query.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from hmac import compare_digest
from json import dumps, loads
from typing import Any

from plinth.errors import ValidationError

__all__ = ["CursorCodec", "CursorError"]

_DIGEST_BYTES = 16


class CursorError(ValidationError):
    """The cursor was not made here, or was made for another list: another path, caller, filter or order."""

    def __init__(self) -> None:
        issue = {"loc": ["query", "cursor"], "msg": "not a cursor of this list", "type": "cursor"}
        super().__init__("The cursor is not one of this list.", errors=[issue])


class CursorCodec:
    """Makes cursors with the first of its keys, of at most 64 secret bytes each, and reads those of all."""

    def __init__(self, *keys: bytes) -> None:
        self._keys = keys

    def encode(self, context: str, values: list[Any]) -> str:
        """A cursor that holds JSON `values` and is valid only for the list that `context` describes."""
        # Unescaped: a name of 200 emoji has 800 bytes, and 2,400 in JSON's escapes.
        payload = dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
        return urlsafe_b64encode(_sign(self._keys[0], context, payload) + payload).rstrip(b"=").decode()

    def decode(self, context: str, cursor: str) -> list[Any]:
        """The values of a cursor. Raises CursorError."""
        try:
            raw = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        except ValueError:
            raw = b""
        signature, payload = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if not any(compare_digest(signature, _sign(key, context, payload)) for key in self._keys):
            raise CursorError
        values: list[Any] = loads(payload)
        return values


def _sign(key: bytes, context: str, payload: bytes) -> bytes:
    signed = context.encode() + b"\0" + payload
    return blake2b(signed, key=key, digest_size=_DIGEST_BYTES).digest()
