"""The errors of an API: one exception class for each status and code."""

from collections.abc import Mapping, Sequence
from typing import Any


class AppException(Exception):
    """The base of all errors that have an HTTP status.

    `code` is a stable word for programs, `detail` a sentence for people. `extra` is added to the body.
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
    """The request is malformed."""

    status = 400
    code = "bad_request"


class UnauthorizedError(AppException):
    """The token is missing or not valid. Sends `WWW-Authenticate: Bearer`, as RFC 6750 requires."""

    status = 401
    code = "unauthorized"

    def __init__(self, detail: str | None = None, *, invalid_token: bool = False) -> None:
        challenge = 'Bearer error="invalid_token"' if invalid_token else "Bearer"
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class ForbiddenError(AppException):
    """The caller may not do this. `permission`: the one that it lacks, which the response names as RFC 6750 has it."""

    status = 403
    code = "forbidden"

    def __init__(self, detail: str | None = None, *, permission: str | None = None) -> None:
        if permission is None:
            super().__init__(detail)
            return
        super().__init__(
            detail or f"This needs the permission {permission}.",
            headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{permission}"'},
            extra={"permission": permission},
        )


class NotFoundError(AppException):
    """The resource does not exist, or not for this caller."""

    status = 404
    code = "not_found"


class ConflictError(AppException):
    """The state of the resource does not allow this."""

    status = 409
    code = "conflict"


class PreconditionFailedError(AppException):
    """The resource has changed since the version in `If-Match`."""

    status = 412
    code = "precondition_failed"


class PreconditionRequiredError(AppException):
    """The request needs an `If-Match` header."""

    status = 428
    code = "precondition_required"


class PayloadTooLargeError(AppException):
    """The request body is too large."""

    status = 413
    code = "payload_too_large"


class UnsupportedMediaTypeError(AppException):
    """The request body has a type that the endpoint does not take."""

    status = 415
    code = "unsupported_media_type"


class ValidationError(AppException):
    """The input is well formed but not valid. `errors` items: `{"loc": [...], "msg": ..., "type": ...}`."""

    status = 422
    code = "validation_error"

    def __init__(
        self, detail: str | None = None, *, errors: Sequence[Mapping[str, Any]] = (), code: str | None = None
    ) -> None:
        super().__init__(detail, code=code, extra={"errors": list(errors)} if errors else None)


class RateLimitError(AppException):
    """The caller has reached its rate limit. `retry_after`: whole seconds, at least 1."""

    status = 429
    code = "rate_limited"

    def __init__(self, retry_after: int, detail: str | None = None) -> None:
        super().__init__(
            detail or f"Too many requests. Try again in {retry_after} s.",
            headers={"Retry-After": str(retry_after)},
        )
        self.retry_after = retry_after


class ConcurrencyLimitError(RateLimitError):
    """The caller has too much in progress at the same time."""

    code = "concurrency_limited"


class ServiceUnavailableError(AppException):
    """A dependency is unavailable; the same request may succeed in a moment.

    `reason` is a sentence for operators, in the log and in readiness, without a name, an address or a secret.
    """

    status = 503
    code = "service_unavailable"

    def __init__(
        self, detail: str | None = None, *, code: str | None = None, retry_after: int = 1, reason: str | None = None
    ) -> None:
        super().__init__(
            detail or "The service cannot answer right now. Try again in a moment.",
            code=code,
            headers={"Retry-After": str(retry_after)},
        )
        self.reason = reason

    def __str__(self) -> str:
        # For the log, a job's record and the command line. Clients get `detail`.
        return self.reason or super().__str__()


class ExternalServiceError(AppException):
    """An external service failed. `service` names it, in logs and in the response."""

    status = 502
    code = "external_service_error"

    def __init__(self, service: str, detail: str | None = None) -> None:
        super().__init__(detail or f"The {service} service did not answer as it should.")
        self.service = service
