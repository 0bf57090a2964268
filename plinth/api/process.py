"""The one application of a process that serves."""

import gc
import sys
from collections.abc import Callable
from typing import TypeVar

from fastapi import FastAPI

from plinth.settings import PlatformSettings, SettingsError
from plinth.telemetry.logging import configure_logging

__all__ = ["make_application"]

S = TypeVar("S", bound=PlatformSettings)


def make_application(create_app: Callable[[S], FastAPI], read_settings: Callable[[], S]) -> FastAPI:
    """Configure logging, make the application and take what it holds out of garbage collection.

    Ends the process with a message if the settings cannot be used.
    """
    try:
        settings = read_settings()
    except SettingsError as error:
        sys.exit(str(error))
    configure_logging(settings)
    if settings.traces_endpoint is not None:
        from plinth.telemetry import tracer_provider  # noqa: F401 - now, so that it is frozen with the rest
    application = create_app(settings)
    # What lives as long as the process need not be looked through again and again by the garbage collector: each
    # full collection would stop every request for tens of milliseconds.
    gc.collect()
    gc.freeze()
    return application
