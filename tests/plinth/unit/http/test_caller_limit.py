"""The places of a caller: never more than the limit, none lost, the longest wait first."""

import asyncio
from random import Random
from typing import Any

import pytest

from plinth.errors import ConcurrencyLimitError
from plinth.http import caller_limit
from plinth.http.caller_limit import CallerLimit, give_up_place, take_place
from tests.support.metrics import metric

REFUSED = "plinth_caller_limit_refused_total"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_limit, "WAIT_SECONDS", 60)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_limit, "WAIT_SECONDS", 0)


async def turns() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


async def free_places(limit: CallerLimit, caller: str, most: int) -> int:
    """How many places are free, which they are afterwards too."""
    taken = 0
    try:
        for _ in range(most + 1):
            await limit.enter(caller)
            taken += 1
    except ConcurrencyLimitError:
        pass
    for _ in range(taken):
        limit.leave(caller)
    return taken


@pytest.mark.usefixtures("impatient")
async def test_request_beyond_the_limit_is_refused_until_another_has_ended() -> None:
    limit = CallerLimit(2)
    await limit.enter("alice")
    await limit.enter("alice")
    refused = metric(REFUSED)

    with pytest.raises(ConcurrencyLimitError) as error:
        await limit.enter("alice")
    await limit.enter("bob")
    limit.leave("alice")
    await limit.enter("alice")

    assert (error.value.status, error.value.code) == (429, "concurrency_limited")
    assert error.value.headers == {"Retry-After": "1"}
    assert metric(REFUSED) == refused + 1


@pytest.mark.usefixtures("patient")
async def test_waiting_requests_are_served_in_their_order() -> None:
    limit = CallerLimit(1)
    served: list[int] = []

    async def request(number: int) -> None:
        await limit.enter("alice")
        served.append(number)

    await limit.enter("alice")
    waiting = [asyncio.create_task(request(number)) for number in range(4)]
    await turns()
    assert served == []
    for _ in range(4):
        limit.leave("alice")
        late = asyncio.create_task(request(99))  # does not overtake those in line
        await turns()
        late.cancel()
        await turns()
    assert served == [0, 1, 2, 3]
    await asyncio.gather(*waiting)


@pytest.mark.usefixtures("patient")
async def test_full_line_refuses_at_once() -> None:
    limit = CallerLimit(2)
    for _ in range(2):
        await limit.enter("alice")
    waiting = [asyncio.create_task(limit.enter("alice")) for _ in range(8)]
    await turns()

    with pytest.raises(ConcurrencyLimitError):
        await limit.enter("alice")
    assert not any(task.done() for task in waiting)

    for _ in range(10):
        limit.leave("alice")
        await turns()
    assert all(task.done() for task in waiting)


@pytest.mark.usefixtures("patient")
async def test_cancelled_request_leaves_the_line() -> None:
    limit = CallerLimit(1)
    await limit.enter("alice")
    first, second = [asyncio.create_task(limit.enter("alice")) for _ in range(2)]
    await turns()
    first.cancel()
    await turns()

    limit.leave("alice")
    await turns()

    assert second.done()


@pytest.mark.usefixtures("patient")
async def test_place_handed_to_a_request_that_is_cancelled_goes_to_the_next() -> None:
    limit = CallerLimit(1)
    await limit.enter("alice")
    first, second = [asyncio.create_task(limit.enter("alice")) for _ in range(2)]
    await turns()

    limit.leave("alice")  # to the first, which has not run since
    first.cancel()
    await turns()

    assert first.cancelled()
    assert second.done()


@pytest.mark.parametrize("seed", range(20))
async def test_no_place_is_lost_or_made_up(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_limit, "WAIT_SECONDS", 0.001)
    random = Random(seed)
    limit = CallerLimit(3)
    served = most = 0

    async def request() -> None:
        nonlocal served, most
        await limit.enter("alice")
        served += 1
        most = max(most, served)
        try:
            for _ in range(random.randrange(5)):
                await asyncio.sleep(0)
        finally:
            served -= 1
            limit.leave("alice")

    tasks = []
    for _ in range(300):
        tasks.append(asyncio.create_task(request()))
        if random.random() < 0.5:
            random.choice(tasks).cancel()
        if random.random() < 0.3:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)

    assert (served, most) == (0, 3)
    monkeypatch.setattr(caller_limit, "WAIT_SECONDS", 0)
    assert await free_places(limit, "alice", 3) == 3
    assert vars(limit) == vars(CallerLimit(3))  # nothing is kept of a caller without requests


@pytest.mark.usefixtures("impatient")
async def test_place_of_a_request_is_given_up_once() -> None:
    limit = CallerLimit(2)
    scopes: list[dict[str, Any]] = [{"state": {}}, {"state": {}}, {"state": {}}]
    for scope in scopes[:2]:
        await take_place(scope, limit, "alice")
    with pytest.raises(ConcurrencyLimitError):
        await take_place(scopes[2], limit, "alice")

    for scope in (*scopes, scopes[0]):
        give_up_place(scope)

    assert await free_places(limit, "alice", 2) == 2
