"""Verifies API keys by a look-up in the database."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Float, bindparam, extract, func, or_, select, update
from sqlmodel import col

from plinth.aio import cancel_all
from plinth.database.engine import Database, DatabaseUnavailableError
from plinth.database.statement import Statement
from plinth.identity.api_keys import ApiKey, read_key
from plinth.identity.errors import Reason, TokenError
from plinth.identity.principal import Principal
from plinth.identity.verifier import CACHE_SECONDS, MAX_CACHED

__all__ = ["ISSUER", "ApiKeyVerifier"]

ISSUER = "plinth:keys"
"""The issuer of the principals. No identity provider can have it: those of the settings are URLs."""

log = structlog.get_logger("plinth.identity")

# Connections that look keys up at once: a flood of wrong ones takes no more of the pool.
MAX_LOOK_UPS = 2

_BY_ID: Any = col(ApiKey.id) == bindparam("id")
_FIND = Statement(
    select(
        *(col(ApiKey.digest), col(ApiKey.scopes), col(ApiKey.expires_at)),
        extract("epoch", col(ApiKey.expires_at) - func.now()).cast(Float).label("seconds_left"),
        col(ApiKey.revoked_at).is_not(None).label("revoked"),
    ).where(_BY_ID)
)
# Once a minute for all processes: each of them looks a busy key up so often.
_USED = Statement(
    update(ApiKey)
    .where(
        _BY_ID,
        or_(
            col(ApiKey.last_used_at).is_(None),
            col(ApiKey.last_used_at) <= func.now() - timedelta(seconds=CACHE_SECONDS),
        ),
    )
    .values(last_used_at=func.now())
)


class ApiKeyVerifier:
    """Turns an API key into a Principal, and caches it: as `TokenVerifier` does with tokens.

    A principal is cached for CACHE_SECONDS, so for so long a key that was revoked may still be accepted, and one that
    is in use still is while the database is away. Only the database's clock tells whether a key has expired.
    """

    def __init__(self, database: Database, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._monotonic = monotonic
        self._cache: dict[bytes, tuple[float, Principal]] = {}
        self._looking_up = asyncio.Semaphore(MAX_LOOK_UPS)
        self._failed_at = float("-inf")
        self._writing: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        await cancel_all(self._writing)

    def cached(self, key: str) -> Principal | None:
        """The principal of a key that was verified before, if that was not too long ago."""
        digest = _digest(key)
        found = self._cache.get(digest)
        if found is None:
            return None
        deadline, principal = found
        if self._monotonic() >= deadline:
            del self._cache[digest]
            return None
        return principal

    async def verify(self, key: str) -> Principal:
        """Verify a key.

        Raises:
            TokenError: it is not valid.
            DatabaseUnavailableError: it cannot be looked up.
        """
        if (parts := read_key(key)) is None:
            raise TokenError(Reason.MALFORMED)
        waits = self._looking_up.locked()
        asked_at = self._monotonic()
        async with self._looking_up:
            if waits and (principal := self.cached(key)) is not None:  # a request before has looked it up
                return principal
            row = await self._look_up(parts.id, asked_at)
        if row is None or not hmac.compare_digest(row["digest"], parts.digest):
            raise TokenError(Reason.UNKNOWN_API_KEY)
        if row["revoked"]:
            raise TokenError(Reason.REVOKED)
        if row["seconds_left"] <= 0:
            raise TokenError(Reason.EXPIRED)
        expires_at = int(row["expires_at"].timestamp())
        principal = Principal(str(parts.id), ISSUER, frozenset(row["scopes"]), frozenset(), expires_at)
        digest = _digest(key)
        self._cache.pop(digest, None)  # so that it moves to the end: the first one is the oldest
        if len(self._cache) >= MAX_CACHED:
            del self._cache[next(iter(self._cache))]
        self._cache[digest] = (asked_at + min(row["seconds_left"], CACHE_SECONDS), principal)
        self._note_use(parts.id)
        return principal

    async def _look_up(self, key_id: UUID, asked_at: float) -> Any:
        # Those that wait share the failure of the one before: else each would wait for the time limit of all before it.
        if self._failed_at >= asked_at:
            raise DatabaseUnavailableError(reason="The look-up of another API key has just failed")
        try:
            async with self._database.connection() as connection:
                return await _FIND.fetchrow(connection, id=key_id)
        except DatabaseUnavailableError:
            self._failed_at = self._monotonic()
            raise

    def _note_use(self, key_id: UUID) -> None:
        """Write when the key was used, beside the request: it neither waits for that nor fails with it."""
        task = asyncio.create_task(self._write_use(key_id))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write_use(self, key_id: UUID) -> None:
        try:
            async with self._database.connection() as connection:
                await _USED.fetch(connection, id=key_id)
        except Exception as error:  # noqa: BLE001 - the next use is written
            log.info("the use of an API key was not written", key_id=str(key_id), error=type(error).__name__)


def _digest(key: str) -> bytes:
    # Instead of the key itself, so that no usable key stays in memory.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
