"""Exception handlers: every error response is a problem document (RFC 9457).

Raise an `AppException` (or a subclass) anywhere. The handlers turn it, and the errors of FastAPI and Starlette, into
`application/problem+json`. Of an exception the client sees only `detail` and `extra`. Once a WebSocket is open, there
is no response any more: the error ends it.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, TypeGuard

import structlog
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError, ValidationException, WebSocketRequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocketState

from plinth.errors import (
    AppException,
    PreconditionRequiredError,
    RateLimitError,
    ServiceUnavailableError,
    ValidationError,
)
from plinth.http.rate_limit import count_address
from plinth.http.routes import methods_of
from plinth.http.schemas import Problem
from plinth.telemetry.log_records import request_id_var
from plinth.telemetry.tracing import current_trace_id

log = structlog.get_logger("plinth.errors")

PROBLEM_JSON = "application/problem+json"

_SCHEMAS = "#/components/schemas/"
PROBLEM_CONTENT = {"schema": {"$ref": f"{_SCHEMAS}Problem"}}
"""How an operation describes the body of an error, until the whole document is made."""

CLOSE_BY_STATUS = 4000
"""A WebSocket that an error ends has this close code and the error's status: 4403. RFC 6455 leaves them to services."""

# The most validation errors of a response, and the most characters of a name that the client sent.
MAX_ISSUES = 50
MAX_NAME_LENGTH = 100

# Python 3.13 renamed these; responses are the same on every version.
_TITLES = {413: "Content Too Large", 416: "Range Not Satisfiable", 422: "Unprocessable Content"}


def title_of(status: int) -> str:
    """The reason phrase of `status` in RFC 9110."""
    return _TITLES.get(status) or HTTPStatus(status).phrase


def problem_response(
    status: int,
    *,
    code: str,
    detail: str | None,
    headers: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Response:
    """A problem+json response. `type` is `about:blank`; `code` distinguishes errors of one status.

    It contains the ids of the request and of the trace, if there is one, by which logs and traces are found.
    """
    trace_id = current_trace_id()
    body = {
        "type": "about:blank",
        "title": title_of(status),
        "status": status,
        "code": code,
        **({"detail": detail} if detail else {}),
        "request_id": request_id_var.get() or "",
        **({"trace_id": trace_id} if trace_id is not None else {}),
        **(extra or {}),
    }
    return Response(to_json(body), status, headers=headers, media_type=PROBLEM_JSON)


def log_failure(error: AppException) -> None:
    """Log an error of this side. The response has one sentence; the cause is for the operator."""
    if error.status >= 500:
        reason = {"reason": error.reason} if isinstance(error, ServiceUnavailableError) and error.reason else {}
        log.warning("request failed", status=error.status, code=error.code, cause=repr(error.__cause__), **reason)


def app_exception_response(error: AppException) -> Response:
    """The response to an error that was raised for the client."""
    log_failure(error)
    return problem_response(
        error.status, code=error.code, detail=error.detail, headers=error.headers, extra=error.extra
    )


async def _http_exception(request: HTTPConnection, error: Exception) -> Response | None:
    assert isinstance(error, HTTPException)
    if error.status_code == 405 or (error.status_code == 404 and "endpoint" not in request.scope):
        # No endpoint has counted it.
        try:
            await count_address(request, request.scope.get("state", {}).get("anonymous_rate_limiter"))
        except RateLimitError as limited:
            return app_exception_response(limited)
    title = title_of(error.status_code)
    code = title.lower().replace(" ", "_")
    if _is_open(request):
        await _end(request, error.status_code, code)
        return None
    detail = error.detail if isinstance(error.detail, str) and error.detail != title else None
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(methods_of(request.scope)))
    return problem_response(error.status_code, code=code, detail=detail, headers=headers)


async def _app_exception(request: HTTPConnection, error: Exception) -> Response | None:
    assert isinstance(error, AppException)
    # A route that answers with pages has a page for errors too.
    respond = getattr(request.scope.get("route"), "error_response", None)
    response: Response = respond(request, error) if respond is not None else app_exception_response(error)
    if not _is_open(request):
        return response
    await _end(request, error.status, error.code)
    return None


async def _client_left(request: HTTPConnection, error: Exception) -> None:
    """Do nothing about a WebSocket's end that its endpoint did not catch: it is no failure."""


def _is_open(request: HTTPConnection) -> TypeGuard[WebSocket]:
    return isinstance(request, WebSocket) and request.application_state is WebSocketState.CONNECTED


async def _end(websocket: WebSocket, status: int, code: str) -> None:
    with suppress(WebSocketDisconnect):  # the client has left
        await websocket.close(CLOSE_BY_STATUS + status, code)


async def _request_validation_error(request: HTTPConnection, error: Exception) -> Response:
    assert isinstance(error, ValidationException)
    if any(issue["type"] == "missing" and issue["loc"] == ("header", "If-Match") for issue in error.errors()):
        return app_exception_response(PreconditionRequiredError("If-Match must name the version to change."))
    # Without Pydantic's `input` and `ctx`, which echo what was sent.
    errors = [
        {"loc": [_shown(part) for part in issue["loc"]], "msg": issue["msg"], "type": issue["type"]}
        for issue in error.errors()[:MAX_ISSUES]
    ]
    return problem_response(
        422,
        code=ValidationError.code,
        detail="The request is not valid; `errors` says where.",
        extra={"errors": errors},
    )


# How Pydantic names a WriteModel that is one of a union.
_WRITE_MODEL = re.compile(r"lax-or-strict\[.*,strict=(.+)\]")


def _shown(part: str | int) -> str | int:
    """A part of `loc` as clients see it, cut off: the name of an unknown field is the client's, of any length."""
    if isinstance(part, int):
        return part
    model = _WRITE_MODEL.fullmatch(part)
    return (model[1] if model else part)[:MAX_NAME_LENGTH]


def install_exception_handlers(app: FastAPI) -> None:
    """Make every error of `app` a problem document, also in the OpenAPI document.

    Unhandled exceptions are left to `UnhandledErrorMiddleware`.
    """
    # Starlette calls these with a WebSocket as well, and without an answer once that is open.
    app.add_exception_handler(AppException, _app_exception)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _http_exception)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _request_validation_error)
    app.add_exception_handler(WebSocketRequestValidationError, _request_validation_error)
    app.add_exception_handler(WebSocketDisconnect, _client_left)
    _describe_problems(app)


def _describe_problems(app: FastAPI) -> None:
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        prefix, found = "", _problem_schemas("")
        if any(schemas.get(name, schema) != schema for name, schema in found.items()):
            # A model of the service has the name. FastAPI puts the module before two names that are the same.
            prefix = f"{Problem.__module__.replace('.', '__')}__"
            found = _problem_schemas(prefix)
        schemas |= found
        for path in document["paths"].values():
            for operation in path.values():
                for response in operation["responses"].values():
                    if problem := response.get("content", {}).get(PROBLEM_JSON):
                        if problem == PROBLEM_CONTENT:
                            problem = {"schema": {"$ref": f"{_SCHEMAS}{prefix}Problem"}}
                        # FastAPI describes a response with a model under the media type of the successful one too.
                        response["content"] = {PROBLEM_JSON: problem}
                _describe_unsupported_type(operation)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _problem_schemas(prefix: str) -> dict[str, Any]:
    """The schema of a problem and those that it refers to, with `prefix` before their names."""
    schema = Problem.model_json_schema(mode="serialization", ref_template=f"{_SCHEMAS}{prefix}{{model}}")
    problem = jsonable_encoder(schema, exclude_none=True)  # `"default": null` is left out, as FastAPI does
    return {f"{prefix}{name}": found for name, found in {**problem.pop("$defs"), "Problem": problem}.items()}


def _describe_unsupported_type(operation: dict[str, Any]) -> None:
    # Of `BodyLimitMiddleware`, for every endpoint that takes JSON. A body that is not valid is described as a problem.
    invalid = operation["responses"].get("422", {})
    if (
        PROBLEM_JSON in invalid.get("content", {})
        and "application/json" in operation.get("requestBody", {"content": ()})["content"]
    ):
        operation["responses"].setdefault("415", invalid | {"description": title_of(415)})
