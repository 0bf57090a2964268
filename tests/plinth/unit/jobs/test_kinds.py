"""Kinds of jobs: what can be registered, and when a failed job is tried again."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from plinth.jobs import JobContext, RetryPolicy, UnknownKindError, job, kind_named
from plinth.jobs import kinds as kinds_module


class Payload(BaseModel):
    n: int


async def handler(ctx: JobContext, payload: Payload) -> None: ...


@pytest.fixture(autouse=True)
def _kinds_of_this_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds_module, "_kinds", {})


class TestJob:
    def test_it_registers_what_it_is_told(self) -> None:
        kind = job("a.b", queue="q", priority=2, time_limit=5, max_running=3)(handler)
        assert kind_named("a.b") is kind
        assert (kind.payload, kind.queue, kind.priority, kind.time_limit, kind.max_running) == (Payload, "q", 2, 5, 3)

    async def test_the_kind_is_still_the_function(self) -> None:
        seen: list[int] = []

        @job("a")
        async def a(ctx: JobContext, payload: Payload) -> None:
            seen.append(payload.n)

        await a(None, Payload(n=4))
        assert seen == [4]

    def test_a_name_is_given_once(self) -> None:
        job("a")(handler)
        with pytest.raises(ValueError, match="'a' is the name of two kinds"):
            job("a")(handler)

    @pytest.mark.parametrize("name", ["", "a b", "a" * 101, ".a", "ä"])
    def test_names_that_are_none(self, name: str) -> None:
        with pytest.raises(ValueError, match="is not a name"):
            job(name)(handler)
        with pytest.raises(ValueError, match="is not a name"):
            job("a", queue=name)(handler)

    @pytest.mark.parametrize("options", [{"time_limit": 0}, {"max_running": 0}, {"priority": 40_000}])
    def test_limits_that_make_no_sense(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="out of range"):
            job("a", **options)(handler)

    def test_functions_of_another_form(self) -> None:
        def plain(ctx: JobContext, payload: Payload) -> None: ...
        async def one(ctx: JobContext) -> None: ...
        async def bare(ctx, payload) -> None: ...  # type: ignore[no-untyped-def]
        async def untyped(ctx: JobContext, payload: dict[str, int]) -> None: ...

        functions: list[Callable[..., Any]] = [plain, one, bare, untyped]
        for function in functions:
            with pytest.raises(TypeError, match=function.__name__):
                job("a")(function)

    def test_an_unknown_kind_is_told_which_are_known(self) -> None:
        job("b")(handler)
        job("a")(handler)
        with pytest.raises(UnknownKindError, match=r"no kind of job 'c'\. Known are: a, b\."):
            kind_named("c")


class TestRetryPolicy:
    def test_the_delay_doubles_up_to_the_ceiling_and_is_spread_over_all_of_it(self) -> None:
        policy = RetryPolicy(base=2, ceiling=10)
        for attempt, longest in enumerate((2, 4, 8, 10, 10), start=1):
            delays = [policy.delay(attempt) for _ in range(2000)]
            assert 0 <= min(delays) < 0.1 * longest
            assert 0.9 * longest < max(delays) <= longest

    def test_however_many_attempts(self) -> None:
        assert 0 <= RetryPolicy().delay(100_000) <= 3600

    @pytest.mark.parametrize("options", [{"max_attempts": 0}, {"base": 0}, {"base": 9, "ceiling": 8}])
    def test_what_makes_no_sense(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="max_attempts is 1 to 1000"):
            RetryPolicy(**options)
