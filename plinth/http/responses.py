"""Ready bytes for hot paths: rows to JSON in one step, past response models."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

__all__ = ["json_response"]


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value` (dicts, lists, UUIDs, datetimes …) as JSON, in the very form that response models have.

    FastAPI checks nothing of it, so say `response_model=` on the route for the OpenAPI document and let a test
    compare the two.
    """
    return Response(to_json(value), status, headers=headers, media_type="application/json")
