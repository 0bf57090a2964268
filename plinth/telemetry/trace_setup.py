"""Switches tracing on for a process, and delivers the last spans when it ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from threading import Thread
from typing import Literal

import structlog
from opentelemetry import trace

from plinth.settings import PlatformSettings
from plinth.telemetry.tracing import is_on, record_with

__all__ = ["running"]

log = structlog.get_logger("plinth.tracing")

# For what is still to be sent when a process ends: the grace periods have room for it.
FLUSH_SECONDS = 3.0


@asynccontextmanager
async def running(settings: PlatformSettings, component: Literal["api", "worker"]) -> AsyncIterator[None]:
    """Tracing is on while the block runs, if the settings want it. One for a process: within another it does nothing.

    At the end what has been recorded is sent, for `FLUSH_SECONDS` at most.
    """
    if settings.traces_endpoint is None or is_on():
        yield
        return
    # Here, so that a process without traces does not import OpenTelemetry's SDK.
    from plinth.telemetry import instrument_clients
    from plinth.telemetry.span_recorder import Spans

    spans = Spans(settings, settings.traces_endpoint, component)
    # Libraries that bring spans of their own find it there.
    trace.set_tracer_provider(spans.provider)
    record_with(spans)
    instrument_clients.install()
    log.info("traces", endpoint=settings.traces_endpoint, sampler=settings.OTEL_TRACES_SAMPLER)
    try:
        yield
    finally:
        instrument_clients.remove()
        record_with(None)
        if not await _within(FLUSH_SECONDS, spans.close):
            log.warning("the last traces were not delivered in time", spans=spans.waiting)


async def _within(seconds: float, function: Callable[[], None]) -> bool:
    """Call a function that may hang, in a thread that nobody waits for any longer; whether it returned in time."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def call() -> None:
        function()
        with suppress(RuntimeError):  # too late: the loop is closed
            loop.call_soon_threadsafe(done.set)

    # A daemon: the interpreter does not wait for it either.
    Thread(target=call, name="traces", daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            await done.wait()
    except TimeoutError:
        return False
    return True
