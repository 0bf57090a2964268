"""Codecs: what is stored of the payloads and the step results of a kind of job, instead of their JSON.

A kind says with `@job(…, codec=…)` that it has one: a function that makes it of the settings. The built-in one is
`plinth.jobs.aes_gcm`.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar
from uuid import UUID

from pydantic_core import from_json, to_json

from plinth.database.engine import SETTINGS

__all__ = ["CodecOf", "PayloadCodec", "decode", "encode", "encoded_rows", "result_context"]

NAME = "encrypted"  # of the one field of the object that is stored


class PayloadCodec(Protocol):
    """Makes bytes to store of bytes of JSON, and the other way round.

    `context` says what they belong to: what was made for one context must not be read in another.
    """

    def encode(self, data: bytes, context: bytes) -> bytes:
        """Return what is stored."""

    def decode(self, data: bytes, context: bytes) -> bytes:
        """Return what was encoded. Raises ValueError if it cannot be read."""


CodecOf = Callable[[Any], PayloadCodec]


class Storable(Protocol):
    """A job to insert."""

    @property
    def payload(self) -> str: ...

    def _replace(self, *, payload: str) -> Self: ...


R = TypeVar("R", bound=Storable)


def encode(codec: PayloadCodec, text: str, context: str) -> str:
    """Encode a JSON text: return the JSON text that is stored in its place."""
    stored = codec.encode(text.encode(), context.encode())
    return to_json({NAME: b64encode(stored).decode()}).decode()


def decode(codec: PayloadCodec, text: str, context: str) -> str:
    """Decode a stored JSON text: return the one that was encoded. One that was stored plain comes back as it is.

    Raises:
        ValueError: the codec cannot read it.
    """
    stored = from_json(text)
    if not isinstance(stored, dict) or stored.keys() != {NAME} or not isinstance(stored[NAME], str):
        return text
    return codec.decode(b64decode(stored[NAME], validate=True), context.encode()).decode()


def result_context(job_id: UUID) -> str:
    """The context of what a job returns."""
    return f"result {job_id}"


def encoded_rows(rows: Sequence[R], make: CodecOf, kind: str, info: Mapping[Any, Any]) -> Sequence[R]:
    """Return rows of a kind with their payloads as they are stored; `info` is the `info` of the session.

    Raises:
        SettingsError: the settings lack what the codec needs.
        RuntimeError: the session is of no `Database`, so there are no settings.
    """
    if SETTINGS not in info:
        raise RuntimeError(f"jobs {kind} have a codec: enqueue them in a session of a plinth.database.engine.Database")
    codec = make(info[SETTINGS])
    return [row._replace(payload=encode(codec, row.payload, kind)) for row in rows]
