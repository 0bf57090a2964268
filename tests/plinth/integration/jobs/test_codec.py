"""Jobs with encrypted payloads: what stands in the database, and what handlers get."""

import secrets
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr
from structlog.testing import capture_logs

from notes.config import Settings
from plinth.database.engine import Database
from plinth.jobs import (
    Discard,
    JobContext,
    JobKind,
    RetryPolicy,
    StepChanged,
    aes_gcm,
    batch,
    enqueue,
    enqueue_many,
    job,
    member_results,
    run_jobs,
    schedule,
)
from plinth.jobs.admin.jobs import enqueue_by_hand, get_job, list_jobs, retry_job
from plinth.jobs.admin.queues import run_schedule
from plinth.jobs.admin.steps import list_steps
from plinth.jobs.engine import run as run_module
from plinth.jobs.enqueue import prepare
from plinth.settings import SettingsError
from plinth.testing import Jobs as JobsUnderTest
from tests.plinth.integration.jobs.conftest import OLGA, Jobs, until, working

OLD, NEW = secrets.token_hex(32), secrets.token_hex(32)
TRIED = "SELECT FROM job WHERE jsonb_array_length(errors) > $1 AND state <> 'running'"
MARK = "DE89370400440532013000"  # what must stand nowhere


class Payout(BaseModel):
    iban: str = MARK
    n: int = 0


class Receipt(BaseModel):
    text: str


def with_keys(settings: Settings, *keys: str) -> Settings:
    return settings.model_copy(update={"JOBS_ENCRYPTION_KEY": SecretStr(",".join(keys)) if keys else None})


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return with_keys(settings, NEW)


@pytest.fixture
def seen() -> list[Payout]:
    return []


@pytest.fixture
def payout(seen: list[Payout]) -> JobKind[Payout]:
    @job("test.payout", codec=aes_gcm, retry=RetryPolicy(max_attempts=1))
    async def payout(ctx: JobContext, payload: Payout) -> None:
        seen.append(payload)

    return payout


async def everything(jobs: Jobs) -> str:
    """All that the tables of jobs hold, as a backup has it."""
    tables = ("job", "job_history", "job_step", "job_event", "job_key_hold")
    rows = [row for table in tables for row in await jobs.all(f"SELECT {table}::text AS row FROM {table}")]
    return "\n".join(row["row"] for row in rows)


@pytest.mark.parametrize("at_once", [False, True])
async def test_payload_is_cipher_text_in_the_database_and_plain_in_the_handler(
    settings: Settings, database: Database, jobs: Jobs, payout: JobKind[Payout], seen: list[Payout], at_once: bool
) -> None:
    payloads = [Payout(n=n) for n in range(3)]
    if at_once:
        made = await enqueue_many(database, payout, payloads)
    else:
        async with database.session() as session:
            made = await enqueue_many(session, payout, payloads)
    stored = [row["payload"] for row in await jobs.all("SELECT payload FROM job")]
    assert [*map(list, stored)] == [["encrypted"]] * 3
    async with working(settings, payout):
        for answer in made:
            assert (await jobs.end_of(answer.id))["state"] == "succeeded"
    assert sorted(payload.n for payload in seen) == [0, 1, 2]
    assert {payload.iban for payload in seen} == {MARK}
    async with database.session() as session:
        shown = [await get_job(session, made[0].id), *await list_jobs(session, payloads=True)]
    assert MARK not in await everything(jobs) + repr(shown)


async def test_every_way_to_a_job_encrypts(
    settings: Settings, database: Database, jobs: Jobs, payout: JobKind[Payout]
) -> None:
    @job("test.parent")
    async def parent(ctx: JobContext, payload: Payout) -> None:
        ctx.enqueue(payout, Payout(), queue="elsewhere")
        if payload.n:
            async with ctx.session() as session:
                await ctx.complete(session)

    schedule(payout, Payout(), cron="0 0 1 1 *", name="yearly")
    async with database.session() as session:
        await enqueue_by_hand(session, prepare(payout, [Payout()], queue="elsewhere"), by=OLGA)
        await run_schedule(session, "yearly", by=OLGA)
        for _ in range(2):
            await enqueue(session, payout, Payout(), unique_key="k", replace=True, queue="elsewhere")
        await enqueue(session, payout, Payout(), unique_key="s", unique="success", queue="elsewhere")
    parents = await enqueue_many(database, parent, [Payout(iban="", n=n) for n in range(2)])
    async with working(settings, parent):
        for answer in parents:
            await jobs.end_of(answer.id)
    stored = await jobs.all("SELECT payload FROM job")
    assert [list(row["payload"]) for row in stored] == [["encrypted"]] * 6
    assert MARK not in await everything(jobs)


async def test_step_results_are_cipher_text_and_come_back_in_a_later_run(
    settings: Settings, database: Database, jobs: Jobs
) -> None:
    ran: list[str] = []

    async def pay(iban: str) -> Receipt:
        ran.append(iban)
        return Receipt(text=f"paid to {iban}")

    @job("test.steps", codec=aes_gcm, retry=RetryPolicy(max_attempts=5, base=0.01, ceiling=0.01))
    async def steps(ctx: JobContext, payload: Payout) -> None:
        receipt = await ctx.step("pay", pay, payload.iban)
        async with ctx.session() as session:
            again = await ctx.step("pay", pay, payload.iban)
            await session.commit()
        assert receipt == again == Receipt(text=f"paid to {MARK}")
        if ctx.attempt == 1:
            raise ZeroDivisionError

    with capture_logs():
        async with working(settings, steps):
            made = await enqueue(database, steps, Payout())
            assert (await jobs.end_of(made.id))["attempt"] == 2
    assert ran == [MARK] * 2  # two steps, once each
    async with database.session() as session:
        shown = await list_steps(session, made.id)
    assert [[*step.result] for step in shown] == [["encrypted"]] * 2
    assert MARK not in await everything(jobs)


async def test_result_that_was_moved_to_another_step_is_not_read(
    settings: Settings, database: Database, jobs: Jobs
) -> None:
    async def give(text: str) -> str:
        return text

    errors: list[Exception] = []

    @job("test.moved", codec=aes_gcm)
    async def moved(ctx: JobContext, payload: Payout) -> None:
        await ctx.step("a", give, "a")
        try:
            await ctx.step("b", give, "b")
        except StepChanged as error:
            errors.append(error)
        if ctx.run == 1:
            await jobs.all("UPDATE job_step SET result = (SELECT result FROM job_step WHERE name = 'a')")
            await ctx.sleep(0)

    async with working(settings, moved):
        made = await enqueue(database, moved, Payout())
        assert (await jobs.end_of(made.id))["state"] == "succeeded"
    assert [str(error) for error in errors] == ["What 'b' gave earlier cannot be decrypted."]


class TestUnreadable:
    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(run_module, "UNREADABLE_RETRY", RetryPolicy(base=0.05, ceiling=0.05))

    async def test_worker_without_the_key_leaves_the_job_to_one_that_has_it(
        self, settings: Settings, database: Database, jobs: Jobs, payout: JobKind[Payout], seen: list[Payout]
    ) -> None:
        made = await enqueue(database, payout, Payout(n=7))
        for tries, keys in enumerate(((OLD,), ())):
            with capture_logs() as entries:
                async with working(with_keys(settings, *keys), payout):
                    await until(lambda: jobs.all(TRIED, tries))  # noqa: B023 - it is awaited here
            assert "a job is left to a newer version" in [entry["event"] for entry in entries]
        assert seen == []
        async with working(settings, payout):
            ended = await jobs.end_of(made.id)
        assert (ended["state"], ended["attempt"], [payload.n for payload in seen]) == ("succeeded", 1, [7])
        assert {error["outcome"] for error in ended["errors"]} == {"invalid_payload"}
        assert ended["errors"][0]["error"] == "This version cannot decrypt the payload"

    async def test_it_is_discarded_in_the_end_and_can_be_retried_with_the_key(
        self,
        settings: Settings,
        database: Database,
        jobs: Jobs,
        payout: JobKind[Payout],
        seen: list[Payout],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(run_module, "UNREADABLE_TRIES", 2)
        made = await enqueue(database, payout, Payout(n=7))
        with capture_logs():
            async with working(with_keys(settings, OLD), payout):
                assert (await jobs.end_of(made.id))["state"] == "discarded"
        async with database.session() as session:
            await retry_job(session, made.id)
        async with working(settings, payout):
            await until(lambda: jobs.all("SELECT FROM job_history WHERE state = 'succeeded'"))
        assert [payload.n for payload in seen] == [7]

    async def test_cipher_text_of_another_kind_is_not_read(
        self,
        settings: Settings,
        database: Database,
        jobs: Jobs,
        payout: JobKind[Payout],
        seen: list[Payout],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        @job("test.other", codec=aes_gcm)
        async def other(ctx: JobContext, payload: Payout) -> None: ...

        monkeypatch.setattr(run_module, "UNREADABLE_TRIES", 0)
        made = await enqueue(database, other, Payout())
        await jobs.all("UPDATE job SET kind = 'test.payout'")
        with capture_logs():
            async with working(settings, payout):
                assert (await jobs.end_of(made.id))["state"] == "discarded"
        assert seen == []

    async def test_worker_with_both_keys_reads_what_either_has_encrypted(
        self, settings: Settings, database: Database, jobs: Jobs, payout: JobKind[Payout], seen: list[Payout]
    ) -> None:
        before = Database(with_keys(settings, OLD))
        made = [await enqueue(before, payout, Payout(n=1)), await enqueue(database, payout, Payout(n=2))]
        await before.aclose()
        async with working(with_keys(settings, NEW, OLD), payout):
            for answer in made:
                await jobs.end_of(answer.id)
        assert sorted(payload.n for payload in seen) == [1, 2]

    async def test_job_from_before_the_codec_and_one_made_in_sql_run(
        self, settings: Settings, database: Database, jobs: Jobs, payout: JobKind[Payout], seen: list[Payout]
    ) -> None:
        (row,) = await jobs.all("""SELECT plinth_enqueue('test.payout', '{"iban": "x", "n": 3}') AS id""")
        async with working(settings, payout):
            await jobs.end_of(row["id"])
        assert seen == [Payout(iban="x", n=3)]


async def test_enqueue_without_the_key_makes_no_job(settings: Settings, jobs: Jobs, payout: JobKind[Payout]) -> None:
    database = Database(with_keys(settings))
    with pytest.raises(SettingsError, match="JOBS_ENCRYPTION_KEY"):
        await enqueue(database, payout, Payout())
    await database.aclose()
    assert await jobs.all("SELECT FROM job") == []


async def test_codec_of_one_s_own_takes_its_place(settings: Settings, database: Database, jobs: Jobs) -> None:
    class Reversed:
        def encode(self, data: bytes, context: bytes) -> bytes:
            return context + data[::-1]

        def decode(self, data: bytes, context: bytes) -> bytes:
            return data.removeprefix(context)[::-1]

    given: list[Any] = []

    def reversing(settings: Settings) -> Reversed:
        given.append(settings)
        return Reversed()

    @job("test.reversed", codec=reversing)
    async def kind(ctx: JobContext, payload: Payout) -> None:
        raise Discard(f"{payload.n}")

    made = await enqueue(database, kind, Payout(n=12))
    with capture_logs():
        async with working(settings, kind):
            ended = await jobs.end_of(made.id)
    assert ended["errors"][-1]["error"] == "12"
    assert {type(settings) for settings in given} == {Settings}


async def test_jobs_under_test_are_looked_at_by_what_was_enqueued(
    settings: Settings, database: Database, payout: JobKind[Payout], seen: list[Payout]
) -> None:
    under_test = JobsUnderTest(database, settings, registered={payout.name: payout})
    made = await enqueue(database, payout, Payout(n=5))
    assert (await under_test.enqueued(payout, n=5)).id == made.id
    (ended,) = await under_test.run_due()
    assert ended.payload == {"iban": MARK, "n": 5}
    assert seen == [Payout(n=5)]


class TestResults:
    @pytest.fixture
    def drawn(self) -> JobKind[Payout]:
        @job("test.drawn", codec=aes_gcm)
        async def drawn(ctx: JobContext, payload: Payout) -> Receipt:
            return Receipt(text=f"{payload.iban} {payload.n}")

        return drawn

    async def test_result_is_stored_encrypted_and_read_by_the_batch(
        self, settings: Settings, database: Database, jobs: Jobs, drawn: JobKind[Payout]
    ) -> None:
        async with database.session() as session, batch(session) as made:
            await made.enqueue(drawn, Payout(n=1))
        async with working(settings, drawn):
            await until(lambda: jobs.all("SELECT FROM job_batch WHERE finished_at IS NOT NULL"))
        assert await jobs.all("SELECT FROM job_history WHERE result::text LIKE $1", f"%{MARK}%") == []
        assert (await jobs.one("SELECT result FROM job_history"))["result"] is not None
        async with database.session() as session:
            (member,) = [member async for member in member_results(session, made.id)]
        assert member.result == {"text": f"{MARK} 1"}

    async def test_parent_reads_what_encrypted_children_return(
        self, settings: Settings, database: Database, jobs: Jobs, drawn: JobKind[Payout]
    ) -> None:
        read: list[Any] = []

        @job("test.parent", codec=aes_gcm)
        async def parent(ctx: JobContext, payload: Payout) -> None:
            read.extend(await run_jobs(ctx, "draw", drawn, [Payout(n=1), Payout(n=2)]))

        made = await enqueue(database, parent, Payout())
        async with working(settings, parent, drawn):
            await jobs.end_of(made.id)
        assert read == [Receipt(text=f"{MARK} {n}") for n in (1, 2)]
        assert await jobs.all("SELECT FROM job_step WHERE result::text LIKE $1", f"%{MARK}%") == []

    async def test_last_job_of_a_batch_waits_encrypted(
        self, settings: Settings, database: Database, jobs: Jobs, payout: JobKind[Payout], seen: list[Payout]
    ) -> None:
        async with database.session() as session, batch(session, on_end=(payout, Payout(n=9))) as made:
            await made.enqueue(payout, Payout(n=1))
        assert MARK not in (await jobs.one("SELECT on_end::text AS text FROM job_batch"))["text"]
        async with working(settings, payout):
            await until(lambda: jobs.all("SELECT FROM job_history OFFSET 1"))
        assert [payload.n for payload in seen] == [1, 9]

    async def test_completed_result_is_stored_encrypted(
        self, settings: Settings, database: Database, jobs: Jobs
    ) -> None:
        @job("test.completed", codec=aes_gcm)
        async def completed(ctx: JobContext, payload: Payout) -> str:
            async with ctx.session() as session:
                await ctx.complete(session, result=payload.iban)
            return ""

        under_test = JobsUnderTest(database, settings, registered={completed.name: completed})
        assert (await under_test.perform(completed, Payout())).result == MARK
        assert MARK not in (await jobs.one("SELECT result::text AS text FROM job_history"))["text"]
