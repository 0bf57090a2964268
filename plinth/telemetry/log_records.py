"""Turns an event into a log line: timestamp, level, message, and the ids of its request, job and trace.

Processors for structlog. Secrets that `plinth.telemetry.redaction` knows are masked in every line.
"""

import logging
import re
import sys
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from time import time_ns
from typing import Any, cast

from opentelemetry.trace import get_current_span
from structlog.processors import format_exc_info

from plinth.telemetry.log_lines import to_line
from plinth.telemetry.log_profiles import RESERVED, Profile, free, move, translate
from plinth.telemetry.redaction import redact
from plinth.telemetry.tracebacks import traceback_of

__all__ = [
    "add_exception",
    "add_extra",
    "add_ids",
    "attempt_var",
    "drop_colours",
    "escape",
    "job_id_var",
    "keep_reserved",
    "mask",
    "render_json",
    "renderer_of",
    "request_id_var",
]

request_id_var: ContextVar[str | None] = ContextVar("request_id", default=None)
job_id_var: ContextVar[str | None] = ContextVar("job_id", default=None)
attempt_var: ContextVar[int | None] = ContextVar("attempt", default=None)

# All but line breaks and tabs.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

# Members that the console writes below the line, as they are.
_OF_LINES = ("exception", "stack")

_RECORD = vars(logging.makeLogRecord({})).keys() | {"message", "asctime", "taskName"}

Event = MutableMapping[str, Any]


# --- processors ---


def render_json(logger: Any, method: str, event: Event) -> bytes:
    """Render an event as one line of JSON, without the line break.

    One step: a chain of processors takes three times as long, and every request writes a line.
    """
    line = _members(logger, method, event)
    line |= event
    return to_line(line)


def renderer_of(profile: Profile | None) -> Callable[[Any, str, Event], bytes]:
    """`render_json` with the names of a profile."""
    if profile is None:
        return render_json

    def render(logger: Any, method: str, event: Event) -> bytes:
        line = _members(logger, method, event)
        return to_line(translate(profile, line, event))

    return render


def _members(logger: Any, method: str, event: Event) -> dict[str, Any]:
    """Take the platform's members out of an event, and mask the secrets of the rest."""
    if "exc_info" in event:
        add_exception(logger, method, event)
    redact(event)
    line: dict[str, Any] = {"timestamp": _timestamp(), "level": method, "message": event.pop("event", None)}
    if not RESERVED.isdisjoint(event):
        keep_reserved(logger, method, event)
    return cast(dict[str, Any], add_ids(logger, method, line))


def keep_reserved(logger: Any, method: str, event: Event) -> Event:
    """Move values under names that the platform writes: `level="gold"` becomes `level_`."""
    for name in RESERVED & event.keys():
        move(event, name)
    return event


def add_exception(logger: Any, method: str, event: Event) -> Event:
    """Replace `exc_info` by `exception`, the traceback."""
    given = event.get("exc_info")
    if given and "exception" in event:
        move(event, "exception")
    error: Any = given if isinstance(given, BaseException) else sys.exception()
    if isinstance(given, tuple) and len(given) == 3:
        error = given[1]
    try:
        return format_exc_info(logger, method, event)
    except Exception:  # noqa: BLE001 - Python cannot show every exception
        event["exception"] = traceback_of(error).rstrip()
        return event


def add_extra(logger: Any, method: str, event: Event) -> Event:
    """Add the `extra` of a standard library's line; none of it replaces the message or the logger."""
    for name, value in vars(event["_record"]).items():
        if name not in _RECORD:
            own = str(name)
            event[free(own, event) if own in event else own] = value
    return event


def _timestamp() -> str:
    # Always with microseconds: lines are sorted by it, and a shorter one would stand behind the rest of its second.
    second, microseconds = divmod(time_ns() // 1000, 1_000_000)
    return f"{_second(second)}.{microseconds:06}Z"


@lru_cache(maxsize=2)  # 0.5 µs a line instead of 1.7
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def add_ids(logger: Any, method: str, event: Event) -> Event:
    """Add the ids of the current trace, request and job. A line about another job has that one's."""
    trace, request_id, job_id = get_current_span().get_span_context(), request_id_var.get(), job_id_var.get()
    if trace.trace_id:
        event["trace_id"], event["span_id"] = trace.trace_id.to_bytes(16).hex(), trace.span_id.to_bytes(8).hex()
    if request_id is not None:
        event["request_id"] = request_id
    if job_id is not None:
        event.setdefault("job_id", job_id)
        event.setdefault("attempt", attempt_var.get())
    return event


def mask(logger: Any, method: str, event: Event) -> Event:
    """Mask secrets."""
    redact(event)
    return event


def drop_colours(logger: Any, method: str, event: Event) -> Event:
    """Drop uvicorn's second copy of each message, with colours for terminals."""
    event.pop("color_message", None)
    return event


def escape(logger: Any, method: str, event: Event) -> Event:
    """Escape control characters for a terminal, which obeys them; a line break in a path would forge a line."""
    for name, value in list(event.items()):
        if name in _OF_LINES and value is not None:
            text = value if isinstance(value, str) else repr(value)
            event[name] = _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
        elif isinstance(value, str) and not value.isprintable():
            event[name] = repr(value)[1:-1]
        if not name.isprintable():
            event[repr(name)[1:-1]] = event.pop(name)
    return event
