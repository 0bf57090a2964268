"""The lifespan of the API: opens resources before the first request, closes them after the last."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.types import Lifespan

from plinth.api.state import AppState
from plinth.database.engine import bind_default_database, one_connection
from plinth.database.reads import open_reads
from plinth.health.lifecycle import Lifecycle
from plinth.health.readiness import TIMEOUT_SECONDS, Check, Readiness
from plinth.http.caller_limit import CallerLimit
from plinth.http.cursor import CursorCodec
from plinth.http.rate_limit import RateLimiter
from plinth.http.routes import templates_of
from plinth.http.websockets import WebSockets
from plinth.identity import build_verifier
from plinth.identity.api_key_verifier import ApiKeyVerifier
from plinth.identity.owners import Owners
from plinth.identity.permissions import Permissions
from plinth.jobs.admin.watch import JobWatch
from plinth.jobs.engine.fleet_metrics import FleetMetrics
from plinth.jobs.resources import open_resources
from plinth.redis.keys import key_prefix
from plinth.redis.window import WriteCheck
from plinth.settings import PlatformSettings
from plinth.settings.keys import derive_keys
from plinth.telemetry import trace_setup
from plinth.telemetry.http_metrics import HTTP
from plinth.telemetry.route_template import UNMATCHED

__all__ = ["lifespan_of"]


def lifespan_of(
    settings: PlatformSettings, lifecycle: Lifecycle, checks: Mapping[str, Check] | None = None
) -> Lifespan[FastAPI]:
    """A lifespan that opens what the endpoints need, and closes it in reverse order.

    `checks` are the service's own readiness checks by name, beside those of the database, its replica and Redis:
    coroutine functions that raise when a component is down; the `reason` of a ServiceUnavailableError is shown.
    READINESS_REQUIRED names the components that have to be up.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[AppState]:
        HTTP.expect({*templates_of(app.routes), UNMATCHED})
        # Closes in reverse order, also when opening one of them fails.
        async with AsyncExitStack() as closing:
            await closing.enter_async_context(trace_setup.running(settings, "api"))
            resources = await closing.enter_async_context(open_resources(settings, pool_name="main"))
            database, redis = resources.database, resources.redis
            await database.warm()
            reads = await closing.enter_async_context(open_reads(settings, database))
            closing.enter_context(bind_default_database(database))
            job_watch = JobWatch(database)
            closing.push_async_callback(job_watch.aclose)
            fleet_metrics = FleetMetrics(database, settings)
            fleet_metrics.start()
            closing.push_async_callback(fleet_metrics.stop)
            verifier = build_verifier(settings, Owners(database).named)
            closing.push_async_callback(verifier.aclose)
            api_keys = ApiKeyVerifier(database)
            closing.push_async_callback(api_keys.aclose)

            # The readiness check has a connection of its own, so that a busy pool never makes a pod unready.
            probe = one_connection(settings, TIMEOUT_SECONDS)
            closing.push_async_callback(probe.aclose)
            watched: dict[str, Any] = {"database": probe.ping, **reads.checks}
            if redis is not None:
                watched["redis"] = WriteCheck(redis, _limits_prefix(settings))
            readiness = Readiness(watched | dict(checks or {}), settings.READINESS_REQUIRED)
            await closing.enter_async_context(readiness.running())
            websockets = WebSockets()
            end_streams = [job_watch.stop, websockets.end_all]
            closing.enter_context(lifecycle.running(readiness, end_streams))

            yield AppState(
                settings=settings,
                database=database,
                reads=reads,
                redis=redis,
                readiness=readiness,
                verifier=verifier,
                api_keys=api_keys,
                permissions=Permissions(settings),
                cursors=CursorCodec(*derive_keys(settings.SECRET_KEY, "cursor")),
                rate_limiter=_limiter(settings, settings.RATE_LIMIT, redis),
                anonymous_rate_limiter=_limiter(settings, settings.RATE_LIMIT_ANONYMOUS, redis),
                caller_limit=CallerLimit(settings.requests_per_caller),
                job_watch=job_watch,
                websockets=websockets,
                on_shutdown=end_streams,
            )

    return lifespan


def _limiter(settings: PlatformSettings, limit: str, redis: Any) -> RateLimiter | None:
    return RateLimiter(limit, redis, prefix=_limits_prefix(settings)) if limit else None


def _limits_prefix(settings: PlatformSettings) -> str:
    return f"{key_prefix(settings)}:limit"
