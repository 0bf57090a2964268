"""One form for every log line: JSON for machines, aligned columns for people.

Our own code logs through `structlog.get_logger()`. The standard library's loggers (uvicorn, SQLAlchemy, Alembic)
end in the same place and look the same. A line that belongs to a request, a job or a trace carries its id, and no line
carries a secret that `app.core.redaction` knows. The level can be changed while the process runs.
"""

import asyncio
import atexit
import json
import logging
import os
import re
import sys
from collections import deque
from collections.abc import Callable, MutableMapping
from contextvars import Context, ContextVar
from datetime import UTC, datetime
from select import PIPE_BUF
from threading import RLock
from time import time
from typing import Any

import structlog
from pydantic_core import to_json

from app.core.config import Settings
from app.core.redaction import redact

__all__ = [
    "LEVELS",
    "attempt_var",
    "configure_logging",
    "job_id_var",
    "log_level",
    "log_values",
    "read_trace_from",
    "request_id_var",
    "set_log_level",
    "write_waiting",
]

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

request_id_var: ContextVar[str | None] = ContextVar("request_id", default=None)
job_id_var: ContextVar[str | None] = ContextVar("job_id", default=None)
attempt_var: ContextVar[int | None] = ContextVar("attempt", default=None)

# uvicorn's own access lines would say what RequestContextMiddleware says better. The others complain, in the caller's
# words, of each `tracestate` that is not well formed, and of each attribute that a limit cuts as it was meant to.
_SILENCED = ("uvicorn.access", "opentelemetry.trace.span", "opentelemetry.attributes")

# SQLAlchemy keeps its own loggers at this level, but logs what our pool does under the pool's name.
_WARNINGS_ONLY = ("app.core.pool",)


# Lines of requests wait for others, to be written with them: so long, and so many.
SOON_SECONDS = 0.1
MAX_WAITING = 200

# All but line breaks and tabs.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class _Logger(structlog.BoundLoggerBase):
    """What every logger is. Has the methods of structlog's own class for the level in force: below it they do nothing.

    structlog makes a class for each level and keeps the loggers it has made; this way those change with the level.
    """


def _nobody() -> tuple[int, int] | None:
    return None


_trace: Callable[[], tuple[int, int] | None] = _nobody


def read_trace_from(source: Callable[[], tuple[int, int] | None]) -> None:
    """Ask `source` for the current trace's and span's id. Called by `app.core.tracing`: what does not trace anything
    need not import it."""
    global _trace  # noqa: PLW0603 - one for a process
    _trace = source


# --- lines that may wait for others ---

Ids = tuple[tuple[int, int] | None, str | None, str | None, int | None]
"""Of trace and span, of the request, of the job, and the job's attempt."""

_log = structlog.get_logger("app.access")
# When it happened, what it belongs to, and what: small, as some hundred of them push other things out of the caches.
_waiting: deque[tuple[float, Ids, str, tuple[str, ...], tuple[Any, ...]]] = deque()
# From taking lines out to having written them, so that no thread's line overtakes them. Reentrant, and not waited for
# without end: a finalizer may log at any time.
_writing = RLock()
_armed: asyncio.AbstractEventLoop | None = None  # on which a timer is set
_write: Callable[[bytes], None] | None = None  # None where lines are for people
_processors: list[structlog.typing.Processor] = []
_says_info = True


def log_values(event: str, names: tuple[str, ...], values: tuple[Any, ...], ids: Ids, *, soon: bool) -> None:
    """Log at level INFO. `names` are those of the values; there may be more of them. `ids`: the current ones.

    `soon`, on the event loop alone: nobody has to see it at once. It is written with the next line that anybody writes,
    so that the order stays, or within `SOON_SECONDS`. A line costs a fraction in a row of others, since its code is
    still in the CPU's caches. At a terminal it is written at once.
    """
    if not soon or _write is None or _processors[0] is not _render_json:  # somebody captures what is logged
        _log.info(event, **dict(zip(names, values, strict=False)))
        return
    if not _says_info:
        return
    _waiting.append((time(), ids, event, names, values))
    if _armed is not asyncio.get_running_loop():
        _arm()
    if len(_waiting) >= MAX_WAITING:
        write_waiting()


def _arm() -> None:
    global _armed  # noqa: PLW0603 - one for a process
    _armed = asyncio.get_running_loop()
    _armed.call_later(SOON_SECONDS, _due, context=Context())


def _due() -> None:
    global _armed  # noqa: PLW0603 - one for a process
    _armed = None
    if not write_waiting():
        _arm()


def write_waiting() -> bool:
    """Write what was to be written soon, before a process ends for instance; from any thread.

    Whether it is done: not if another thread takes long to write.
    """
    if not _writing.acquire(timeout=SOON_SECONDS):
        return False
    try:
        lines: list[bytes] = []
        size = 0
        while True:
            try:
                at, ids, event, names, values = _waiting.popleft()
            except IndexError:
                break
            described = {"event": event, **dict(zip(names, values, strict=False))}
            line = _json_line(datetime.fromtimestamp(at, UTC), "info", described, ids)
            if size + len(line) >= PIPE_BUF:
                _write_together(lines)
                lines, size = [], 0
            lines.append(line)
            size += len(line) + 1
        _write_together(lines)
        return True
    finally:
        _writing.release()


def _write_together(lines: list[bytes]) -> None:
    """At most `PIPE_BUF` bytes, unless it is a single line: what is longer may be torn by another process."""
    if lines and _write is not None:
        _write(b"\n".join(lines))


def _forget() -> None:
    """In a child of this process, which writes them itself."""
    global _writing, _armed
    _waiting.clear()
    _writing, _armed = RLock(), None


atexit.register(write_waiting)
os.register_at_fork(after_in_child=_forget)


# --- lines ---


def configure_logging(settings: Settings) -> None:
    """Send all logging of this process to stderr in the settings' level and form."""
    global _write, _processors  # noqa: PLW0603 - one for a process
    as_json = settings.LOG_FORMAT == "json" or (settings.LOG_FORMAT == "auto" and not sys.stderr.isatty())
    # Plain tracebacks: the pretty ones show what variables hold, secrets included, and take seconds.
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    processors: list[structlog.typing.Processor] = (
        [_render_json]
        if as_json
        else [
            _add_current_ids,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _format_exception,
            _redact,
            _escape,
            console,
        ]
    )
    write_waiting()
    _write = structlog.BytesLogger(sys.stderr.buffer).msg if as_json else None
    _processors = processors
    structlog.configure(
        processors=processors,
        wrapper_class=_Logger,
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer)
        if as_json
        else structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(), _drop_colours],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([_render_json_text] if as_json else processors),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], force=True)
    set_log_level(settings.LOG_LEVEL)
    for name in _SILENCED:
        logging.getLogger(name).disabled = True
    for name in _WARNINGS_ONLY:
        logging.getLogger(name).setLevel(logging.WARNING)


def log_level() -> str:
    """The level in force."""
    return logging.getLevelName(logging.getLogger().level)


def set_log_level(level: str) -> None:
    """Write lines of this level and above from now on, ours and those of others. From any thread.

    Raises:
        ValueError: it is none of `LEVELS`.
    """
    if level not in LEVELS:
        raise ValueError(f"expected {', '.join(LEVELS)}")
    global _says_info  # noqa: PLW0603 - one for a process
    number = logging.getLevelNamesMapping()[level]
    for name, method in vars(structlog.make_filtering_bound_logger(number)).items():
        if not name.startswith("__"):
            setattr(_Logger, name, method)
    logging.getLogger().setLevel(number)
    _says_info = number <= logging.INFO


def _render_json(logger: Any, method: str, event: MutableMapping[str, Any]) -> bytes:
    write_waiting()
    if "exc_info" in event:
        structlog.processors.format_exc_info(logger, method, event)
    return _json_line(datetime.now(UTC), method, event, _ids())


def _json_line(timestamp: datetime, level: str, event: MutableMapping[str, Any], ids: Ids) -> bytes:
    # Every request writes a line: one step takes a third of the time of a chain of processors.
    redact(event)
    line = {"timestamp": timestamp, "level": level, "message": event.pop("event")}
    _add_ids(line, ids)
    line |= event
    try:
        # Infinity is no JSON: who reads the line would refuse all of it.
        return to_json(line, fallback=str, inf_nan_mode="strings")
    except ValueError:  # text or bytes that are no UTF-8
        return json.dumps(line | {"timestamp": timestamp.isoformat()}, default=repr, skipkeys=True).encode()


def _render_json_text(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    return _render_json(logger, method, event).decode()


def _ids() -> Ids:
    return _trace(), request_id_var.get(), job_id_var.get(), attempt_var.get()


def _add_current_ids(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return _add_ids(event, _ids())


def _add_ids(event: MutableMapping[str, Any], ids: Ids) -> MutableMapping[str, Any]:
    trace, request_id, job_id, attempt = ids
    if trace is not None:
        event["trace_id"], event["span_id"] = trace[0].to_bytes(16).hex(), trace[1].to_bytes(8).hex()
    if request_id is not None:
        event["request_id"] = request_id
    if job_id is not None:
        event.setdefault("job_id", job_id)
        event.setdefault("attempt", attempt)
    return event


def _format_exception(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # Now, so that it passes through what takes secrets out. The console would do it when that is over.
    return structlog.processors.format_exc_info(logger, method, event) if "exc_info" in event else event


def _redact(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    redact(event)
    return event


def _drop_colours(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.pop("color_message", None)  # uvicorn says everything twice, the second time for terminals
    return event


def _escape(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # A terminal obeys control characters, and a line break in a path would let a client write lines of its own.
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            if name in ("exception", "stack"):  # these have lines
                event[name] = _CONTROL.sub(lambda found: repr(found[0])[1:-1], value)
            else:
                event[name] = repr(value)[1:-1]
    return event
