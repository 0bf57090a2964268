"""Kinds of jobs: their registration and their retry policy."""

from collections.abc import Callable, Iterator
from datetime import timedelta
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
    def test_job_decorator_registers_a_kind_with_its_options(self) -> None:
        kind = job("a.b", queue="q", priority=2, time_limit=5, max_running=3)(handler)
        assert kind_named("a.b") is kind
        assert (kind.payload, kind.queue, kind.priority, kind.time_limit, kind.max_running) == (Payload, "q", 2, 5, 3)

    async def test_job_decorator_leaves_the_function_callable(self) -> None:
        seen: list[int] = []

        @job("a")
        async def a(ctx: JobContext, payload: Payload) -> None:
            seen.append(payload.n)

        await a(None, Payload(n=4))
        assert seen == [4]

    def test_second_kind_with_the_same_name_is_refused(self) -> None:
        job("a")(handler)
        with pytest.raises(ValueError, match="'a' is the name of two kinds"):
            job("a")(handler)

    @pytest.mark.parametrize("name", ["", "a b", "a" * 101, ".a", "ä"])
    def test_invalid_name_of_a_kind_or_queue_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="is not a name"):
            job(name)(handler)
        with pytest.raises(ValueError, match="is not a name"):
            job("a", queue=name)(handler)

    def test_every_option_out_of_range_is_named(self) -> None:
        with pytest.raises(ValueError, match="'a': ") as refused:
            job("a", time_limit=0, max_running=0, max_per_owner=0, priority=40_000)(handler)
        named = [words.split()[0] for words in str(refused.value).removeprefix("'a': ").split(", ")]
        assert named == ["max_running", "max_per_owner", "time_limit", "priority"]

    def test_number_of_attempts_instead_of_a_policy_is_refused(self) -> None:
        with pytest.raises(TypeError, match=r"retry is a RetryPolicy, such as RetryPolicy\(max_attempts=5\)"):
            job("a", retry=5)(handler)  # type: ignore[arg-type]

    @pytest.mark.parametrize("keep", [timedelta(hours=1), 3600])
    def test_kind_says_for_how_long_its_jobs_are_remembered(self, keep: timedelta | float) -> None:
        assert job("a", keep=keep)(handler).keep == 3600

    @pytest.mark.parametrize("keep", [-1, float("nan"), timedelta(days=-1), timedelta(days=40_000)])
    def test_retention_out_of_range_is_refused(self, keep: timedelta | float) -> None:
        with pytest.raises(ValueError, match="keep is 0 seconds"):
            job("a", keep=keep)(handler)

    def test_job_function_with_a_wrong_signature_is_refused(self) -> None:
        def generator(ctx: JobContext, payload: Payload) -> Iterator[None]:
            yield

        async def one(ctx: JobContext) -> None: ...
        async def bare(ctx, payload) -> None: ...  # type: ignore[no-untyped-def]
        async def untyped(ctx: JobContext, payload: dict[str, int]) -> None: ...

        functions: list[Callable[..., Any]] = [generator, one, bare, untyped]
        for function in functions:
            with pytest.raises(TypeError, match=function.__name__):
                job("a")(function)

    def test_error_of_an_unknown_kind_lists_the_known_ones(self) -> None:
        job("b")(handler)
        job("a")(handler)
        with pytest.raises(UnknownKindError, match=r"no kind of job 'c'\. Known are: a, b\."):
            kind_named("c")


class TestRetryPolicy:
    def test_retry_delay_has_full_jitter_and_doubles_up_to_the_ceiling(self) -> None:
        policy = RetryPolicy(base=2, ceiling=10)
        for attempt, longest in enumerate((2, 4, 8, 10, 10), start=1):
            delays = [policy.delay(attempt) for _ in range(2000)]
            assert 0 <= min(delays) < 0.1 * longest
            assert 0.9 * longest < max(delays) <= longest

    def test_retry_delay_stays_under_the_ceiling_after_many_attempts(self) -> None:
        assert 0 <= RetryPolicy().delay(100_000) <= 86_400

    @pytest.mark.parametrize("options", [{"max_attempts": 0}, {"base": 0}, {"base": 9, "ceiling": 8}])
    def test_retry_policy_out_of_range_is_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="max_attempts is 1 to 1000"):
            RetryPolicy(**options)
