"""What the lifespan makes and every request finds in `request.state`."""

from collections.abc import Callable
from typing import TypedDict

from redis.asyncio import Redis

from app.core.config import Settings
from app.core.cursor import CursorCodec
from app.core.db import Database
from app.core.rate_limit import RateLimiter
from app.core.readiness import Readiness
from app.core.security import TokenVerifier
from app.jobs.watch import JobWatch

__all__ = ["AppState"]


class AppState(TypedDict):
    settings: Settings
    database: Database
    redis: Redis | None
    readiness: Readiness
    verifier: TokenVerifier
    cursors: CursorCodec
    # By principal, and by address for those whose token does not hold. None: switched off.
    rate_limiter: RateLimiter | None
    anonymous_rate_limiter: RateLimiter | None
    job_watch: JobWatch
    # See `app.core.protocol.ON_SHUTDOWN`.
    on_shutdown: list[Callable[[], None]]
