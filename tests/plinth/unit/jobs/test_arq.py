"""arq's names: the values of arguments, `func`, `cron`, `Retry`, and what `register` refuses."""

import json
import pickle
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from types import SimpleNamespace
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from plinth.jobs import UnknownKindError, hooks, kinds, schedules
from plinth.jobs.arq import ArqRedis, Retry, cron, func, register, registry
from plinth.jobs.arq.calls import Call, Codec, SerializationError
from plinth.jobs.arq.connections import RedisSettings
from plinth.jobs.arq.cron import expression, falls_on, zone_name
from plinth.jobs.arq.registry import kind_name, known, named, queue_named
from plinth.jobs.arq.values import decoded, encoded


class Colour(IntEnum):
    RED = 1


async def the_task(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> None: ...


def no_coroutine(ctx: dict[Any, Any]) -> None: ...


@pytest.fixture(autouse=True)
def _registries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_functions", {})
    monkeypatch.setattr(kinds, "_kinds", {})
    monkeypatch.setattr(schedules, "_schedules", {})
    monkeypatch.setattr(hooks, "_lifespans", [])


class TestValues:
    @pytest.mark.parametrize(
        "value",
        [
            None,
            True,
            0,
            -(10**30),
            "",
            "späte Äpfel",
            1.5,
            1.0,
            1e22,
            -0.0,
            float("inf"),
            [1, [2, {"a": None}]],
            {"$datetime": "no tag"},
            {1: "a", (2, 3): b"b"},
            (1, ("a",)),
            {1, 2},
            frozenset({"a"}),
            b"\x00\xff",
            UUID(int=7),
            Decimal("1.10"),
            date(2032, 1, 28),
            time(9, 12, tzinfo=UTC),
            datetime(2032, 1, 28, 9, 12, 1, 5),  # noqa: DTZ001
            datetime(2032, 1, 28, tzinfo=ZoneInfo("Europe/Zurich")),
            timedelta(days=-1, microseconds=3),
        ],
    )
    def test_value_comes_back_from_json_as_it_was(self, value: Any) -> None:
        # The database keeps numbers as decimals.
        text = json.dumps(encoded(value), allow_nan=False)
        found = decoded(json.loads(text, parse_float=lambda digits: float(digits) if "." in digits else int(digits)))
        assert found == value
        assert type(found) is type(value)
        assert str(found) == str(value) or "+" in str(value)  # the zone comes back as its offset

    @pytest.mark.parametrize(
        ("value", "what"),
        [
            (object(), "a object"),
            ([Colour.RED], "a Colour"),
            ({"a": SimpleNamespace()}, "a SimpleNamespace"),
            ("a\0b", "a string with a NUL or a lone surrogate"),
            ("\ud800", "a string with a NUL or a lone surrogate"),
        ],
    )
    def test_value_that_does_not_survive_is_refused_and_its_argument_named(self, value: Any, what: str) -> None:
        for args, kwargs, where in (((1, value), {}, "argument 2"), ((), {"to": value}, "'to'")):
            with pytest.raises(SerializationError, match=f"'mail': {where} has {what}, which does not survive JSON"):
                Codec().call("mail", args, kwargs)

    def test_value_that_holds_itself_is_refused(self) -> None:
        ring: list[Any] = []
        ring.append(ring)
        with pytest.raises(SerializationError, match="a value that holds itself"):
            Codec().call("mail", (ring,), {})

    def test_tag_that_is_not_known_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"\$user is no type"):
            decoded({"$user": 7})

    def test_serializer_of_workersettings_is_given_what_arq_gives_it(self) -> None:
        seen: list[dict[str, Any]] = []

        def serializer(data: dict[str, Any]) -> bytes:
            seen.append(data)
            return pickle.dumps(data)

        codec = Codec(serializer, pickle.loads)
        now = datetime(2026, 1, 1, tzinfo=UTC)
        call = codec.call("the_task", (Colour.RED,), {"n": 1}, enqueue_time=now, job_try=2)
        assert seen == [{"t": 2, "f": "the_task", "a": (Colour.RED,), "k": {"n": 1}, "et": 1767225600000}]
        assert codec.arguments(Call.model_validate_json(call.model_dump_json())) == ((Colour.RED,), {"n": 1})
        assert codec.read_result(codec.result(Colour.RED)) is Colour.RED
        with pytest.raises(SerializationError, match="the arguments of 'the_task' cannot be serialized"):
            codec.call("the_task", (lambda: None,), {})


class TestFunc:
    def test_function_has_its_name_and_the_options_it_is_given(self) -> None:
        made = func(the_task, timeout=timedelta(minutes=1), keep_result=5, max_tries=2)
        assert (made.name, made.timeout_s, made.keep_result_s, made.max_tries) == ("the_task", 60, 5, 2)
        assert func(the_task, name="other").name == "other"
        assert func(made) == made

    def test_function_may_be_a_dotted_path(self) -> None:
        assert func("asyncio.sleep").name == "asyncio.sleep"
        assert cron("asyncio.sleep").name == "cron:asyncio.sleep"
        for path in ("asyncio.nothing", "nothing"):
            with pytest.raises(ImportError, match="there is no"):
                func(path)

    @pytest.mark.parametrize("made", [func, cron])
    def test_plain_function_is_refused(self, made: Any) -> None:
        with pytest.raises(RuntimeError, match="is not a coroutine function"):
            made(no_coroutine)

    @pytest.mark.parametrize(("defer", "score"), [(None, None), (5, 5000), (timedelta(minutes=1), 60_000)])
    def test_retry_has_milliseconds(self, defer: Any, score: int | None) -> None:
        assert Retry(defer=defer).defer_score == score

    def test_object_of_another_class_with_the_same_fields_is_a_function(self) -> None:
        fields = {"timeout_s": 3, "keep_result_s": None, "keep_result_forever": None, "max_tries": 1}
        assert func(SimpleNamespace(name="f", coroutine=the_task, **fields)).timeout_s == 3


class TestCron:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"hour": {9, 12, 18}, "minute": 12}, "0 12 9,12,18 * * *"),
            ({}, "0 * * * * *"),
            ({"second": {0, 30}}, "0,30 * * * * *"),
            ({"minute": set(range(0, 60, 5))}, "0 0-55/5 * * * *"),
            ({"hour": set(range(24)), "minute": 0}, "0 0 * * * *"),
            ({"weekday": "mon", "hour": 7, "minute": 0}, "0 0 7 * * 1"),
            ({"weekday": 6, "hour": 7, "minute": 0}, "0 0 7 * * 0"),
            ({"weekday": {0, 1, 2, 3, 4}, "hour": 7, "minute": 0}, "0 0 7 * * 1-5"),
            ({"month": {1, 7}, "day": 1, "hour": 0, "minute": 0}, "0 0 0 1 1,7 *"),
            ({"day": 13, "weekday": "fri", "hour": 0, "minute": 0}, "0 0 0 13 * *"),
        ],
    )
    def test_times_are_a_cron_expression(self, fields: dict[str, Any], expected: str) -> None:
        assert expression(cron(the_task, **fields)) == expected

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"hour": 24}, "24 is no hour"),
            ({"minute": {0, 60}}, "is no minute"),
            ({"weekday": "friday"}, "'friday' is no weekday"),
            ({"day": set()}, "is no day"),
            ({"second": {0, 1, 3, 7, 9, 12, 15, 16, 20, 22, 29, 31, 34, 38, 40, 41, 44, 48, 50, 51, 53, 57},
              "minute": {0, 1, 3, 7, 9, 12, 15, 16, 20, 22, 29, 31, 34, 38, 40, 41, 44, 48, 50, 51}}, "too many"),
        ],
    )  # fmt: skip
    def test_times_that_there_are_not_are_refused(self, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            expression(cron(the_task, **fields))

    def test_day_and_weekday_hold_together(self) -> None:
        job = cron(the_task, day=13, weekday="fri", hour=0, minute=0)
        assert falls_on(job, datetime(2026, 11, 13, tzinfo=UTC), "UTC")
        assert not falls_on(job, datetime(2026, 12, 13, tzinfo=UTC), "UTC")
        assert not falls_on(job, datetime(2026, 11, 13, 23, 30, tzinfo=UTC), "Europe/Zurich")  # it is Saturday there

    @pytest.mark.parametrize(
        ("zone", "name"),
        [
            (None, "UTC"),
            (UTC, "UTC"),
            (ZoneInfo("Europe/Zurich"), "Europe/Zurich"),
            (timezone(timedelta(hours=2)), "Etc/GMT-2"),
            (timezone(timedelta(hours=-3)), "Etc/GMT+3"),
        ],
    )
    def test_time_zone_has_a_name(self, zone: Any, name: str) -> None:
        assert zone_name(zone) == name
        now = datetime(2026, 7, 1, tzinfo=UTC)
        assert now.astimezone(ZoneInfo(name)).utcoffset() == now.astimezone(zone or UTC).utcoffset()

    def test_time_zone_without_a_name_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no time zone with a name"):
            zone_name(timezone(timedelta(hours=5, minutes=30)))


class TestRegister:
    def test_functions_are_kinds_with_arq_s_limits(self) -> None:
        class WorkerSettings:
            functions = [the_task, func(the_task, name="_other", timeout=10, max_tries=1)]  # noqa: RUF012
            queue_name = "mail"
            job_timeout = timedelta(minutes=10)
            max_tries = 3

        register(WorkerSettings)
        first, second = known()
        assert (first.kind.name, first.kind.queue, first.kind.time_limit) == ("the_task", "mail", 660)
        assert (first.kind.retry.max_attempts, first.keep_result) == (3, 3600)
        assert (second.kind.name, second.kind.time_limit, second.kind.retry.max_attempts) == ("arq:_other", 70, 1)
        assert named("_other") is second

    def test_settings_may_be_a_dictionary_and_a_queue_of_arq_s_default_is_ours(self) -> None:
        register({"functions": [the_task], "queue_name": "arq:queue"})
        assert named("the_task").kind.queue == queue_named("arq:queue") == "default"

    def test_cron_jobs_are_schedules(self) -> None:
        register(
            {
                "cron_jobs": [cron(the_task, hour={9, 12, 18}, minute=12, job_id="one")],
                "timezone": ZoneInfo("Europe/Zurich"),
            }
        )
        (made,) = schedules.schedules().values()
        assert (made.name, made.cron, made.timezone) == ("cron:the_task", "0 12 9,12,18 * * *", "Europe/Zurich")
        assert (made.catch_up, made.overlap, made.kind.retry.max_attempts) == (0, "skip", 1)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({}, "neither functions nor cron_jobs"),
            ({"functions": [the_task, func(the_task, timeout=1)]}, "name of two kinds"),
            ({"functions": [func(the_task, max_tries=0)]}, "max_attempts"),
            ({"cron_jobs": [cron(the_task, unique=False)]}, "unique=False has no meaning here"),
            ({"functions": [the_task], "job_serializer": pickle.dumps}, "a job_serializer and a job_deserializer"),
            ({"functions": [the_task], "queue_name": "a b"}, "is not a name"),
        ],
    )
    def test_settings_that_make_no_sense_are_refused(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            register(settings)

    def test_function_that_is_not_registered_is_told_with_those_that_are(self) -> None:
        register({"functions": [the_task]})
        with pytest.raises(UnknownKindError, match=r"no function 'task' of arq's\. Known are: the_task"):
            named("task")

    @pytest.mark.parametrize(
        ("name", "kind"),
        [("the_task", "the_task"), ("cron:f", "cron:f"), ("_f", "arq:_f"), ("f.<locals>.g", "arq:f.-locals-.g")],
    )
    def test_kind_has_the_function_s_name_where_it_can(self, name: str, kind: str) -> None:
        assert kind_name(name) == kind


class TestPool:
    async def test_without_a_database_there_is_a_sentence(self) -> None:
        register({"functions": [the_task]})
        with pytest.raises(RuntimeError, match="No database is open here"):
            await ArqRedis().enqueue_job("the_task")

    async def test_job_is_deferred_in_one_way(self) -> None:
        register({"functions": [the_task]})
        with pytest.raises(RuntimeError, match="deferred in one way"):
            await ArqRedis().enqueue_job("the_task", _defer_by=1, _defer_until=datetime.now(UTC))

    def test_pool_is_no_client_of_redis_and_says_so(self) -> None:
        with pytest.raises(AttributeError, match="get: this enqueues jobs, and is no client of Redis"):
            ArqRedis().get("key")

    @pytest.mark.parametrize(
        ("dsn", "expected"),
        [
            ("redis://localhost", ("localhost", 6379, 0, None, False)),
            ("rediss://:secret@redis.example.com:6380/2", ("redis.example.com", 6380, 2, "secret", True)),
            ("redis://localhost:6379?db=1", ("localhost", 6379, 1, None, False)),
        ],
    )
    def test_address_of_redis_is_read(self, dsn: str, expected: tuple[Any, ...]) -> None:
        made = RedisSettings.from_dsn(dsn)
        assert (made.host, made.port, made.database, made.password, made.ssl) == expected

    def test_address_of_something_else_is_refused(self) -> None:
        with pytest.raises(RuntimeError, match="invalid DSN scheme"):
            RedisSettings.from_dsn("http://localhost")
