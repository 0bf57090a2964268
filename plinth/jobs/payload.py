"""Payloads as JSON: what `enqueue` stores."""

import re
from typing import Any

from pydantic import BaseModel, ValidationError

from plinth.jobs.kinds import JobKind

__all__ = ["dump", "holds_nul"]

_NUL = re.compile(r"(?<!\\)(\\\\)*\\u0000")  # in JSON: the escape, and not an escaped backslash before "u0000"


def holds_nul(text: str) -> bool:
    """Whether a JSON text holds a NUL, which PostgreSQL cannot store."""
    return r"\u0000" in text and _NUL.search(text) is not None


def dump(kind: JobKind[Any], payload: BaseModel) -> str:
    """Make JSON of a payload.

    Raises:
        TypeError: it is not of the kind's model.
        ValueError: it holds a NUL, or does not survive JSON.
    """
    if not isinstance(payload, kind.payload):
        raise TypeError(f"{kind.name} takes a {kind.payload.__name__}, not a {type(payload).__name__}")
    text: str = payload.model_dump_json(by_alias=True)
    if holds_nul(text):
        raise ValueError(f"the payload of {kind.name} holds a NUL, which PostgreSQL cannot store")
    try:
        survives = kind.read(text) == payload
    except ValidationError:
        survives = False
    if not survives:  # a SecretStr is dumped as asterisks, infinity as null, an excluded field is left out
        raise ValueError(f"the payload of {kind.name} does not come back from JSON as it was")
    return text
