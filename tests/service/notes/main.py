"""The application factory."""

from fastapi import FastAPI
from starlette.middleware import Middleware

from notes import __version__, api, health
from notes.config import Settings
from plinth.api import audit, jobs, me, queues, schedules, workers
from plinth.api.docs import install_docs
from plinth.api.identity_first import check_caller
from plinth.api.lifespan import lifespan_of
from plinth.api.openapi import TAGS, operation_id
from plinth.health.lifecycle import Lifecycle
from plinth.http.body_limit import BodyLimitMiddleware
from plinth.http.cors import cors_of
from plinth.http.error_handlers import install_exception_handlers
from plinth.http.gzip import GZipAcceptedMiddleware
from plinth.http.request_context import RequestContextMiddleware
from plinth.http.security_headers import SecurityHeadersMiddleware
from plinth.http.unhandled_errors import UnhandledErrorMiddleware
from plinth.ops import install_ops
from plinth.settings.keys import derive_keys

__all__ = ["create_app"]


def create_app(settings: Settings) -> FastAPI:
    """Make the application for these settings. Nothing is opened before its lifespan begins."""
    lifecycle = Lifecycle(settings.DRAIN_SECONDS)
    app = FastAPI(
        title=settings.PROJECT_NAME,
        version=__version__,
        openapi_tags=[{"name": "notes", "description": "Texts with tags."}, *TAGS],
        generate_unique_id_function=operation_id,
        openapi_url=f"{settings.API_V1_STR}/openapi.json" if settings.docs_enabled else None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan_of(settings, lifecycle),
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "auto_configure": False,
        },  # RequestContextMiddleware does it
        middleware=middleware_of(settings, lifecycle),
    )
    app.state.lifecycle = lifecycle
    install_exception_handlers(app)
    for part in (api, health, jobs, me, queues, workers, schedules, audit):
        app.include_router(part.router, prefix=settings.API_V1_STR)
    if settings.docs_enabled:
        install_docs(app)
    install_ops(app, settings)
    return app


def middleware_of(settings: Settings, lifecycle: Lifecycle) -> list[Middleware]:
    """The middleware of every request, the outermost first."""
    context = Middleware(
        RequestContextMiddleware,
        lifecycle=lifecycle,
        quiet_paths=frozenset(f"{settings.API_V1_STR}/public/health{path}" for path in ("", "/ready")),
        access_sample=settings.LOG_ACCESS_SAMPLE,
        slow_seconds=settings.LOG_SLOW_REQUEST,
        hash_key=derive_keys(settings.SECRET_KEY, "log")[0],
        trace_callers=settings.TRACEPARENT_ALLOW_IPS,
    )
    return [
        context,
        *cors_of(settings),
        Middleware(SecurityHeadersMiddleware, hsts=settings.ENVIRONMENT.deployed),
        Middleware(UnhandledErrorMiddleware),
        Middleware(BodyLimitMiddleware, max_bytes=settings.MAX_BODY_BYTES, before_reading=check_caller),
        Middleware(GZipAcceptedMiddleware, minimum_size=1024, compresslevel=4),
    ]
