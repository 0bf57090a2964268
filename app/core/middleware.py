"""The service's middleware, and its order."""

from starlette.middleware import Middleware

from app.core.config import Settings
from plinth.api.identity_first import check_caller
from plinth.health.lifecycle import Lifecycle
from plinth.http.body_limit import BodyLimitMiddleware
from plinth.http.cors import cors_of
from plinth.http.gzip import GZipAcceptedMiddleware
from plinth.http.request_context import RequestContextMiddleware
from plinth.http.security_headers import SecurityHeadersMiddleware
from plinth.http.unhandled_errors import UnhandledErrorMiddleware
from plinth.settings.keys import derive_keys

__all__ = ["middleware_of"]

# Below this a body does not get smaller by more than its gzip header costs.
GZIP_MINIMUM_BYTES = 1024
# Level 4 of 9: nine tenths of the saving at a third of the time.
GZIP_LEVEL = 4


def middleware_of(settings: Settings, lifecycle: Lifecycle) -> list[Middleware]:
    """The middleware of every request, the outermost first."""
    probes = frozenset(f"{settings.API_V1_STR}/public/health{path}" for path in ("", "/ready"))
    return [
        Middleware(
            RequestContextMiddleware,
            lifecycle=lifecycle,
            quiet_paths=probes,
            access_sample=settings.LOG_ACCESS_SAMPLE,
            slow_seconds=settings.LOG_SLOW_REQUEST,
            hash_key=derive_keys(settings.SECRET_KEY, "log")[0],
            trace_callers=settings.TRACEPARENT_ALLOW_IPS,
        ),
        *cors_of(settings),
        Middleware(SecurityHeadersMiddleware, hsts=settings.ENVIRONMENT.deployed),
        Middleware(UnhandledErrorMiddleware),
        Middleware(BodyLimitMiddleware, max_bytes=settings.MAX_BODY_BYTES, before_reading=check_caller),
        Middleware(GZipAcceptedMiddleware, minimum_size=GZIP_MINIMUM_BYTES, compresslevel=GZIP_LEVEL),
    ]
