"""Encodes a log line as JSON that every parser takes, of a size that log stores take."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import to_json

__all__ = ["MAX_LINE", "MAX_VALUE", "cut", "to_line"]

MAX_LINE = 131_072
"""Bytes of a line. Loki drops lines above 256 KB, Cloud Logging entries above 256 KB with what agents add."""
MAX_VALUE = 16_384
"""Characters of each value in a line that is too long."""
_END = 4096  # of them, the last: a traceback ends with what was raised
_HEAD = MAX_VALUE - _END
_MARK = 40  # characters, at most, of what stands where a value was cut
_BESIDE = 32_768  # characters: more than a key or a token has


def cut(text: str, masked: Callable[[str], str] = str) -> str:
    """Cut a long text to its beginning and its end.

    `masked` masks the secrets of both, with what stands beside them, so that a secret that is cut is seen as a whole.
    """
    if len(text) <= MAX_VALUE + _MARK:
        return text
    head, end = masked(text[: _HEAD + _BESIDE])[:_HEAD], masked(text[-_END - _BESIDE :])[-_END:]
    return f"{head} [cut: {len(text) - MAX_VALUE} characters] {end}"


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
        shorter = cut(text)
        kept = value if shorter == text else shorter
        size = len(to_json({name: kept}, inf_nan_mode="strings"))
        if size <= room:
            room -= size
            found[name] = kept
    if len(found) < len(line):
        found["members_cut"] = len(line) - len(found)
    return found
