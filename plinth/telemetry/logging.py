"""Configures logging: every line is JSON for machines, or aligned columns for people.

Our own code logs through `structlog.get_logger()`. Lines of the standard library's loggers (uvicorn, SQLAlchemy,
Alembic), warnings and uncaught exceptions have the same form. The level can be changed while the process runs.
"""

import asyncio
import logging
import os
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import structlog

from plinth.settings import PlatformSettings, SettingsError
from plinth.telemetry.console import console
from plinth.telemetry.log_profiles import PROFILES
from plinth.telemetry.log_records import (
    add_exception,
    add_extra,
    add_ids,
    drop_colours,
    escape,
    keep_reserved,
    mask,
    renderer_of,
)

__all__ = ["LEVELS", "configure_logging", "error_text", "log_level", "log_warnings", "set_log_level"]

log = structlog.get_logger("plinth.telemetry.logging")

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

# RequestContextMiddleware writes the access lines. OpenTelemetry's loggers quote each malformed `tracestate` and
# `baggage`, in the caller's words, and report each attribute that a configured limit cuts.
_SILENCED = (
    "uvicorn.access",
    "opentelemetry.trace.span",
    "opentelemetry.attributes",
    "opentelemetry.baggage.propagation",
)

# SQLAlchemy keeps its own loggers at this level, but logs our pool's actions under the name of our module. Alembic
# names each of its plugins when it is imported; what a migration does is said in lines of ours.
_WARNINGS_ONLY = ("plinth.database.pool", "alembic")


class _Logger(structlog.BoundLoggerBase):
    """The class of every structlog logger. `set_log_level` gives it the methods of structlog's class for that level.

    structlog makes a class for each level and caches loggers; these follow the level while the process runs.
    """


class _Writer:
    """Writes the lines of structlog's loggers to stderr, as bytes or as text.

    It never raises: with a full disk, or a reader that is gone, requests and jobs go on without their lines. It has no
    lock, for which structlog's waits without end where the garbage collector or a signal makes code log meanwhile.
    """

    def __init__(self, *, as_bytes: bool) -> None:
        self._as_bytes = as_bytes
        self._end: Any = b"\n" if as_bytes else "\n"
        stream: IO[Any] = sys.stderr.buffer if as_bytes else sys.stderr
        self._write, self._flush = stream.write, stream.flush

    def __reduce__(self) -> Any:
        # A logger may be copied, and go to another process.
        return partial(_Writer, as_bytes=self._as_bytes), ()

    def msg(self, line: Any) -> None:
        try:
            self._write(line + self._end)
            self._flush()
        except (OSError, RuntimeError, ValueError):  # it fails, is being written to by this thread, or is closed
            pass

    # The names that structlog's own writers have: a library's wrapper may call any.
    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


class _Handler(logging.StreamHandler[Any]):
    """The handler of the standard library's loggers."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        """Log that a line does not fit its arguments, without the arguments, which may be secret."""
        error = type(sys.exception()).__qualname__
        try:
            template = str(record.msg)
        except Exception:  # noqa: BLE001 - what is no text may not become one either
            template = type(record.msg).__qualname__
        place = f"{record.pathname}:{record.lineno}"
        with suppress(Exception):  # it may be the stream that fails
            log.error("a line could not be written", logger=record.name, template=template, place=place, error=error)


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """The form of the standard library's lines."""

    def format(self, record: logging.LogRecord) -> str:
        if record.levelname not in LEVELS:  # a library's own: `level` stays one of those that alerts know
            name = next((name for name in reversed(LEVELS) if record.levelno >= getattr(logging, name)), LEVELS[0])
            record = logging.makeLogRecord({**vars(record), "levelname": name, "level_name": record.levelname})
        return super().format(record)


def configure_logging(settings: PlatformSettings, process: str | None = None) -> None:
    """Send this process's log to stderr, in the configured level and format.

    `process` is the name of one that may share a terminal with others: `api`, `worker`.
    """
    if sys.stderr is None:  # closed by what has started this process
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    as_json = settings.LOG_FORMAT == "json" or (settings.LOG_FORMAT == "auto" and not sys.stderr.isatty())
    render = renderer_of(PROFILES[settings.LOG_PROFILE])
    processors: list[structlog.typing.Processor] = (
        [render]
        if as_json
        else [
            keep_reserved,
            add_ids,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            add_exception,  # before secrets are masked: the renderer would do it afterwards
            mask,
            escape,
            console(process, colours=sys.stderr.isatty()),
        ]
    )
    writer = _Writer(as_bytes=as_json)
    structlog.configure(
        processors=processors,
        wrapper_class=_Logger,
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    handler = _Handler(sys.stderr)
    handler.setFormatter(
        _Formatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, add_extra, drop_colours],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([lambda *event: render(*event).decode()] if as_json else processors),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], force=True)
    logging.captureWarnings(True)
    # A hook that is set already stays: it may be an error reporter's.
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _log_uncaught
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _log_uncaught_in_a_thread
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _log_unraisable
    set_log_level(settings.LOG_LEVEL)
    for name in _SILENCED:
        logging.getLogger(name).disabled = True
    logging.getLogger("uvicorn.error").addFilter(_is_no_line_of_ours)
    logging.getLogger("httpx").addFilter(_without_query)
    for name in _WARNINGS_ONLY:
        logging.getLogger(name).setLevel(logging.WARNING)


def error_text(error: SettingsError) -> str:
    """What a process that cannot start writes to stderr: the message, or a line with LOG_FORMAT=json."""
    if error.log_format != "json":
        return str(error)
    render = renderer_of(PROFILES[error.log_profile])
    return render(None, "critical", {"event": "the configuration cannot be used", "problems": error.problems}).decode()


def log_warnings(settings: PlatformSettings) -> None:
    """Log what the settings do not do though it seems so. API and workers do it, once."""
    for name, reason in settings.warnings:
        log.warning("setting", name=name, reason=reason)


def _is_no_line_of_ours(record: logging.LogRecord) -> bool:
    # Of a handshake of a WebSocket, with the query: the line `websocket` says it, without.
    if str(record.msg).startswith('%s - "WebSocket '):
        return False
    # Of a response that the end of the shutdown's grace cuts: its access line says so.
    return not record.exc_info or not isinstance(record.exc_info[1], asyncio.CancelledError)


def _without_query(record: logging.LogRecord) -> bool:
    """Take the query off the URL in httpx's line of a request: spans and access lines have none either."""
    if isinstance(record.args, tuple) and str(record.msg).startswith("HTTP Request: "):
        method, url, *rest = record.args
        record.args = method, str(url).partition("?")[0], *rest
    return True


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        log.critical("uncaught exception", exc_info=(kind, error, traceback))


def _log_uncaught_in_a_thread(found: threading.ExceptHookArgs) -> None:
    if not issubclass(found.exc_type, SystemExit):
        thread = found.thread.name if found.thread else None
        error = (found.exc_type, found.exc_value, found.exc_traceback)
        log.critical("uncaught exception", thread=thread, exc_info=error)


def _log_unraisable(found: "sys.UnraisableHookArgs") -> None:
    error = (found.exc_type, found.exc_value, found.exc_traceback)
    log.error("uncaught exception", place=found.err_msg or type(found.object).__qualname__, exc_info=error)


def log_level() -> str:
    """The level in force."""
    return logging.getLevelName(logging.getLogger().level)


def set_log_level(level: str) -> None:
    """Set the level of all loggers. From any thread.

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
