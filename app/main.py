"""The application factory. `uvicorn app.main:app` serves the application of the environment's settings."""

import plinth  # noqa: F401 - before FastAPI, whose import OTEL_PROPAGATORS could stop

# isort: split
from typing import Any

from fastapi import FastAPI

from app import (
    __version__,
    jobs,  # noqa: F401 - registers every kind of job
)
from app.api.v1.router import TAGS, router
from app.core.config import Settings, get_settings
from app.core.middleware import middleware_of
from plinth.api.docs import install_docs
from plinth.api.lifespan import lifespan_of
from plinth.api.openapi import TAGS as PLATFORM_TAGS
from plinth.api.openapi import operation_id
from plinth.api.process import make_application
from plinth.health.lifecycle import Lifecycle
from plinth.http.error_handlers import install_exception_handlers
from plinth.ops import install_ops

__all__ = ["create_app"]


def create_app(settings: Settings) -> FastAPI:
    """Make the application for these settings. Nothing is opened before its lifespan begins."""
    docs = settings.docs_enabled
    lifecycle = Lifecycle(settings.DRAIN_SECONDS)
    app = FastAPI(
        title=settings.PROJECT_NAME,
        version=__version__,
        debug=settings.DEBUG,
        openapi_tags=[*TAGS, *PLATFORM_TAGS],
        generate_unique_id_function=operation_id,
        openapi_url=f"{settings.API_V1_STR}/openapi.json" if docs else None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan_of(settings, lifecycle),
        # RequestContextMiddleware makes the spans and counts, for less than this would.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        middleware=middleware_of(settings, lifecycle),
    )
    app.state.lifecycle = lifecycle  # the second port answers from it
    install_exception_handlers(app)
    app.include_router(router, prefix=settings.API_V1_STR)
    if docs:
        install_docs(app)
    install_ops(app, settings)
    return app


def __getattr__(name: str) -> Any:
    # Made when it is asked for, so that importing this module reads no settings.
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["app"] = application = make_application(create_app, get_settings)
    return application
