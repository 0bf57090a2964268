"""What the lifespan makes and every request finds in `request.state`."""

from collections.abc import Callable
from typing import TypedDict

from redis.asyncio import Redis

from plinth.database.engine import Database
from plinth.health.readiness import Readiness
from plinth.http.cursor import CursorCodec
from plinth.http.rate_limit import RateLimiter
from plinth.identity.verifier import TokenVerifier
from plinth.jobs.admin.watch import JobWatch
from plinth.settings import PlatformSettings

__all__ = ["AppState"]


class AppState(TypedDict):
    settings: PlatformSettings
    database: Database
    redis: Redis | None
    readiness: Readiness
    verifier: TokenVerifier
    cursors: CursorCodec
    # By principal, and by address for those whose token does not hold. None: switched off.
    rate_limiter: RateLimiter | None
    anonymous_rate_limiter: RateLimiter | None
    job_watch: JobWatch
    # See `plinth.http.protocol.ON_SHUTDOWN`.
    on_shutdown: list[Callable[[], None]]
