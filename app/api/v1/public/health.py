"""Liveness and readiness of this process."""

from typing import Any

from fastapi import APIRouter, Request, Response

from app import __version__
from app.schemas.common import Health, ReadinessReport
from plinth.api.dependencies import state_of
from plinth.http.problems import problems
from plinth.http.responses import json_response

router = APIRouter(prefix="/public/health", tags=["health"])


@router.get("", response_model=Health, responses=problems())
async def live() -> Any:
    """Liveness: the process runs and its event loop turns. Checks no dependency."""
    return json_response({"status": "alive", "version": __version__})


@router.get(
    "/ready",
    responses={**problems(), 503: {"model": ReadinessReport, "description": "A required component is down"}},
)
async def ready(request: Request, response: Response) -> ReadinessReport:
    """Readiness: the last known state of each dependency, which is checked in the background."""
    readiness = state_of(request)["readiness"]
    if readiness.status == "unavailable":
        response.status_code = 503
    components = {
        name: {
            "status": component.status,
            "required": component.required,
            "latency_ms": None if component.latency is None else round(component.latency * 1000, 2),
            "reason": component.reason,
        }
        for name, component in readiness.components.items()
    }
    return ReadinessReport.model_validate({"status": readiness.status, "components": components})
