"""Tracebacks of the code under test, without the frames of the libraries that call it.

A request passes some thirty frames of web framework and middleware before it reaches its handler. And what structlog
prints of an exception while nothing is configured shows every local variable of each frame, tokens included:
14,500 lines and eleven seconds for one failing handler.
"""

import sysconfig
import traceback
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import structlog

import plinth

__all__ = ["configure_log", "own_frames"]

_LIBRARIES = (
    *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    str(Path(str(plinth.__file__)).parent),
    "<frozen",
)


def own_frames(trace: TracebackType | None) -> TracebackType | None:
    """Keep the frames outside of libraries, and those that the last of them has called; all if there are none."""
    entries = []
    while trace is not None:
        entries.append(trace)
        trace = trace.tb_next
    own = [number for number, entry in enumerate(entries) if _is_own(entry.tb_frame.f_code.co_filename)]
    kept = [entries[number] for number in own] + entries[own[-1] + 1 :] if own else entries
    rebuilt = None
    for entry in reversed(kept):
        rebuilt = TracebackType(rebuilt, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return rebuilt


@cache
def _is_own(file: str) -> bool:
    return not file.startswith(_LIBRARIES)


def configure_log() -> None:
    """Print log lines to stdout, which pytest shows of failing tests, with plain and short tracebacks."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=_print_exception),
        ]
    )


def _print_exception(out: TextIO, found: tuple[Any, Any, Any]) -> None:
    kind, error, trace = found
    traceback.print_exception(kind, error, own_frames(trace), file=out)
