"""The log of this process as a test reads it."""

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import structlog

from plinth.telemetry.logging import configure_logging, set_log_level
from tests.support.notes import settings_with

__all__ = ["Configure", "Stderr", "logging_as"]


class Stderr(io.TextIOWrapper):
    """Stands for the standard error stream."""

    def __init__(self, *, terminal: bool) -> None:
        self._bytes = io.BytesIO()
        super().__init__(self._bytes, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)
        self._terminal = terminal

    def getvalue(self) -> str:
        """What has been written by now."""
        return self._bytes.getvalue().decode()

    def isatty(self) -> bool:
        return self._terminal

    def lines(self, message: str | None = None) -> list[dict[str, Any]]:
        """What was written, as JSON; of one message where one is given."""
        lines = [json.loads(line) for line in self.getvalue().splitlines()]
        return [line for line in lines if message is None or line["message"] == message]


Configure = Callable[..., Stderr]
"""As `logging_as`, for the rest of a test."""


@contextmanager
def logging_as(*, terminal: bool = False, **settings: Any) -> Iterator[Stderr]:
    """Log as these settings say, while the block runs; afterwards all is as before."""
    root, access, config = logging.getLogger(), logging.getLogger("uvicorn.access"), structlog.get_config()
    kept = root.handlers, root.level, access.disabled
    root.handlers = []
    stderr = Stderr(terminal=terminal)
    try:
        with patch.object(sys, "stderr", stderr):
            configure_logging(settings_with(**settings))
        # Else the loggers of all modules that log meanwhile would go on doing so here.
        structlog.configure(cache_logger_on_first_use=False)
        yield stderr
    finally:
        set_log_level("INFO")
        root.handlers, root.level, access.disabled = kept
        structlog.configure(**config)
