"""Readiness: checks of dependencies run in the background; probes read the last result.

A probe of Kubernetes reads the last known state and never waits, never queues for a connection of the pool. Each
component is watched by a task of its own, so one that hangs does not hide another.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal

import structlog

from plinth.aio import cancel_all
from plinth.errors import ServiceUnavailableError
from plinth.network_errors import network_reason
from plinth.telemetry.metrics import DEPENDENCY_UP, Labels

__all__ = ["ComponentState", "Readiness"]

log = structlog.get_logger("plinth.readiness")

INTERVAL_SECONDS = 1.0
TIMEOUT_SECONDS = 0.5
# Failures in a row after which a component is down: one slow answer is not an outage.
FAILURES_BEFORE_DOWN = 2
# A state that is older than this counts as down: its check hangs, or the event loop does. Seconds.
STALE_AFTER_SECONDS = 4.0

Check = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class ComponentState:
    """The last known state of one component. `latency` in seconds, of the last answer; `reason` of the last failure."""

    required: bool
    up: bool = False
    latency: float | None = None
    reason: str | None = None
    failures: int = 0
    checked_at: float = field(default=float("-inf"))

    @property
    def status(self) -> Literal["up", "down"]:
        fresh = monotonic() - self.checked_at < STALE_AFTER_SECONDS
        return "up" if self.up and fresh else "down"


class Readiness:
    """Watches components. `checks` raise when theirs is away; `required` names those that readiness needs.

    A check has to give up by itself within about `TIMEOUT_SECONDS`; one that does not is cancelled then.
    """

    def __init__(self, checks: Mapping[str, Check], required: Collection[str]) -> None:
        self._checks = checks
        self.components = {name: ComponentState(required=name in required) for name in checks}
        for name in set(required) - set(checks):  # required but not configured
            self.components[name] = ComponentState(required=True, reason="it is not configured")

    @property
    def status(self) -> Literal["ready", "degraded", "unavailable"]:
        down = [c for c in self.components.values() if c.status == "down"]
        if any(c.required for c in down):
            return "unavailable"
        return "degraded" if down else "ready"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Check in the background while the block runs, and once before it: a healthy process starts ready."""
        await asyncio.gather(*(self._check(name) for name in self._checks))
        tasks = [asyncio.create_task(self._watch(name), name=f"readiness:{name}") for name in self._checks]
        try:
            with DEPENDENCY_UP.by(self._up):
                yield
        finally:
            await cancel_all(tasks)

    def _up(self) -> list[tuple[Labels, float]]:
        return [((name,), component.status == "up") for name, component in self.components.items()]

    async def _watch(self, name: str) -> None:
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            await self._check(name)

    async def _check(self, name: str) -> None:
        component = self.components[name]
        started = monotonic()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await self._checks[name]()
        except (Exception, asyncio.CancelledError) as error:  # whatever it is, the component cannot be used
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # this task's own, and not of something that the check has waited for
            component.failures += 1
            component.reason = _reason(error)
            went_down = component.up and component.failures >= FAILURES_BEFORE_DOWN
            if went_down or component.checked_at == float("-inf"):
                component.up = False
                told = {"error": type(error).__name__, "reason": component.reason}
                log.warning("component down", component=name, required=component.required, **told)
        else:
            component.failures = 0
            component.reason = None
            component.latency = monotonic() - started
            if not component.up:
                component.up = True
                log.info("component up", component=name)
        component.checked_at = monotonic()


def _reason(error: BaseException) -> str:
    told = error.reason if isinstance(error, ServiceUnavailableError) else None
    return told or network_reason(error) or type(error).__name__
