"""Metrics of the whole fleet: backlogs, workers, schedules, the schema. One process at a time collects them.

Every API and every worker can, so that the metrics exist while no worker lives. The row `figures` of the table `duty`
names the process that does; only that process exposes them, and another one takes over when it ends or is lost. Rules
take the maximum over processes.
"""

import asyncio
from collections import defaultdict
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from functools import partial
from time import monotonic
from typing import Any
from uuid import uuid4

import asyncpg
import structlog

from plinth.aio import cancel_all
from plinth.database.engine import Database, DatabaseUnavailableError
from plinth.database.revisions import PLATFORM, SERVICE, read_revisions
from plinth.jobs.engine.fleet_sql import FLEET, FLEET_QUEUES, LEAVE_DUTY, MAX_COUNT, TAKE_DUTY
from plinth.jobs.engine.housekeeping import every
from plinth.jobs.engine.scheduler import LOOK
from plinth.jobs.schedules import Schedule, schedules
from plinth.settings import PlatformSettings
from plinth.telemetry.metrics import Labels, Observed

__all__ = ["FleetMetrics"]

log = structlog.get_logger("plinth.jobs.engine.fleet_metrics")

DUTY = "figures"
INTERVAL_SECONDS = 10.0
# The share of one core of the database that collecting may use: with a very long backlog it collects less often.
SHARE = 0.01
# Intervals until the duty expires.
HOLD = 3
LEAVE_SECONDS = 1.0

MAX_QUEUES = 50
OTHER_QUEUES = "other"
STATES = ("available", "running", "scheduled", "retryable")

_MOST = f"Counting stops at {MAX_COUNT:,}: that is to be read as 'at least'."
JOBS = Observed("plinth_queue_jobs", f"Live jobs of the fleet. {_MOST}", ("queue", "state"))
OLDEST = Observed(
    "plinth_queue_oldest_due_age_seconds", "For how long the oldest job has been due that does not run yet.", ("queue",)
)
PAUSED = Observed("plinth_queue_paused", "Whether an operator has paused the queue.", ("queue",))
DEAD_LETTERS = Observed("plinth_dead_letters", f"Discarded jobs in the history. {_MOST}")
WORKERS = Observed("plinth_workers_alive", "Workers whose session has not expired.")
OVERDUE = Observed(
    "plinth_schedule_overdue_seconds", "For how long a slot has been due that no worker has taken.", ("schedule",)
)
REVISION = Observed(
    "plinth_schema_revision_info", "The revisions of this code and the database's; always 1.", ("expected", "database")
)
BEHIND = Observed("plinth_schema_behind", "Whether the database lacks migrations of this code.")
MIGRATING = Observed("plinth_migration_running_seconds", "For how long a migration has been running; 0 without one.")
_FAMILIES = (JOBS, OLDEST, PAUSED, DEAD_LETTERS, WORKERS, OVERDUE, REVISION, BEHIND, MIGRATING)


class FleetMetrics:
    """Takes the duty when it is free and collects the metrics while it holds it. Its failures are logged only."""

    def __init__(self, database: Database, settings: PlatformSettings) -> None:
        self._database = database
        self._queues = settings.JOBS_QUEUES
        self._revisions = read_revisions(settings.service.migrations)
        self._holder = uuid4()
        self._exposed = ExitStack()
        self._values: dict[Observed, list[tuple[Labels, float]]] = {}
        self._held_until = self._ask_from = float("-inf")
        self._migrating_since: float | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start collecting. With SQLite there are no jobs, and nothing is started."""
        if not self._database.is_postgresql:
            return
        for family in _FAMILIES:
            self._exposed.enter_context(family.by(partial(self._values_of, family)))
        self._task = asyncio.create_task(every(INTERVAL_SECONDS, "figures", self.step), name="figures")

    async def stop(self) -> None:
        """Stop collecting and release the duty."""
        self._exposed.close()
        if self._task is not None:
            await cancel_all([self._task])
        if self.holds:
            self._held_until = float("-inf")
            with suppress(DatabaseUnavailableError, TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS), self._database.connection() as connection:
                    await connection.execute(LEAVE_DUTY, DUTY, self._holder)

    @property
    def holds(self) -> bool:
        """Whether this process holds the duty, by its own clock."""
        return monotonic() < self._held_until

    async def step(self) -> None:
        """Take or keep the duty and, while holding it, collect the metrics.

        Raises:
            DatabaseUnavailableError: the database is away.
        """
        began = monotonic()
        asks = began >= self._ask_from
        try:
            # One transaction: a process whose queries fail does not keep the duty.
            async with self._database.connection() as connection, connection.transaction():
                hold = HOLD * INTERVAL_SECONDS
                if await connection.fetchval(TAKE_DUTY, DUTY, self._holder, timedelta(seconds=hold)) is None:
                    self._held_until = self._ask_from = float("-inf")
                    self._values = {}  # old, by the time that it has the duty again
                    return
                if asks:
                    queues = await connection.fetch(FLEET_QUEUES)
                    fleet = await connection.fetchrow(FLEET)
                    declared = schedules()
                    looked = await connection.fetch(LOOK, list(declared)) if declared else []
        except asyncpg.UndefinedTableError:
            log.debug("no fleet metrics: the database has not been migrated")
            return
        self._held_until = began + hold
        if asks:
            assert fleet is not None
            self._values = {
                **_queue_values(queues, [*self._queues, *fleet["queues"]]),
                **self._fleet_values(fleet),
                OVERDUE: [((row["name"],), _overdue(declared[row["name"]], row)) for row in looked],
            }
            pause = max(INTERVAL_SECONDS, (monotonic() - began) / SHARE)
            self._ask_from = monotonic() + pause - INTERVAL_SECONDS / 2  # the steps are not that regular

    def _values_of(self, family: Observed) -> list[tuple[Labels, float]]:
        return self._values.get(family, []) if self.holds else []

    def _fleet_values(self, fleet: Any) -> dict[Observed, list[tuple[Labels, float]]]:
        found = fleet["revisions"]
        expected = [head for branch in (PLATFORM, SERVICE) for head in self._revisions.heads(branch)]
        migrating = fleet["migrating"]
        if migrating is None:
            self._migrating_since = None
        elif self._migrating_since is None:
            self._migrating_since = monotonic()
        seen = 0.0 if self._migrating_since is None else monotonic() - self._migrating_since
        return {
            WORKERS: [((), fleet["workers"])],
            DEAD_LETTERS: [((), fleet["dead_letters"])],
            REVISION: [((",".join(sorted(expected)), ",".join(sorted(found))), 1)],
            BEHIND: [((), bool(self._revisions.missing(found)))],
            MIGRATING: [((), max(migrating or 0.0, seen))],
        }


def _queue_values(rows: list[Any], served: list[str]) -> dict[Observed, list[tuple[Labels, float]]]:
    """Metrics by queue, served queues first; those beyond `MAX_QUEUES` are summed as one queue."""
    found = {row["name"]: row for row in rows}
    names = list(dict.fromkeys([*sorted(set(served)), *found]))
    jobs: dict[Labels, float] = defaultdict(float)
    oldest: dict[Labels, float] = defaultdict(float)
    paused: dict[Labels, float] = defaultdict(float)
    for number, name in enumerate(names):
        queue, row = name if number < MAX_QUEUES else OTHER_QUEUES, found.get(name)
        for state in STATES:
            jobs[queue, state] += row[state] if row else 0
        oldest[queue,] = max(oldest[queue,], (row and row["oldest_due_age"]) or 0.0)
        paused[queue,] = max(paused[queue,], bool(row and row["paused"]))
    return {JOBS: list(jobs.items()), OLDEST: list(oldest.items()), PAUSED: list(paused.items())}


def _overdue(schedule: Schedule, row: Any) -> float:
    if row["paused_at"] is not None:
        return 0.0
    now: datetime = row["now"]
    return max(0.0, (now - schedule.next_slot(row["last_slot"])).total_seconds())
