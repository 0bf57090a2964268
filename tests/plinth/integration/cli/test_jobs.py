"""`plinth jobs`, `schedules` and `workers` against a real database, as people and programs see them."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import asyncpg
import pytest
import redis
from click.testing import Result
from pydantic import BaseModel, ConfigDict, Field

import notes.jobs  # noqa: F401 - before the registries are replaced, or its kinds would be lost with them
from notes.config import Settings
from plinth.database.engine import DatabaseUnavailableError
from plinth.jobs import JobContext, job, schedule
from plinth.jobs.admin.batches import BatchView
from plinth.jobs.admin.jobs import JobView
from plinth.jobs.admin.queues import QueueRead, ScheduleRead, WorkerRead
from plinth.jobs.engine.sql import COMMON_COLUMNS, HISTORY_COLUMNS
from plinth.jobs.outcome import error_entry
from plinth.redis.keys import key_prefix
from plinth.settings import PlatformSettings
from plinth.testing import NO_DATABASE
from tests.support.cli import Run, command_line

ALL_COMMANDS = [
    ("jobs", "list"),
    ("jobs", "show", str(UUID(int=7))),
    ("jobs", "cancel", str(UUID(int=7))),
    ("jobs", "retry", str(UUID(int=7))),
    ("jobs", "retry", "--limit", "1"),
    ("jobs", "batch", str(UUID(int=7))),
    ("jobs", "stats"),
    ("jobs", "pause", "mail"),
    ("jobs", "resume", "mail"),
    ("jobs", "enqueue", "greet", '{"name": "Ann"}'),
    ("schedules", "list"),
    ("schedules", "run", "nightly"),
    ("schedules", "pause", "nightly"),
    ("schedules", "resume", "nightly"),
    ("workers",),
    ("audit",),
    ("keys", "create", "deploy"),
    ("keys", "list"),
    ("keys", "revoke", str(UUID(int=7))),
]

Sql = Callable[..., list[Any]]


class Card(BaseModel):
    form: Literal["card"]


class Song(BaseModel):
    form: Literal["song"]


class Greeting(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=10)
    times: list[int] = []
    reply_to: UUID | None = None
    how: Annotated[Card | Song, Field(discriminator="form")] = Card(form="card")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """One kind, one schedule."""
    monkeypatch.setattr("plinth.jobs.kinds._kinds", {})
    monkeypatch.setattr("plinth.jobs.schedules._schedules", {})

    @job("greet", queue="mail", priority=3)
    async def greet(ctx: JobContext, payload: Greeting) -> None:
        raise NotImplementedError

    schedule(greet, Greeting(name="Night"), cron="30 2 * * *", name="nightly")


@pytest.fixture
def run(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Run]:
    with command_line(tmp_path, DATABASE_URL=database_url, REDIS_URL=redis_url) as run:
        yield run


@pytest.fixture
def sql(database_url: str) -> Sql:
    def execute(statement: str, *arguments: Any) -> list[Any]:
        async def fetch() -> list[Any]:
            connection = await asyncpg.connect(database_url)
            try:
                return await connection.fetch(statement, *arguments)
            finally:
                await connection.close()

        return asyncio.run(fetch())

    return execute


@pytest.fixture
def greet(run: Run) -> Callable[..., str]:
    """Enqueue a job; returns its id."""

    def enqueue(name: str = "Ann", *options: str) -> str:
        result = run("jobs", "enqueue", "greet", json.dumps({"name": name}), *options)
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    return enqueue


@pytest.fixture
def end(sql: Sql) -> Callable[..., None]:
    """End a job in a state, some hours ago, with the error of an exception."""

    def end(job_id: str, state: str = "discarded", *, hours: float = 0) -> None:
        try:
            raise ConnectionError("the door\x1b[31m is closed")
        except ConnectionError as error:
            entry = error_entry("error", run=1, attempt=1, exception=error)
        sql(
            "WITH ended AS (DELETE FROM job WHERE id = $1 RETURNING *) "
            f"INSERT INTO job_history ({HISTORY_COLUMNS}) SELECT {COMMON_COLUMNS}, 1, $3, $2, now() - $4::interval "
            "FROM ended",
            UUID(job_id),
            state,
            json.dumps([{**entry, "at": "2030-01-31T08:00:00.12+00:00"}]),
            timedelta(hours=hours),
        )

    return end


def lines(result: Result) -> list[dict[str, Any]]:
    """What a command has printed for programs."""
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def table(result: Result) -> list[list[str]]:
    """What a command has printed for people."""
    assert result.exit_code == 0, result.output
    return [line.split() for line in result.stdout.splitlines()]


def fields(view: type) -> set[str]:
    return set(view.__annotations__)


class TestEnqueue:
    def test_enqueue_prints_the_job_id(self, run: Run, sql: Sql) -> None:
        result = run("jobs", "enqueue", "greet", '{"name": "Ann"}')
        assert (result.exit_code, result.stderr) == (0, "")
        (row,) = sql("SELECT * FROM job")
        assert result.stdout == f"{row['id']}\n"
        assert (row["kind"], row["queue"], row["priority"], row["state"]) == ("greet", "mail", 3, "available")
        assert json.loads(row["payload"]) == {"name": "Ann", "times": [], "reply_to": None, "how": {"form": "card"}}

    def test_enqueue_json_prints_the_id_and_whether_it_was_created(self, run: Run, sql: Sql) -> None:
        (made,) = lines(run("jobs", "enqueue", "greet", '{"name": "Ann"}', "--json"))
        assert made == {"id": str(sql("SELECT id FROM job")[0]["id"]), "created": True}

    def test_every_option_of_enqueue_reaches_the_job(self, greet: Callable[..., str], sql: Sql) -> None:
        greet("Ann", "--queue", "slow", "--priority", "-7", "--delay", "2h", "--unique-key", "k", "--owner", "alice")
        (row,) = sql("SELECT *, run_at - created_at AS delay FROM job")
        assert (row["queue"], row["priority"], row["unique_key"], row["owner"]) == ("slow", -7, "k", "alice")
        assert row["state"] == "scheduled"
        assert timedelta(hours=2) <= row["delay"] < timedelta(hours=2, minutes=1)  # from the call, in its transaction

    def test_taken_unique_key_prints_the_id_of_its_job(self, run: Run, greet: Callable[..., str]) -> None:
        first = greet("Ann", "--unique-key", "k")
        second = run("jobs", "enqueue", "greet", '{"name": "Bob"}', "--unique-key", "k")
        assert (second.exit_code, second.stdout) == (0, f"{first}\n")
        assert "no other was made" in second.stderr
        (third,) = lines(run("jobs", "enqueue", "greet", '{"name": "Bob"}', "--unique-key", "k", "--json"))
        assert third == {"id": first, "created": False}

    def test_enqueue_rings_the_doorbell_before_it_returns(
        self, greet: Callable[..., str], database_url: str, redis_url: str
    ) -> None:
        with redis.Redis.from_url(redis_url) as client, client.pubsub() as subscription:
            subscription.subscribe(f"{key_prefix(Settings.isolated(DATABASE_URL=database_url))}:jobs")
            assert subscription.get_message(timeout=10)
            greet()
            message = subscription.get_message(timeout=10)
            assert message
            assert json.loads(message["data"]) == {"queues": ["mail"], "cancelled": []}

    def test_enqueue_works_without_redis(self, run: Run, sql: Sql) -> None:
        result = run("jobs", "enqueue", "greet", '{"name": "Ann"}', REDIS_URL="redis://127.0.0.1:1/0")
        assert result.exit_code == 0, result.output
        assert sql("SELECT FROM job")

    @pytest.mark.parametrize(
        ("payload", "complaints"),
        [
            ("{}", ["  name: Field required"]),
            (
                '{"name": "s3cret-s3cret", "times": [1, "x"], "reply_to": "s3cret", "how": {"form": "s3cret"}, "y": 1}',
                [
                    "  name: String should have at most 10 characters",
                    "  times.1: Input should be a valid integer, unable to parse string as an integer",
                    "  reply_to: Input should be a valid UUID",
                    "  how: Input should have one of the tags 'card', 'song'",
                    "  y: Extra inputs are not permitted",
                ],
            ),
            ("s3cret", ["  the whole: Invalid JSON: expected value at line 1 column 1"]),
            ('["s3cret"]', ["  the whole: Input should be an object"]),
        ],
    )
    def test_invalid_payload_is_refused_without_its_values(
        self, run: Run, sql: Sql, payload: str, complaints: list[str]
    ) -> None:
        result = run("jobs", "enqueue", "greet", payload)
        assert result.exit_code == 2
        told = result.stderr.splitlines()
        start = told.index("Error: Invalid value for JSON: it does not fit greet.")
        assert told[start + 1 :] == complaints
        assert "s3cret" not in result.output
        assert not sql("SELECT FROM job")

    def test_unknown_kind_is_refused_with_the_known_ones(self, run: Run) -> None:
        result = run("jobs", "enqueue", "gret", "{}")
        assert result.exit_code == 2
        assert result.stderr.endswith(
            "Error: Invalid value for KIND: There is no kind of job 'gret'. Known are: greet.\n"
        )

    @pytest.mark.parametrize(
        "option", [("--owner", ""), ("--unique-key", "k" * 256), ("--delay", "-1s"), ("--delay", "4000d")]
    )
    def test_invalid_option_of_enqueue_is_refused(self, run: Run, sql: Sql, option: tuple[str, str]) -> None:
        result = run("jobs", "enqueue", "greet", '{"name": "Ann"}', *option)
        assert result.exit_code == 2, result.output
        assert not sql("SELECT FROM job")


class TestList:
    def test_list_shows_the_newest_job_first(
        self, run: Run, greet: Callable[..., str], end: Callable[..., None]
    ) -> None:
        first, second = greet("Ann", "--owner", "alice\x1b"), greet("Bob")
        end(second)
        head, *rows = table(run("jobs", "list"))
        assert head == ["ID", "KIND", "QUEUE", "STATE", "ATTEMPT", "CREATED", "OWNER", "LAST", "ERROR"]
        assert [row[0] for row in rows] == [second, first]
        assert rows[0][1:5] == ["greet", "mail", "discarded", "1/25"]
        assert rows[0][6:] == ["-", "ConnectionError:", "the", r"door\x1b[31m", "is", "closed"]
        assert rows[1][3] == "available"
        assert rows[1][6] == r"alice\x1b", "a terminal would obey it"

    def test_list_json_prints_every_field_of_each_job(self, run: Run, greet: Callable[..., str]) -> None:
        made = [greet(), greet()]
        found = lines(run("jobs", "list", "--json"))
        assert [job["id"] for job in found] == made[::-1]
        assert set(found[0]) == fields(JobView)
        assert found[0]["payload"] == {"name": "Ann", "times": [], "reply_to": None, "how": {"form": "card"}}

    def test_list_without_jobs_says_so_on_stderr(self, run: Run) -> None:
        result = run("jobs", "list")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "There are no such jobs.\n")
        result = run("jobs", "list", "--json")
        assert (result.exit_code, result.output) == (0, "")

    @pytest.mark.parametrize("command", [("jobs", "list", "--owner"), ("audit", "--actor")])
    def test_argument_that_is_not_utf_8_is_refused_in_a_sentence(self, run: Run, command: tuple[str, ...]) -> None:
        result = run(*command, "a\udcff")  # as Python has it
        assert (result.exit_code, result.stderr) == (2, "An argument is not in UTF-8.\n")

    def test_list_filters_by_state_queue_owner_kind_and_id(
        self, run: Run, greet: Callable[..., str], end: Callable[..., None]
    ) -> None:
        here, later, elsewhere, gone = (
            greet(),
            greet("Ann", "--delay", "1h"),
            greet("Ann", "--queue", "slow", "--owner", "alice"),
            greet(),
        )
        end(gone)

        def found(*options: str) -> set[str]:
            return {job["id"] for job in lines(run("jobs", "list", "--json", *options))}

        assert found("--state", "available") == {here, elsewhere}
        assert found("--state", "scheduled", "--state", "discarded") == {later, gone}
        assert found("--queue", "slow") == {elsewhere}
        assert found("--owner", "alice") == {elsewhere}
        assert found("--kind", "greet") == {here, later, elsewhere, gone}
        assert found("--kind", "greeting") == set()
        assert found("--before", later) == {here}

    def test_list_prints_the_command_for_the_next_page(self, run: Run, greet: Callable[..., str]) -> None:
        made = [greet("Ann", "--owner", "Ann B") for _ in range(5)][::-1]
        options = ("--state", "available", "--owner", "Ann B", "--limit", "2")
        seen: list[str] = []
        command = ["jobs", "list", *options, "--json"]
        while True:
            result = run(*command)
            seen += [job["id"] for job in lines(result)]
            if not result.stderr:
                break
            more = "More: plinth jobs list --state available --owner 'Ann B' --before {} --limit 2 --json\n"
            assert result.stderr == more.format(seen[-1])
            command = ["jobs", "list", *options, "--before", seen[-1], "--json"]
        assert seen == made
        assert run("jobs", "list", "--limit", "2").stderr == f"More: plinth jobs list --before {made[1]} --limit 2\n"


class TestBulk:
    def test_dry_run_says_how_many_and_changes_nothing(self, run: Run, greet: Callable[..., str]) -> None:
        made = [greet("Ann", "--delay", "1h"), greet("Bob", "--delay", "1h")]
        assert run("jobs", "run-now", "--kind", "greet", "--dry-run").stdout == "2 jobs would be due now.\n"
        assert run("jobs", "delete", made[0], "--json").stdout == '{"count":1,"dry_run":false}\n'
        assert run("jobs", "run-now", "--kind", "greet").stdout == "1 job is due now.\n"
        assert run("jobs", "prioritise", "--priority", "-3", made[1]).stdout == "1 job is of priority -3.\n"
        limited = run("jobs", "cancel-many", "--queue", "mail", "--limit", "1")
        assert limited.stdout == "1 job will be cancelled.\n"
        assert limited.stderr == "That is the limit of 1: there may be more.\n"

    @pytest.mark.parametrize("command", ["cancel-many", "delete", "run-now"])
    def test_act_on_all_jobs_is_refused(self, run: Run, command: str) -> None:
        refused = run("jobs", command)
        assert refused.exit_code == 2
        assert "Say which jobs: by id, --kind, --queue, --owner, --batch or --state." in refused.stderr


class TestBatch:
    def test_batch_prints_how_many_of_its_jobs_are_in_which_state(
        self, run: Run, greet: Callable[..., str], end: Callable[..., None], sql: Sql
    ) -> None:
        batch_id = uuid4()
        sql("INSERT INTO job_batch (id, owner) VALUES ($1, 'alice')", batch_id)
        made = [greet(), greet(), greet()]
        sql("UPDATE job SET batch_id = $1", batch_id)
        end(made[0])
        greet("outside")
        result = run("jobs", "batch", str(batch_id))
        shown = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
        assert (shown["Batch"], shown["Owner"], shown["Jobs"], shown["Live"]) == (str(batch_id), "alice", "3", "2")
        assert (shown["Available"], shown["Discarded"]) == ("2", "1")
        assert "Finished" not in shown
        (found,) = lines(run("jobs", "batch", str(batch_id), "--json"))
        assert set(found) == fields(BatchView) | {"total", "live"}
        assert (found["total"], found["live"], found["states"]["discarded"]) == (3, 2, 1)
        listed = run("jobs", "list", "--batch", str(batch_id), "--limit", "2", "--json")
        assert [job["batch_id"] for job in lines(listed)] == [str(batch_id)] * 2
        assert f"--batch {batch_id} --before" in listed.stderr
        assert run("jobs", "cancel-many", "--batch", str(batch_id)).stdout == "2 jobs will be cancelled.\n"
        assert "Finished" in run("jobs", "batch", str(batch_id)).stdout
        assert f"Batch         {batch_id}" in run("jobs", "show", made[0]).stdout

    def test_unknown_batch_is_told(self, run: Run) -> None:
        result = run("jobs", "batch", str(uuid4()))
        assert (result.exit_code, result.stderr) == (1, "There is no such batch.\n")


class TestShow:
    def test_show_prints_fields_progress_and_errors_of_a_job(
        self, run: Run, greet: Callable[..., str], end: Callable[..., None], sql: Sql
    ) -> None:
        job_id = greet("Ann", "--owner", "alice", "--unique-key", "k")
        progress = "progress_done = 3, progress_total = 9, progress_message = 'going', run_lease = 4"
        sql(f"UPDATE job SET {progress}")
        end(job_id)
        result = run("jobs", "show", job_id)
        assert result.exit_code == 0
        shown = dict(line.split(maxsplit=1) for line in result.stdout.split("\n\n")[0].splitlines())
        assert shown["Job"] == job_id
        assert shown["State"] == "discarded"
        assert shown["Owner"] == "alice"
        assert shown["Unique"] == "key    k"
        assert shown["Attempts"] == "1 of 25"
        assert shown["Run"] == "number    4"
        assert shown["Progress"] == "3 of 9: going"
        assert json.loads(shown["Payload"]) == {"name": "Ann", "times": [], "reply_to": None, "how": {"form": "card"}}
        assert {"Created", "Due", "Finished"} <= set(shown)
        assert "Worker" not in shown
        failure = result.stdout.split("\n\n")[1].splitlines()
        assert failure[0] == "Run 1, attempt 1, 2030-01-31T08:00:00Z: error"
        assert failure[1] == r"  ConnectionError: the door\x1b[31m is closed"
        assert failure[2] == "  Traceback (most recent call last):"
        assert any("raise ConnectionError" in line for line in failure)
        assert "\x1b" not in result.stdout

    @pytest.mark.parametrize(
        ("payload", "line"), [("[1, 2]", "[1, 2]"), ("null", "null"), ('"x"', '"x"'), ("[" * 300 + "]" * 300, "[[[[[[")]
    )
    def test_show_prints_a_payload_that_only_sql_can_enqueue(self, run: Run, sql: Sql, payload: str, line: str) -> None:
        (row,) = sql("SELECT plinth_enqueue('greet', $1::text::jsonb) AS id", payload)
        assert f"Payload       {line}" in run("jobs", "show", str(row["id"])).stdout
        assert run("jobs", "show", str(row["id"]), "--json").exit_code == 0
        assert run("jobs", "list", "--json").exit_code == 0

    def test_show_prints_the_result_of_a_job(
        self, run: Run, greet: Callable[..., str], end: Callable[..., None], sql: Sql
    ) -> None:
        job_id = greet()
        end(job_id)
        sql("""UPDATE job_history SET state = 'succeeded', result = '["sent", 1]'""")
        assert 'Result        ["sent", 1]' in run("jobs", "show", job_id).stdout.splitlines()

    def test_show_json_prints_every_field_of_the_job(
        self, run: Run, greet: Callable[..., str], end: Callable[..., None]
    ) -> None:
        job_id = greet()
        end(job_id)
        (shown,) = lines(run("jobs", "show", job_id, "--json"))
        assert set(shown) == fields(JobView) | {"steps"}
        assert shown["id"] == job_id
        assert shown["errors"][0]["traceback"].startswith("Traceback")

    def test_show_prints_the_steps_of_a_job(self, run: Run, greet: Callable[..., str], sql: Sql) -> None:
        job_id = greet()
        sql(
            f"""
            INSERT INTO job_step (job_id, name, kind, state, result, error, event, due_at, started_at) VALUES
            ('{job_id}', 'charge', 'step', 'done', '{{"id": 7}}', NULL, NULL, NULL, '2030-01-01 UTC'),
            ('{job_id}', 'mail\x1b', 'step', 'failed', NULL, 'ValueError: no', NULL, NULL, '2030-01-02 UTC'),
            ('{job_id}', 'sleep', 'sleep', 'waiting', NULL, NULL, NULL, '2030-02-01 UTC', '2030-01-03 UTC'),
            ('{job_id}', 'paid', 'event', 'waiting', NULL, NULL, 'paid', NULL, '2030-01-04 UTC')
            """
        )
        steps = [line for line in run("jobs", "show", job_id).stdout.splitlines() if line.startswith("Step ")]
        assert steps == [
            'Step charge (step): done: {"id": 7}',
            r"Step mail\x1b (step): failed: ValueError: no",
            "Step sleep (sleep): waiting, until 2030-02-01T00:00:00Z",
            "Step paid (event): waiting",
        ]
        (shown,) = lines(run("jobs", "show", job_id, "--json"))
        assert (shown["steps"][0]["name"], shown["steps"][0]["result"]) == ("charge", {"id": 7})

    def test_show_of_a_job_that_waits_without_a_time_out_names_no_time(
        self, run: Run, greet: Callable[..., str], sql: Sql
    ) -> None:
        job_id = greet()
        assert "\nDue " in run("jobs", "show", job_id).stdout
        sql("UPDATE job SET state = 'scheduled', run_at = '9999-12-31 UTC'")
        assert "9999" not in run("jobs", "show", job_id).stdout

    def test_show_names_the_worker_of_a_running_job(self, run: Run, greet: Callable[..., str], sql: Sql) -> None:
        job_id = greet()
        work(sql, "pod-1:7", job_id)
        (shown,) = lines(run("jobs", "show", job_id, "--json"))
        assert (shown["state"], shown["worker"]) == ("running", "pod-1:7")
        assert "Worker        pod-1:7\n" in run("jobs", "show", job_id).stdout

    def test_show_of_an_unknown_id_fails(self, run: Run) -> None:
        result = run("jobs", "show", str(uuid4()))
        assert (result.exit_code, result.output) == (1, "There is no such job.\n")


class TestCancel:
    def test_cancel_ends_waiting_jobs_and_asks_running_ones_to_stop(
        self, run: Run, greet: Callable[..., str], sql: Sql
    ) -> None:
        waiting, running = greet(), greet()
        work(sql, "pod-1:7", running)
        result = run("jobs", "cancel", waiting, running)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == f"{waiting}  cancelled\n{running}  running, its worker is told to cancel it\n"
        assert [row["state"] for row in sql("SELECT state FROM job_history")] == ["cancelled"]
        assert sql("SELECT FROM job WHERE cancel_requested_at IS NOT NULL")

    def test_cancel_json_prints_each_job(self, run: Run, greet: Callable[..., str]) -> None:
        made = [greet(), greet()]
        cancelled = lines(run("jobs", "cancel", *made, "--json"))
        assert [(job["id"], job["state"]) for job in cancelled] == [(made[0], "cancelled"), (made[1], "cancelled")]

    def test_job_that_cannot_be_cancelled_does_not_stop_the_others(
        self, run: Run, greet: Callable[..., str], end: Callable[..., None]
    ) -> None:
        over, waiting, unknown = greet(), greet(), str(uuid4())
        end(over)
        result = run("jobs", "cancel", over, unknown, waiting)
        assert result.exit_code == 1
        assert result.stdout == f"{waiting}  cancelled\n"
        assert result.stderr == (f"{over}: The job has ended: it is discarded.\n{unknown}: There is no such job.\n")


class TestSql:
    def test_each_statement_can_be_explained(self, run: Run, sql: Sql) -> None:
        printed = run("jobs", "sql").stdout
        statements = re.findall(r"-- (\w+)\n(.*?);\n\n", printed + "\n", flags=re.DOTALL)
        assert {name for name, _ in statements} >= {"claim", "finish", "sweep", "enqueue"}
        for number, (_, statement) in enumerate(statements):
            sql(f"PREPARE explained_{number} AS {statement}")

    def test_one_statement_is_printed_by_its_name(self, run: Run) -> None:
        assert run("jobs", "sql", "claim").stdout.startswith("-- claim\nWITH ahead AS")
        assert run("jobs", "sql", "drop").exit_code == 2


class TestRetry:
    def test_retry_by_id_makes_jobs_available(
        self, run: Run, greet: Callable[..., str], end: Callable[..., None]
    ) -> None:
        discarded, cancelled = greet(), greet()
        end(discarded)
        end(cancelled, "cancelled")
        result = run("jobs", "retry", discarded, cancelled)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == f"{discarded}  available\n{cancelled}  available\n"

    def test_retry_by_id_json_prints_each_job(
        self, run: Run, greet: Callable[..., str], end: Callable[..., None]
    ) -> None:
        job_id = greet()
        end(job_id)
        (retried,) = lines(run("jobs", "retry", job_id, "--json"))
        assert (retried["id"], retried["state"]) == (job_id, "available")

    def test_retry_of_a_kind_that_this_version_does_not_know_says_so(
        self, run: Run, greet: Callable[..., str], end: Callable[..., None], sql: Sql
    ) -> None:
        job_id = greet()
        end(job_id)
        sql("UPDATE job_history SET kind = 'greet.old'")
        result = run("jobs", "retry", job_id)
        assert (result.exit_code, result.stdout) == (0, f"{job_id}  available\n")
        said = f"{job_id}: this version knows no kind greet.old; the job waits for a worker that does\n"
        assert result.stderr == said

    def test_retry_reports_each_job_that_cannot_be_retried(
        self, run: Run, greet: Callable[..., str], end: Callable[..., None]
    ) -> None:
        waiting, doubled, unknown = greet(), greet("Ann", "--unique-key", "k"), str(uuid4())
        end(doubled)
        greet("Ann", "--unique-key", "k")
        result = run("jobs", "retry", waiting, doubled, unknown)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.splitlines() == [
            f"{waiting}: Only cancelled and discarded jobs can be retried: it is available.",
            f"{doubled}: Another job with the same unique key is still to be done.",
            f"{unknown}: There is no such job.",
        ]

    @pytest.fixture
    def dead(self, greet: Callable[..., str], end: Callable[..., None]) -> dict[int, str]:
        """Dead letters by the hours of their death."""
        letters = {hours: greet() for hours in (1, 5, 30)}
        for hours, job_id in letters.items():
            end(job_id, hours=hours)
        return letters

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (("--since", "2h"), {1}),
            (("--until", "2h"), {5, 30}),
            (("--since", "1d", "--until", "90m"), {5}),
            (("--kind", "greet"), {1, 5, 30}),
            (("--kind", "other"), set()),
            (("--limit", "2"), {30, 5}),
            (("--since", "0.5h"), set()),
        ],
    )
    def test_bulk_retry_filters_by_time_kind_and_limit(
        self, run: Run, sql: Sql, dead: dict[int, str], options: tuple[str, ...], expected: set[int]
    ) -> None:
        result = run("jobs", "retry", *options)
        letters = "dead letter" if len(expected) == 1 else "dead letters"
        assert (result.exit_code, result.stdout) == (0, f"{len(expected)} {letters} will be done again.\n")
        assert ("there may be more" in result.stderr) == ("--limit" in options)
        back = {str(row["id"]) for row in sql("SELECT id FROM job WHERE state = 'available'")}
        assert back == {dead[hours] for hours in expected}

    @pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S+00:00"])
    def test_bulk_retry_accepts_iso_times(self, run: Run, dead: dict[int, str], form: str) -> None:
        since = (datetime.now(UTC) - timedelta(hours=6)).strftime(form)
        (count,) = lines(run("jobs", "retry", "--since", since, "--dry-run", "--json"))
        assert count["count"] == 2

    def test_dry_run_of_a_bulk_retry_changes_nothing(self, run: Run, sql: Sql, dead: dict[int, str]) -> None:
        result = run("jobs", "retry", "--since", "6h", "--dry-run")
        assert (result.exit_code, result.stdout) == (0, "2 dead letters would be done again.\n")
        assert lines(run("jobs", "retry", "--since", "6h", "--dry-run", "--json")) == [{"count": 2, "dry_run": True}]
        assert len(sql("SELECT FROM job_history")) == 3
        assert lines(run("jobs", "retry", "--since", "6h", "--json")) == [{"count": 2, "dry_run": False}]
        assert len(sql("SELECT FROM job_history")) == 1


class TestQueues:
    def test_stats_shows_the_counts_of_each_queue(self, run: Run, greet: Callable[..., str], sql: Sql) -> None:
        greet(), greet("Ann", "--delay", "1h"), greet("Ann", "--queue", "slow")
        sql("UPDATE job SET run_at = now() - interval '90 s' WHERE queue = 'slow'")
        head, *rows = table(run("jobs", "stats"))
        assert head == ["QUEUE", "PAUSED", "AVAILABLE", "RUNNING", "SCHEDULED", "RETRYABLE", "OLDEST", "DUE"]
        assert rows[0][:6] == ["mail", "no", "1", "0", "1", "0"]
        assert rows[1][:6] == ["slow", "no", "1", "0", "0", "0"]
        assert float(rows[1][6]) >= 90

        mail, slow = lines(run("jobs", "stats", "--json"))
        assert set(mail) == fields(QueueRead)
        assert (mail["name"], mail["available"], mail["scheduled"]) == ("mail", 1, 1)
        assert slow["oldest_due_age"] >= 90

    def test_stats_says_where_counting_has_stopped(self, run: Run, sql: Sql) -> None:
        sql(
            "INSERT INTO job (kind, queue, priority, payload, max_attempts, run_at, state)"
            " SELECT 'greet', 'mail', 0, '{}', 1, now(), 'available' FROM generate_series(1, 10001)"
        )
        assert table(run("jobs", "stats"))[1][:6] == ["mail", "no", "10000+", "0", "0", "0"]
        assert lines(run("jobs", "stats", "--json"))[0]["available"] == 10_000

    def test_stats_without_jobs_says_that_the_queues_are_empty(self, run: Run) -> None:
        assert run("jobs", "stats").output == "The queues are empty.\n"

    def test_pause_and_resume_a_queue(self, run: Run, sql: Sql) -> None:
        result = run("jobs", "pause", "mail")
        assert (result.exit_code, result.output) == (0, "mail is paused.\n")
        assert [row["name"] for row in sql("SELECT name FROM job_queue")] == ["mail"]
        assert table(run("jobs", "stats"))[1][:2] == ["mail", "yes"]
        assert lines(run("jobs", "pause", "mail", "--json")) == [{"name": "mail", "paused": True}]
        result = run("jobs", "resume", "mail")
        assert (result.exit_code, result.output) == (0, "mail is served.\n")
        assert lines(run("jobs", "resume", "mail", "--json")) == [{"name": "mail", "paused": False}]
        assert not sql("SELECT FROM job_queue")


class TestSchedules:
    @pytest.fixture(autouse=True)
    def declared(self, sql: Sql) -> None:
        sql("INSERT INTO job_schedule (name, kind, cron, timezone) VALUES ('nightly', 'greet', '30 2 * * *', 'UTC')")

    def test_schedules_list_shows_each_schedule(self, run: Run) -> None:
        head, row = table(run("schedules", "list"))
        assert head == ["NAME", "KIND", "CRON", "TIMEZONE", "LAST", "SLOT", "NEXT", "SLOT", "PAUSED"]
        assert row[:8] == ["nightly", "greet", "30", "2", "*", "*", "*", "UTC"]
        assert row[9].endswith("T02:30:00Z")
        assert row[10] == "-"
        (for_programs,) = lines(run("schedules", "list", "--json"))
        assert set(for_programs) == fields(ScheduleRead)
        assert for_programs["name"] == "nightly"

    def test_schedules_list_without_schedules_says_so(self, run: Run, sql: Sql) -> None:
        sql("DELETE FROM job_schedule")
        assert run("schedules", "list").output == "No worker has declared a schedule.\n"

    def test_schedules_run_prints_the_job_id(self, run: Run, sql: Sql) -> None:
        result = run("schedules", "run", "nightly")
        (row,) = sql("DELETE FROM job RETURNING *")
        assert (result.exit_code, result.output) == (0, f"{row['id']}\n")
        assert json.loads(row["payload"])["name"] == "Night"
        (made,) = lines(run("schedules", "run", "nightly", "--json"))
        assert made == {"id": str(sql("SELECT id FROM job")[0]["id"]), "created": True}

    def test_pause_and_resume_a_schedule(self, run: Run, sql: Sql) -> None:
        assert run("schedules", "pause", "nightly").output == "nightly is paused.\n"
        assert sql("SELECT FROM job_schedule WHERE paused_at IS NOT NULL")
        assert table(run("schedules", "list"))[1][9] == "-"
        assert lines(run("schedules", "pause", "nightly", "--json")) == [{"name": "nightly", "paused": True}]
        assert run("schedules", "resume", "nightly").output == "nightly is followed.\n"
        assert lines(run("schedules", "resume", "nightly", "--json")) == [{"name": "nightly", "paused": False}]
        assert not sql("SELECT FROM job_schedule WHERE paused_at IS NOT NULL")

    @pytest.mark.parametrize("command", ["run", "pause", "resume"])
    def test_unknown_schedule_is_an_error(self, run: Run, command: str) -> None:
        result = run("schedules", command, "daily")
        assert (result.exit_code, result.output) == (1, "There is no such schedule.\n")


class TestWorkers:
    def test_workers_lists_live_and_lost_workers(self, run: Run, greet: Callable[..., str], sql: Sql) -> None:
        work(sql, "pod-1:7", greet())
        work(sql, "pod-2:7", expires="-1 minute")
        head, *rows = table(run("workers"))
        assert head == ["NAME", "STATUS", "VERSION", "QUEUES", "RUNNING", "STARTED", "RENEWED"]
        assert [row[:6] for row in rows] == [
            ["pod-1:7", "alive", "1.2.3", "mail,", "slow", "1/20"],
            ["pod-2:7", "lost", "1.2.3", "mail,", "slow", "0/20"],
        ]
        first, _ = lines(run("workers", "--json"))
        assert set(first) == fields(WorkerRead)
        assert (first["name"], first["kinds"]) == ("pod-1:7", ["greet"])

    def test_workers_without_a_worker_says_so(self, run: Run) -> None:
        assert run("workers").output == "No worker runs.\n"


class TestDatabaseProblems:
    @pytest.mark.parametrize("command", ALL_COMMANDS, ids=" ".join)
    def test_unreachable_database_is_reported_in_one_sentence(self, run: Run, command: tuple[str, ...]) -> None:
        result = run(*command, DATABASE_URL=NO_DATABASE)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == (
            "The database does not answer: nothing listens at its host and port. "
            "`plinth config check` shows where it is looked for.\n"
        )

    def test_missing_database_url_is_reported_with_the_way_to_the_embedded_servers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def away(settings: PlatformSettings, work: object) -> None:
            raise DatabaseUnavailableError

        monkeypatch.setattr("plinth.cli.common._attend", away)
        with command_line(tmp_path) as run:
            result = run("jobs", "list")
        assert result.exit_code == 1
        assert "Beside `plinth run`, put `plinth with-servers --` before the command." in result.stderr

    @pytest.mark.parametrize("command", [("jobs", "list"), ("workers",), ("schedules", "list")], ids=" ".join)
    def test_unmigrated_database_is_reported_with_the_migrate_command(
        self, run: Run, empty_database_url: str, command: tuple[str, ...]
    ) -> None:
        result = run(*command, DATABASE_URL=empty_database_url)
        assert (result.exit_code, result.output) == (
            1,
            "The database lacks tables or columns that this version needs: run `plinth migrate`.\n",
        )


def work(sql: Sql, name: str, job_id: str | None = None, *, expires: str = "1 minute") -> None:
    """A worker's session, which does a job if one is named."""
    (session,) = sql(
        "INSERT INTO worker_session (name, version, queues, kinds, concurrency, expires_at) "
        "VALUES ($1, '1.2.3', '{mail,slow}', '{greet}', 20, now() + $2::text::interval) RETURNING id",
        name,
        expires,
    )
    if job_id is not None:
        sql(
            "UPDATE job SET state = 'running', attempt = 1, run_lease = 1, session_id = $2, started_at = now() "
            "WHERE id = $1",
            UUID(job_id),
            session["id"],
        )
