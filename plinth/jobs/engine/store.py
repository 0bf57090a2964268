"""Runs the engine's statements for one worker session."""

import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.database.engine import Database
from plinth.jobs.claimed import ClaimedJob
from plinth.jobs.engine.claim_sql import (
    CLAIM,
    CLAIM_IN_TURN,
    CLAIM_WITH_KEYS,
    LIMIT_LOCK,
    RUNNING_OF_KIND,
    TRY_LIMIT_LOCK,
    WAITING_KINDS,
)
from plinth.jobs.engine.key_limits import KeyLimits, KeyRoom
from plinth.jobs.engine.key_sql import PRUNE_STARTS
from plinth.jobs.engine.prune_sql import PRUNE, PRUNE_AUDIT, PRUNE_BATCHES, PRUNE_EVENTS, PRUNE_KEYS
from plinth.jobs.engine.sql import (
    CANCELLED_AMONG,
    CLOSE_SESSION,
    FINISH,
    FINISH_HERE,
    HELD,
    OPEN_SESSION,
    PROGRESS,
    REAP,
    RELEASE,
    RETRY,
    STOP_SESSION,
    SWEEP,
    UNCOUNT_CRASHES,
    UNKNOWN_RUNS,
)
from plinth.jobs.engine.step_sql import SHARE_EVENT, SUSPEND
from plinth.jobs.enqueue import Insertion
from plinth.jobs.events import event_lock
from plinth.jobs.follow_ups import merged
from plinth.jobs.kinds import JobKind
from plinth.jobs.limits import MAX_PERIOD
from plinth.jobs.outcome import ErrorEntry, Finish, Outcome, Release, State, Suspend, TryAgain, Wait, error_entry

__all__ = ["Reaped", "Store"]

# A worker cancels a run at its time limit. The job is taken away only if that has not ended it.
DEADLINE_MARGIN = timedelta(seconds=15)
# Seconds that a suspension waits for another transaction before it is put off.
LOCK_TIMEOUT = 0.05
NOTHING: Mapping[str, float] = MappingProxyType({})
_ORDER = attrgetter("priority", "run_at", "id")
# For how long lost workers are shown to operators.
KEEP_LOST_SESSIONS = timedelta(hours=1)


class Reaped(NamedTuple):
    """A run that was taken away. `fate` is the job's new state; `hung`: its worker lives, but it did not end."""

    id: UUID
    kind: str
    queue: str
    fate: str
    hung: bool
    batch_id: UUID | None


class Swept(NamedTuple):
    """Whether there may be jobs to claim, more that are due, and runs to reap."""

    work: bool
    more: bool
    lost: bool


class Store:
    """Claims jobs and writes their outcomes, for one worker session."""

    def __init__(self, database: Database, session_id: UUID) -> None:
        self.database = database
        self.session_id = session_id
        self.key_limits = KeyLimits()
        self._keyed: list[str] = []  # kinds with waiting jobs that have a key, also those without a limit any more

    @staticmethod
    async def open_session(
        database: Database,
        *,
        name: str,
        version: str,
        queues: Sequence[str],
        kinds: Sequence[str],
        concurrency: int,
        expire_after: float,
    ) -> "Store":
        """Open a worker session. It expires unless it is renewed within `expire_after` seconds."""
        async with database.connection() as connection:
            session_id: UUID = await connection.fetchval(
                OPEN_SESSION, name, version, queues, kinds, concurrency, timedelta(seconds=expire_after)
            )
        return Store(database, session_id)

    async def claim(
        self, queues: Sequence[str], kinds: Mapping[str, JobKind[Any]], limit: int, *, suspect: bool = True
    ) -> list[ClaimedJob]:
        """Claim up to `limit` jobs of these kinds, in order of priority and due time.

        `suspect`: whether one of them may be suspect.
        """
        limited = [name for name, kind in kinds.items() if kind.max_running is not None or kind.limit is not None]
        limited += [name for name in self._keyed if name not in limited]
        rooms = {name: limit for name, kind in kinds.items() if kind.max_running is None}
        keys: list[KeyRoom] = []
        self.key_limits.free_in = None
        async with self.database.connection() as connection, AsyncExitStack() as transaction:
            if limited:
                waiting: dict[str, bool] = dict(await connection.fetch(WAITING_KINDS, queues, limited))  # type: ignore[arg-type]
                if guarded := [name for name, keyed in waiting.items() if keyed or name not in rooms]:
                    await transaction.enter_async_context(connection.transaction())
                    counted = await self._rooms(connection, {name: kinds[name] for name in guarded}, limit)
                    rooms |= counted
                    limits = {name: kinds[name].limit for name, room in counted.items() if room and waiting[name]}
                    keys = await self.key_limits.rooms(connection, queues, limits, limit)
            if not any(rooms.values()):
                return []
            times = json.dumps({name: kinds[name].time_limit for name in rooms})
            arguments = queues, list(rooms), list(rooms.values()), limit, self.session_id, times, suspect
            if keys:
                rows = await connection.fetch(CLAIM_WITH_KEYS, *arguments, *map(list, zip(*keys, strict=True)))
                await self.key_limits.record_starts(connection, kinds, rows)
            else:
                rows = await connection.fetch(CLAIM, *arguments)
        jobs = [ClaimedJob._make(row) for row in rows]
        jobs.sort(key=_ORDER)  # RETURNING has an order of its own
        return jobs

    async def claim_in_turn(
        self, queues: Sequence[str], kinds: Mapping[str, JobKind[Any]], limit: int, *, after: str, priority: int
    ) -> list[ClaimedJob]:
        """Claim one job of each of up to `limit` owners, those that come next `after` an owner.

        Of jobs without a limit, of this priority or a better one.
        """
        limits = {name: kind.time_limit for name, kind in kinds.items() if kind.max_running is None}
        rows = await self._fetch(
            CLAIM_IN_TURN, queues, list(limits), after, limit, self.session_id, json.dumps(limits), priority
        )
        jobs = [ClaimedJob._make(row) for row in rows]
        jobs.sort(key=_ORDER)
        return jobs

    async def _rooms(
        self, connection: asyncpg.Connection, kinds: Mapping[str, JobKind[Any]], most: int
    ) -> dict[str, int]:
        """How many more jobs of each kind may run, `most` at most.

        One worker at a time counts a kind, until its claim has committed. A kind that another worker is counting is
        left to it.
        """
        rooms: dict[str, int] = {}
        for name, kind in kinds.items():
            if await connection.fetchval(TRY_LIMIT_LOCK, LIMIT_LOCK, name):
                rooms[name] = most
                if kind.max_running is not None:
                    rooms[name] = max(0, kind.max_running - await connection.fetchval(RUNNING_OF_KIND, name))
        return rooms

    async def sweep(self, queues: Sequence[str], kinds: Sequence[str]) -> Swept:
        """Make due jobs available, a thousand or so at a time."""
        (row,) = await self._fetch(SWEEP, queues, kinds, DEADLINE_MARGIN)
        *swept, self._keyed = row
        return Swept(*swept)

    async def finish(self, outcomes: Sequence[Finish]) -> set[UUID]:
        """End jobs. Returns those that this session held and that no other transaction had locked: see `held`."""
        return {row[0] for row in await self._fetch(FINISH, *self._finish_arguments(outcomes))}

    async def finish_with_follow_ups(
        self, follow_ups: Mapping[UUID, Sequence[Insertion]], outcomes: Sequence[Finish], *, wait: float
    ) -> set[UUID]:
        """End jobs and enqueue the follow-ups of each in one transaction; returns those that were ended.

        Raises:
            DatabaseUnavailableError: also if it had to wait for another transaction for more than `wait` seconds.
        """
        async with self.database.session() as session:
            connection = await session.connection()
            await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{wait:g}s'")
            ended = await connection.exec_driver_sql(FINISH, self._finish_arguments(outcomes))
            done = {row.id for row in ended}
            for insertion in merged([insertion for job_id in done for insertion in follow_ups[job_id]]):
                await insertion.execute(session)
        return done

    async def finish_in(self, session: AsyncSession, outcome: Finish) -> bool:
        """End a job in the session's transaction; whether it was this session's to end."""
        connection = await session.connection()
        result = await connection.exec_driver_sql(FINISH_HERE, self._finish_arguments([outcome]))
        return result.first() is not None

    def _finish_arguments(self, outcomes: Sequence[Finish]) -> tuple[Any, ...]:
        states, results = [outcome.state.value for outcome in outcomes], [outcome.result for outcome in outcomes]
        return (*self._fence(outcomes), states, [_json(outcome.error) for outcome in outcomes], results)

    async def retry(self, outcomes: Sequence[TryAgain]) -> set[UUID]:
        """Schedule failed jobs for another attempt; those with a cancellation request end as cancelled."""
        delays, errors = [outcome.delay for outcome in outcomes], [_json(outcome.error) for outcome in outcomes]
        counts = [outcome.counts for outcome in outcomes]
        done = {row[0] for row in await self._fetch(RETRY, *self._fence(outcomes), delays, errors, counts)}
        rest = [Finish(o.id, o.lease, State.CANCELLED, o.error) for o in outcomes if o.id not in done]
        return done | await self.finish(rest) if rest else done

    async def release(self, runs: Sequence[Release]) -> set[UUID]:
        """Release runs without counting an attempt; those with a cancellation request end as cancelled."""
        done = {row[0] for row in await self._fetch(RELEASE, *self._fence(runs))}
        rest = [Finish(run.id, run.lease, State.CANCELLED) for run in runs if run.id not in done]
        return done | await self.finish(rest) if rest else done

    async def suspend(self, outcomes: Sequence[Suspend]) -> set[UUID]:
        """Give runs' slots back until their waits are over; those with a cancellation request end as cancelled.

        Raises:
            DatabaseUnavailableError: also if it had to wait for a transaction that emits an event.
        """
        waits = [outcome.wait for outcome in outcomes]
        events = sorted({event_lock(wait.event) for wait in waits if wait.event is not None})
        columns = [[wait[column] for wait in waits] for column in range(len(Wait._fields))]
        async with self.database.connection() as connection, connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT:g}s'")
            for event in events:
                await connection.execute(SHARE_EVENT, event)
            rows = await connection.fetch(SUSPEND, *self._fence(outcomes), *columns)
        done: set[UUID] = {row[0] for row in rows}
        rest = [Finish(outcome.id, outcome.lease, State.CANCELLED) for outcome in outcomes if outcome.id not in done]
        return done | await self.finish(rest) if rest else done

    async def release_unknown(self, known: Sequence[tuple[UUID, int]]) -> int:
        """Give back what runs in this session's name without being known to it; how many there were.

        When the connection breaks during a claim, the claim may or may not have committed.
        """
        ids, leases = [job_id for job_id, _ in known], [lease for _, lease in known]
        rows = await self._fetch(UNKNOWN_RUNS, self.session_id, ids, leases)
        return len(await self.release([Release(*row) for row in rows])) if rows else 0

    async def held(self, runs: Sequence[tuple[UUID, int]]) -> set[tuple[UUID, int]]:
        """Return those of the runs (id, lease) that still hold their job: a write that missed them is tried again."""
        ids, leases = [job_id for job_id, _ in runs], [lease for _, lease in runs]
        return {(row[0], row[1]) for row in await self._fetch(HELD, ids, leases, self.session_id)}

    async def write_progress(
        self, progress: Sequence[tuple[UUID, int, int, int | None, str | None]]
    ) -> set[tuple[UUID, int]]:
        """Write (id, lease, done, total, message) of runs. Returns (id, lease) of those that still are ours."""
        ids, leases, *words = (list(column) for column in zip(*progress, strict=True))
        return {(row[0], row[1]) for row in await self._fetch(PROGRESS, ids, leases, self.session_id, *words)}

    async def cancelled_among(self, ids: Sequence[UUID]) -> set[UUID]:
        """Return the jobs of this session, of those given, with a cancellation request."""
        return {row[0] for row in await self._fetch(CANCELLED_AMONG, ids, self.session_id)}

    async def reap(self, *, max_crashes: int) -> list[Reaped]:
        """Take jobs away from lost workers and hung runs. One reaper at a time; others do nothing."""
        hung, crash, poison = map(_json, (_HUNG, _CRASH, _POISON))
        rows = await self._fetch(REAP, max_crashes, hung, crash, DEADLINE_MARGIN, poison, KEEP_LOST_SESSIONS)
        return [Reaped(*row) for row in rows]

    async def prune(self, state: State, older_than: float, *, of_kinds: Mapping[str, float] = NOTHING) -> int:
        """Delete records of jobs that ended in `state` more than so many seconds ago, some at a time; how many.

        `of_kinds`: the seconds for some kinds.
        """
        return await self._delete(PRUNE, state.value, timedelta(seconds=older_than), json.dumps(dict(of_kinds)))

    async def prune_audit(self, older_than: float) -> int:
        """Delete audit records that are older than so many seconds, some at a time; how many."""
        return await self._delete(PRUNE_AUDIT, timedelta(seconds=older_than))

    async def prune_events(self, older_than: float) -> int:
        """Delete events that were emitted more than so many seconds ago, some at a time; how many."""
        return await self._delete(PRUNE_EVENTS, timedelta(seconds=older_than))

    async def prune_starts(self) -> int:
        """Delete starts that no limit counts any more, some at a time; how many."""
        return await self._delete(PRUNE_STARTS, timedelta(seconds=MAX_PERIOD))

    async def prune_keys(self) -> int:
        """Delete unique keys that are free, some at a time; how many."""
        return await self._delete(PRUNE_KEYS)

    async def prune_batches(self, older_than: float) -> int:
        """Delete batches that ended more than so many seconds ago, some at a time; how many."""
        return await self._delete(PRUNE_BATCHES, timedelta(seconds=older_than))

    async def _delete(self, statement: str, *arguments: Any) -> int:
        async with self.database.connection() as connection:
            number: int = await connection.fetchval(statement, *arguments)
        return number

    async def mark_stopping(self) -> None:
        """Tell operators that this worker claims nothing more."""
        await self._fetch(STOP_SESSION, self.session_id)

    async def close_session(self) -> None:
        """End the worker session. The reaper gives back what still runs in its name, and counts no crash."""
        await self._fetch(CLOSE_SESSION, self.session_id)

    async def survive(self, runs: Sequence[tuple[UUID, int]]) -> None:
        """Tell that the worker lives though the session was lost: its runs (id, lease) have crashed no worker."""
        await self.close_session()
        ids, leases = [job_id for job_id, _ in runs], [lease for _, lease in runs]
        await self._fetch(UNCOUNT_CRASHES, ids, leases, json.dumps(_SURVIVED))

    async def _fetch(self, statement: str, *arguments: Any) -> list[Any]:
        async with self.database.connection() as connection:
            rows: list[Any] = await connection.fetch(statement, *arguments)
        return rows

    def _fence(self, outcomes: Sequence[Outcome]) -> tuple[list[UUID], list[int], UUID]:
        return [outcome.id for outcome in outcomes], [outcome.lease for outcome in outcomes], self.session_id


_HUNG = error_entry("timeout", run=0, attempt=0, error="The attempt did not end at its time limit.")
_CRASH = error_entry("crash", run=0, attempt=0, error="The worker that ran it was lost.")
_POISON = error_entry(
    "crash", run=0, attempt=0, error="Discarded as poison: too many of the workers that ran it were lost."
)

_LOST_SESSION = "The worker that ran it lost its session, and gave it back."
# Over what the reaper has written.
_SURVIVED = {"outcome": "interrupted", "error": _LOST_SESSION, "detail": _LOST_SESSION}


def _json(error: ErrorEntry | None) -> str | None:
    return None if error is None else json.dumps(error)
