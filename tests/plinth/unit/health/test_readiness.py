"""Readiness answers at once from the last checks and tolerates single failures."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from plinth.errors import ServiceUnavailableError
from plinth.health import readiness as module
from plinth.health.readiness import FAILURES_BEFORE_DOWN, STALE_AFTER_SECONDS, Check, Readiness
from tests.support.identity_provider import Clock


class Component:
    """A component whose check succeeds, fails or hangs."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.hangs = False
        self.asked = 0

    async def __call__(self) -> None:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error

    async def is_asked(self, times: int) -> None:
        """Wait until that many more checks have ended."""
        last = self.asked + times
        async with asyncio.timeout(20):
            while self.asked < last + 1:  # noqa: ASYNC110 - an event would say when it is asked, not when it answered
                await asyncio.sleep(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the checks, with no time between two of them."""
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    monkeypatch.setattr(module, "INTERVAL_SECONDS", 0)
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.01)
    return clock


@pytest.fixture
def database() -> Component:
    return Component()


@pytest.fixture
def redis() -> Component:
    return Component()


@asynccontextmanager
async def watching(*required: str, **checks: Check) -> AsyncIterator[Readiness]:
    readiness = Readiness(checks, required)
    async with asyncio.timeout(20) as starting, readiness.running():
        starting.reschedule(None)
        yield readiness


def status_of(readiness: Readiness) -> str:
    return readiness.status


class TestStart:
    async def test_healthy_components_are_ready_at_the_start(self, clock: Clock, database: Component) -> None:
        async with watching("database", database=database) as readiness:
            assert status_of(readiness) == "ready"
            assert readiness.components["database"].latency == 0

    async def test_component_that_is_down_at_the_start_is_unavailable_at_once(
        self, clock: Clock, database: Component
    ) -> None:
        database.error = OSError()
        async with watching("database", database=database) as readiness:
            assert status_of(readiness) == "unavailable"
            assert readiness.components["database"].latency is None

    async def test_start_does_not_wait_for_a_component_that_hangs(self, clock: Clock, database: Component) -> None:
        database.hangs = True
        async with watching("database", database=database) as readiness:
            assert status_of(readiness) == "unavailable"

    def test_readiness_before_its_start_is_unavailable(self, database: Component) -> None:
        assert Readiness({"database": database}, ["database"]).status == "unavailable"


class TestChange:
    async def test_component_is_down_only_after_consecutive_failures(self, clock: Clock, database: Component) -> None:
        async with watching("database", database=database) as readiness:
            for answers in ("no", "yes", "no", "yes", "no"):
                database.error = OSError() if answers == "no" else None
                await readiness._check("database")
                assert status_of(readiness) == "ready"

            await readiness._check("database")
            assert status_of(readiness) == "unavailable"

    async def test_background_checks_see_a_component_go_down_and_return(
        self, clock: Clock, database: Component
    ) -> None:
        async with watching("database", database=database) as readiness:
            database.error = OSError()
            await database.is_asked(FAILURES_BEFORE_DOWN)
            assert status_of(readiness) == "unavailable"

            database.error = None
            await database.is_asked(1)
            assert status_of(readiness) == "ready"

    async def test_check_whose_own_work_was_cancelled_is_a_failure(self, clock: Clock, database: Component) -> None:
        database.error = asyncio.CancelledError()  # as of a task that several wait for
        async with watching("database", database=database) as readiness:
            assert status_of(readiness) == "unavailable"
            database.error = None
            await database.is_asked(1)
            assert status_of(readiness) == "ready"
            database.error = asyncio.CancelledError()
            await database.is_asked(FAILURES_BEFORE_DOWN)
            assert status_of(readiness) == "unavailable"

    async def test_each_change_of_a_component_is_logged_once(self, clock: Clock, database: Component) -> None:
        with capture_logs() as logs:
            async with watching("database", database=database):
                database.error = OSError("secret")
                await database.is_asked(10)
                database.error = None
                await database.is_asked(10)

        assert [line["event"] for line in logs] == ["component up", "component down", "component up"]
        assert logs[1]["error"] == "OSError"
        assert "secret" not in str(logs)


class TestStatus:
    async def test_only_required_components_make_the_process_unavailable(
        self, clock: Clock, database: Component, redis: Component
    ) -> None:
        redis.error = OSError()
        async with watching("database", database=database, redis=redis) as readiness:
            assert status_of(readiness) == "degraded"
        async with watching("database", "redis", database=database, redis=redis) as readiness:
            assert status_of(readiness) == "unavailable"

    async def test_required_component_that_is_not_configured_is_unavailable(
        self, clock: Clock, database: Component
    ) -> None:
        async with watching("database", "redis", database=database) as readiness:
            assert status_of(readiness) == "unavailable"
            assert readiness.components["redis"].required

    async def test_component_that_is_down_has_a_reason(
        self, clock: Clock, database: Component, redis: Component
    ) -> None:
        database.error = ServiceUnavailableError(reason="it is a standby")
        async with watching("redis", "cache", database=database, redis=redis) as readiness:
            reasons = {name: component.reason for name, component in readiness.components.items()}
            assert reasons == {"database": "it is a standby", "redis": None, "cache": "it is not configured"}

            database.error = ServiceUnavailableError()
            redis.hangs = True
            await database.is_asked(1)
            await readiness._check("redis")
            assert readiness.components["database"].reason == "ServiceUnavailableError"
            assert readiness.components["redis"].reason == "there was no answer in time"

            database.error = None
            await database.is_asked(1)
            assert readiness.components["database"].reason is None

    async def test_outdated_readiness_is_unavailable(
        self, clock: Clock, database: Component, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "INTERVAL_SECONDS", 3600)
        async with watching("database", database=database) as readiness:
            clock.advance(STALE_AFTER_SECONDS - 0.1)
            assert status_of(readiness) == "ready"
            clock.advance(0.1)
            assert status_of(readiness) == "unavailable"


class TestWatching:
    async def test_component_that_hangs_does_not_hide_the_failure_of_another(
        self, clock: Clock, database: Component, redis: Component
    ) -> None:
        async with watching("database", database=database, redis=redis) as readiness:
            redis.hangs = True
            database.error = OSError()
            await database.is_asked(FAILURES_BEFORE_DOWN)

            assert readiness.components["database"].status == "down"

    async def test_readiness_checks_end_even_if_a_component_hangs(self, clock: Clock, database: Component) -> None:
        async with watching("database", database=database):
            database.hangs = True
            await asyncio.sleep(0)
            tasks = {task for task in asyncio.all_tasks() if task.get_name().startswith("readiness:")}
            assert tasks

        assert all(task.done() for task in tasks)
