"""A job's changes as server-sent events, on a real server: a client in the same process gets no stream."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from uuid import UUID

import httpx
import pytest

from notes.config import Settings
from notes.main import create_app
from plinth.api import job_events
from plinth.api.schemas import JobSummary
from plinth.database.engine import Database
from plinth.identity import sign_local_token
from plinth.jobs import JobContext, State, enqueue, job
from plinth.jobs.admin import watch
from plinth.jobs.admin.jobs import retry_job
from plinth.jobs.engine.store import Store
from plinth.jobs.outcome import Finish, error_entry
from plinth.testing import problem, serving
from tests.plinth.integration.jobs.conftest import PATIENCE, Number, open_store, until
from tests.support.notes import settings_with


@job("test.api.events")
async def task(ctx: JobContext, payload: Number) -> None:
    pass


@pytest.fixture(scope="module")
def settings(database_url: str) -> Settings:
    # One connection: a stream that kept it while waiting would keep it from all others.
    return settings_with(DATABASE_URL=database_url, DB_POOL_SIZE=1, OPERATOR_ROLE="operator")


@pytest.fixture(scope="module")
def url(settings: Settings) -> Iterator[str]:
    with serving(create_app(settings)) as url:
        yield url


@asynccontextmanager
async def client_at(url: str, headers: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"{url}/api/v1", headers=headers, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
async def client(url: str, alice: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    async with client_at(url, alice) as client:
        yield client


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[Database]:
    engine = Database(settings)
    yield engine
    await engine.aclose()


@pytest.fixture
async def store(engine: Database) -> Store:
    return await open_store(engine)


async def add(engine: Database) -> UUID:
    async with engine.session() as session:
        return (await enqueue(session, task, Number(n=1), owner="alice")).id


async def claim(store: Store) -> None:
    assert len(await store.claim(["default"], {task.name: task}, 1)) == 1


async def end(store: Store, job_id: UUID, state: State, *, lease: int = 1) -> None:
    error = None if state is State.SUCCEEDED else error_entry("error", run=lease, attempt=1, error="out of paper")
    assert await store.finish([Finish(job_id, lease, state, error)])


class Event(NamedTuple):
    id: str
    name: str
    job: JobSummary


class Stream:
    """The lines of a stream, read as a browser would."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def block(self) -> list[str] | None:
        """The lines up to the next empty one; None at the end of the stream."""
        lines: list[str] = []
        async for line in self._lines:
            if not line:
                return lines
            lines.append(line)
        assert not lines, "the stream ended in the middle of an event"
        return None

    async def event(self) -> Event | None:
        """The next event; None at the end of the stream."""
        while (lines := await self.block()) is not None:
            fields = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
            if "data" in fields:
                return Event(fields["id"], fields["event"], JobSummary.model_validate_json(fields["data"]))
        return None


@asynccontextmanager
async def watching(
    client: httpx.AsyncClient, job_id: UUID, seen: str | None = None, **headers: str
) -> AsyncIterator[Stream]:
    if seen is not None:
        headers["Last-Event-ID"] = seen
    async with client.stream("GET", f"/jobs/{job_id}/events", headers=headers) as response:
        yield Stream(response)


async def next_event(stream: Stream) -> Event:
    event = await stream.event()
    assert event is not None, "the stream has ended"
    return event


class TestStream:
    async def test_stream_follows_a_job_from_waiting_to_its_end(
        self, client: httpx.AsyncClient, engine: Database, store: Store
    ) -> None:
        job_id = await add(engine)
        async with watching(client, job_id) as stream:
            waiting = await next_event(stream)
            await claim(store)
            running = await next_event(stream)
            await store.write_progress([(job_id, 1, 5, 10, "halfway")])
            halfway = await next_event(stream)
            await end(store, job_id, State.DISCARDED)
            ended = await next_event(stream)
            assert await stream.event() is None

        events = [waiting, running, halfway, ended]
        assert [event.name for event in events] == ["progress", "progress", "progress", "end"]
        assert [event.job.state for event in events] == ["available", "running", "running", "discarded"]
        assert len({event.id for event in events}) == 4
        assert halfway.job.progress is not None
        assert (halfway.job.progress.done, halfway.job.progress.message) == (5, "halfway")
        assert (ended.job.error, ended.job.finished_at is None) == ("out of paper", False)

    @pytest.mark.parametrize("encoding", ["gzip, deflate", "identity"])
    async def test_stream_is_neither_cached_buffered_nor_compressed(
        self, client: httpx.AsyncClient, engine: Database, encoding: str
    ) -> None:
        async with watching(client, await add(engine), **{"Accept-Encoding": encoding}) as stream:
            headers = stream.response.headers
            first = await stream.block()

        assert stream.response.status_code == 200
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-store", "no")
        assert "content-encoding" not in headers
        assert first is not None
        assert 1000 <= int(first[0].removeprefix("retry: ")) <= 4000

    async def test_event_holds_the_job_as_in_a_list(self, client: httpx.AsyncClient, engine: Database) -> None:
        async with watching(client, await add(engine)) as stream:
            event = await next_event(stream)
        listed = (await client.get("/jobs")).json()["items"]
        assert listed == [event.job.model_dump(mode="json")]

    async def test_ended_job_is_one_event(self, client: httpx.AsyncClient, engine: Database, store: Store) -> None:
        job_id = await add(engine)
        await claim(store)
        await end(store, job_id, State.SUCCEEDED)
        async with watching(client, job_id) as stream:
            event = await next_event(stream)
            assert await stream.event() is None
        assert (event.name, event.job.state) == ("end", "succeeded")

    async def test_operator_watches_the_job_of_another_owner(
        self, url: str, settings: Settings, engine: Database
    ) -> None:
        token = sign_local_token(settings, subject="olga", ttl=600, roles=["operator"])
        job_id = await add(engine)
        async with client_at(url, {"Authorization": f"Bearer {token}"}) as client, watching(client, job_id) as stream:
            assert (await next_event(stream)).job.id == job_id

    async def test_open_streams_hold_no_database_connection(
        self, client: httpx.AsyncClient, engine: Database, store: Store
    ) -> None:
        job_id = await add(engine)
        async with watching(client, job_id) as one, watching(client, job_id) as two, watching(client, job_id) as three:
            streams = (one, two, three)
            assert len({(await next_event(stream)).id for stream in streams}) == 1
            assert (await client.get(f"/jobs/{job_id}")).status_code == 200
            await claim(store)
            assert {(await next_event(stream)).job.state for stream in streams} == {"running"}


class TestReconnect:
    async def test_reconnected_stream_repeats_no_event(
        self, url: str, client: httpx.AsyncClient, engine: Database, store: Store, settings: Settings
    ) -> None:
        job_id = await add(engine)
        async with watching(client, job_id) as stream:
            seen = (await next_event(stream)).id
        # At another process, which never heard of the first.
        with serving(create_app(settings)) as other:
            async with client_at(other, dict(client.headers)) as elsewhere, watching(elsewhere, job_id, seen) as stream:
                assert (await stream.block() or [""])[0].startswith("retry:")
                await claim(store)
                assert (await next_event(stream)).job.state == "running"

    async def test_reconnected_stream_sends_only_the_latest_event(
        self, client: httpx.AsyncClient, engine: Database, store: Store
    ) -> None:
        job_id = await add(engine)
        async with watching(client, job_id) as stream:
            seen = (await next_event(stream)).id
        await claim(store)
        await end(store, job_id, State.SUCCEEDED)
        async with watching(client, job_id, seen) as stream:
            assert (await next_event(stream)).name == "end"
            assert await stream.event() is None

    async def test_reconnecting_after_the_end_is_204(
        self, client: httpx.AsyncClient, engine: Database, store: Store
    ) -> None:
        job_id = await add(engine)
        await claim(store)
        await end(store, job_id, State.DISCARDED)
        async with watching(client, job_id) as stream:
            seen = (await next_event(stream)).id
        again = await client.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": seen})
        assert (again.status_code, again.content) == (204, b"")
        async with engine.session() as session:
            await retry_job(session, job_id)
        async with watching(client, job_id, seen) as stream:
            assert (await next_event(stream)).job.state == "available"

    async def test_unknown_last_event_id_is_ignored(self, client: httpx.AsyncClient, engine: Database) -> None:
        async with watching(client, await add(engine), "not one of ours") as stream:
            assert (await next_event(stream)).name == "progress"


class TestLimits:
    async def test_stream_ends_after_its_lifetime(
        self, client: httpx.AsyncClient, engine: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(job_events, "LIFETIME_SECONDS", 0.2)
        async with watching(client, await add(engine)) as stream:
            assert (await next_event(stream)).name == "progress"
            assert await stream.event() is None

    async def test_idle_stream_sends_comments(
        self, client: httpx.AsyncClient, engine: Database, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(job_events, "COMMENT_SECONDS", 0.05)
        async with watching(client, await add(engine)) as stream:
            assert (await next_event(stream)).name == "progress"
            assert await stream.block() == [":"]
            await claim(store)
            assert (await next_event(stream)).job.state == "running"

    async def test_stream_beyond_the_limit_is_refused_until_another_has_ended(
        self,
        url: str,
        alice: dict[str, str],
        client: httpx.AsyncClient,
        engine: Database,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # The streams of the tests before have gone, as far as they are concerned; the server hears of it presently.
        job_id = await add(engine)

        async def accepted() -> bool:
            async with watching(client, job_id) as stream:
                return stream.response.status_code == 200

        monkeypatch.setattr(watch, "MAX_WATCHERS", 1)
        await until(accepted)
        await until(accepted)
        async with client_at(url, alice) as other:

            async def held() -> bool:
                async with watching(other, job_id) as stream:
                    if stream.response.status_code != 200:
                        return False
                    refused = await client.get(f"/jobs/{job_id}/events")
                    body = problem(refused, 503, "too_many_watchers")
                    assert "retry-after" in refused.headers
                    assert str(watch.MAX_WATCHERS) not in body["detail"]
                    return True

            await until(held)
        await until(accepted)


class TestShutdown:
    async def test_open_stream_does_not_delay_shutdown(
        self, settings: Settings, alice: dict[str, str], engine: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, logger="uvicorn.error")
        job_id = await add(engine)
        server = serving(create_app(settings))
        url = await asyncio.to_thread(server.__enter__)
        async with client_at(url, alice) as client, watching(client, job_id) as stream:
            assert (await next_event(stream)).name == "progress"
            stopping = asyncio.create_task(asyncio.to_thread(server.__exit__, None, None, None))
            # A whole answer: one that is cut off, as those are that outstay the grace, raises here.
            assert await stream.event() is None
            await stopping
        said = [record.getMessage() for record in caplog.records]
        assert "Shutting down" in said
        assert not any("graceful shutdown exceeded" in line for line in said), said
