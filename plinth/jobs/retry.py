"""When a failed job is tried again."""

import random
from dataclasses import dataclass

__all__ = ["RetryPolicy"]

MAX_CEILING = 30 * 86_400.0  # seconds


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter: up to `base` seconds after the first failure, then up to twice as long
    after each further one, never longer than `ceiling`.

    By default the last of 25 attempts comes about five days after the first.

    Full jitter spreads jobs that failed together over the whole delay, so they do not come back together.
    """

    max_attempts: int = 25
    base: float = 2.0
    ceiling: float = 86_400.0

    def __post_init__(self) -> None:
        if not (1 <= self.max_attempts <= 1000 and 0 < self.base <= self.ceiling <= MAX_CEILING):
            raise ValueError("max_attempts is 1 to 1000, base above 0 and not above ceiling, and that 30 days at most")

    def delay(self, attempt: int) -> float:
        """Seconds to wait after `attempt` failures."""
        return random.uniform(0, min(self.ceiling, self.base * 2.0 ** min(attempt - 1, 60)))  # noqa: S311
