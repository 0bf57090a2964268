"""CORS: which web pages may call the API from a browser, by their origins; what they may send and read."""

import re

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from plinth.http.error_handlers import problem_response
from plinth.settings.http import HttpSettings

__all__ = ["ProblemCORSMiddleware", "cors_of"]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

# What the platform's endpoints read, and what browsers' tracers add to every request of theirs.
READ_HEADERS = (
    *("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Request-ID"),
    *("If-Match", "If-None-Match", "If-Range", "Range"),
    *("baggage", "sentry-trace", "traceparent", "tracestate"),
)
# What they answer with beside the headers that every page may read.
SENT_HEADERS = (
    *("Accept-Ranges", "Allow", "Content-Disposition", "Content-Range", "ETag", "Idempotency-Replayed", "Link"),
    *("Location", "RateLimit", "RateLimit-Policy", "Retry-After", "traceresponse", "WWW-Authenticate", "X-Request-ID"),
)


def cors_of(settings: HttpSettings) -> list[Middleware]:
    """The middleware for the origins of the settings; none if they name none.

    `https://*.example.com` stands for all subdomains of example.com, at any depth, and not for itself; `*` for every
    origin but `null`, which any sandboxed frame has.
    """
    origins = settings.BACKEND_CORS_ORIGINS
    if not origins:
        return []
    return [
        Middleware(
            ProblemCORSMiddleware,
            allow_origins=[origin for origin in origins if "*" not in origin],
            allow_origin_regex="|".join(_regex_of(origin) for origin in origins if "*" in origin) or None,
            allow_credentials=True,
            allow_methods=METHODS,
            allow_headers=(*READ_HEADERS, *settings.BACKEND_CORS_ALLOW_HEADERS),
            expose_headers=(*SENT_HEADERS, *settings.BACKEND_CORS_EXPOSE_HEADERS),
        )
    ]


class ProblemCORSMiddleware(CORSMiddleware):
    """Starlette's CORSMiddleware; a refused preflight is answered with a problem document."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        headers = {k: v for k, v in response.headers.items() if not k.startswith("content-")}
        detail = bytes(response.body).decode()
        return problem_response(response.status_code, code="cors_refused", detail=detail, headers=headers)


def _regex_of(pattern: str) -> str:
    """A regular expression for the origins of a pattern. Matching takes time in proportion to the origin's length."""
    if pattern == "*":
        return r"[a-z][a-z0-9+.-]*://.+"
    scheme, host = pattern.split("*.", 1)
    return rf"{re.escape(scheme)}(?:[a-z0-9_-]+\.)+{re.escape(host)}"
