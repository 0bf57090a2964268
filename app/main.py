"""The application factory. `uvicorn app.main:app` serves what it makes of the environment."""

import gc
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware

from app import (
    __version__,
    jobs,  # noqa: F401 - imported for what that does: every kind of job is registered
)
from app.api.v1.router import router
from plinth.api.state import AppState
from plinth.database.engine import Database, bind_default_database
from plinth.health.lifecycle import Lifecycle
from plinth.health.readiness import TIMEOUT_SECONDS, Readiness
from plinth.http.body_limit import BodyLimitMiddleware
from plinth.http.cors import ProblemCORSMiddleware
from plinth.http.cursor import CursorCodec
from plinth.http.error_handlers import install_exception_handlers
from plinth.http.gzip import GZipAcceptedMiddleware
from plinth.http.rate_limit import RateLimiter
from plinth.http.request_context import RequestContextMiddleware
from plinth.http.security_headers import SecurityHeadersMiddleware
from plinth.http.unhandled_errors import UnhandledErrorMiddleware
from plinth.identity import build_verifier
from plinth.jobs.admin.watch import JobWatch
from plinth.jobs.doorbell import DOORBELL, doorbell_for
from plinth.jobs.engine.fleet_metrics import Figures
from plinth.redis.client import close_redis, init_redis
from plinth.settings.base import Settings, SettingsError, get_settings
from plinth.settings.keys import derive_key
from plinth.telemetry import tracing
from plinth.telemetry.access_log import write_waiting
from plinth.telemetry.logging import configure_logging

__all__ = ["create_app"]

# Below this a body does not get smaller by more than its gzip header costs.
GZIP_MINIMUM_BYTES = 1024
# Level 4 of 9: nine tenths of the saving at a third of the time.
GZIP_LEVEL = 4


def create_app(settings: Settings) -> FastAPI:
    """The application for these settings. Opens nothing and reads no environment: the lifespan opens.

    Its `state.lifecycle` is what the second port of a process asks.
    """
    docs = settings.docs_enabled
    lifecycle = Lifecycle(settings.DRAIN_SECONDS)
    app = FastAPI(
        title=settings.PROJECT_NAME,
        version=__version__,
        debug=settings.DEBUG,
        openapi_url=f"{settings.API_V1_STR}/openapi.json" if docs else None,
        docs_url="/docs" if docs else None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan(settings, lifecycle),
        # RequestContextMiddleware makes the spans and counts, for less than this would.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        middleware=_middleware(settings, lifecycle),
    )
    app.state.lifecycle = lifecycle
    install_exception_handlers(app)
    app.include_router(router, prefix=settings.API_V1_STR)
    return app


def _lifespan(settings: Settings, lifecycle: Lifecycle) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[AppState]:
        # What is opened later is closed earlier, also when a later opening fails.
        async with AsyncExitStack() as closing:
            closing.callback(write_waiting)
            await closing.enter_async_context(tracing.running(settings, "api"))
            redis = init_redis(settings)
            closing.push_async_callback(close_redis, redis)
            doorbell = doorbell_for(settings, redis)
            closing.push_async_callback(doorbell.aclose)
            database = Database(settings, session_info={DOORBELL: doorbell}, pool_name="main")
            closing.push_async_callback(database.aclose)
            await database.warm()
            closing.enter_context(bind_default_database(database))
            job_watch = JobWatch(database)
            closing.push_async_callback(job_watch.aclose)
            figures = Figures(database, settings)
            figures.start()
            closing.push_async_callback(figures.stop)
            verifier = build_verifier(settings)
            closing.push_async_callback(verifier.aclose)

            # A connection of its own, so that a busy pool never makes a pod look unready.
            probe = Database(
                settings.model_copy(
                    update={
                        "DB_POOL_SIZE": 1,
                        "DB_MAX_OVERFLOW": 0,
                        "DB_CONNECT_TIMEOUT": TIMEOUT_SECONDS,
                        "DB_STATEMENT_TIMEOUT": TIMEOUT_SECONDS,
                    }
                )
            )
            closing.push_async_callback(probe.aclose)
            checks: dict[str, Any] = {"database": probe.ping}
            if redis is not None:
                checks["redis"] = redis.ping
            readiness = Readiness(checks, settings.READINESS_REQUIRED)
            await readiness.start()
            closing.push_async_callback(readiness.stop)
            end_streams = [job_watch.stop]
            closing.enter_context(lifecycle.running(readiness, end_streams))

            yield AppState(
                settings=settings,
                database=database,
                redis=redis,
                readiness=readiness,
                verifier=verifier,
                cursors=CursorCodec(derive_key(settings.SECRET_KEY.get_secret_value(), "cursor")),
                rate_limiter=_limiter(settings, settings.RATE_LIMIT, redis),
                anonymous_rate_limiter=_limiter(settings, settings.RATE_LIMIT_ANONYMOUS, redis),
                job_watch=job_watch,
                on_shutdown=end_streams,
            )

    return lifespan


def _limiter(settings: Settings, limit: str, redis: Any) -> RateLimiter | None:
    return RateLimiter(limit, redis, prefix=f"{settings.PROJECT_NAME}:limit") if limit else None


def _middleware(settings: Settings, lifecycle: Lifecycle) -> list[Middleware]:
    """The first is the outermost."""
    probes = frozenset(f"{settings.API_V1_STR}/public/health{path}" for path in ("", "/ready"))
    stack = [
        Middleware(
            RequestContextMiddleware,
            lifecycle=lifecycle,
            quiet_paths=probes,
            access_sample=settings.LOG_ACCESS_SAMPLE,
            slow_seconds=settings.LOG_SLOW_REQUEST,
            hash_key=derive_key(settings.SECRET_KEY.get_secret_value(), "log"),
        ),
    ]
    if settings.BACKEND_CORS_ORIGINS:
        cors = Middleware(
            ProblemCORSMiddleware,
            allow_origins=settings.BACKEND_CORS_ORIGINS,
            allow_credentials=True,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "If-Match",
                "If-None-Match",
                "If-Range",
                "Idempotency-Key",
                "Last-Event-ID",
                "Range",
                "traceparent",
                "tracestate",
                "X-Request-ID",
            ],
            expose_headers=[
                "Accept-Ranges",
                "Content-Disposition",
                "Content-Range",
                "ETag",
                "Idempotency-Replayed",
                "Link",
                "Location",
                "RateLimit",
                "RateLimit-Policy",
                "Retry-After",
                "traceresponse",
                "X-Request-ID",
            ],
        )
        stack.append(cors)
    return [
        *stack,
        Middleware(SecurityHeadersMiddleware, hsts=settings.ENVIRONMENT.deployed, docs_paths=frozenset({"/docs"})),
        Middleware(UnhandledErrorMiddleware),
        Middleware(BodyLimitMiddleware, max_bytes=settings.MAX_BODY_BYTES),
        Middleware(GZipAcceptedMiddleware, minimum_size=GZIP_MINIMUM_BYTES, compresslevel=GZIP_LEVEL),
    ]


def __getattr__(name: str) -> Any:
    # `app` is made when somebody asks for it, so that importing this module costs and needs nothing.
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        settings = get_settings()
    except SettingsError as error:
        sys.exit(str(error))
    configure_logging(settings)
    if settings.traces_endpoint is not None:
        from plinth.telemetry import span_recorder  # noqa: F401 - now, so that it is frozen with the rest
    globals()["app"] = application = create_app(settings)
    # What lives as long as the process need not be looked through again and again by the garbage collector: each
    # full collection would stop every request for tens of milliseconds.
    gc.collect()
    gc.freeze()
    return application
