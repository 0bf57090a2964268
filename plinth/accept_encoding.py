"""The header `Accept-Encoding`: whether a client takes gzip, and whether it takes anything else (RFC 9110, 12.5.3)."""

import re
from functools import lru_cache

__all__ = ["gzip_wish"]

# A coding and its weight, a number of 0 to 1 with three decimals at most. An entry of another form is ignored.
_ENTRY = re.compile(
    r"\s*(?P<coding>[!#$%&'*+.^_`|~0-9a-z-]+)\s*(?:;\s*q=(?P<weight>0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*)?",
    re.IGNORECASE,
)
# Of a header, which is the client's own and may have 32 KiB. Browsers name five codings.
_MAX_ENTRIES = 20


@lru_cache(maxsize=64)
def gzip_wish(header: str) -> tuple[bool, bool]:
    """Whether a client wants gzip, and whether it refuses a response without a coding.

    `header` is the whole list, the lines of the header joined by commas. A client wants gzip if it accepts it and does
    not prefer `identity`, no coding. `*` stands for what is not named, and `x-gzip` is gzip.
    """
    weights: dict[str, float] = {}
    for entry in header.split(",", _MAX_ENTRIES)[:_MAX_ENTRIES]:
        if match := _ENTRY.fullmatch(entry):
            weights[match["coding"].lower()] = float(match["weight"] or 1)
    rest = weights.get("*")
    gzip = weights.get("gzip", weights.get("x-gzip", rest or 0.0))
    identity = weights.get("identity", rest)
    return gzip > 0 and gzip >= (identity or 0.0), identity == 0.0
