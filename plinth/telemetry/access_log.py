"""Log lines that may wait for others, to be written together: those of requests that went well.

A line costs a fraction in a row of others, since its code is still in the CPU's caches. The order stays: whoever writes
a line writes those before it that wait.
"""

import asyncio
import atexit
import logging
import os
from collections import deque
from collections.abc import Callable, MutableMapping
from contextvars import Context
from select import PIPE_BUF
from threading import RLock
from time import time
from typing import Any

import structlog

from plinth.telemetry.log_records import Ids, current_ids, format_exception, json_line

__all__ = ["log_values", "render_json", "write_to", "write_waiting"]

# So long, and so many.
SOON_SECONDS = 0.1
MAX_WAITING = 200

_log = structlog.get_logger("plinth.access")
_root = logging.getLogger()  # has the level in force
# When it happened, what it belongs to, and what: small, as some hundred of them push other things out of the caches.
_waiting: deque[tuple[float, Ids, str, tuple[str, ...], tuple[Any, ...]]] = deque()
# From taking lines out to having written them, so that no thread's line overtakes them. Reentrant, and not waited for
# without end: a finalizer may log at any time.
_writing = RLock()
_armed: asyncio.AbstractEventLoop | None = None  # on which a timer is set
_write: Callable[[bytes], None] | None = None
_processors: list[structlog.typing.Processor] = []


def write_to(write: Callable[[bytes], None] | None, processors: list[structlog.typing.Processor]) -> None:
    """Hand lines to `write` from now on. None: nothing waits, but goes through structlog at once.

    `processors`: structlog's own list, in which whoever captures what is logged replaces `render_json`.
    """
    global _write, _processors
    write_waiting()
    _write, _processors = write, processors


def log_values(event: str, names: tuple[str, ...], values: tuple[Any, ...], ids: Ids, *, soon: bool) -> None:
    """Log at level INFO. `names` are those of the values; there may be more of them. `ids`: the current ones.

    `soon`, on the event loop alone: nobody has to see it at once. It is written with the next line that anybody writes,
    or within `SOON_SECONDS`.
    """
    if not soon or _write is None or _processors[0] is not render_json:
        _log.info(event, **dict(zip(names, values, strict=False)))
        return
    if not _root.isEnabledFor(logging.INFO):
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
            line = json_line(at, "info", {"event": event, **dict(zip(names, values, strict=False))}, ids)
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


def render_json(logger: Any, method: str, event: MutableMapping[str, Any]) -> bytes:
    """A processor, the only one: an event becomes a line, after those that wait."""
    write_waiting()
    return json_line(time(), method, format_exception(logger, method, event), current_ids())


def _forget() -> None:
    """In a child of this process, which writes them itself."""
    global _writing, _armed
    _waiting.clear()
    _writing, _armed = RLock(), None


atexit.register(write_waiting)
os.register_at_fork(after_in_child=_forget)
