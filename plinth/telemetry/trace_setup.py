"""Turns tracing on for a process, and delivers the last spans when it ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Thread
from typing import Literal

import structlog
from opentelemetry import trace

from plinth.settings import PlatformSettings
from plinth.telemetry.propagation import use
from plinth.telemetry.tracing import is_on, use_tracer

__all__ = ["running"]

log = structlog.get_logger("plinth.tracing")

# Of a process's end, for its last spans: the grace periods include it.
FLUSH_SECONDS = 3.0


@asynccontextmanager
async def running(settings: PlatformSettings, component: Literal["api", "worker"]) -> AsyncIterator[None]:
    """Trace while the block runs, if the settings name a collector. Does nothing within another such block.

    At the end the recorded spans are sent, for `FLUSH_SECONDS` at most.
    """
    use(settings.OTEL_PROPAGATORS)
    if settings.traces_endpoint is None or is_on():
        yield
        return
    # Here, so that a process without traces does not import OpenTelemetry's SDK.
    from plinth.telemetry.tracer_provider import build_tracer_provider

    provider, processor = build_tracer_provider(settings, settings.traces_endpoint, component)
    # Libraries with spans of their own find it there.
    trace.set_tracer_provider(provider)
    use_tracer(provider.get_tracer("plinth"))
    log.info("traces", endpoint=settings.traces_endpoint, sampler=settings.OTEL_TRACES_SAMPLER)
    try:
        yield
    finally:
        use_tracer(None)
        # A daemon thread: it may hang, and the interpreter does not wait for it at its end. Nor is it joined in the
        # executor, whose threads handlers may hold.
        flush = Thread(target=provider.shutdown, name="traces", daemon=True)
        flush.start()
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                while flush.is_alive():  # noqa: ASYNC110 - a thread ends it
                    await asyncio.sleep(0.01)
        except TimeoutError:
            log.warning("the last traces were not delivered in time", spans=processor.pending)
