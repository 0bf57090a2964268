"""Puts the pages, their files and what they share into an application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

from plinth.http.static_files import Assets
from plinth.identity.documents import Documents
from plinth.ops import home, sign_in
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

    app.include_router(APIRouter(routes=[*home.router.routes, *sign_in.router.routes], lifespan=lifespan))
    app.mount(f"{ROOT}/static", Assets(packages=[("plinth.ops", "static")]))
