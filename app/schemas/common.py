"""Schemas that the service's endpoints share."""

from typing import Literal

from pydantic import Field

from plinth.http.schemas import ReadModel

__all__ = ["ComponentHealth", "Health", "ReadinessReport"]


class Health(ReadModel):
    status: Literal["alive"]
    version: str


class ComponentHealth(ReadModel):
    status: Literal["up", "down"]
    required: bool
    latency_ms: float | None = Field(description="How long the last answer took; null if there was none yet.")
    reason: str | None = Field(description="Why it is down, or why the last check of it failed; else null.")


class ReadinessReport(ReadModel):
    status: Literal["ready", "degraded", "unavailable"]
    components: dict[str, ComponentHealth]
