"""The application of an API process."""

import gc
import sys
from collections.abc import Callable
from typing import TypeVar

from fastapi import FastAPI

from plinth.jobs.kinds import check_codecs
from plinth.settings import PlatformSettings, SettingsError
from plinth.telemetry.logging import configure_logging, error_text, log_warnings
from plinth.telemetry.metrics import tell_build

__all__ = ["make_application"]

S = TypeVar("S", bound=PlatformSettings)


def make_application(create_app: Callable[[S], FastAPI], read_settings: Callable[[], S]) -> FastAPI:
    """Configure logging, make the application and freeze the garbage collector.

    With a key that others can know, the application serves this machine alone.

    Exits with a message if the settings are invalid.
    """
    try:
        settings = read_settings()
    except SettingsError as error:
        sys.exit(error_text(error))
    configure_logging(settings, "api")
    log_warnings(settings)
    tell_build(settings)
    if settings.traces_endpoint is not None:
        from plinth.telemetry import tracer_provider  # noqa: F401 - now, so that it is frozen with the rest
    application = create_app(settings)
    try:
        check_codecs(settings)  # of the kinds that the application has registered
    except SettingsError as error:
        sys.exit(error_text(error))
    if known := [name for name, _ in settings.known_keys()]:
        from plinth.http.loopback_only import LoopbackOnlyMiddleware

        application.add_middleware(LoopbackOnlyMiddleware, known_keys=known)
    # Objects that live as long as the process are taken out of garbage collection: scanning them stops every request
    # for tens of milliseconds at each full collection. None goes before: it would take 0.1 s of the start, for the
    # thousand objects that loading the code has left.
    gc.freeze()
    return application
