"""Cursors for keyset pagination: the sort key of the last row seen, signed.

Signed, so that a cursor is what this service made for this very list; nobody steers the query by hand-made ones,
and no error of the database can come of them.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from hmac import compare_digest
from json import dumps, loads
from typing import Any

from plinth.errors import ValidationError

__all__ = ["CursorCodec"]

_DIGEST_BYTES = 16


class CursorCodec:
    def __init__(self, key: bytes) -> None:
        """`key`: at most 64 secret bytes."""
        self._key = key

    def encode(self, context: str, values: list[Any]) -> str:
        """A cursor that holds JSON `values` and is good only for the list that `context` describes."""
        # Unescaped: a name of 200 emoji has 800 bytes, and 2,400 in JSON's escapes.
        payload = dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
        return urlsafe_b64encode(self._sign(context, payload) + payload).rstrip(b"=").decode()

    def decode(self, context: str, cursor: str) -> list[Any]:
        """The values of a cursor.

        Raises:
            ValidationError: it was not made here, or for another list (other filter, order or caller).
        """
        try:
            raw = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        except ValueError:
            raw = b""
        signature, payload = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if not compare_digest(signature, self._sign(context, payload)):
            issue = {"loc": ["query", "cursor"], "msg": "not a cursor of this list", "type": "cursor"}
            raise ValidationError("The cursor is not one of this list.", errors=[issue])
        values: list[Any] = loads(payload)
        return values

    def _sign(self, context: str, payload: bytes) -> bytes:
        signed = context.encode() + b"\0" + payload
        return blake2b(signed, key=self._key, digest_size=_DIGEST_BYTES).digest()
