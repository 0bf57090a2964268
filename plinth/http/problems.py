"""Descriptions of error responses for the OpenAPI document."""

from typing import Any

from plinth.http.error_handlers import PROBLEM_CONTENT, PROBLEM_JSON, title_of
from plinth.http.headers import with_headers

__all__ = ["problems"]

_HEADERS = {401: "WWW-Authenticate", 403: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of an operation that may answer with these errors. Every operation may answer 500.

    `install_exception_handlers` adds the schema that they refer to. As the `model` of each response it would be built
    seven times for each route, at the import and again at the start: 0.07 s of a start.
    """
    return {
        status: {
            "description": title_of(status),
            "content": {PROBLEM_JSON: PROBLEM_CONTENT},
            **(with_headers(_HEADERS[status]) if status in _HEADERS else {}),
        }
        for status in sorted({500, *statuses})
    }
