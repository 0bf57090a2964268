"""Response headers: their descriptions for the OpenAPI document, and the paths that `Location` and links name."""

from typing import Any
from uuid import UUID

from fastapi import Request

__all__ = ["location_of", "path_in_api", "with_headers"]

_HEADERS: dict[str, dict[str, Any]] = {
    "Accept-Ranges": {"description": "`bytes`: ask for a part with Range."},
    "Content-Disposition": {"description": "The name under which to save the file."},
    "Content-Range": {"description": "Which part of the file this is."},
    "ETag": {"description": "The version of what is returned, for If-None-Match and If-Match."},
    "Link": {"description": 'The next page, as rel="next".'},
    "Location": {"description": "The path of the new resource."},
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "Bearer, why a token was refused, and which permission it lacks."},
}


def with_headers(*names: str) -> dict[str, Any]:
    """The entry of `responses=` for a response with these headers: `responses={200: with_headers("ETag")}`."""
    return {"headers": {name: {"schema": {"type": "string"}, **_HEADERS[name]} for name in names}}


def location_of(request: Request, new: UUID) -> str:
    """The `Location` of what a POST to the request's path has made."""
    return f"{request.url.path}/{new}"


def path_in_api(request: Request, path: str) -> str:
    """The path of something else in this API, for a link: as a client asks for it, with the `root_path`."""
    return f"{request.scope.get('root_path', '')}{request.scope['state']['settings'].API_V1_STR}{path}"
