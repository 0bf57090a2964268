"""How errors are described in the OpenAPI document."""

from typing import Any

from plinth.http.error_handlers import PROBLEM_JSON, title_of
from plinth.http.schemas import Problem

__all__ = ["problems"]

_REF = {"$ref": f"#/components/schemas/{Problem.__name__}"}
# What any operation may answer, and any with an input or a caller.
_ALWAYS = (500,)
_HEADERS: dict[int, Any] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    429: {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}},
    503: {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}},
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of an operation that may answer with these errors, 500 included."""
    return {
        status: {
            "model": Problem,
            "description": title_of(status),
            "content": {PROBLEM_JSON: {"schema": _REF}},
            **({"headers": _HEADERS[status]} if status in _HEADERS else {}),
        }
        for status in sorted({*_ALWAYS, *statuses})
    }
