"""Claims jobs for one worker session: in turn for each owner where a few fill the line, and along the line."""

from collections.abc import Mapping, Sequence
from typing import Any

from plinth.jobs.claimed import ClaimedJob
from plinth.jobs.engine.store import Store
from plinth.jobs.engine.turns import Turns
from plinth.jobs.kinds import JobKind

__all__ = ["Claims"]


class Claims:
    """Claims jobs for one worker session: some in turn for each owner, and the rest along the line.

    `more`: more jobs may wait than the last claim took; `free_in`: seconds until a limit lets one go.
    """

    def __init__(self, store: Store, queues: Sequence[str], kinds: Mapping[str, JobKind[Any]]) -> None:
        self.more = False
        self._store = store
        self._queues = queues
        self._kinds = kinds
        self._turns = Turns()

    @property
    def free_in(self) -> float | None:
        return self._store.key_limits.free_in

    async def take(self, room: int, *, suspect: bool) -> list[ClaimedJob]:
        """Claim up to `room` jobs. `suspect`: whether one of them may be suspect."""
        jobs = await self._take_turns(room)
        line = []
        if len(jobs) < room:
            line = await self._store.claim(self._queues, self._kinds, room - len(jobs), suspect=suspect)
        # A claim that takes a suspect leaves out those behind it, and so may not be full.
        self.more = len(jobs) + len(line) == room or any(job.suspect for job in line)
        self._turns.look_at(line, full=self.more)
        return jobs + line

    async def _take_turns(self, room: int) -> list[ClaimedJob]:
        turns = self._turns
        if turns.priority is None:
            return []
        jobs = await self._store.claim_in_turn(
            self._queues, self._kinds, room, after=turns.after, priority=turns.priority
        )
        turns.taken(jobs, room)
        return jobs
