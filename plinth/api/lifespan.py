"""What the API opens before its first request and closes after its last."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.types import Lifespan

from plinth.api.state import AppState
from plinth.database.engine import Database, bind_default_database
from plinth.health.lifecycle import Lifecycle
from plinth.health.readiness import TIMEOUT_SECONDS, Readiness
from plinth.http.cursor import CursorCodec
from plinth.http.rate_limit import RateLimiter
from plinth.identity import build_verifier
from plinth.jobs.admin.watch import JobWatch
from plinth.jobs.engine.fleet_metrics import Figures
from plinth.jobs.resources import open_resources
from plinth.settings import PlatformSettings
from plinth.settings.keys import derive_key
from plinth.telemetry import trace_setup
from plinth.telemetry.metrics import tell_build

__all__ = ["lifespan_of"]


def lifespan_of(settings: PlatformSettings, lifecycle: Lifecycle) -> Lifespan[FastAPI]:
    """A lifespan that opens what the endpoints need, in the order of need, and closes it in reverse."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[AppState]:
        # What is opened later is closed earlier, also when a later opening fails.
        async with AsyncExitStack() as closing:
            tell_build(settings)
            await closing.enter_async_context(trace_setup.running(settings, "api"))
            resources = await closing.enter_async_context(open_resources(settings, pool_name="main"))
            database, redis = resources.database, resources.redis
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


def _limiter(settings: PlatformSettings, limit: str, redis: Any) -> RateLimiter | None:
    return RateLimiter(limit, redis, prefix=f"{settings.PROJECT_NAME}:limit") if limit else None
