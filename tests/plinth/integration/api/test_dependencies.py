"""What a request changed is committed before its response is sent.

On a real server with real sockets: a client in the same process would hide the order of things.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import asyncpg
import httpx
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import column, func, insert, table
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession
from structlog.testing import capture_logs

from notes.main import create_app
from plinth.api.dependencies import ReadSessionDep, SessionDep, _session
from plinth.database.engine import Database
from plinth.database.reads import Reads
from plinth.http.error_handlers import install_exception_handlers
from plinth.http.request_context import RequestContextMiddleware
from plinth.http.unhandled_errors import UnhandledErrorMiddleware
from plinth.testing import problem, serving
from tests.support.api import signed_in
from tests.support.notes import note, settings_with

# The commit of a line takes its time, or fails.
SLOW_COMMITS = """
CREATE TABLE line (text text);
CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pg_sleep(0.2);
    IF NEW.text = 'broken' THEN RAISE 'broken'; END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON line
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION at_commit();
CREATE FUNCTION at_commit_of_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pg_sleep(0.1);
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT OR UPDATE ON note
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION at_commit_of_note();
"""


def lines_app(database_url: str) -> FastAPI:
    """The smallest service with a session: one endpoint depends on it as ours do, one as FastAPI would have it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        database = Database(settings_with(DATABASE_URL=database_url))
        yield {"database": database, "reads": Reads(database)}
        await database.aclose()

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(UnhandledErrorMiddleware)
    app.add_middleware(RequestContextMiddleware)
    install_exception_handlers(app)

    async def add(session: AsyncSession, line: str) -> dict[str, str]:
        await session.exec(insert(table("line", column("text"))).values(text=line))
        return {"added": line}

    @app.post("/ours/{line}")
    async def ours(line: str, session: SessionDep) -> dict[str, str]:
        return await add(session, line)

    @app.post("/default/{line}")
    async def default(line: str, session: Annotated[AsyncSession, Depends(_session)]) -> dict[str, str]:
        return await add(session, line)

    @app.get("/lines")
    async def count(session: ReadSessionDep) -> int:
        return (await session.exec(select(func.count()).select_from(table("line")))).one()

    @app.post("/reads/{line}")
    async def reads(line: str, session: ReadSessionDep) -> dict[str, str]:
        return await add(session, line)

    return app


@pytest.fixture
async def another(fresh_database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Another connection to the database, in which commits take their time."""
    connection = await asyncpg.connect(fresh_database_url)
    await connection.execute(SLOW_COMMITS)
    yield connection
    await connection.close()


class TestSessionDep:
    @pytest.fixture
    def url(self, fresh_database_url: str, another: asyncpg.Connection) -> Iterator[str]:
        with capture_logs(), serving(lines_app(fresh_database_url)) as url:
            yield url

    async def test_successful_response_means_that_the_row_is_committed(
        self, url: str, another: asyncpg.Connection
    ) -> None:
        async with httpx.AsyncClient(base_url=url) as client:
            response = await client.post("/ours/lamp")
            rows = await another.fetchval("SELECT count(*) FROM line")

        assert (response.status_code, rows) == (200, 1)

    async def test_failed_commit_is_not_a_successful_response(self, url: str, another: asyncpg.Connection) -> None:
        async with httpx.AsyncClient(base_url=url) as client:
            problem(await client.post("/ours/broken"), 500, "internal_error")

        assert await another.fetchval("SELECT count(*) FROM line") == 0

    async def test_framework_s_default_scope_commits_after_the_response(
        self, url: str, another: asyncpg.Connection
    ) -> None:
        async with httpx.AsyncClient(base_url=url) as client:
            early = await client.post("/default/lamp")
            rows = await another.fetchval("SELECT count(*) FROM line")
            failed = await client.post("/default/broken")

        assert (early.status_code, rows) == (200, 0)
        assert failed.status_code == 200

    async def test_session_for_reads_reads_and_writes_nothing(self, url: str, another: asyncpg.Connection) -> None:
        async with httpx.AsyncClient(base_url=url) as client:
            await client.post("/ours/lamp")
            assert (await client.get("/lines")).json() == 1
            problem(await client.post("/reads/lamp"), 500, "internal_error")
            assert (await client.get("/lines")).json() == 1
        assert await another.fetchval("SELECT count(*) FROM line") == 1


class TestNotes:
    async def test_each_change_is_committed_before_its_response(
        self, fresh_database_url: str, another: asyncpg.Connection
    ) -> None:
        settings = settings_with(DATABASE_URL=fresh_database_url)
        state = "SELECT version || ' ' || (deleted_at IS NULL) FROM note"
        with serving(create_app(settings)) as url:
            async with httpx.AsyncClient(base_url=f"{url}/api/v1", headers=signed_in(settings)) as client:
                created = await client.post("/notes", json=note(), headers={"Idempotency-Key": "x"})
                assert (created.status_code, await another.fetchval(state)) == (201, "1 true")
                path = f"/notes/{created.json()['id']}"

                changed = await client.patch(path, json={"text": "new"}, headers={"If-Match": "*"})
                assert (changed.status_code, await another.fetchval(state)) == (200, "2 true")

                deleted = await client.delete(path)
                assert (deleted.status_code, await another.fetchval(state)) == (204, "3 false")
