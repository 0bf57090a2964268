"""The errors that an API answers with, and the one form in which they leave: RFC 9457 problem details.

Raise an `AppException` (or a subclass) anywhere; the handlers turn it, and everything else that can go wrong,
into `application/problem+json`. What a client may read goes into `detail`; nothing else ever leaves.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from plinth.errors import AppException, PreconditionRequiredError, ValidationError
from plinth.telemetry.tracing import current_trace_id

log = structlog.get_logger("plinth.errors")

PROBLEM_JSON = "application/problem+json"

# What is wrong with an input is told in so many parts, and the client's own words in so many characters.
MAX_ISSUES = 50
MAX_NAME_LENGTH = 100

# Python renamed these in 3.13; clients shall not see which Python answers them.
_TITLES = {413: "Content Too Large", 416: "Range Not Satisfiable", 422: "Unprocessable Content"}


def title_of(status: int) -> str:
    """The reason phrase of `status` as RFC 9110 has it, whatever Python's own table says."""
    return _TITLES.get(status) or HTTPStatus(status).phrase


def problem_response(
    status: int,
    *,
    code: str,
    detail: str | None,
    request_id: str,
    headers: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Response:
    """A problem+json response. `type` stays `about:blank`; `code` tells errors of one status apart.

    It names the request and, where there is one, the trace: whoever reports it says what to look for.
    """
    trace_id = current_trace_id()
    body = {
        "type": "about:blank",
        "title": title_of(status),
        "status": status,
        "code": code,
        **({"detail": detail} if detail else {}),
        "request_id": request_id,
        **({"trace_id": trace_id} if trace_id is not None else {}),
        **(extra or {}),
    }
    return Response(to_json(body), status, headers=headers, media_type=PROBLEM_JSON)


def _request_id(request: Request) -> str:
    return str(request.scope.get("state", {}).get("request_id", ""))


async def _app_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppException)
    if error.status >= 500:
        # The client gets a sentence; whoever operates this needs the reason.
        log.warning("request failed", status=error.status, code=error.code, cause=repr(error.__cause__))
    return problem_response(
        error.status,
        code=error.code,
        detail=error.detail,
        request_id=_request_id(request),
        headers=error.headers,
        extra=error.extra,
    )


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = title_of(error.status_code)
    detail = error.detail if isinstance(error.detail, str) and error.detail != title else None
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_allowed_methods(request)))
    return problem_response(
        error.status_code,
        code=title.lower().replace(" ", "_"),
        detail=detail,
        request_id=_request_id(request),
        headers=headers,
    )


def _allowed_methods(request: Request) -> set[str]:
    # The router knows only the methods of the first route that fits the path, and RFC 9110 asks for all.
    allowed: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.path and route.methods and compile_path(route.path)[0].match(request.scope["path"]):
            allowed |= route.methods
    return allowed


async def _request_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if any(issue["type"] == "missing" and issue["loc"] == ("header", "If-Match") for issue in error.errors()):
        return await _app_exception(request, PreconditionRequiredError("Say with If-Match which version you change."))
    # Pydantic's `input` and `ctx` echo what was sent; neither belongs into an answer or its log line.
    errors = [
        {"loc": [_shown(part) for part in issue["loc"]], "msg": issue["msg"], "type": issue["type"]}
        for issue in error.errors()[:MAX_ISSUES]
    ]
    return problem_response(
        422,
        code=ValidationError.code,
        detail="The request is not valid; `errors` says where.",
        request_id=_request_id(request),
        extra={"errors": errors},
    )


# How Pydantic names a WriteModel that is one of a union.
_WRITE_MODEL = re.compile(r"lax-or-strict\[.*,strict=(.+)\]")


def _shown(part: str | int) -> str | int:
    """A part of `loc` as clients see it. The name of an unknown field is their own, of any length."""
    if isinstance(part, int):
        return part
    model = _WRITE_MODEL.fullmatch(part)
    return (model[1] if model else part)[:MAX_NAME_LENGTH]


def install_exception_handlers(app: FastAPI) -> None:
    """Make every error of `app` a problem document, and describe it as one in the OpenAPI document.

    What nobody foresaw is left to `UnhandledErrorMiddleware`.
    """
    app.add_exception_handler(AppException, _app_exception)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _request_validation_error)
    _describe_problems(app)


def _describe_problems(app: FastAPI) -> None:
    # FastAPI describes the model of every response, errors too, under the media type of the route's successes.
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        for path in document["paths"].values():
            for operation in path.values():
                for response in operation["responses"].values():
                    if problem := response.get("content", {}).get(PROBLEM_JSON):
                        response["content"] = {PROBLEM_JSON: problem}
        return document

    app.openapi = openapi  # type: ignore[method-assign]
