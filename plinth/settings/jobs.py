"""The settings of the job engine: queues, slots, time limits, retention."""

from pydantic import Field

from plinth.settings import types
from plinth.settings.general import GeneralSettings

__all__ = ["JobsSettings"]


class JobsSettings(GeneralSettings):
    """What a worker runs, how long it may take to stop, and how long records are kept."""

    JOBS_QUEUES: types.Names = ("default",)
    JOBS_CONCURRENCY: int = Field(20, ge=1, le=1000)
    JOBS_POLL_INTERVAL: types.Seconds = 1.0
    JOBS_SESSION_TIMEOUT: float = Field(10.0, ge=2, le=300)
    JOBS_SHUTDOWN_GRACE: types.Seconds = 25.0
    JOBS_MAX_CRASHES: int = Field(5, ge=1)
    JOBS_KEEP_SUCCEEDED_DAYS: types.Days = 7.0
    JOBS_KEEP_DISCARDED_DAYS: types.Days = 90.0
    AUDIT_KEEP_DAYS: types.Days = 365.0
