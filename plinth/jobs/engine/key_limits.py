"""Finds the keys whose limits let jobs start, for the claims of one worker session."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import asyncpg

from plinth.jobs.engine.key_sql import KEYS, KEYS_OF_A_WALK, RECORD_STARTS
from plinth.jobs.kinds import JobKind
from plinth.jobs.limits import Limit

__all__ = ["KeyLimits", "KeyRoom"]

MAX_WALKS = 10  # in one claim; the next one goes on where it ended


class KeyRoom(NamedTuple):
    """A key, how many of its jobs may start (`room`), and how many run (`running`)."""

    kind: str
    key: str
    room: int
    running: int


class KeyLimits:
    """The limits by key, as one worker session sees them.

    `free_in`: seconds until a limit of starts lets a waiting job go, as the last claim found; None: none does by
    itself.
    """

    def __init__(self) -> None:
        self.free_in: float | None = None
        self._after: dict[str, str] = {}  # by kind: the key after which the next claim looks

    async def rooms(
        self,
        connection: asyncpg.Connection,
        queues: Sequence[str],
        limits: Mapping[str, Limit[Any] | None],
        wanted: int,
    ) -> list[KeyRoom]:
        """Return keys with room for `wanted` jobs together, or all there are in a thousand keys.

        `limits`: by kind, whose locks the connection's transaction holds; None for a kind that has no limit any more.
        """
        rooms: dict[tuple[str, str], KeyRoom] = {}
        self.free_in = None
        at_start = {kind for kind in limits if not self._after.get(kind)}
        left = dict(limits)
        for _ in range(MAX_WALKS):
            if not left or sum(room.room for room in rooms.values()) >= wanted:
                break
            rows = await connection.fetch(KEYS, queues, *self._arguments(left))
            for row in rows:
                rooms[row["kind"], row["key"]] = KeyRoom(row["kind"], row["key"], row["room"], row["running"])
            waits = [row["free_in"] for row in rows if row["free_in"] is not None]
            self.free_in = min([*waits, *([] if self.free_in is None else [self.free_in])], default=None)
            for kind in list(left):
                self._after[kind] = _last_key([row for row in rows if row["kind"] == kind])
                if self._after[kind]:
                    continue
                if kind in at_start:
                    del left[kind]  # all its keys were seen
                at_start.add(kind)
        return [room for room in rooms.values() if room.room > 0]

    async def record_starts(
        self, connection: asyncpg.Connection, kinds: Mapping[str, JobKind[Any]], claimed: Sequence[Any]
    ) -> None:
        """Count the jobs (rows with `id` and `kind`) that a claim has taken for the limits of starts."""
        periods = {
            row["kind"]: limit.per
            for row in claimed
            if (limit := kinds[row["kind"]].limit) is not None and limit.per is not None
        }
        if periods:
            ids = [row["id"] for row in claimed if row["kind"] in periods]
            await connection.execute(RECORD_STARTS, ids, list(periods), list(periods.values()))

    def _arguments(self, limits: Mapping[str, Limit[Any] | None]) -> list[list[Any]]:
        rows = [
            (
                kind,
                self._after.get(kind, ""),
                *((limit.max_running, limit.max_starts, limit.per) if limit else [None] * 3),
            )
            for kind, limit in limits.items()
        ]
        return [list(column) for column in zip(*rows, strict=True)]


def _last_key(rows: Sequence[Any]) -> str:
    """Return the key up to which all keys of a kind have been seen, in every queue; empty: to the end.

    `rows`: in the order of keys, which is the database's: its collation may put "a" before "B", and Python does not.
    """
    seen: Counter[str] = Counter()
    for row in rows:
        seen[row["queue"]] += 1
        if seen[row["queue"]] == KEYS_OF_A_WALK:
            return str(row["key"])
    return ""
