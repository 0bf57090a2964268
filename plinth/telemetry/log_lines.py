"""Encodes a log line as JSON that every parser takes, of a size that log stores take."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

__all__ = ["MAX_LINE", "MAX_VALUE", "to_line"]

MAX_LINE = 131_072
"""Bytes of a line. Loki drops lines above 256 KB, Cloud Logging entries above 256 KB with what agents add."""
MAX_VALUE = 16_384
"""Characters of each value in a line that is too long."""
_END = 4096  # of them, the last: a traceback ends with what was raised


def to_line(line: Mapping[str, Any]) -> bytes:
    """Encode a line, without the line break. What is too long is cut, with a mark."""
    try:
        # Infinity is no JSON: a parser would refuse the whole line.
        data = to_json(line, fallback=str, inf_nan_mode="strings")
    except ValueError:  # text that is no UTF-8
        line = _plain(line)
        data = to_json(line, inf_nan_mode="strings")
    return data if len(data) <= MAX_LINE else to_json(_cut(_plain(line)), inf_nan_mode="strings")


def _plain(value: Any) -> Any:
    """The value in JSON's types, lone surrogates escaped."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_plain(str(name)): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else _plain(repr(value))


def _cut(line: Mapping[str, Any]) -> dict[str, Any]:
    """Cut long values, and leave out what does not fit then."""
    room = MAX_LINE - 100  # for the last member
    found: dict[str, Any] = {}
    for name, value in line.items():
        text = value if isinstance(value, str) else to_json(value, inf_nan_mode="strings").decode()
        kept = value
        if len(text) > MAX_VALUE:
            kept = f"{text[: MAX_VALUE - _END]} [cut: {len(text) - MAX_VALUE} characters] {text[-_END:]}"
        size = len(to_json({name: kept}, inf_nan_mode="strings"))
        if size <= room:
            room -= size
            found[name] = kept
    if len(found) < len(line):
        found["members_cut"] = len(line) - len(found)
    return found
