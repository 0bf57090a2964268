"""The pages of `docs/jobs/`, typed word for word."""

import inspect
import itertools
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from click.testing import CliRunner
from pydantic import BaseModel, ValidationError
from sqlalchemy import MetaData
from sqlmodel import Field, SQLModel

from app.core.config import Settings
from app.main import create_app
from plinth.cli import main
from plinth.cli.common import system_user
from plinth.database.engine import Database
from plinth.jobs import JobContext, RetryPolicy, State, enqueue_many, job, kind_named, schedule
from plinth.jobs.admin.bulk import Selection, act_on_many
from plinth.jobs.children import MAX_CHILDREN, MAX_RESULTS
from plinth.jobs.context import MAX_WAIT
from plinth.jobs.events import MAX_PAYLOAD
from plinth.jobs.results import MAX_RESULT
from plinth.jobs.steps import MAX_NAME, MAX_STEPS
from plinth.testing import Jobs
from tests.support.pages import ROOT, blocks, copy_of_the_project

PAGES = sorted((ROOT / "docs/jobs").glob("*.md"))

# How many code blocks of a page the tests run. One that is added here has a test that types it; those of testing.md are
# typed by tests/docs/test_testing.py, and those of uniqueness.md, encryption.md and from-arq.md
# by tests of their own.
RUN = {
    "batches.md": {"python": 3, "sh": 1},
    "encryption.md": {"python": 2, "sh": 1},
    "from-arq.md": {"python": 2, "sh": 1},
    "uniqueness.md": {"python": 1},
    "handlers.md": {"python": 4},
    "limits.md": {"python": 2},
    "operators.md": {"sh": 1},
    "payloads.md": {"python": 1},
    "schedules.md": {"python": 1},
    "sql.md": {"sql": 3},
    "start.md": {"python": 4, "text": 1, "sh": 1},
    "steps.md": {"python": 2},
    "testing.md": {"python": 3},
}

# What the code of the pages stands on, as `docs/jobs/start.md` imports it.
IMPORTS = """
from uuid import UUID
from pydantic import BaseModel
from plinth.jobs import Discard, JobContext, Retry, RetryPolicy, Snooze, job
"""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_code_block_of_a_page_is_run(page: Path) -> None:
    languages = re.findall(r"^ *```(\w*)\n.*?^ *```$", page.read_text(), re.MULTILINE | re.DOTALL)
    counted = {language: languages.count(language) for language in languages}
    assert counted == RUN.get(page.name, {}), "type the blocks of this page in a test, and count them in RUN"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_a_page_exist(page: Path) -> None:
    """What stands in backticks: `ctx.step`, `plinth jobs retry`, `max_running=4`."""
    codes = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", page.read_text())
    for code in codes:
        for name in re.findall(r"\bctx\.(\w+)", code):
            assert hasattr(JobContext, name) or f"self.{name} = " in inspect.getsource(JobContext.__init__), code
        if code.startswith("plinth "):
            command_exists(code)


def command_exists(line: str) -> None:
    """Check a command with its options, as a page writes it."""
    words = line.split("#", maxsplit=1)[0].split()[1:]
    named = list(itertools.takewhile(lambda word: re.fullmatch(r"[a-z][a-z-]*", word), words))[:2]
    helped = CliRunner().invoke(main, [*named, "--help"])
    assert helped.exit_code == 0, line
    for option in (word for word in words if word.startswith("--")):
        assert option in helped.output, line


def rows_of(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    section = (ROOT / page).read_text().split(f"\n{heading}\n", 1)[1]
    (table, *_) = re.findall(r"^\|.*\n\| ---.*\n((?:\|.*\n)+)", section, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|\n ").split(" | ")] for row in table.splitlines()]


def defaults_of(function: Any) -> dict[str, str]:
    """The options of a function with their defaults, as the pages write them."""
    options = [
        option for option in inspect.signature(function).parameters.values() if option.kind == option.KEYWORD_ONLY
    ]
    given = {option.name: option.default for option in options}
    return {name: "none" if value in (None, inspect.Parameter.empty) else str(value) for name, value in given.items()}


@pytest.fixture
def _no_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kinds and schedules of a page are known in its test alone."""
    monkeypatch.setattr("plinth.jobs.kinds._kinds", {})
    monkeypatch.setattr("plinth.jobs.schedules._schedules", {})
    monkeypatch.setattr("plinth.jobs.hooks._around", [])
    monkeypatch.setattr("plinth.jobs.hooks._on_discard", [])
    monkeypatch.setattr("plinth.jobs.hooks._lifespans", [])


class TestStart:
    """docs/jobs/start.md"""

    def test_start_page_works_as_it_stands(self, database_url: str) -> None:
        (script,) = blocks("docs/jobs/start.md", "## Run it, and see it", "sh")
        with copy_of_the_project(DATABASE_URL=database_url) as copy:
            files = copy.type(ROOT / "docs/jobs/start.md")
            assert len(files) == 4
            copy.run("ruff", "check", "--no-cache", *files)
            copy.run("ruff", "format", "--no-cache", "--check", *files)
            copy.run("importlinter.cli", "lint", "--no-cache")
            copy.run("pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis", files[-1])
            enqueued, listed = script.replace(".venv/bin/plinth with-servers -- .venv/bin/plinth ", "").splitlines()
            words = re.fullmatch(r"(jobs enqueue \S+) '(.*)'", enqueued)
            assert words is not None
            job_id = copy.run("plinth.cli", *words[1].split(), words[2]).strip()
            assert UUID(job_id)
            assert job_id in copy.run("plinth.cli", *listed.split())
            assert "notes.remind" in copy.run("plinth.cli", "jobs", "show", job_id)


@pytest.mark.usefixtures("_no_kinds")
class TestHandlers:
    """docs/jobs/handlers.md"""

    async def test_invoice_is_written_once(self, jobs: Jobs, database: Database, sql: asyncpg.Connection) -> None:
        class Invoice(SQLModel, metadata=MetaData(), table=True):
            order_id: UUID = Field(primary_key=True)

        page: dict[str, Any] = {"__name__": "page", "Invoice": Invoice}
        (code,) = blocks("docs/jobs/handlers.md", "## Make an effect happen once", "python")
        exec(IMPORTS + code, page)
        await sql.execute("CREATE TABLE invoice (order_id uuid PRIMARY KEY)")
        try:
            done = await Jobs(database, Settings.isolated()).perform(page["invoice"], page["Order"](order_id=uuid4()))
            assert done.state is State.SUCCEEDED
            assert await sql.fetchval("SELECT count(*) FROM invoice") == 1
        finally:
            await sql.execute("DROP TABLE invoice")

    @pytest.mark.parametrize(
        ("deleted", "packed", "asks_for_a_pause", "state", "attempt"),
        [
            (True, True, False, State.DISCARDED, 1),
            (False, False, False, State.SCHEDULED, 0),
            (False, True, True, State.RETRYABLE, 1),
            (False, True, False, State.SUCCEEDED, 1),
        ],
    )
    async def test_announcement_is_discarded_snoozed_tried_again_or_made(
        self, database: Database, deleted: bool, packed: bool, asks_for_a_pause: bool, state: State, attempt: int
    ) -> None:
        async def call_shop(order_id: UUID) -> None:
            if asks_for_a_pause:
                raise page["TooMany"]

        stubs = {"is_deleted": lambda order_id: deleted, "is_packed": lambda order_id: packed, "call_shop": call_shop}
        page: dict[str, Any] = {"__name__": "page", **stubs}
        (order, *_), (code,) = (
            blocks("docs/jobs/handlers.md", heading, "python")
            for heading in ("## Make an effect happen once", "## Fail, try again, snooze, discard")
        )
        exec(IMPORTS + order + code, page)
        made = await Jobs(database, Settings.isolated()).perform(page["announce"], page["Order"](order_id=uuid4()))
        assert (made.state, made.attempt) == (state, attempt)

    async def test_plain_function_and_hooks_run(self, database: Database) -> None:
        drawn: list[str] = []
        told: list[str] = []

        class Timer:
            def __init__(self, kind: str) -> None:
                self.kind = kind

            def __enter__(self) -> None:
                drawn.append(f"begin {self.kind}")

            def __exit__(self, *_: object) -> None:
                drawn.append("end")

        async def store(ctx: JobContext) -> None:
            drawn.append("stored")

        async def my_pager(text: str) -> None:
            told.append(text)

        @asynccontextmanager
        async def my_client() -> AsyncIterator[None]:
            drawn.append("client")
            yield
            drawn.append("closed")

        class Report(BaseModel):
            pages: list[str]

        given = {
            "Report": Report,
            "pages": lambda payload: payload.pages,
            "draw": drawn.append,
            "store": store,
            "my_timer": Timer,
            "my_pager": my_pager,
            "my_client": my_client,
        }
        page: dict[str, Any] = {"__name__": "page", **given}
        (plain,) = blocks("docs/jobs/handlers.md", "## Write a handler as a plain function", "python")
        heading = "## Hooks: code around each run, around a worker, and on discard"
        (hooks,) = blocks("docs/jobs/handlers.md", heading, "python")
        exec(f"{IMPORTS}\n{plain}\n{hooks}", page)

        done = await Jobs(database, Settings.isolated()).perform(page["render"], Report(pages=["1", "2"]))

        assert done.state is State.SUCCEEDED
        assert drawn == ["client", "begin report.render", "1", "2", "stored", "end", "closed"]
        await page["tell"](page["DiscardedJob"](done.id, "report.render", "default", "No such report."))
        assert told == [f"report.render {done.id}: No such report."]

    def test_table_of_options_has_the_defaults_of_the_decorator(self) -> None:
        heading = "## The retry policy, the time limit and other options of a job"
        rows = {row[0].strip("`"): row[1].strip("`") for row in rows_of("docs/jobs/handlers.md", heading)}
        policy = RetryPolicy()
        stated = f"RetryPolicy(max_attempts={policy.max_attempts}, base={policy.base:g}, ceiling={policy.ceiling:.0f})"
        assert rows == defaults_of(job) | {"retry": stated, "time_limit": "300"}


@pytest.mark.usefixtures("_no_kinds")
class TestLimits:
    """docs/jobs/limits.md"""

    async def test_job_of_the_limits_page_runs(self, database: Database) -> None:
        page: dict[str, Any] = {"__name__": "page"}
        code, *_ = blocks("docs/jobs/limits.md", "# Limits and fairness", "python")
        exec(IMPORTS + code, page)

        done = await Jobs(database, Settings.isolated()).perform(page["report"], page["Report"](month="2026-11"))

        assert done.state is State.SUCCEEDED
        kind = kind_named("report.month")
        assert (kind.queue, kind.max_running, kind.max_per_owner) == ("reports", 4, 5)

    async def test_limits_by_key_hold(self, database: Database, sql: asyncpg.Connection) -> None:
        page: dict[str, Any] = {"__name__": "page"}
        (code,) = blocks("docs/jobs/limits.md", "## Limits by key", "python")
        exec(IMPORTS + code, page)
        hook, jobs = page["Hook"], Jobs(database, Settings.isolated())
        calls = [hook(tenant="a", url=f"https://a.example/{n}") for n in range(12)]
        await enqueue_many(database, page["call"], [*calls, hook(tenant="b", url="https://b.example")])

        done = await jobs.run_due()

        assert len(done) == 13, "one after the other, so that the limit of running ones lets all of them go"
        counted = await sql.fetch("SELECT limit_key, count(*) FROM job_history GROUP BY 1 ORDER BY 1")
        assert [tuple(row) for row in counted] == [("a", 12), ("b", 1)]


@pytest.mark.usefixtures("_no_kinds")
class TestSchedules:
    """docs/jobs/schedules.md"""

    async def test_schedule_of_the_page_runs(self, database: Database) -> None:
        page: dict[str, Any] = {"__name__": "page"}
        (code,) = blocks("docs/jobs/schedules.md", "## Write a schedule", "python")
        exec(code, page)

        done = await Jobs(database, Settings.isolated()).perform(page["send_digest"], page["Digest"]())

        assert done.state is State.SUCCEEDED

    def test_table_of_arguments_has_the_defaults_of_the_function(self) -> None:
        rows = [row for row in rows_of("docs/jobs/schedules.md", "## Write a schedule") if row[0] != "`name`"]
        stated = {
            name.strip("`"): default.strip("`")
            for names, defaults, *_ in rows
            for name, default in zip(names.split(", "), defaults.split(", "), strict=True)
        }
        assert stated == {name: default for name, default in defaults_of(schedule).items() if name != "name"}


@pytest.mark.usefixtures("_no_kinds")
class TestPayloads:
    """docs/jobs/payloads.md"""

    def test_new_field_with_a_default_is_read_in_old_jobs_and_refused_by_old_workers(self) -> None:
        (code,) = blocks("docs/jobs/payloads.md", "## Change a payload", "python")
        new: dict[str, Any] = {"__name__": "new"}
        old: dict[str, Any] = {"__name__": "old"}
        exec(IMPORTS + code, new)
        exec(IMPORTS + re.sub(r".*dry_run.*\n", "", code), old)

        def kind_of(model: Any, name: str) -> Any:
            async def welcome(ctx: JobContext, payload: Any) -> None: ...

            welcome.__annotations__["payload"] = model
            return job(name)(welcome)

        newer, older = kind_of(new["Welcome"], "new"), kind_of(old["Welcome"], "old")
        text = json.dumps({"user_id": str(uuid4())})
        assert newer.read(text).dry_run is False
        with pytest.raises(ValidationError, match="dry_run"):
            older.read(newer.read(text).model_dump_json())


class TestSql:
    """docs/jobs/sql.md"""

    async def test_statements_of_the_sql_page_work(self, sql: asyncpg.Connection) -> None:
        (enqueued,) = blocks("docs/jobs/sql.md", "## Enqueue a job from SQL", "sql")
        (joined,) = blocks("docs/jobs/sql.md", "## A job's status in your own SQL", "sql")
        (fenced,) = blocks("docs/jobs/sql.md", "## Fence a write by the run's number", "sql")
        await sql.execute("CREATE TABLE thing (id int, job_id uuid)")
        await sql.execute("CREATE TABLE thing_part (thing_id int, run bigint, data text)")
        try:
            job_id = await sql.fetchval(enqueued)
            await sql.execute("INSERT INTO thing VALUES (1, $1), (2, NULL)", job_id)
            assert [(await sql.fetch(joined, number))[0]["state"] for number in (1, 2)] == ["available", None]

            await sql.execute("UPDATE job SET run_lease = 3")
            assert await sql.execute(fenced, 1, 2, "of a run that was replaced") == "INSERT 0 0"
            assert await sql.execute(fenced, 1, 3, "of this run") == "INSERT 0 1"
        finally:
            await sql.execute("DROP TABLE thing, thing_part")


class TestOperators:
    """docs/jobs/operators.md"""

    def test_every_command_of_the_page_exists(self) -> None:
        (listing,) = blocks("docs/jobs/operators.md", "## Operate jobs: list, retry, cancel, pause", "sh")
        for line in listing.splitlines():
            command_exists(line)

    def test_every_path_of_the_page_exists(self) -> None:
        rows = rows_of("docs/jobs/operators.md", "## Operate jobs: list, retry, cancel, pause")
        paths = {re.sub(r"\{\w+\}", "{}", path) for path in create_app(Settings.isolated()).openapi()["paths"]}
        for cell, *_ in rows:
            base = ""
            for code in re.findall(r"`(?:GET |POST )?(/[^`]+)`", cell):
                path = re.sub(r"\{\w+\}", "{}", code)
                # "/resume" beside "/queues/{name}/pause"
                known = [f"/api/v1{path}", f"/api/v1{base.rpartition('/')[0]}{path}"]
                assert paths & set(known), code
                base = path if f"/api/v1{path}" in paths else base

    @pytest.mark.usefixtures("_no_kinds")
    async def test_job_that_is_run_now_sleeps_on(self, database: Database) -> None:
        class Nothing(BaseModel): ...

        @job("sleeps")
        async def sleeps(ctx: JobContext, payload: Nothing) -> None:
            await ctx.sleep(3600)

        jobs = Jobs(database, Settings.isolated())
        asleep = await jobs.perform(sleeps, Nothing())
        async with database.session() as session:
            assert await act_on_many(session, "run_now", Selection(ids=[asleep.id]), by=system_user()) == 1
        (still,) = await jobs.run_due()
        assert (still.state, still.run_at) == (State.SCHEDULED, asleep.run_at)

    def test_table_of_states_is_complete(self) -> None:
        states = re.findall(r"`(\w+)`", "".join(row[0] for row in rows_of("docs/jobs/operators.md", "## States")))
        assert states == list(State)

    def test_every_metric_of_the_page_exists(self) -> None:
        named = set(re.findall(r"`(plinth_\w+)`", (ROOT / "docs/jobs/operators.md").read_text()))
        assert len(named) > 5
        assert named <= set(re.findall(r"`(plinth_\w+)`", (ROOT / "docs/metrics.md").read_text()))

    def test_every_setting_of_the_page_exists_with_its_default(self) -> None:
        (table,) = re.findall(r"## Settings\n.*", (ROOT / "docs/jobs/operators.md").read_text(), re.DOTALL)
        rows = re.findall(r"^\| `([A-Z_]+)` \| `?([^|`]+?)`? \|", table, re.MULTILINE)
        assert {name for name in Settings.model_fields if name.startswith("JOBS_")} <= {name for name, _ in rows}
        for name, default in rows:
            value = getattr(Settings.isolated(), name)
            shown = "none" if value is None else ",".join(value) if isinstance(value, tuple) else f"{value:g}"
            assert default == shown, name


class TestSteps:
    """docs/jobs/steps.md"""

    async def test_job_of_the_steps_page_runs_to_its_end(
        self, jobs: Jobs, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("plinth.jobs.kinds._kinds", {})
        (code,) = blocks("docs/jobs/steps.md", "## Write a job with steps", "python")
        (emitting,) = blocks("docs/jobs/steps.md", "## Wait for an event", "python")
        page: dict[str, Any] = {"__name__": "orders"}
        exec(code, page)
        mails: list[str] = []
        page["mail"] = lambda order, text: mails.append(text)
        order = page["Order"](order_id=uuid4(), total=3)
        jobs = type(jobs)(database, Settings.isolated())

        assert (await jobs.perform(page["fulfil"], order)).state is State.SCHEDULED
        async with database.session() as session:
            exec(
                f"async def tell(session, order_id):\n    {emitting.splitlines()[0]}\n    {emitting.splitlines()[2]}",
                page,
            )
            await page["tell"](session, order.order_id)
        (asleep,) = await jobs.run_due()
        assert (asleep.state, mails) == (State.SCHEDULED, ["Your parcel parcel-7 is on its way."])
        assert await jobs.run_due(within=timedelta(days=6)) == []
        (done,) = await jobs.run_due(within=timedelta(days=7))
        assert (done.state, done.attempt, mails[1:]) == (State.SUCCEEDED, 1, ["Are you content?"])

    def test_limits_of_the_steps_page_are_those_of_the_code(self) -> None:
        page = (ROOT / "docs/jobs/steps.md").read_text()
        assert f"| steps of a job | {MAX_STEPS:,} |" in page
        assert f"{MAX_RESULT // 1024} KiB of JSON" in page
        assert MAX_RESULT == MAX_PAYLOAD
        assert f"| the name of a step, of an event | {MAX_NAME} characters |" in page
        assert MAX_WAIT // (366 * 86_400) == 10


class TestBatches:
    """docs/jobs/batches.md"""

    @pytest.fixture
    def page(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """The page's code, which is one module."""
        monkeypatch.setattr("plinth.jobs.kinds._kinds", {})
        page: dict[str, Any] = {"__name__": "pictures"}
        for heading in (
            "Keep what a job returns",
            "Enqueue many jobs, and one when all have ended",
            "Wait for child jobs",
        ):
            (code,) = blocks("docs/jobs/batches.md", f"## {heading}", "python")
            exec(code, page)
        return page

    @pytest.fixture
    def jobs(self, jobs: Jobs, database: Database, page: dict[str, Any]) -> Jobs:
        return type(jobs)(database, Settings.isolated())

    async def test_result_of_the_batches_page_is_kept(self, jobs: Jobs, page: dict[str, Any]) -> None:
        done = await jobs.perform(page["measure"], page["Picture"](name="sea"))
        assert done.result == {"width": 3, "height": 1}

    async def test_batch_of_the_batches_page_runs_to_its_end(
        self, jobs: Jobs, database: Database, page: dict[str, Any]
    ) -> None:
        async with database.session() as session:
            batch_id = await page["order"](session, page["Album"](title="Sea"), ["sea", "shore"], "alice")
        *members, last = await jobs.run_due()
        assert {member.batch_id for member in members} == {batch_id}
        assert (last.kind, last.result, last.owner, last.batch_id) == ("albums.print", 8, "alice", None)

    async def test_child_jobs_of_the_batches_page_run_to_their_end(self, jobs: Jobs, page: dict[str, Any]) -> None:
        waiting = await jobs.perform(page["measure_gallery"], page["Gallery"](names=["sea", "shore"]))
        assert waiting.state is State.SCHEDULED
        *_, parent = sorted(await jobs.run_due(), key=lambda job: job.kind == "galleries.measure")
        assert (parent.state, parent.result) == (State.SUCCEEDED, 5)

    def test_commands_of_the_batches_page_exist(self) -> None:
        (commands,) = blocks("docs/jobs/batches.md", "## Look at a batch", "sh")
        for line in commands.splitlines():
            words = line.split("#")[0].split()[1:]
            helped = CliRunner().invoke(main, [*words[:2], "--help"])
            assert helped.exit_code == 0, line
            assert all(word in helped.output for word in words if word.startswith("--")), line

    def test_limits_of_the_batches_page_are_those_of_the_code(self) -> None:
        page = (ROOT / "docs/jobs/batches.md").read_text()
        assert f"| a job's result | {MAX_RESULT // 1024} KiB of JSON |" in page
        assert f"| the children of one call | {MAX_CHILDREN:,} |" in page
        assert f"| the results of one call's children together | {MAX_RESULTS // 1024**2} MiB of JSON |" in page
