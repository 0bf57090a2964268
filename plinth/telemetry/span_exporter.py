"""How spans reach the collector without costing anybody anything.

A collector that is away or hangs costs what there is room for in the queue, and a line in the log each minute. Spans
for which there is no room, and those that could not be delivered, are counted.
"""

import logging
from collections.abc import Mapping, Sequence
from threading import Lock
from time import monotonic
from typing import Any

import requests
import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from plinth.settings import PlatformSettings
from plinth.telemetry.tracing import SPANS_DROPPED

__all__ = ["SpanExport"]

log = structlog.get_logger("plinth.tracing")

COMPLAINT_SECONDS = 60.0
MAX_ANSWER = 65_536  # bytes of it that are read; nobody looks at them
MAX_REASON = 500  # characters, of what a collector may have said

# Who sends complains here about each batch, several times and in many words. What it says is the reason that we give.
_EXPORTER_LOGGER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


class SpanExport(BatchSpanProcessor):
    """Sends spans to `endpoint` in batches, from a thread of its own."""

    # The SDK's own would write a line about each span that it has no room for, and drop the ones that have waited.

    def __init__(self, settings: PlatformSettings, endpoint: str, headers: Mapping[str, str] | None) -> None:
        self._room = _Queue(settings.OTEL_BSP_MAX_QUEUE_SIZE, endpoint)
        exporter = OTLPSpanExporter(endpoint=endpoint, headers=headers, session=_Session())
        super().__init__(
            _Exporter(exporter, self._room),
            max_queue_size=settings.OTEL_BSP_MAX_QUEUE_SIZE,
            schedule_delay_millis=settings.OTEL_BSP_SCHEDULE_DELAY,
            max_export_batch_size=settings.OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
        )

    @property
    def waiting(self) -> int:
        """Spans that are not delivered yet."""
        return self._room.length

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled and self._room.enter():
            super().on_end(span)

    def close(self) -> None:
        """Take nothing more in."""
        self._room.closed = True


class _Session(requests.Session):
    """The exporter's connections, whose kind it brings. It would take a redirection for a success, and all of an answer
    into memory."""

    def request(self, *args: Any, **options: Any) -> requests.Response:
        response = super().request(*args, **{**options, "stream": True})
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) <= MAX_ANSWER:
            response.raw.drain_conn()  # so that the connection is free for the next one
        else:
            response.close()
        if 300 <= response.status_code < 400:
            raise requests.TooManyRedirects(f"it redirects, with status {response.status_code}")
        return response


class _Queue:
    """How many spans are in memory, those that are being sent included; and what is said of those that are lost."""

    def __init__(self, limit: int, endpoint: str) -> None:
        self._limit = limit
        self._endpoint = endpoint
        self._lock = Lock()
        self._lost = 0
        self._speak_from = 0.0
        self.length = 0
        self.closed = False

    def enter(self) -> bool:
        """Whether there is room for one more, which is taken."""
        with self._lock:
            room = self.length < self._limit and not self.closed
            if room:
                self.length += 1
            else:
                self._lost += 1
        if not room:
            SPANS_DROPPED.inc()
        return room

    def leave(self, count: int, *, problem: str | None) -> None:
        """So many are not in memory any more. `problem`: why they were not delivered."""
        with self._lock:
            self.length -= count
            if problem is not None:
                self._lost += count
            now = monotonic()
            speak = problem is not None and now >= self._speak_from
            if speak:
                self._speak_from = now + COMPLAINT_SECONDS
                lost, self._lost = self._lost, 0
        if problem is not None:
            SPANS_DROPPED.inc(count)
        if speak:
            log.warning("traces cannot be delivered", endpoint=self._endpoint, reason=problem, spans_dropped=lost)


class _Exporter(SpanExporter):
    def __init__(self, exporter: SpanExporter, queue: _Queue) -> None:
        self._exporter = exporter
        self._queue = queue
        self._said = ""
        logger = logging.getLogger(_EXPORTER_LOGGER)
        for other in logger.filters[:]:
            logger.removeFilter(other)
        logger.addFilter(self._take)

    def _take(self, record: logging.LogRecord) -> bool:
        self._said = self._said or record.getMessage()[:MAX_REASON]  # the first says why, the last that it gives up
        return False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._said = ""
        problem: str | None = None
        try:
            result = self._exporter.export(spans)
            if result is not SpanExportResult.SUCCESS:
                problem = self._said or "unknown"
        except Exception as error:  # noqa: BLE001 - the thread has to go on
            result, problem = SpanExportResult.FAILURE, repr(error)[:MAX_REASON]
        self._queue.leave(len(spans), problem=problem)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
