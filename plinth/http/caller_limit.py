"""How many requests of one caller a process serves at once, so that one caller cannot keep all others waiting.

A few more wait in line for a moment, as those of a page that asks for everything at once; the rest is refused. The
places are of this process alone: they stand for its connections to the database.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from functools import partial

from prometheus_client import Counter
from starlette.types import Scope

from plinth.errors import ConcurrencyLimitError

__all__ = ["CallerLimit", "give_up_place", "take_place"]

# Requests that may wait for each one that is served, and seconds that they wait: with the database's time limits
# (1.5 s for a statement) less than the 2 s within which every request is answered.
WAITING_EACH = 4
WAIT_SECONDS = 0.4
RETRY_AFTER_SECONDS = 1

_REFUSED = Counter("plinth_caller_limit_refused", "Requests refused because too many of their caller were in progress.")

_PLACE = "give_up_place"  # in a request's state: gives its place up


class CallerLimit:
    """Counts the requests in progress of each caller, up to `limit`; the next ones wait in line."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._served: dict[Hashable, int] = {}
        self._lines: dict[Hashable, deque[asyncio.Future[None]]] = {}

    async def enter(self, caller: Hashable) -> None:
        """Take a place, which `leave` gives back.

        Raises:
            ConcurrencyLimitError: all places of the caller are taken, and the line is full or does not move.
        """
        served = self._served.get(caller, 0)
        if served < self._limit:
            self._served[caller] = served + 1
        elif len(self._lines.get(caller, ())) >= WAITING_EACH * self._limit or not await self._waited(caller):
            _REFUSED.inc()
            raise ConcurrencyLimitError(
                RETRY_AFTER_SECONDS, f"You have {self._limit} requests in progress. Send fewer at the same time."
            )

    def leave(self, caller: Hashable) -> None:
        """Give a place back: to the request that has waited longest."""
        if caller in self._lines and self._hand_over(self._lines[caller]):
            return
        served = self._served[caller] - 1
        if served:
            self._served[caller] = served
        else:
            del self._served[caller]

    def _hand_over(self, line: deque[asyncio.Future[None]]) -> bool:
        for place in line:
            if not place.done():
                place.set_result(None)
                return True
        return False

    async def _waited(self, caller: Hashable) -> bool:
        """Wait for a place; returns whether there was one in time."""
        line = self._lines.setdefault(caller, deque())
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(place)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await place
        except BaseException as error:
            if not place.cancelled():  # it was handed over at the same moment
                self.leave(caller)
            if isinstance(error, TimeoutError):
                return False
            raise
        finally:
            line.remove(place)
            if not line:
                del self._lines[caller]
        return True


async def take_place(scope: Scope, limit: CallerLimit, caller: Hashable) -> None:
    """Take a place for a request; `RequestContextMiddleware` gives it up when the request has ended.

    Raises:
        ConcurrencyLimitError: as `CallerLimit.enter` does.
    """
    await limit.enter(caller)
    scope["state"][_PLACE] = partial(limit.leave, caller)


def give_up_place(scope: Scope) -> None:
    """Give up a request's place, if it has one: at its end, or when it goes on without the database."""
    place: Callable[[], None] | None = scope["state"].pop(_PLACE, None)
    if place is not None:
        place()
