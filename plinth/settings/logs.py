"""The settings of logs."""

from typing import Literal

from pydantic import Field

from plinth.settings import types
from plinth.settings.general import GeneralSettings

__all__ = ["LogSettings"]


class LogSettings(GeneralSettings):
    """What is logged, and in which form."""

    LOG_LEVEL: types.LogLevel = "INFO"
    LOG_FORMAT: Literal["auto", "json", "console"] = "auto"
    LOG_PROFILE: Literal["default", "gcp", "ecs", "datadog"] = "default"
    LOG_ACCESS_SAMPLE: float = Field(1.0, ge=0, le=1)
    LOG_JOB_SAMPLE: float = Field(1.0, ge=0, le=1)
    LOG_SLOW_REQUEST: types.Seconds = 1.0
