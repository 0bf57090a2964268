"""Checks of error responses."""

from typing import Any

import httpx

from plinth.http.error_handlers import PROBLEM_JSON, title_of
from plinth.http.schemas import Problem

__all__ = ["problem"]


def problem(response: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """Check that a response is a problem document with this status and code; returns its body.

    Raises:
        AssertionError: it is another response, or lacks what every error has: see RFC 9457 and `Problem`.
    """
    assert response.status_code == status, f"{response.status_code} instead of {status}: {response.text}"
    assert response.headers["content-type"] == PROBLEM_JSON, response.headers["content-type"]
    body: dict[str, Any] = response.json()
    Problem.model_validate(body, strict=True)
    assert body["status"] == status, body
    assert body["title"] == title_of(status), body
    assert body["request_id"] == response.headers["x-request-id"], body
    assert code is None or body["code"] == code, f"{body['code']} instead of {code}: {body}"
    return body
