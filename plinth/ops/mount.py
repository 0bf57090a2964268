"""Puts the pages, their files and what they share into an application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

from plinth.http.static_files import Assets
from plinth.identity.documents import Documents
from plinth.ops import actions, audit, dead_letters, jobs, overview, queues, schedules, sign_in
from plinth.ops.code_flow import CodeFlow
from plinth.ops.pages import ROOT
from plinth.ops.state import OpsState
from plinth.settings import AuthProvider, PlatformSettings

__all__ = ["mount"]


def mount(app: FastAPI, settings: PlatformSettings) -> None:
    """Serve every page and file of /ops."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, OpsState]]:
        if settings.AUTH_PROVIDER is not AuthProvider.CUSTOM:
            yield {"ops": OpsState(settings, None)}
            return
        documents = Documents(allow_loopback=not settings.ENVIRONMENT.deployed)
        try:
            yield {"ops": OpsState(settings, CodeFlow(settings, documents))}
        finally:
            await documents.aclose()

    # `actions` before `jobs`: /jobs/confirm is no job.
    parts = (overview, actions, jobs, queues, schedules, dead_letters, audit, sign_in)
    app.include_router(APIRouter(routes=[route for part in parts for route in part.router.routes], lifespan=lifespan))
    app.mount(f"{ROOT}/static", Assets(packages=[("plinth.ops", "static")]))
