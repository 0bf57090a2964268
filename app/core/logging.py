"""One form for every log line: JSON for machines, aligned columns for people.

Our own code logs through `structlog.get_logger()`. The standard library's loggers (uvicorn, SQLAlchemy, Alembic)
end in the same place and look the same. A line that belongs to a request, a job or a trace carries its id, and no line
carries a secret that `app.core.redaction` knows. The level can be changed while the process runs.
"""

import json
import logging
import re
import sys
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from datetime import UTC, datetime
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
    "read_trace_from",
    "request_id_var",
    "set_log_level",
]

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

request_id_var: ContextVar[str | None] = ContextVar("request_id", default=None)
job_id_var: ContextVar[str | None] = ContextVar("job_id", default=None)
attempt_var: ContextVar[int | None] = ContextVar("attempt", default=None)

# uvicorn's own access lines would say what RequestContextMiddleware says better. The other one complains, in the
# caller's words, of each `tracestate` that is not well formed.
_SILENCED = ("uvicorn.access", "opentelemetry.trace.span")

# SQLAlchemy keeps its own loggers at this level, but logs what our pool does under the pool's name.
_WARNINGS_ONLY = ("app.core.pool",)


# All but line breaks and tabs.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class _Logger(structlog.BoundLoggerBase):
    """What every logger is. Has the methods of structlog's own class for the level in force: below it they do nothing.

    structlog makes a class for each level and keeps the loggers it has made; this way those change with the level.
    """


def _nobody() -> tuple[str, str] | None:
    return None


_trace: Callable[[], tuple[str, str] | None] = _nobody


def read_trace_from(source: Callable[[], tuple[str, str] | None]) -> None:
    """Ask `source` for the current trace's and span's id. Called by `app.core.tracing`: what does not trace anything
    need not import it."""
    global _trace  # noqa: PLW0603 - one for a process
    _trace = source


def configure_logging(settings: Settings) -> None:
    """Send all logging of this process to stderr in the settings' level and form."""
    as_json = settings.LOG_FORMAT == "json" or (settings.LOG_FORMAT == "auto" and not sys.stderr.isatty())
    # Plain tracebacks: the pretty ones show what variables hold, secrets included, and take seconds.
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    processors: list[structlog.typing.Processor] = (
        [_render_json]
        if as_json
        else [
            _add_ids,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _format_exception,
            _redact,
            _escape,
            console,
        ]
    )
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
    number = logging.getLevelNamesMapping()[level]
    for name, method in vars(structlog.make_filtering_bound_logger(number)).items():
        if not name.startswith("__"):
            setattr(_Logger, name, method)
    logging.getLogger().setLevel(number)


def _render_json(logger: Any, method: str, event: MutableMapping[str, Any]) -> bytes:
    # Every request writes a line: one step takes a third of the time of a chain of processors.
    if "exc_info" in event:
        structlog.processors.format_exc_info(logger, method, event)
    redact(event)
    line = {"timestamp": datetime.now(UTC), "level": method, "message": event.pop("event")}
    _add_ids(logger, method, line)
    line |= event
    try:
        # Infinity is no JSON: who reads the line would refuse all of it.
        return to_json(line, fallback=str, inf_nan_mode="strings")
    except ValueError:  # text or bytes that are no UTF-8
        return json.dumps(line | {"timestamp": line["timestamp"].isoformat()}, default=repr, skipkeys=True).encode()


def _render_json_text(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    return _render_json(logger, method, event).decode()


def _add_ids(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if (trace := _trace()) is not None:
        event["trace_id"], event["span_id"] = trace
    if (request_id := request_id_var.get()) is not None:
        event["request_id"] = request_id
    if (job_id := job_id_var.get()) is not None:
        event.setdefault("job_id", job_id)
        event.setdefault("attempt", attempt_var.get())
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
