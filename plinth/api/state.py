"""The state that the lifespan makes, in `request.state` of every request."""

from collections.abc import Callable
from typing import TypedDict

from plinth.database.engine import Database
from plinth.database.reads import Reads
from plinth.health.readiness import Readiness
from plinth.http.caller_limit import CallerLimit
from plinth.http.cursor import CursorCodec
from plinth.http.rate_limit import RateLimiter
from plinth.http.websockets import WebSockets
from plinth.identity.api_key_verifier import ApiKeyVerifier
from plinth.identity.permissions import Permissions
from plinth.identity.verifier import TokenVerifier
from plinth.jobs.admin.watch import JobWatch
from plinth.redis import Redis
from plinth.settings import PlatformSettings

__all__ = ["AppState"]


class AppState(TypedDict):
    settings: PlatformSettings
    database: Database
    reads: Reads
    redis: Redis | None
    readiness: Readiness
    verifier: TokenVerifier
    api_keys: ApiKeyVerifier
    permissions: Permissions
    cursors: CursorCodec
    # By principal, and by address for requests without a valid token. None: switched off.
    rate_limiter: RateLimiter | None
    anonymous_rate_limiter: RateLimiter | None
    caller_limit: CallerLimit
    job_watch: JobWatch
    websockets: WebSockets
    # See `plinth.http.protocol.ON_SHUTDOWN`.
    on_shutdown: list[Callable[[], None]]
