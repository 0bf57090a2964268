"""Sends spans to the collector, with bounds on memory, log lines and answers.

A collector that is away or hangs costs the memory of one full queue and a log line a minute. Spans that find the queue
full, and those that could not be delivered, are counted.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from time import monotonic
from typing import Any

import requests
import structlog
from opentelemetry.exporter.otlp.proto.http import Compression, trace_exporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

from plinth.settings import PlatformSettings
from plinth.telemetry.tracing import SPANS_DROPPED

__all__ = ["BoundedSpanProcessor"]

log = structlog.get_logger("plinth.tracing")

WARNING_INTERVAL_SECONDS = 60.0
MAX_ANSWER = 65_536  # bytes that are read of a collector's answer, so that its connection can be used again
NO_TIMEOUT_MILLISECONDS = 2**31 - 1  # the specification's 0: 24 days
_PROTOCOL_HEADERS = ("content-type", "content-encoding", "user-agent")
MAX_REASON = 500  # characters of a reason in the log: part of it may be the collector's own text


class BoundedSpanProcessor(BatchSpanProcessor):
    """The SDK's batch processor, but the newest span is dropped where the queue is full, and counted.

    The SDK's own drops the oldest, and does not count spans that are being sent.
    """

    def __init__(self, settings: PlatformSettings, endpoint: str, headers: Mapping[str, str] | None) -> None:
        self.pending = 0
        """Spans that are not delivered yet, those that are being sent included."""
        self._limit = settings.OTEL_BSP_MAX_QUEUE_SIZE
        self._endpoint = endpoint
        self._lock = Lock()
        self._closed = False
        self._unreported = 0
        self._warn_from = 0.0
        super().__init__(
            _Exporter(self._after_export, endpoint=endpoint, session=_Session(headers), **_options(settings)),
            max_queue_size=settings.OTEL_BSP_MAX_QUEUE_SIZE,
            schedule_delay_millis=settings.OTEL_BSP_SCHEDULE_DELAY,
            max_export_batch_size=settings.OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
            export_timeout_millis=NO_TIMEOUT_MILLISECONDS,  # not used by the SDK, which else reads a variable for it
        )

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        with self._lock:
            accepted = self.pending < self._limit and not self._closed
            if accepted:
                self.pending += 1
            else:
                self._unreported += 1
        if accepted:
            super().on_end(span)
        else:
            SPANS_DROPPED.inc()

    def shutdown(self) -> None:
        """Send the queue and end; drop spans that end later. May take as long as the collector does."""
        self._closed = True
        super().shutdown()  # type: ignore[no-untyped-call]

    def _after_export(self, count: int, problem: str | None) -> None:
        """Take `count` spans off the queue; `problem` says why they were not delivered."""
        with self._lock:
            self.pending -= count
            if problem is None:
                return
            self._unreported += count
            now = monotonic()
            warn = now >= self._warn_from
            if warn:
                self._warn_from = now + WARNING_INTERVAL_SECONDS
                dropped, self._unreported = self._unreported, 0
        SPANS_DROPPED.inc(count)
        if warn:
            log.warning("traces cannot be delivered", endpoint=self._endpoint, reason=problem, spans_dropped=dropped)


def _options(settings: PlatformSettings) -> dict[str, Any]:
    """The exporter's options. Left to itself it would read the environment, and the timeout in seconds."""

    def value(option: str) -> Any:
        return getattr(settings, settings.exporter_variable(option))

    return {
        "timeout": (value("TIMEOUT") or NO_TIMEOUT_MILLISECONDS) / 1000,
        "compression": Compression(value("COMPRESSION")),
        "certificate_file": value("CERTIFICATE"),
        "client_certificate_file": value("CLIENT_CERTIFICATE"),
        "client_key_file": value("CLIENT_KEY"),
    }


class _Session(requests.Session):
    """The exporter's connections. It alone would take a redirect for a success and read an answer of any size.

    Requests have the exporter's headers of the protocol, and `own`.
    """

    def __init__(self, own: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._own = dict(own or {})

    def request(self, *args: Any, **options: Any) -> requests.Response:
        # The exporter adds headers of the environment, which may be for another collector than the traces' own.
        kept = {name: value for name, value in options["headers"].items() if name.lower() in _PROTOCOL_HEADERS}
        # With `verify`, since REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE win over the session's own.
        options = {"verify": self.verify, **options, "headers": kept | self._own, "stream": True}
        try:
            response = super().request(*args, **options)
        except requests.ConnectionError as error:
            if "BadStatusLine" not in repr(error):
                raise
            raise requests.RequestException(
                "its answer is not HTTP/1.1: perhaps it speaks gRPC, as on port 4317; OTLP over HTTP is on port 4318"
            ) from None
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) <= MAX_ANSWER:
            response.raw.drain_conn()
        else:
            response.close()
        if 300 <= response.status_code < 400:
            raise requests.TooManyRedirects(f"it redirects, with status {response.status_code}")
        return response


_messages: list[str] = []


def _keep_message(record: logging.LogRecord) -> bool:
    """Keep the exporter's log messages, several for each batch, for one line a minute of our own."""
    _messages.append(record.getMessage()[:MAX_REASON])
    return False


logging.getLogger(trace_exporter.__name__).addFilter(_keep_message)


class _Exporter(trace_exporter.OTLPSpanExporter):
    """Calls `after` with the number of spans of each batch, and the problem if it was not delivered."""

    def __init__(self, after: Callable[[int, str | None], None], *, session: _Session, **options: Any) -> None:
        super().__init__(session=session, **options)
        self._after = after
        # Of a file that is not given it reads the environment by itself, where blanks would be a path.
        certificate, key = options["client_certificate_file"], options["client_key_file"]
        session.verify = options["certificate_file"] or True
        session.cert = (certificate, key) if certificate and key else certificate

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        _messages.clear()
        problem: str | None = None
        try:
            result = super().export(spans)
            if result is not SpanExportResult.SUCCESS:
                problem = _messages[0] if _messages else "unknown"  # the first says why, the last that it gives up
        except Exception as error:  # noqa: BLE001 - the thread has to go on
            result, problem = SpanExportResult.FAILURE, repr(error)[:MAX_REASON]
        self._after(len(spans), problem)
        return result
