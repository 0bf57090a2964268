"""Decides when owners get a turn each, instead of the line's order alone."""

from collections.abc import Sequence

from plinth.jobs.claimed import ClaimedJob

__all__ = ["Turns"]


class Turns:
    """The turns of one worker session.

    `priority`: the next claim begins with a turn for each owner, with jobs of this priority or a better one; None: it
    goes by the line alone. `after`: the owner that had the last turn.
    """

    def __init__(self) -> None:
        self.priority: int | None = None
        self.after = ""

    def look_at(self, claimed: Sequence[ClaimedJob], *, full: bool) -> None:
        """Decide by the jobs that were claimed along the line: do a few owners fill it?"""
        owners = {job.owner for job in claimed if job.owner is not None}
        crowded = full and bool(owners) and len(owners) <= max(1, len(claimed) // 2)
        self.priority = max(job.priority for job in claimed) if crowded else None

    def taken(self, claimed: Sequence[ClaimedJob], wanted: int) -> None:
        """Note the turns that were taken, of so many that could have been."""
        owners = [job.owner for job in claimed if job.owner is not None]
        self.after = max(owners) if len(owners) == wanted else ""  # the first owner follows the last
