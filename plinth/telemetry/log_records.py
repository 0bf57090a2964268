"""What a line of the log holds: when, how grave, what, and the request, job and trace that it belongs to.

The steps that make one of an event, for structlog. No line carries a secret that `plinth.telemetry.redaction` knows.
"""

import json
import re
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, NamedTuple

import structlog
from pydantic_core import to_json

from plinth.telemetry.redaction import redact

__all__ = [
    "Ids",
    "add_ids",
    "attempt_var",
    "current_ids",
    "drop_colours",
    "escape",
    "format_exception",
    "job_id_var",
    "json_line",
    "mask",
    "read_trace_from",
    "request_id_var",
]

request_id_var: ContextVar[str | None] = ContextVar("request_id", default=None)
job_id_var: ContextVar[str | None] = ContextVar("job_id", default=None)
attempt_var: ContextVar[int | None] = ContextVar("attempt", default=None)

# All but line breaks and tabs.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Event = MutableMapping[str, Any]


class Ids(NamedTuple):
    """What a line belongs to."""

    trace: tuple[int, int] | None = None
    """The ids of trace and span."""
    request: str | None = None
    job: str | None = None
    attempt: int | None = None
    """Of the job."""

    def add_to(self, event: Event) -> None:
        if self.trace is not None:
            event["trace_id"], event["span_id"] = self.trace[0].to_bytes(16).hex(), self.trace[1].to_bytes(8).hex()
        if self.request is not None:
            event["request_id"] = self.request
        if self.job is not None:
            event.setdefault("job_id", self.job)
            event.setdefault("attempt", self.attempt)


def _nobody() -> tuple[int, int] | None:
    return None


_trace: Callable[[], tuple[int, int] | None] = _nobody


def read_trace_from(source: Callable[[], tuple[int, int] | None]) -> None:
    """Ask `source` for the current trace's and span's id. Called by `plinth.telemetry.tracing`: what does
    not trace anything need not import it."""
    global _trace  # noqa: PLW0603 - one for a process
    _trace = source


def current_ids() -> Ids:
    """Those of what the caller does now."""
    return Ids(_trace(), request_id_var.get(), job_id_var.get(), attempt_var.get())


def json_line(at: float, level: str, event: Event, ids: Ids) -> bytes:
    """The line as JSON, without a line break. `at`: seconds since the epoch. Takes `event` apart."""
    # Every request writes a line: one step takes a third of the time of a chain of processors.
    redact(event)
    # Always with microseconds: lines are sorted by it, and a shorter one would stand behind the rest of its second.
    timestamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")[:26] + "Z"
    line = {"timestamp": timestamp, "level": level, "message": event.pop("event", None)}
    ids.add_to(line)
    line |= event
    try:
        # Infinity is no JSON: who reads the line would refuse all of it.
        return to_json(line, fallback=str, inf_nan_mode="strings")
    except ValueError:  # text or bytes that are no UTF-8
        return json.dumps(line, default=repr, skipkeys=True).encode()


# --- processors ---


def add_ids(logger: Any, method: str, event: Event) -> Event:
    current_ids().add_to(event)
    return event


def format_exception(logger: Any, method: str, event: Event) -> Event:
    # Now, so that it passes through what takes secrets out. The console would do it when that is over.
    return structlog.processors.format_exc_info(logger, method, event) if "exc_info" in event else event


def mask(logger: Any, method: str, event: Event) -> Event:
    redact(event)
    return event


def drop_colours(logger: Any, method: str, event: Event) -> Event:
    event.pop("color_message", None)  # uvicorn says everything twice, the second time for terminals
    return event


def escape(logger: Any, method: str, event: Event) -> Event:
    # A terminal obeys control characters, and a line break in a path would let a client write lines of its own.
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            if name in ("exception", "stack"):  # these have lines
                event[name] = _CONTROL.sub(lambda found: repr(found[0])[1:-1], value)
            else:
                event[name] = repr(value)[1:-1]
    return event
