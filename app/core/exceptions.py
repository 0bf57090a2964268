"""The errors that an API answers with, and the one form in which they leave: RFC 9457 problem details.

Raise an `AppException` (or a subclass) anywhere; the handlers turn it, and everything else that can go wrong,
into `application/problem+json`. What a client may read goes into `detail`; nothing else ever leaves.
"""

from collections.abc import Mapping, Sequence
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

from app.core.tracing import current_trace_id

log = structlog.get_logger("app.errors")

PROBLEM_JSON = "application/problem+json"

# What is wrong with an input is told in so many parts, and the client's own words in so many characters.
MAX_ISSUES = 50
MAX_NAME_LENGTH = 100

# Python renamed these in 3.13; clients shall not see which Python answers them.
_TITLES = {413: "Content Too Large", 416: "Range Not Satisfiable", 422: "Unprocessable Content"}


class AppException(Exception):
    """An error with an HTTP status.

    `code` is a stable word for programs, `detail` a sentence for people; `extra` members join the body.
    """

    status: int = 500
    code = "internal_error"

    def __init__(
        self,
        detail: str | None = None,
        *,
        status: int | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail or type(self).__name__)
        self.detail = detail
        self.status = status or type(self).status
        self.code = code or type(self).code
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


class BadRequestError(AppException):
    status = 400
    code = "bad_request"


class UnauthorizedError(AppException):
    """No token, or one that does not hold. Says `WWW-Authenticate: Bearer`, as RFC 6750 asks."""

    status = 401
    code = "unauthorized"

    def __init__(self, detail: str | None = None, *, invalid_token: bool = False) -> None:
        challenge = 'Bearer error="invalid_token"' if invalid_token else "Bearer"
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class ForbiddenError(AppException):
    status = 403
    code = "forbidden"


class NotFoundError(AppException):
    status = 404
    code = "not_found"


class ConflictError(AppException):
    status = 409
    code = "conflict"


class PreconditionFailedError(AppException):
    status = 412
    code = "precondition_failed"


class PreconditionRequiredError(AppException):
    status = 428
    code = "precondition_required"


class PayloadTooLargeError(AppException):
    status = 413
    code = "payload_too_large"


class ValidationError(AppException):
    """The input is well formed and still wrong. `errors` items: `{"loc": [...], "msg": ..., "type": ...}`."""

    status = 422
    code = "validation_error"

    def __init__(
        self, detail: str | None = None, *, errors: Sequence[Mapping[str, Any]] = (), code: str | None = None
    ) -> None:
        super().__init__(detail, code=code, extra={"errors": list(errors)} if errors else None)


class RateLimitError(AppException):
    status = 429
    code = "rate_limited"

    def __init__(self, retry_after: int, detail: str | None = None) -> None:
        """`retry_after`: whole seconds, at least 1."""
        super().__init__(
            detail or f"Too many requests. Try again in {retry_after} s.",
            headers={"Retry-After": str(retry_after)},
        )
        self.retry_after = retry_after


class ServiceUnavailableError(AppException):
    """Something this service needs is away; the same request may succeed in a moment."""

    status = 503
    code = "service_unavailable"

    def __init__(self, detail: str | None = None, *, code: str | None = None, retry_after: int = 1) -> None:
        super().__init__(
            detail or "The service cannot answer right now. Try again in a moment.",
            code=code,
            headers={"Retry-After": str(retry_after)},
        )


class ExternalServiceError(AppException):
    """A service that we call failed. `service` names it, for the logs and the client alike."""

    status = 502
    code = "external_service_error"

    def __init__(self, service: str, detail: str | None = None) -> None:
        super().__init__(detail or f"The {service} service did not answer as it should.")
        self.service = service


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
    # Pydantic's `input` and `ctx` echo what was sent; neither belongs into an answer or its log line. `loc` echoes
    # the names of unknown fields.
    errors = [
        {
            "loc": [part[:MAX_NAME_LENGTH] if isinstance(part, str) else part for part in issue["loc"]],
            "msg": issue["msg"],
            "type": issue["type"],
        }
        for issue in error.errors()[:MAX_ISSUES]
    ]
    return problem_response(
        422,
        code=ValidationError.code,
        detail="The request is not valid; `errors` says where.",
        request_id=_request_id(request),
        extra={"errors": errors},
    )


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
