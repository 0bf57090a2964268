"""The readiness and the drain of the process, as the probe server uses them."""

import asyncio
import threading

import pytest
from structlog.testing import capture_logs

from plinth.health import lifecycle
from plinth.health.lifecycle import Lifecycle
from plinth.health.readiness import Readiness


async def well() -> None:
    pass


async def ill() -> None:
    raise OSError


async def readiness(**checks: object) -> Readiness:
    readiness = Readiness(checks, required=["database"])  # type: ignore[arg-type]
    with capture_logs():
        for name in checks:
            await readiness._check(name)
    return readiness


class TestReady:
    @pytest.mark.parametrize(
        ("checks", "ready"),
        [
            ({"database": well, "redis": well}, True),
            ({"database": well, "redis": ill}, True),  # degraded
            ({"database": ill, "redis": well}, False),
        ],
    )
    async def test_running_lifecycle_is_ready_unless_readiness_is_unavailable(
        self, checks: dict[str, object], ready: bool
    ) -> None:
        subject = Lifecycle(0)
        with subject.running(await readiness(**checks), []):
            assert subject.ready is ready

    async def test_lifecycle_is_not_ready_before_its_start_and_after_its_end(self) -> None:
        subject = Lifecycle(0)
        assert not subject.ready
        with subject.running(await readiness(database=well), []):
            assert subject.ready
        assert not subject.ready


class TestDrain:
    async def test_drain_lasts_for_the_configured_time_and_is_visible_from_its_start(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        subject = Lifecycle(7.5)
        seen = []
        monkeypatch.setattr(lifecycle, "sleep", lambda seconds: seen.append((subject.draining, seconds)))
        assert not subject.draining
        subject.drain()
        assert seen == [(True, 7.5)]
        assert subject.draining

    async def test_drain_ends_streams_on_the_event_loop(self) -> None:
        ended = asyncio.Event()
        threads = []

        def end() -> None:
            threads.append(threading.current_thread())
            ended.set()

        subject = Lifecycle(0)
        with subject.running(await readiness(database=well), [end]):
            await asyncio.to_thread(subject.drain)
            await ended.wait()
        assert threads == [threading.main_thread()]

    async def test_drain_before_the_start_and_after_the_end_ends_no_streams(self) -> None:
        ended: list[None] = []
        subject = Lifecycle(0)
        subject.drain()
        with subject.running(await readiness(database=well), [lambda: ended.append(None)]):
            pass
        subject.drain()
        await asyncio.sleep(0)
        assert not ended
