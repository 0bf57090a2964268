"""Exports, as their owner and as others see them: asked for, followed, fetched."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import asyncpg
import httpx
import pytest
from structlog.testing import capture_logs

import app.jobs  # noqa: F401 - registers the kinds of jobs
from app.business import export_file, exports
from app.core.config import Settings
from app.main import create_app
from app.schemas.export import ExportRead
from plinth.database.engine import Database
from plinth.jobs.engine.worker import Worker
from tests.support.api import problem, serving, signed_in
from tests.support.service import item, settings_with

PATIENCE = 20.0  # seconds, for what takes milliseconds on an idle machine
NOWHERE = "/exports/00000000-0000-0000-0000-000000000000"
TEXTS = [
    "plain",
    "a,b",
    'a "quoted" one',
    "two\nlines",
    "two\r\nlines",
    "Grüße, 世界 🎉",
    " edges ",
    "\x01\u2028\ufffe",
]
KEY = {"Idempotency-Key": "order-4711"}

Export = dict[str, Any]


@pytest.fixture(scope="module")
def settings(database_url: str, redis_url: str) -> Settings:
    return settings_with(DATABASE_URL=database_url, REDIS_URL=redis_url, JOBS_POLL_INTERVAL=0.05)


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[None]:
    """A worker, for as long as the block lasts."""
    worker = Worker(settings)
    running = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        worker.stop()
        await running


@pytest.fixture
async def worker(settings: Settings) -> AsyncIterator[None]:
    async with working(settings):
        yield


async def requested(api: httpx.AsyncClient, **values: Any) -> Export:
    response = await api.post("/exports", json={"format": "ndjson", **values})
    assert response.status_code == 202, response.text
    export: Export = response.json()
    return export


async def ready(api: httpx.AsyncClient, export: Export) -> Export:
    """The export once its job has ended; it has to be ready then."""
    async with asyncio.timeout(PATIENCE):
        while export["status"] in ("pending", "running"):
            await asyncio.sleep(0.02)
            export = (await api.get(f"/exports/{export['id']}")).json()
    assert export["status"] == "ready"
    return export


async def made(api: httpx.AsyncClient, **values: Any) -> Export:
    return await ready(api, await requested(api, **values))


def content_path(export: Export) -> str:
    return f"/exports/{export['id']}/content"


class TestRequest:
    async def test_is_accepted_with_the_export_and_where_it_is(
        self, api: httpx.AsyncClient, database: asyncpg.Connection
    ) -> None:
        response = await api.post("/exports", json={"format": "csv", "tag": "heavy"})

        assert response.status_code == 202
        export = ExportRead.model_validate_json(response.content)
        assert (export.format, export.tag, export.status) == ("csv", "heavy", "pending")
        assert (export.item_count, export.size, export.ready_at, export.links.content) == (None, None, None, None)
        assert (export.expires_at - export.created_at).days == 1
        assert export.links.job == f"/api/v1/jobs/{export.job_id}"
        assert export.links.events == f"/api/v1/jobs/{export.job_id}/events"
        assert response.headers["location"] == f"/api/v1/exports/{export.id}"
        assert (await api.get(f"/exports/{export.id}")).content == response.content
        job = await database.fetchrow("SELECT id, kind, owner, queue, payload FROM job")
        assert job is not None
        assert (job["id"], job["kind"], job["owner"], job["queue"]) == (
            export.job_id,
            "exports.build",
            "alice",
            "default",
        )
        assert json.loads(job["payload"]) == {"export_id": str(export.id)}

    @pytest.mark.parametrize(
        ("body", "where"),
        [
            ({}, ["body", "format"]),
            ({"format": "xml"}, ["body", "format"]),
            ({"format": None}, ["body", "format"]),
            ({"format": "csv", "tag": ""}, ["body", "tag"]),
            ({"format": "csv", "tag": "x" * 51}, ["body", "tag"]),
            ({"format": "csv", "tag": "\0"}, ["body", "tag"]),
            ({"format": "csv", "tag": 1}, ["body", "tag"]),
            ({"format": "csv", "owner": "bob"}, ["body", "owner"]),
            ([], ["body"]),
        ],
    )
    async def test_says_which_field_is_wrong(self, api: httpx.AsyncClient, body: Any, where: list[str]) -> None:
        response = await api.post("/exports", json=body)

        assert [error["loc"] for error in problem(response, 422, "validation_error")["errors"]] == [where]

    async def test_of_one_owner_there_are_so_many_at_a_time(self, api: httpx.AsyncClient, bob: dict[str, str]) -> None:
        for _ in range(exports.MAX_UNFINISHED):
            await requested(api)
        problem(await api.post("/exports", json={"format": "csv"}), 409, "too_many")
        assert (await api.post("/exports", json={"format": "csv"}, headers=bob)).status_code == 202

    async def test_needs_a_caller(self, service: httpx.AsyncClient) -> None:
        for response in (
            await service.post("/exports", json={"format": "csv"}),
            await service.get(NOWHERE),
            await service.get(f"{NOWHERE}/content"),
        ):
            problem(response, 401)

    async def test_sent_again_with_its_key_makes_one_export_and_one_job(
        self, api: httpx.AsyncClient, database: asyncpg.Connection
    ) -> None:
        first, again = [await api.post("/exports", json={"format": "csv"}, headers=KEY) for _ in range(2)]

        assert (first.status_code, again.status_code) == (202, 202)
        assert first.content == again.content
        assert first.headers["location"] == again.headers["location"]
        assert again.headers["idempotency-replayed"] == "true"
        assert await database.fetchval("SELECT count(*) FROM export") == 1
        assert await database.fetchval("SELECT count(*) FROM job") == 1

    @pytest.mark.parametrize("headers", [{}, KEY])
    async def test_that_cannot_be_committed_leaves_neither_export_nor_job(
        self, api: httpx.AsyncClient, database: asyncpg.Connection, headers: dict[str, str]
    ) -> None:
        await database.execute(
            """
            CREATE FUNCTION break_export() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$;
            CREATE CONSTRAINT TRIGGER broken AFTER INSERT ON export
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION break_export();
            """
        )
        try:
            with capture_logs():
                response = await api.post("/exports", json={"format": "csv"}, headers=headers)
        finally:
            await database.execute("DROP FUNCTION break_export CASCADE")

        problem(response, 500, "internal_error")
        for table in ("export", "job", "idempotency_record"):
            assert await database.fetchval(f"SELECT count(*) FROM {table}") == 0


class TestStatus:
    @pytest.mark.parametrize(
        ("state", "status"),
        [
            ("scheduled", "pending"),
            ("available", "pending"),
            ("retryable", "pending"),
            ("running", "running"),
            ("cancelled", "cancelled"),
            ("discarded", "failed"),
            ("pruned", "failed"),
        ],
    )
    async def test_is_that_of_the_job(
        self, api: httpx.AsyncClient, database: asyncpg.Connection, state: str, status: str
    ) -> None:
        export = await requested(api)
        if state in ("cancelled", "discarded"):
            await database.execute(
                "INSERT INTO job_history (id, kind, queue, priority, owner, payload, max_attempts, run_at, state, "
                "finished_at) SELECT id, kind, queue, priority, owner, payload, max_attempts, run_at, $1, now() "
                "FROM job",
                state,
            )
        if state in ("cancelled", "discarded", "pruned"):
            await database.execute("DELETE FROM job")
        else:
            await database.execute("UPDATE job SET state = $1", state)

        assert (await api.get(f"/exports/{export['id']}")).json() == export | {"status": status}
        found = problem(await api.get(content_path(export)), 409, "export_not_ready")
        assert status in found["detail"]

    async def test_is_nobody_elses_business(
        self, api: httpx.AsyncClient, bob: dict[str, str], worker: None, database: asyncpg.Connection
    ) -> None:
        export = await made(api)
        nothing = problem(await api.get(NOWHERE), 404, "not_found")

        for path in (f"/exports/{export['id']}", content_path(export)):
            response = await api.get(path, headers=bob)
            assert problem(response, 404) | {"request_id": ""} == nothing | {"request_id": ""}
        assert (await api.head(content_path(export), headers=bob)).status_code == 404

    async def test_what_has_expired_does_not_exist(
        self, api: httpx.AsyncClient, worker: None, database: asyncpg.Connection
    ) -> None:
        export = await made(api)
        await database.execute("UPDATE export SET expires_at = now()")

        problem(await api.get(f"/exports/{export['id']}"), 404)
        problem(await api.get(content_path(export)), 404)


class TestFile:
    async def items(self, api: httpx.AsyncClient, bob: dict[str, str]) -> list[dict[str, Any]]:
        """Some items of alice, oldest first; and others that are no concern of her export."""
        kept = []
        for text in TEXTS:
            created = await api.post("/items", json=item(name=text, description=text, tags=[text, "t"]))
            kept.append(created.json())
        kept.append((await api.post("/items", json=item(name="bare"))).json())
        deleted = (await api.post("/items", json=item(tags=["t"]))).json()
        await api.delete(f"/items/{deleted['id']}")
        await api.post("/items", json=item(tags=["t"]), headers=bob)
        return kept

    async def test_as_ndjson_has_each_item_as_the_api_shows_it(
        self, api: httpx.AsyncClient, bob: dict[str, str], worker: None
    ) -> None:
        items = await self.items(api, bob)

        export = await made(api, format="ndjson")
        response = await api.get(content_path(export))

        assert response.headers["content-type"] == "application/x-ndjson"
        shown = [(await api.get(f"/items/{created['id']}")).content for created in items]
        assert response.content.split(b"\n") == [*shown, b""]
        assert (export["item_count"], export["size"]) == (len(items), len(response.content))

    async def test_as_csv_has_the_same_in_rows(self, api: httpx.AsyncClient, bob: dict[str, str], worker: None) -> None:
        items = await self.items(api, bob)

        response = await api.get(content_path(await made(api, format="csv")))

        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        rows = list(csv.DictReader(io.StringIO(response.content.decode(), newline=""), strict=True))
        for row, created in zip(rows, items, strict=True):
            assert list(row) == list(created)
            values = row | {"tags": json.loads(row["tags"]), "version": int(row["version"])}
            assert values == created | {"description": created["description"] or ""}

    async def test_has_only_the_items_with_the_tag(
        self, api: httpx.AsyncClient, bob: dict[str, str], worker: None
    ) -> None:
        items = await self.items(api, bob)

        export = await made(api, tag="a,b")
        lines = (await api.get(content_path(export))).text.splitlines()

        assert [json.loads(line) for line in lines] == [created for created in items if "a,b" in created["tags"]]
        assert export["item_count"] == 1

    @pytest.mark.parametrize(("kind", "size"), [("ndjson", 0), ("csv", 56)])
    async def test_may_have_no_items(self, api: httpx.AsyncClient, worker: None, kind: str, size: int) -> None:
        export = await made(api, format=kind)

        for headers in ({}, {"Range": "bytes=0-99"}):
            response = await api.get(content_path(export), headers=headers)
            assert response.is_success
            assert len(response.content) == size == int(response.headers["content-length"])
        assert (export["item_count"], export["size"]) == (0, size)


class TestContent:
    """Its chunks have a hundred bytes here."""

    @pytest.fixture
    async def export(self, api: httpx.AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Export:
        monkeypatch.setattr(export_file, "CHUNK_BYTES", 100)
        for number in range(10):
            await api.post("/items", json=item(name=f"{number}"))
        async with working(settings):
            return await made(api)

    @pytest.fixture
    async def content(self, api: httpx.AsyncClient, export: Export) -> bytes:
        return (await api.get(content_path(export))).content

    async def test_comes_whole_and_as_it_is(self, api: httpx.AsyncClient, export: Export) -> None:
        response = await api.get(content_path(export), headers={"Accept-Encoding": "gzip, br"})

        assert response.status_code == 200
        assert response.content.count(b"\n") == 10
        digest, date = sha256(response.content).hexdigest(), export["ready_at"][:10]
        for name, value in {
            "etag": f'"{digest}"',
            "content-length": str(export["size"]),
            "content-encoding": "identity",
            "accept-ranges": "bytes",
            "content-disposition": f'attachment; filename="items-{date}.ndjson"',
            "cache-control": "private, no-cache, no-transform",
            "x-content-type-options": "nosniff",
        }.items():
            assert response.headers[name] == value
        assert export["links"]["content"] == f"/api/v1{content_path(export)}"

    async def test_can_be_looked_at_without_fetching_it(self, api: httpx.AsyncClient, export: Export) -> None:
        got = await api.get(content_path(export))
        # A range is for GET alone.
        head = await api.head(content_path(export), headers={"Range": "bytes=0-1"})

        assert (head.status_code, head.content) == (200, b"")
        for headers in (got.headers, head.headers):
            del headers["x-request-id"]
        assert head.headers == got.headers

    async def test_comes_in_parts(self, api: httpx.AsyncClient, export: Export, content: bytes) -> None:
        size = len(content)
        edges = sorted({0, 1, 99, 100, 101, 150, 200, 299, 300, size // 100 * 100, size - 1})
        parts = [(first, last) for first in edges for last in edges if first <= last]
        assert size > 1000

        for first, last in parts:
            response = await api.get(content_path(export), headers={"Range": f"bytes={first}-{last}"})
            assert response.status_code == 206
            assert response.content == content[first : last + 1]
            assert response.headers["content-range"] == f"bytes {first}-{last}/{size}"
            assert response.headers["content-length"] == str(last - first + 1)

    @pytest.mark.parametrize(
        ("header", "part"), [("bytes=1234-", slice(1234, None)), ("bytes=-101", slice(-101, None))]
    )
    async def test_comes_from_somewhere_to_its_end(
        self, api: httpx.AsyncClient, export: Export, content: bytes, header: str, part: slice
    ) -> None:
        response = await api.get(content_path(export), headers={"Range": header, "Accept-Encoding": "gzip"})

        assert (response.status_code, response.content) == (206, content[part])

    async def test_has_nothing_beyond_its_end(self, api: httpx.AsyncClient, export: Export, content: bytes) -> None:
        response = await api.get(content_path(export), headers={"Range": f"bytes={len(content)}-"})

        problem(response, 416, "range_not_satisfiable")
        assert response.headers["content-range"] == f"bytes */{len(content)}"

    @pytest.mark.parametrize("header", ["bytes=0-1,5-6", "bytes=5-1", "lines=1-2"])
    async def test_comes_whole_to_what_is_no_range(
        self, api: httpx.AsyncClient, export: Export, content: bytes, header: str
    ) -> None:
        response = await api.get(content_path(export), headers={"Range": header})

        assert (response.status_code, response.content) == (200, content)

    async def test_goes_on_only_where_it_is_the_same_file(
        self, api: httpx.AsyncClient, export: Export, content: bytes
    ) -> None:
        etag = (await api.head(content_path(export))).headers["etag"]

        same = await api.get(content_path(export), headers={"Range": "bytes=5-", "If-Range": etag})
        other = await api.get(content_path(export), headers={"Range": "bytes=5-", "If-Range": '"another"'})

        assert (same.status_code, same.content) == (206, content[5:])
        assert (other.status_code, other.content) == (200, content)

    async def test_is_not_sent_to_those_who_have_it(self, api: httpx.AsyncClient, export: Export) -> None:
        etag = (await api.head(content_path(export))).headers["etag"]

        for header in (etag, f"W/{etag}", f'"a", {etag}', "*"):
            response = await api.get(content_path(export), headers={"If-None-Match": header, "Range": "bytes=0-1"})
            assert (response.status_code, response.content) == (304, b"")
            assert response.headers["etag"] == etag
        for header in ('"a"', etag.strip('"'), ""):
            response = await api.get(content_path(export), headers={"If-None-Match": header})
            assert response.status_code == 200


class TestBrokenDownload:
    @pytest.fixture
    def url(self, settings: Settings) -> Iterator[str]:
        with serving(create_app(settings)) as url:
            yield url

    @pytest.mark.parametrize("lost", [0, 1, 7])
    async def test_of_a_file_that_has_vanished_never_looks_whole(
        self,
        api: httpx.AsyncClient,
        settings: Settings,
        url: str,
        database: asyncpg.Connection,
        monkeypatch: pytest.MonkeyPatch,
        lost: int,
    ) -> None:
        monkeypatch.setattr(export_file, "CHUNK_BYTES", 100)
        for number in range(10):
            await api.post("/items", json=item(name=f"{number}"))
        async with working(settings):
            export = await made(api)
        await database.execute("DELETE FROM export_chunk WHERE start >= $1", lost * 100)

        received = b""

        async def download() -> None:
            nonlocal received
            async with (
                httpx.AsyncClient(headers=signed_in(settings, "alice")) as client,
                client.stream("GET", f"{url}/api/v1{content_path(export)}") as response,
            ):
                assert response.headers["content-length"] == str(export["size"])
                async for piece in response.aiter_bytes():
                    received += piece

        with capture_logs(), pytest.raises(httpx.RemoteProtocolError):
            await download()
        assert len(received) == lost * 100


class TestSlowReader:
    async def test_holds_no_connection(
        self, api: httpx.AsyncClient, settings: Settings, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(export_file, "CHUNK_BYTES", 100)
        for number in range(10):
            await api.post("/items", json=item(name=f"{number}"))
        async with working(settings):
            export = await made(api)
        run = await database.fetchval("SELECT run FROM export")
        pool_of_one = Database(settings.model_copy(update={"DB_POOL_SIZE": 1, "DB_POOL_TIMEOUT": 1.0}))

        readers = [
            exports.read_content(pool_of_one, export["id"], run=run, start=0, stop=export["size"]) for _ in range(5)
        ]
        beginnings = [await anext(reader) for reader in readers]  # each has begun, and none has ended
        contents = [
            first + b"".join([piece async for piece in reader])
            for first, reader in zip(beginnings, readers, strict=True)
        ]
        await pool_of_one.aclose()

        assert {sha256(content).hexdigest() for content in contents} == {
            await database.fetchval("SELECT digest FROM export")
        }
