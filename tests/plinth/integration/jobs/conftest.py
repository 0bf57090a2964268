"""A worker in this process, and the database that it works on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel
from redis.asyncio import Redis

from notes.config import Settings
from plinth.database.engine import Database
from plinth.identity.principal import Principal
from plinth.jobs import kinds as kinds_module
from plinth.jobs import schedules as schedules_module
from plinth.jobs.doorbell import DOORBELL, Doorbell, doorbell_for
from plinth.jobs.engine.store import Store
from plinth.jobs.engine.worker import Worker
from plinth.jobs.kinds import JobKind
from plinth.redis.client import close_redis, open_redis
from tests.support.notes import settings_with

PATIENCE = 20.0  # seconds, for what takes milliseconds on an idle machine


# The operator that acts where it does not matter which.
OLGA = Principal("olga", "test", frozenset(), frozenset(), 0)


class Number(BaseModel):
    n: int = 0


async def until(holds: Callable[[], Awaitable[Any]]) -> Any:
    """Wait until `holds()` is true, and return what it says."""
    async with asyncio.timeout(PATIENCE):
        while not (found := await holds()):  # noqa: ASYNC110 - it is the database that changes
            await asyncio.sleep(0.01)
    return found


@pytest.fixture(autouse=True)
def _kinds_and_schedules_of_this_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kinds stand beside the service's; of the service's schedules it has none, whose slots come when they will."""
    monkeypatch.setattr(kinds_module, "_kinds", dict(kinds_module.kinds()))
    monkeypatch.setattr(schedules_module, "_schedules", {})


@pytest.fixture
def settings(database_url: str, redis_url: str, request: pytest.FixtureRequest) -> Settings:
    # Each test rings at a door of its own.
    name = f"{abs(hash(request.node.nodeid)):x}"
    return settings_with(
        DATABASE_URL=database_url,
        REDIS_URL=redis_url,
        PROJECT_NAME=name,
        JOBS_POLL_INTERVAL=0.1,
        JOBS_SHUTDOWN_GRACE=6,
        JOBS_CONCURRENCY=5,
        METRICS_PORT=0,
    )


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    redis = open_redis(settings)
    assert redis is not None
    yield redis
    await close_redis(redis)


@pytest.fixture
async def doorbell(settings: Settings, redis: Redis) -> AsyncIterator[Doorbell]:
    doorbell = doorbell_for(settings, redis)
    yield doorbell
    await doorbell.aclose()


@pytest.fixture
async def database(settings: Settings, doorbell: Doorbell) -> AsyncIterator[Database]:
    database = Database(settings, session_info={DOORBELL: doorbell})
    yield database
    await database.aclose()


class Jobs:
    """What the tables say, in the fewest words."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self, sql: str, *arguments: Any) -> list[Any]:
        async with self._database.connection() as connection:
            return await connection.fetch(sql, *arguments)

    async def one(self, sql: str, *arguments: Any) -> Any:
        rows = await self.all(sql, *arguments)
        assert len(rows) == 1, rows
        return rows[0]

    async def live(self, job_id: Any) -> Any:
        """The row in the hot table, or None."""
        rows = await self.all("SELECT * FROM job WHERE id = $1", job_id)
        return rows[0] if rows else None

    async def ended(self, job_id: Any) -> Any:
        """The row in the history, or None."""
        rows = await self.all("SELECT * FROM job_history WHERE id = $1", job_id)
        return rows[0] if rows else None

    async def state(self, job_id: Any) -> str:
        row = await self.live(job_id) or await self.ended(job_id)
        return str(row["state"])

    async def end_of(self, job_id: Any) -> Any:
        """Wait for a job's end; its row in the history."""
        return await until(lambda: self.ended(job_id))


@pytest.fixture
def jobs(database: Database) -> Jobs:
    return Jobs(database)


async def open_store(database: Database, *, expire_after: float = 60) -> Store:
    """A session as a worker opens it, without the worker."""
    return await Store.open_session(
        database, name="test", version="0", queues=["default"], kinds=[], concurrency=1, expire_after=expire_after
    )


@asynccontextmanager
async def working(settings: Settings, *kinds: JobKind[Any], **options: Any) -> AsyncIterator[Worker]:
    """A worker that knows `kinds`, for as long as the block lasts."""
    worker = Worker(settings, registered={kind.name: kind for kind in kinds}, **options)
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        worker.stop()
        await running
