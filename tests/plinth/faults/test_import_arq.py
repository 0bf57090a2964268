"""`plinth jobs import-arq`, killed at random moments and run again: no job is lost, and none is there twice."""

import asyncio
import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from tests.support.arq_queue import DAY
from tests.support.notes import PACKAGES
from tests.support.processes import PATIENCE, declare

JOBS = 10_000
KILLS = 5

SERVICE = """
from pathlib import Path
from typing import ClassVar

import notes.config
from plinth.settings.service import Service


class Settings(notes.config.Settings):
    service: ClassVar[Service] = Service(
        version="1", application="notes.main:create_app", jobs="moved.jobs", models="notes.models", migrations=Path()
    )
"""
FUNCTIONS = """
from plinth.jobs.arq import register


async def send(ctx, number): ...


class WorkerSettings:
    functions = [send]


register(WorkerSettings)
"""


@pytest.fixture
def service(tmp_path: Path, fresh_database_url: str) -> dict[str, str]:
    """A service that registers a function of arq's; returns the environment of its commands."""
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "__init__.py").write_text(SERVICE)
    (tmp_path / "moved" / "jobs.py").write_text(FUNCTIONS)
    declare(tmp_path, "moved:Settings")
    path = f"{tmp_path}{os.pathsep}{PACKAGES}"
    return {**os.environ, "PYTHONPATH": path, "DATABASE_URL": fresh_database_url}


async def test_no_job_is_lost_and_none_is_there_twice(
    service: dict[str, str], redis_url: str, fresh_database_url: str, tmp_path: Path
) -> None:
    redis = Redis.from_url(redis_url)
    connection = await asyncpg.connect(fresh_database_url.replace("+asyncpg", ""))
    try:
        await _fill(redis)

        def start() -> subprocess.Popen[str]:
            command = [sys.executable, "-m", "plinth.cli", "jobs", "import-arq", "--redis-url", redis_url]
            return subprocess.Popen(command, cwd=tmp_path, env=service, stderr=subprocess.PIPE, text=True)

        killed = 0
        for _ in range(KILLS):
            before = await redis.zcard("arq:queue")
            with start() as running:
                # Until the first batch is done.
                while running.poll() is None and await redis.zcard("arq:queue") == before:  # noqa: ASYNC110 - in Redis
                    await asyncio.sleep(0.005)
                await asyncio.sleep(random.uniform(0, 0.5))
                running.kill()
                killed += running.wait(PATIENCE) != 0
            left = await redis.zcard("arq:queue")
            assert await connection.fetchval("SELECT count(*) FROM job") >= JOBS - left
        with start() as running:
            _, told = running.communicate(timeout=PATIENCE)
        assert running.returncode == 0, told
        assert killed >= 1
        assert await redis.keys("arq:*") == []
        (counts,) = await connection.fetch(
            "SELECT count(*) AS jobs, count(DISTINCT unique_key) AS ids, count(DISTINCT payload -> 'args') AS args,"
            " count(*) FILTER (WHERE state = 'scheduled') AS scheduled FROM job"
        )
        assert tuple(counts) == (JOBS, JOBS, JOBS, JOBS // 2)
    finally:
        await connection.close()
        await redis.aclose()


async def _fill(redis: Redis) -> None:
    """Half of the jobs are due, the other half in an hour and later."""
    now = round(time.time() * 1000)
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(JOBS):
            score = now + (3_600_000 + number if number % 2 else -number)
            data: dict[str, object] = {"t": None, "f": "send", "a": (number,), "k": {}, "et": now}
            pipe.psetex(f"arq:job:{number:032x}", score - now + DAY, pickle.dumps(data))
            pipe.zadd("arq:queue", {f"{number:032x}": score})
        await pipe.execute()
