"""JSON responses without a response model, for hot paths."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

__all__ = ["json_response"]


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value` (dicts, lists, models, UUIDs, datetimes …) as JSON, byte for byte as a response model writes it.

    FastAPI does not validate it: declare `response_model=` on the route for the OpenAPI document, and compare the two
    in a test.
    """
    return Response(to_json(value), status, headers=headers, media_type="application/json")
