"""The threads of a worker take new work, or tell that they do not."""

import asyncio
import threading

import pytest

from plinth.jobs.engine import threads as threads_module
from plinth.jobs.engine.threads import SPARE, HandlerThreads


async def test_threads_that_are_all_at_work_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_module, "TICK_SECONDS", 0.01)
    threads, go_on = HandlerThreads(2), threading.Event()
    with threads.running():
        for _ in range(2 + SPARE - 1):
            threads.submit(go_on.wait)
        await asyncio.sleep(0.1)
        assert threads.waiting < 0.1, "there is one to spare"
        threads.submit(go_on.wait)
        async with asyncio.timeout(20):
            while threads.waiting < 0.2:  # noqa: ASYNC110 - threads wait
                await asyncio.sleep(0.01)
            go_on.set()
            while threads.waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    threads.shutdown()
