"""The settings of readiness, draining, and the second port that serves probes and metrics."""

from collections.abc import Iterator, Mapping

from pydantic import Field

from plinth.first_imports import MULTIPROCESS
from plinth.settings import types
from plinth.settings.redis import RedisSettings

__all__ = ["HealthSettings"]


class HealthSettings(RedisSettings):
    """Where probes and metrics are served, and when the service counts as ready."""

    METRICS_PORT: int = Field(9090, ge=0, le=65535)
    DRAIN_SECONDS: float = Field(5.0, ge=0, le=300)
    READINESS_REQUIRED: types.Components = ("database",)

    def unfit_for_deployment(self) -> Iterator[tuple[str, str]]:
        yield from super().unfit_for_deployment()
        if "redis" in self.READINESS_REQUIRED and self.redis_url is None:
            yield "REDIS_URL", "expected a value, because READINESS_REQUIRED names redis"

    def doubtful_variables(self, given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        yield from super().doubtful_variables(given)
        for name in MULTIPROCESS:
            if given.get(name):
                yield name, "ignored: each process shows its own metrics, on METRICS_PORT"
