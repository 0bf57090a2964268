"""Whether this process is alive, and whether it can do its work."""

from typing import Any

from fastapi import APIRouter, Request

from notes import __version__
from plinth.api.dependencies import state_of
from plinth.http.problems import problems
from plinth.http.responses import json_response

router = APIRouter(prefix="/public/health", tags=["health"])


@router.get("", responses=problems())
async def live() -> Any:
    """The process runs and its event loop turns."""
    return json_response({"status": "alive", "version": __version__})


@router.get("/ready", responses={**problems(), 503: {"description": "A required component is down"}})
async def ready(request: Request) -> Any:
    """The last known state of what this process needs."""
    readiness = state_of(request)["readiness"]
    components = {name: component.status for name, component in readiness.components.items()}
    status = 503 if readiness.status == "unavailable" else 200
    return json_response({"status": readiness.status, "components": components}, status)
