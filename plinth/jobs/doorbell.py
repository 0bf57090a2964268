"""The doorbell: tells workers, through Redis, that there may be something to do.

It carries no job and may get lost, come twice or come too early: workers look into the database, and look there every
second anyway. A ring is published after the commit, in the background, and rings that come in quick succession are one.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from uuid import UUID

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import event
from sqlalchemy.orm import Session
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.settings import PlatformSettings

__all__ = ["DOORBELL", "Doorbell", "doorbell_for", "ring_after_commit"]

log = structlog.get_logger("plinth.jobs.doorbell")

DOORBELL = "jobs.doorbell"
"""The key in a session's `info` under which its database puts the doorbell."""

_RINGS = "jobs.rings"
_READ_SECONDS = 10.0
_RETRY_SECONDS = 2.0


class Doorbell:
    """Rings for queues and for jobs to be cancelled. Without Redis (None) it is silent.

    `heard`: who listens is connected.
    """

    heard = False

    def __init__(self, redis: Redis | None, *, channel: str) -> None:
        self._redis = redis
        self._channel = channel
        self._queues: set[str] = set()
        self._cancelled: set[str] = set()
        self._ringing: asyncio.Task[None] | None = None

    def ring(self, queues: Iterable[str] = (), *, cancelled: Iterable[UUID] = ()) -> None:
        """Ring soon; waits for nothing and never raises. Call it in the event loop, after the commit."""
        if self._redis is None:
            return
        self._queues.update(queues)
        self._cancelled.update(map(str, cancelled))
        if (self._ringing is None or self._ringing.done()) and (self._queues or self._cancelled):
            self._ringing = asyncio.get_running_loop().create_task(self._publish(self._redis))

    async def aclose(self) -> None:
        """Wait until what was rung has been published, or has failed."""
        if self._ringing is not None:
            await self._ringing

    async def _publish(self, redis: Redis) -> None:
        await self._publish_once(redis)
        # What is rung while one ring is on its way goes out with the next. In a context of its own: it is not part of
        # the request that rang first.
        while self._queues or self._cancelled:
            await asyncio.get_running_loop().create_task(self._publish_once(redis), context=Context())

    async def _publish_once(self, redis: Redis) -> None:
        message = json.dumps({"queues": sorted(self._queues), "cancelled": sorted(self._cancelled)})
        self._queues.clear()
        self._cancelled.clear()
        try:
            await redis.publish(self._channel, message)
        except (RedisError, OSError) as error:
            log.debug("the doorbell is out of order", error=type(error).__name__)

    async def listen(self) -> AsyncIterator[tuple[set[str], set[UUID]]]:
        """Yields queues that may hold work and jobs whose cancellation was asked for, for ever.

        Nobody heard the rings of the time before: after each connection, the first included, it yields two empty
        sets, which mean "look yourself".
        """
        while self._redis is not None:
            try:
                async with self._redis.pubsub() as subscription:
                    await subscription.subscribe(self._channel)
                    self.heard = True
                    yield set(), set()
                    while True:
                        message = await subscription.get_message(timeout=_READ_SECONDS)
                        if message is None:
                            # Silence, or a connection that is dead and does not know it.
                            await subscription.ping()
                        elif message["type"] == "message" and (ring := _parse(message["data"])) is not None:
                            yield ring
            except (RedisError, OSError) as error:
                self.heard = False
                log.debug("the doorbell is not heard", error=type(error).__name__)
                await asyncio.sleep(_RETRY_SECONDS)


def doorbell_for(settings: PlatformSettings, redis: Redis | None) -> Doorbell:
    """The doorbell of this service: one channel, named after the project."""
    return Doorbell(redis, channel=f"{settings.PROJECT_NAME}:jobs")


def _parse(data: bytes) -> tuple[set[str], set[UUID]] | None:
    # Whoever can write to Redis can ring; a ring is a hint and gives no rights.
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        message = json.loads(data)
        return {str(name) for name in message["queues"]}, {UUID(job_id) for job_id in message["cancelled"]}
    return None


def ring_after_commit(session: AsyncSession, *, queues: Iterable[str] = (), cancelled: Iterable[UUID] = ()) -> None:
    """Ring when the session's transaction has committed; not at all if it rolls back."""
    info = session.sync_session.info
    if info.get(DOORBELL) is None:
        return
    rings = info.setdefault(_RINGS, _Rings())
    rings.queues.update(queues)
    rings.cancelled.update(cancelled)


@dataclass(slots=True)
class _Rings:
    queues: set[str] = field(default_factory=set)
    cancelled: set[UUID] = field(default_factory=set)


# For all sessions: listening to each one by itself would cost a tenth of an enqueue.
@event.listens_for(Session, "after_commit")
def _ring(session: Session) -> None:
    # Also called when a savepoint is released: what it holds is not committed then.
    if not session.in_nested_transaction() and (rings := session.info.pop(_RINGS, None)) is not None:
        doorbell: Doorbell = session.info[DOORBELL]
        doorbell.ring(rings.queues, cancelled=rings.cancelled)


@event.listens_for(Session, "after_rollback")
def _forget(session: Session) -> None:
    if not session.in_nested_transaction():
        session.info.pop(_RINGS, None)
