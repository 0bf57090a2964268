"""Each recorded statement is one span, of a session or of a bare connection. Counts: `test_database_metrics.py`."""

import asyncio
from collections.abc import Awaitable, Callable
from math import inf

import asyncpg
import pytest
from opentelemetry import trace
from sqlalchemy import insert, make_url, text
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlmodel import select

from notes.models import Note
from plinth.database import observed_connection
from plinth.database.engine import Database
from plinth.telemetry import trace_setup
from tests.support.collector import Collector, Recorded
from tests.support.notes import settings_with

Work = Callable[[Database], Awaitable[None]]


pytestmark = pytest.mark.usefixtures("fresh_tracing")


class Tracing:
    """Runs work on a database with or without metrics, and returns its spans."""

    def __init__(self, database_url: str, collector: Collector, pool_name: str | None) -> None:
        self.settings = settings_with(
            DATABASE_URL=database_url, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_TRACES_SAMPLER_ARG=1
        )
        self.collector = collector
        self.pool_name = pool_name

    async def spans(self, work: Work, *, recorded: bool = True) -> list[Recorded]:
        async with trace_setup.running(self.settings, "api"):
            database = Database(self.settings, pool_name=self.pool_name)
            tracer = trace.get_tracer("test")
            outer = tracer.start_span("outer") if recorded else trace.NonRecordingSpan(trace.INVALID_SPAN_CONTEXT)
            with trace.use_span(outer, end_on_exit=True):
                await work(database)
            await database.aclose()
        found = [span for span in self.collector.spans if span.name != "outer"]
        assert {span.parent_id for span in found} <= {format(outer.get_span_context().span_id, "016x")}
        assert {span.kind for span in found} <= {"CLIENT"}
        return found

    async def names(self, work: Work, *, recorded: bool = True) -> list[str]:
        return [span.name for span in await self.spans(work, recorded=recorded)]


@pytest.fixture(autouse=True)
def every_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast a transaction begins and ends, it has its spans."""
    monkeypatch.setattr(observed_connection, "BOUNDARY_SECONDS", 0)


@pytest.fixture(params=[None, "test"], ids=["not counted", "counted"])
def traced(request: pytest.FixtureRequest, database_url: str, collector: Collector) -> Tracing:
    return Tracing(database_url, collector, request.param)


async def by_session(database: Database) -> None:
    async with database.session() as session:
        session.add(note := Note(owner="alice", text="a"))
        await session.flush()
        note.text = "b"
        await session.flush()
        await session.exec(select(Note))


async def by_hand(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("CREATE TEMPORARY TABLE pair (a int PRIMARY KEY, b text)")
        await connection.execute("INSERT INTO pair VALUES ($1, $2)", 1, "hunter2")
        await connection.executemany("UPDATE pair SET a = a + $1", [(1,), (2,)])
        (row,) = await connection.fetch("SELECT a FROM pair")
        assert tuple(row) == (4,)
        assert tuple(await connection.fetchrow("SELECT b FROM pair") or ()) == ("hunter2",)
        async with connection.transaction():
            assert await connection.fetchval("DELETE FROM pair RETURNING a") == 4
        statement = await connection.prepare("SELECT count(*) FROM pair")
        for _ in range(2):
            assert [tuple(row) for row in await statement.fetch()] == [(0,)]


class TestStatements:
    async def test_each_statement_of_a_session_is_one_span(self, traced: Tracing) -> None:
        assert await traced.names(by_session) == ["BEGIN", "INSERT note", "UPDATE note", "SELECT note", "COMMIT"]

    async def test_each_statement_of_a_bare_connection_is_one_span(self, traced: Tracing) -> None:
        spans = await traced.spans(by_hand)
        assert [span.name for span in spans] == [
            "CREATE",
            "INSERT pair",
            "UPDATE pair",
            "SELECT pair",
            "SELECT pair",
            "BEGIN",
            "DELETE pair",
            "COMMIT",
            "SELECT pair",
            "SELECT pair",
        ]
        where = make_url(traced.settings.async_database_url)
        assert spans[1].attributes.items() >= {
            ("db.system.name", "postgresql"),
            ("db.collection.name", "pair"),
            ("db.namespace", where.database),
            ("db.operation.name", "INSERT"),
            ("db.query.text", "INSERT INTO pair VALUES ($1, $2)"),
        }
        assert spans[1].attributes.get("server.address") == where.host
        assert "hunter2" not in repr(spans)
        assert not any(span.failed for span in spans)

    async def test_executemany_is_one_span(self, traced: Tracing) -> None:
        async def work(database: Database) -> None:
            rows = [{"owner": "alice", "text": text} for text in "abc"]
            async with database.session() as session:
                await (await session.connection()).execute(insert(Note.__table__).inline(), rows)  # type: ignore[attr-defined]

        assert await traced.names(work) == ["BEGIN", "INSERT note", "COMMIT"]

    async def test_rows_read_through_a_cursor_make_no_span(self, traced: Tracing) -> None:
        async def work(database: Database) -> None:
            async with database.connection() as connection, connection.transaction():
                statement = await connection.prepare("SELECT 1")
                cursor = await statement.cursor()
                assert [tuple(row) for row in await cursor.fetch(1)] == [(1,)]
            async with database.session() as session:
                rows = await session.stream(text("SELECT 1"))
                assert [tuple(row) async for row in rows] == [(1,)]

        assert await traced.names(work) == ["BEGIN", "COMMIT", "BEGIN", "COMMIT"]

    @pytest.mark.parametrize("work", [by_session, by_hand])
    async def test_unrecorded_traces_have_no_statement_spans(self, traced: Tracing, work: Work) -> None:
        assert await traced.names(work, recorded=False) == []


class TestBoundaries:
    """Where transactions begin and end."""

    async def test_fast_begin_and_commit_make_no_span(self, traced: Tracing, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(observed_connection, "BOUNDARY_SECONDS", inf)
        assert await traced.names(by_session) == ["INSERT note", "UPDATE note", "SELECT note"]

    @pytest.mark.parametrize(
        ("seconds", "names"),
        [
            (inf, ["SELECT note"]),
            (0, ["BEGIN", "SAVEPOINT", "SELECT note", "RELEASE", "COMMIT"]),
        ],
    )
    async def test_savepoint_spans_follow_the_same_threshold(
        self, traced: Tracing, monkeypatch: pytest.MonkeyPatch, seconds: float, names: list[str]
    ) -> None:
        async def work(database: Database) -> None:
            async with database.session() as session, session.begin_nested():
                await session.exec(select(Note))

        monkeypatch.setattr(observed_connection, "BOUNDARY_SECONDS", seconds)
        assert await traced.names(work) == names

    async def test_failed_commit_is_a_span(self, traced: Tracing, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(observed_connection, "BOUNDARY_SECONDS", inf)

        async def work(database: Database) -> None:
            async with database.connection() as connection:
                await connection.execute("CREATE TEMPORARY TABLE late (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
                with pytest.raises(asyncpg.UniqueViolationError):
                    async with connection.transaction():
                        await connection.execute("INSERT INTO late VALUES (1), (1)")

        *_, commit = await traced.spans(work)
        assert (commit.name, commit.failed, commit.attributes["error.type"]) == ("COMMIT", True, "UniqueViolationError")
        assert commit.attributes["db.response.status_code"] == "23505"

    async def test_slow_commit_is_a_span(self, traced: Tracing, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(observed_connection, "BOUNDARY_SECONDS", 0.05)

        async def work(database: Database) -> None:
            async with database.connection() as connection:
                await connection.execute(
                    """
                    CREATE FUNCTION pg_temp.slow() RETURNS trigger LANGUAGE plpgsql
                        AS $$ BEGIN PERFORM pg_sleep(0.05); RETURN NULL; END $$;
                    CREATE TEMPORARY TABLE slow (a int);
                    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
                        FOR EACH ROW EXECUTE FUNCTION pg_temp.slow();
                    """
                )
                async with connection.transaction():
                    await connection.execute("INSERT INTO slow VALUES (1)")

        *_, commit = await traced.spans(work)
        assert (commit.name, commit.failed) == ("COMMIT", False)
        assert commit.seconds >= 0.05


class TestFailures:
    @pytest.mark.parametrize(
        ("statement", "error", "kind"),
        [
            ("SELECT hunter2", ProgrammingError, "UndefinedColumnError"),  # when it is prepared
            ("INSERT INTO job_queue VALUES ('hunter2'), ('hunter2')", IntegrityError, "UniqueViolationError"),
        ],
    )
    async def test_failed_statement_of_a_session_has_its_error_type(
        self, traced: Tracing, statement: str, error: type[Exception], kind: str
    ) -> None:
        async def work(database: Database) -> None:
            with pytest.raises(error):
                async with database.session() as session:
                    await (await session.connection()).exec_driver_sql(statement)

        begin, failed, rollback = await traced.spans(work)
        assert (begin.name, rollback.name) == ("BEGIN", "ROLLBACK")
        assert (begin.failed, failed.failed, rollback.failed) == (False, True, False)
        assert failed.attributes["error.type"] == kind
        assert failed.attributes["db.query.text"] == statement.replace("'hunter2'", "?")

    async def test_failed_statement_of_a_bare_connection_has_its_error_type(self, traced: Tracing) -> None:
        async def work(database: Database) -> None:
            async with database.connection() as connection:
                for run in (connection.fetch, connection.prepare):
                    with pytest.raises(asyncpg.UndefinedColumnError):
                        await run("SELECT hunter2")

        spans = await traced.spans(work)
        assert [(span.name, span.failed, span.attributes["error.type"]) for span in spans] == [
            ("SELECT", True, "UndefinedColumnError")
        ] * 2

    async def test_cancelled_statement_is_a_failed_span(self, traced: Tracing) -> None:
        async def work(database: Database) -> None:
            async with database.connection() as connection:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await connection.execute("SELECT pg_sleep(20)")

        (span,) = await traced.spans(work)
        assert (span.failed, span.attributes["error.type"]) == (True, "CancelledError")


async def test_unobserved_connection_is_a_plain_asyncpg_connection(database_url: str) -> None:
    database = Database(settings_with(DATABASE_URL=database_url))
    async with database.connection() as connection:
        assert type(connection) is asyncpg.Connection
    await database.aclose()
