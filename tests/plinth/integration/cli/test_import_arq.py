"""`plinth jobs import-arq`, as people and programs see it. `take_over` has tests of its own."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

import notes.jobs  # noqa: F401 - before the registries are replaced, or its kinds would be lost with them
from plinth.jobs import hooks, kinds
from plinth.jobs.arq import register, registry
from plinth.jobs.arq.connections import RedisSettings
from tests.support.arq_queue import put
from tests.support.cli import Run, command_line


async def the_task(ctx: dict[str, Any], number: int) -> None: ...


@pytest.fixture(autouse=True)
def _registries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_functions", {})
    monkeypatch.setattr(kinds, "_kinds", {})
    monkeypatch.setattr(hooks, "_lifespans", [])


@pytest.fixture
def run(tmp_path: Path, database_url: str) -> Iterator[Run]:
    with command_line(tmp_path, DATABASE_URL=database_url) as run:
        yield run


@pytest.fixture
def queue(redis_url: str) -> None:
    """Two jobs that can be taken over, and one that cannot."""

    async def fill() -> None:
        redis = Redis.from_url(redis_url)
        await put(redis, "one", "the_task", 1)
        await put(redis, "two", "the_task", 2)
        await put(redis, "three", "another_task")
        await redis.aclose()

    asyncio.run(fill())


@pytest.mark.usefixtures("queue")
def test_counts_are_told_and_what_stays(run: Run, redis_url: str) -> None:
    register({"functions": [the_task]})
    tried = run("jobs", "import-arq", "--redis-url", redis_url, "--dry-run")
    assert "       2  would be taken over\n" in tried.stdout
    done = run("jobs", "import-arq", "--redis-url", redis_url)
    assert done.exit_code == 1  # one stays
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "       3  waited in the queue",
        "       2  taken over",
        "       1  stay: no function 'another_task' is registered (three)",
    ]
    again = run("jobs", "import-arq", "--redis-url", redis_url, "--json")
    assert json.loads(again.stdout)["left"] == {"no function 'another_task' is registered": ["three"]}
    listed = [json.loads(line) for line in run("jobs", "list", "--json").stdout.splitlines()]
    assert {job["unique_key"] for job in listed} == {"one", "two"}
    (act,) = [json.loads(line) for line in run("audit", "--json").stdout.splitlines()]
    assert (act["action"], act["detail"]) == ("jobs.import_arq", {"queue": "arq:queue", "count": 2})


@pytest.mark.usefixtures("queue")
def test_address_is_that_of_redissettings_or_the_service_s_own(run: Run, redis_url: str) -> None:
    register({"functions": [the_task], "redis_settings": RedisSettings.from_dsn(redis_url)})
    assert "3  waited" in run("jobs", "import-arq", "--dry-run").stdout
    registry._functions.clear()
    kinds._kinds = {}
    register({"functions": [the_task]})
    assert "3  waited" in run("jobs", "import-arq", "--dry-run", REDIS_URL=redis_url).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--redis-url", "http://localhost"], 2, "Invalid value for --redis-url"),
        (["--redis-url", "redis://127.0.0.1:1"], 1, "arq's Redis: Redis does not answer"),
    ],
)
def test_redis_that_cannot_be_used_is_told(run: Run, arguments: list[str], code: int, message: str) -> None:
    register({"functions": [the_task]})
    done = run("jobs", "import-arq", *arguments)
    assert done.exit_code == code
    assert message in done.stderr


def test_service_without_functions_of_arq_is_told(run: Run) -> None:
    done = run("jobs", "import-arq")
    assert done.exit_code == 2
    assert "The service registers no functions of arq's" in done.stderr
