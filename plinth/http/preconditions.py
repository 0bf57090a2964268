"""Conditional requests: ETag, If-Match, If-None-Match (RFC 9110, section 13).

The ETag of a row is its version, an integer; that of a file may be its digest.
"""

import re
from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, Header
from pydantic import WithJsonSchema

__all__ = ["IfMatch", "IfNoneMatch", "RequiredIfMatch", "etag", "matches"]

_ETAG = re.compile(r'(W/)?"([^"]*)"')
_VERSION = re.compile(r"[1-9][0-9]{0,9}")

# Each is a list, which may come in several lines; the document describes one line.
_Lines = Annotated[list[str], WithJsonSchema({"type": "string"})]
IfNoneMatch = Annotated[
    _Lines | None, Header(alias="If-None-Match", description="Answer 304 if the ETag is still this one.")
]
_IF_MATCH = Header(alias="If-Match", description='The ETag that was read, or "*".')


def etag(version: int | str) -> str:
    """The value of the `ETag` header."""
    return f'"{version}"'


def matches(if_none_match: Sequence[str], version: int | str) -> bool:
    """Whether the client has `version` already, so that the answer is 304. Weak comparison, as for caches."""
    tags = _joined(if_none_match)
    return tags == "*" or any(tag == str(version) for _, tag in _ETAG.findall(tags))


async def _versions(if_match: Annotated[_Lines | None, _IF_MATCH] = None) -> frozenset[int] | None:
    """The versions that `If-Match` accepts; None for any. A weak or malformed tag matches no version."""
    if if_match is None or (tags := _joined(if_match)) == "*":
        return None
    return frozenset(int(tag) for weak, tag in _ETAG.findall(tags) if not weak and _VERSION.fullmatch(tag))


def _joined(lines: Sequence[str]) -> str:
    return ",".join([lines] if isinstance(lines, str) else lines).strip()


async def _required_versions(if_match: Annotated[_Lines, _IF_MATCH]) -> frozenset[int] | None:
    """The versions that a required `If-Match` accepts, as `_versions`. Without the header the answer is 428."""
    return await _versions(if_match)


IfMatch = Annotated[frozenset[int] | None, Depends(_versions)]
RequiredIfMatch = Annotated[frozenset[int] | None, Depends(_required_versions)]
