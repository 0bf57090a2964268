"""Requests for a part of a file: Range and If-Range (RFC 9110, section 14)."""

import re
from typing import Annotated

from fastapi import Header

from plinth.errors import AppException

__all__ = ["IfRange", "Range", "RangeNotSatisfiableError", "requested_part"]

# More digits than any position has. A request for several ranges gets the whole file.
_RANGE = re.compile(r"bytes=[ \t]*(?:([0-9]{1,100})-([0-9]{0,100})|-([0-9]{1,100}))[ \t]*", re.IGNORECASE)

Range = Annotated[str | None, Header(alias="Range", description="One range of bytes; several at once are ignored.")]
IfRange = Annotated[
    str | None, Header(alias="If-Range", description="The ETag of the file; for another version the range is ignored.")
]


class RangeNotSatisfiableError(AppException):
    """The requested range lies outside of the file."""

    status = 416
    code = "range_not_satisfiable"

    def __init__(self, size: int) -> None:
        super().__init__(f"The file has {size} bytes.", headers={"Content-Range": f"bytes */{size}"})


def requested_part(range_: str | None, if_range: str | None, *, etag: str, size: int) -> tuple[int, int] | None:
    """The bytes of a file that are requested, as start and stop. None: the whole file.

    A malformed range is ignored, and one for another version of the file. An empty file has no ranges.

    Raises:
        RangeNotSatisfiableError: the range lies outside of the file.
    """
    if range_ is None or size == 0 or (if_range is not None and if_range.strip() != etag):
        return None
    match = _RANGE.fullmatch(range_.strip())
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, stop = max(0, size - int(suffix)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= size:
        raise RangeNotSatisfiableError(size)
    return start, stop
