"""The settings of the job engine: queues, slots, time limits, retention, encryption."""

from collections.abc import Iterator

from pydantic import Field

from plinth.settings import types
from plinth.settings.general import GeneralSettings
from plinth.settings.secret_strength import weakness_of_any

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
    JOBS_ENCRYPTION_KEY: types.HmacSecrets | None = None

    def unfit_for_deployment(self) -> Iterator[tuple[str, str]]:
        yield from super().unfit_for_deployment()
        secret = self.JOBS_ENCRYPTION_KEY
        if secret is not None and (problem := weakness_of_any(secret)):
            yield "JOBS_ENCRYPTION_KEY", problem
