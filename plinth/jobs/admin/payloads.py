"""Reads payloads as JSON, also those that SQL alone can enqueue and Python cannot hold."""

import re
from typing import Any

from pydantic_core import from_json

__all__ = ["read_payload"]

# As deep as Pydantic reads JSON: a worker reads, and `enqueue` writes, no payload that is nested more deeply.
MAX_LEVELS = 200
MAX_DIGITS = 4300  # of a number: Python's own limit
LEFT_OUT = '"…"'

# A string, a bracket, a number (the database writes none with an exponent), or what stands between.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]|[-.\d]+|[^"\[\]{}\-.\d]+')


def read_payload(text: str) -> Any:
    """Return the value of a JSON text as the database writes it.

    What is nested by more than 200 levels, and a number of more than 4,300 digits, is left out: `…` stands there.
    """
    try:
        return from_json(text)
    except ValueError:
        return from_json(_shortened(text))


def _shortened(text: str) -> str:
    parts = []
    level = 0
    for match in _TOKEN.finditer(text):
        piece = match[0]
        if piece in "]}":
            level -= 1
            kept = level < MAX_LEVELS
        elif piece in "[{":
            kept = level < MAX_LEVELS
            if level == MAX_LEVELS:
                parts.append(LEFT_OUT)
            level += 1
        else:
            kept = level <= MAX_LEVELS
            if len(piece) > MAX_DIGITS and piece[0] in "-0123456789":
                piece = LEFT_OUT
        if kept:
            parts.append(piece)
    return "".join(parts)
