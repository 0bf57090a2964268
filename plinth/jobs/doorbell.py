"""The doorbell: tells workers through Redis pub/sub that a queue may have work.

A ring carries no job and may be lost, repeated or early: workers poll the database every second anyway. It is published
after the commit, in the background, and rings in quick succession are merged.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from contextvars import Context
from functools import partial
from uuid import UUID

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.database.engine import Database
from plinth.errors import ServiceUnavailableError
from plinth.jobs.after_commit import after_commit
from plinth.redis import Redis
from plinth.redis.errors import is_wrong_server, redis_reason
from plinth.redis.keys import key_prefix
from plinth.redis.window import WriteCheck
from plinth.settings import PlatformSettings

__all__ = ["DOORBELL", "Doorbell", "doorbell_for", "ring_after_commit", "ring_now"]

log = structlog.get_logger("plinth.jobs.doorbell")

DOORBELL = "jobs.doorbell"
"""The key in a session's `info` under which its database puts the doorbell."""

_READ_SECONDS = 10.0  # until a silent server is asked whether it is there
_ANSWER_SECONDS = 2.0  # that it has to answer
# The first ring is published at once; those of so many seconds after it, with one more.
_MERGE_SECONDS = 0.005
_RETRY_SECONDS = 2.0
_LAST_SECONDS = 1.0  # for the last rings, when a process ends


class Doorbell:
    """Publishes queues with work and jobs to cancel, and listens for both. Without Redis (None) it does nothing.

    `heard`: whether the listener is connected.
    """

    heard = False
    _told_of: frozenset[str] = frozenset()  # the failures that are in the log, until they end

    def __init__(self, redis: Redis | None, *, channel: str) -> None:
        self._redis = redis
        self._channel = channel
        self._queues: set[str] = set()
        self._cancelled: set[str] = set()
        self._ringing: asyncio.Task[None] | None = None

    def ring(self, queues: Iterable[str] = (), *, cancelled: Iterable[UUID] = ()) -> None:
        """Publish soon, in the background; never raises. Call it in the event loop, after the commit."""
        if self._redis is None:
            return
        self._queues.update(queues)
        self._cancelled.update(map(str, cancelled))
        if (self._ringing is None or self._ringing.done()) and (self._queues or self._cancelled):
            self._ringing = asyncio.get_running_loop().create_task(self._publish(self._redis))

    async def aclose(self) -> None:
        """Wait until pending rings have been published or have failed, for a second at most."""
        if self._ringing is not None:  # which ends by itself, also when this is cancelled
            await asyncio.wait([self._ringing], timeout=_LAST_SECONDS)

    async def _publish(self, redis: Redis) -> None:
        await self._publish_once(redis)
        await asyncio.sleep(_MERGE_SECONDS)
        # Rings that arrived meanwhile go out with the next one. In its own context, because it is not part of the
        # request that rang first.
        while self._queues or self._cancelled:
            await asyncio.get_running_loop().create_task(self._publish_once(redis), context=Context())
            await asyncio.sleep(_MERGE_SECONDS)

    async def _publish_once(self, redis: Redis) -> None:
        message = json.dumps({"queues": sorted(self._queues), "cancelled": sorted(self._cancelled)})
        self._queues.clear()
        self._cancelled.clear()
        try:
            await redis.publish(self._channel, message)
        except Exception as error:  # noqa: BLE001 - whatever it is, workers look for jobs by themselves
            self._tell("workers are not woken", error)
        else:
            self._told_of -= {"workers are not woken"}

    async def listen(self) -> AsyncIterator[tuple[set[str], set[UUID]]]:
        """Yield queues that may hold work and jobs to cancel, for ever.

        Rings from before a connection are missed. After each connection, the first included, it yields two empty sets,
        which mean that any queue may hold work and any job may be cancelled.
        """
        if self._redis is None:
            return
        check = WriteCheck(self._redis, self._channel)
        while True:
            try:
                async with self._redis.pubsub() as subscription:
                    await subscription.subscribe(self._channel)
                    await _leave_wrong_server(check)
                    self.heard = True
                    self._told_of -= {"the doorbell is not heard"}
                    yield set(), set()
                    asked = False
                    while True:
                        message = await subscription.get_message(timeout=_ANSWER_SECONDS if asked else _READ_SECONDS)
                        if message is None and asked:
                            # The system notices the loss of a machine in a quarter of an hour, and that a process is
                            # frozen not at all.
                            raise TimeoutError
                        asked = message is None
                        if message is None:
                            await subscription.ping()
                            await _leave_wrong_server(check)
                        elif message["type"] == "message" and (ring := _parse(message["data"])) is not None:
                            yield ring
            except Exception as error:  # noqa: BLE001 - whatever it is, this worker looks for jobs by itself
                self.heard = False
                self._tell("the doorbell is not heard", error)
                await asyncio.sleep(_RETRY_SECONDS)

    def _tell(self, what: str, error: Exception) -> None:
        if what not in self._told_of:
            log.warning(what, reason=redis_reason(error))
        self._told_of |= {what}


def doorbell_for(settings: PlatformSettings, redis: Redis | None) -> Doorbell:
    """Make the doorbell of this service, on a channel of its own."""
    return Doorbell(redis, channel=f"{key_prefix(settings)}:jobs")


async def _leave_wrong_server(check: WriteCheck) -> None:
    """Raise the error of a server that is not the primary: rings are published elsewhere, and may not come here."""
    try:
        await check()
    except ServiceUnavailableError as error:
        if error.__cause__ is not None and is_wrong_server(error.__cause__):
            raise error.__cause__ from None


def _parse(data: bytes) -> tuple[set[str], set[UUID]] | None:
    # Every client of Redis can publish here; a ring is a hint and grants nothing.
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        message = json.loads(data)
        return {str(name) for name in message["queues"]}, {UUID(job_id) for job_id in message["cancelled"]}
    return None


def ring_now(database: Database, *, queues: Iterable[str]) -> None:
    """Ring for jobs that were enqueued through the database itself."""
    doorbell: Doorbell | None = database.session_info.get(DOORBELL)
    if doorbell is not None:
        doorbell.ring(queues)


def ring_after_commit(session: AsyncSession, *, queues: Iterable[str] = (), cancelled: Iterable[UUID] = ()) -> None:
    """Ring once the session's transaction has committed; not if it rolls back."""
    doorbell: Doorbell | None = session.sync_session.info.get(DOORBELL)
    if doorbell is not None:
        after_commit(session, partial(doorbell.ring, queues, cancelled=cancelled))
