"""Renders log lines for a terminal: an access line is short, and lines of API and worker are told apart."""

from collections.abc import Mapping, MutableMapping
from typing import Any

import click
import structlog

from plinth.telemetry.log_profiles import ACCESS_MESSAGE

__all__ = ["console"]

_PROCESS_COLOURS = {"api": "cyan", "worker": "magenta"}
_STATUS_COLOURS = {2: "green", 3: "cyan", 4: "yellow"}  # all others are red


def console(process: str | None, *, colours: bool) -> structlog.typing.Processor:
    """The last processor of a chain. `process` stands before each line; None: it is the only one at this terminal."""
    # Plain tracebacks: the pretty ones show what variables hold, secrets included, and take seconds.
    render = structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)
    margin = ""
    if process is not None:
        margin = _styled(f"{process:<6} | ", colours=colours, fg=_PROCESS_COLOURS.get(process))

    def line(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        text = _access(event, colours=colours) if _is_access(event) else str(render(logger, method, event))
        return margin + text.replace("\n", f"\n{margin}")

    return line


def _is_access(event: Mapping[str, Any]) -> bool:
    """Whether it is an access line, and none of other code's with the same message."""
    return (
        event.get("event") == ACCESS_MESSAGE
        and type(event.get("status")) is int
        and type(event.get("duration_ms")) in (int, float)
        and type(event.get("method")) is type(event.get("path")) is str
    )


def _access(event: Mapping[str, Any], *, colours: bool) -> str:
    """`10:02:33 POST   /api/v1/notes 201 12.3 ms`. The rest of a line is for machines, but what leads to an error."""
    status = event["status"]
    shown = _styled(str(status), colours=colours, fg=_STATUS_COLOURS.get(status // 100, "red"))
    text = f"{event['timestamp']} {event['method']:<6} {event['path']} {shown} {event['duration_ms']:.1f} ms"
    if status < 500 and "error" not in event:
        return text
    return " ".join([text, *(f"{name}={event[name]}" for name in ("error", "request_id") if name in event)])


def _styled(text: str, *, colours: bool, fg: str | None) -> str:
    return click.style(text, fg=fg) if colours else text
