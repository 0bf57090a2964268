"""A job's changes as server-sent events (the WHATWG's HTML standard, section 9.2).

The id of an event is a digest of its data, so a client may reconnect to any process, and none keeps any state.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from hashlib import blake2b
from time import monotonic

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from plinth.api.schemas import JobSummary
from plinth.http.caller_limit import give_up_place
from plinth.jobs.admin.jobs import JobView
from plinth.jobs.admin.watch import JobWatch, Watcher

__all__ = ["JobEvents", "event_id"]

LIFETIME_SECONDS = 300.0  # then the client reconnects, and its token is checked again
COMMENT_SECONDS = 15.0  # proxies close silent connections
RETRY_MILLISECONDS = (1000, 4000)  # random for each client: a shutdown disconnects all of them at once


def _encode(snapshot: JobView) -> bytes:
    return JobSummary.model_validate(snapshot).model_dump_json().encode()


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=8).hexdigest()


def event_id(snapshot: JobView) -> str:
    """The id of the event for this snapshot."""
    return _digest(_encode(snapshot))


class JobEvents(StreamingResponse):
    """Streams `snapshot`, unless its event is the one that `caller` has `seen`, and each later snapshot.

    Takes a place among the watchers when the response begins, or answers 503 if all are taken. Gives the place back
    when the response ends for any reason.
    """

    media_type = "text/event-stream"

    def __init__(self, watch: JobWatch, snapshot: JobView, caller: str, seen: str | None) -> None:
        self._watch = watch
        self._caller = caller
        self._snapshot = snapshot
        self._seen = seen
        # X-Accel-Buffering is nginx's: do not buffer the stream.
        super().__init__((), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._watch.watching(self._snapshot, self._caller) as watcher:
            give_up_place(scope)  # it holds no connection from here on, and the watchers have a limit of their own
            self.body_iterator = self._events(watcher)
            await super().__call__(scope, receive, send)

    async def _events(self, watcher: Watcher) -> AsyncIterator[bytes]:
        end = monotonic() + LIFETIME_SECONDS
        yield b"retry: %d\n\n" % random.randint(*RETRY_MILLISECONDS)  # noqa: S311
        snapshot: JobView | None = self._snapshot
        seen = self._seen
        while snapshot is not None:
            data = _encode(snapshot)
            digest = _digest(data)
            if digest != seen:
                name = b"end" if snapshot.state.terminal else b"progress"
                yield b"id: %b\nevent: %b\ndata: %b\n\n" % (digest.encode(), name, data)
                seen = digest
            if snapshot.state.terminal:
                return
            while True:
                left = end - monotonic()
                if left <= 0:
                    return
                try:
                    async with asyncio.timeout(min(left, COMMENT_SECONDS)):
                        snapshot = await watcher.next()
                    break
                except TimeoutError:
                    yield b":\n\n"
