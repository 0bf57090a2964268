"""Redis and PostgreSQL fail while jobs are enqueued and run.

The client enqueues again what was not acknowledged. When a commit breaks off it is unknown whether it took effect, so
each job carries a key of its client's, and a client that knows no answer looks it up before it tries again.
"""

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import pytest

from plinth.database.engine import DatabaseUnavailableError
from plinth.embedded.postgres import Postgres
from plinth.embedded.redis import Redis
from plinth.testing.servers import Servers
from tests.plinth.faults.fleet import Fleet
from tests.plinth.faults.kinds import Effect, effect

LOOK_UP = """
SELECT id FROM job WHERE kind = $1 AND unique_key = $2 UNION ALL
SELECT id FROM job_history WHERE kind = $1 AND unique_key = $2
"""
SLOWEST_START = """
SELECT max(first.at - ended.created_at) FROM job_history AS ended,
    LATERAL (SELECT min(at) AS at FROM run_log WHERE job_id = ended.id) AS first
"""


class Client:
    """Enqueues jobs one after the other, whatever happens to the servers."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.accepted: list[UUID] = []
        self.unsure = 0  # commits that broke off
        self.stopping = False

    async def run(self) -> None:
        while not self.stopping:
            await self._enqueue(str(uuid4()))
            await asyncio.sleep(random.uniform(0, 0.01))

    async def _enqueue(self, key: str) -> None:
        unsure = False
        while True:
            try:
                if unsure and (found := await self._fleet.value(LOOK_UP, effect.name, key)) is not None:
                    self.accepted.append(found)
                    return
                # Until it is acknowledged, by the answer or by what the look-up finds, it has not been accepted.
                payload = Effect(seconds=random.uniform(0, 0.05))
                self.accepted += await self._fleet.enqueue(effect, payload, unique_keys=[key])
                return
            except DatabaseUnavailableError:
                unsure = True
                self.unsure += 1
                await asyncio.sleep(0.1)


@asynccontextmanager
async def load(fleet: Fleet, clients: int = 4) -> AsyncIterator[list[Client]]:
    """While the block runs, so many clients enqueue jobs. Each ends what it is about before the block ends."""
    enqueuing = [Client(fleet) for _ in range(clients)]
    tasks = [asyncio.create_task(client.run()) for client in enqueuing]
    try:
        yield enqueuing
    finally:
        for client in enqueuing:
            client.stopping = True
        await asyncio.gather(*tasks)


def accepted_by(clients: list[Client]) -> list[UUID]:
    return [job_id for client in clients for job_id in client.accepted]


async def stopped_and_started(server: Postgres | Redis, away: float = 0.0) -> None:
    """Stop a server, PostgreSQL in immediate mode, and start it again; the clients go on meanwhile."""
    await asyncio.to_thread(server.stop, signal.SIGQUIT if isinstance(server, Postgres) else None)
    await asyncio.sleep(away)
    server.launch()  # not in a thread: the child would end with it
    await asyncio.to_thread(server.wait)


async def slowest_start(fleet: Fleet) -> float:
    """Of all jobs that have ended, the longest time in seconds from the enqueueing to the first run."""
    slowest: float = (await fleet.value(SLOWEST_START)).total_seconds()
    return slowest


async def redis_fails(fleet: Fleet, servers: Servers, *, rounds: int, seconds: float) -> None:
    """Redis is wiped, restarted, frozen, and stopped for a while, under load."""
    assert fleet.redis is not None
    await fleet.start(3, JOBS_POLL_INTERVAL=1, JOBS_SESSION_TIMEOUT=10)
    async with load(fleet) as clients:
        for _ in range(rounds):
            await asyncio.sleep(seconds)
            await fleet.redis.flushall()
            await asyncio.sleep(seconds)
            await stopped_and_started(servers.redis)
            await asyncio.sleep(seconds)
            servers.redis.pause()
            await asyncio.sleep(seconds)
            servers.redis.resume()
            await stopped_and_started(servers.redis, away=2 * seconds)
        await asyncio.sleep(seconds)
    accepted = accepted_by(clients)
    await fleet.all_done()
    slowest = await slowest_start(fleet)
    figures = await fleet.audit("Redis wiped, restarted, frozen, stopped", accepted, recovery=slowest)
    assert figures.runs == len(accepted), "a job ran twice because of Redis"
    assert slowest < 10, "workers look into the database every second"


async def test_jobs_run_once_through_a_redis_outage(breakable_fleet: Fleet, breakable: Servers) -> None:
    await redis_fails(breakable_fleet, breakable, rounds=1, seconds=0.3)


@pytest.mark.slow
async def test_jobs_run_once_through_many_redis_outages(breakable_fleet: Fleet, breakable: Servers) -> None:
    await redis_fails(breakable_fleet, breakable, rounds=4, seconds=1.0)


async def postgres_crashes(fleet: Fleet, servers: Servers, *, rounds: int) -> None:
    """PostgreSQL is restarted in immediate mode, which is a crash with all connections cut, under load."""
    await fleet.start(3, JOBS_SESSION_TIMEOUT=10)
    async with load(fleet) as clients:
        for _ in range(rounds):
            await asyncio.sleep(random.uniform(0.5, 1.5))
            await stopped_and_started(servers.postgres)
        await asyncio.sleep(1)
    accepted = accepted_by(clients)
    unsure = sum(client.unsure for client in clients)
    await fleet.all_done()
    slowest, note = await slowest_start(fleet), f"{unsure} enqueues broken off"
    await fleet.audit(f"PostgreSQL crashed, {rounds} times", accepted, recovery=slowest, note=note)
    assert unsure > 0, "the crashes have interrupted no enqueue"
    assert all(member.process.running for member in fleet.members), "a crash has ended a worker"


async def test_accepted_jobs_survive_a_postgres_crash(breakable_fleet: Fleet, breakable: Servers) -> None:
    await postgres_crashes(breakable_fleet, breakable, rounds=1)


@pytest.mark.slow
async def test_accepted_jobs_survive_many_postgres_crashes(breakable_fleet: Fleet, breakable: Servers) -> None:
    await postgres_crashes(breakable_fleet, breakable, rounds=8)


async def test_outages_that_outlast_the_sessions_are_no_crashes(breakable_fleet: Fleet, breakable: Servers) -> None:
    """Every worker loses its session, gives back what it ran, and lives: no job is suspect, let alone poison."""
    fleet = breakable_fleet
    await fleet.start(2)
    accepted = await fleet.enqueue(effect, *[Effect(seconds=3) for _ in range(20)])
    for _ in range(2):
        await fleet.running(10)
        await stopped_and_started(breakable.postgres, away=4)
    await fleet.audit("PostgreSQL away for longer than a session lasts, twice", accepted)
    assert await fleet.value("SELECT max(crash_count) FROM job_history") == 0
