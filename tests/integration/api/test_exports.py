"""Exports, for their owner and for other callers: request, status, download."""

import asyncio
import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy.exc import DBAPIError

from app.business import export_file, exports
from app.core.config import Settings
from app.main import create_app
from app.schemas.export import ExportRead
from plinth.database import patience
from plinth.database.engine import Database, DatabaseUnavailableError
from plinth.testing import Client, Jobs, problem, serving, until
from tests.support.metrics import metric

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


async def requested(alice: Client, **values: Any) -> Export:
    response = await alice.post("/exports", json={"format": "ndjson", **values})
    assert response.status_code == 202, response.text
    export: Export = response.json()
    return export


async def made(alice: Client, jobs: Jobs, **values: Any) -> Export:
    """An export whose job has run."""
    export = await requested(alice, **values)
    await jobs.run_due()
    ready: Export = (await alice.get(f"/exports/{export['id']}")).json()
    assert ready["status"] == "ready"
    return ready


def content_path(export: Export) -> str:
    return f"/exports/{export['id']}/content"


class TestRequest:
    async def test_requested_export_is_202_with_its_location(self, alice: Client, jobs: Jobs) -> None:
        response = await alice.post("/exports", json={"format": "csv", "tag": "heavy"})

        assert response.status_code == 202
        export = ExportRead.model_validate_json(response.content)
        assert (export.format, export.tag, export.status) == ("csv", "heavy", "pending")
        assert (export.item_count, export.size, export.ready_at, export.links.content) == (None, None, None, None)
        assert (export.expires_at - export.created_at).days == 1
        assert export.links.job == f"/api/v1/jobs/{export.job_id}"
        assert export.links.events == f"/api/v1/jobs/{export.job_id}/events"
        assert response.headers["location"] == f"/api/v1/exports/{export.id}"
        assert (await alice.get(f"/exports/{export.id}")).content == response.content
        job = await jobs.enqueued("exports.build", export_id=export.id)
        assert (job.id, job.owner, job.queue) == (export.job_id, "alice", "default")

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
    async def test_invalid_request_names_the_field(self, alice: Client, body: Any, where: list[str]) -> None:
        response = await alice.post("/exports", json=body)

        assert [error["loc"] for error in problem(response, 422, "validation_error")["errors"]] == [where]

    async def test_exports_need_a_token(self, client: Client) -> None:
        for response in (
            await client.post("/exports", json={"format": "csv"}),
            await client.get(NOWHERE),
            await client.get(f"{NOWHERE}/content"),
        ):
            problem(response, 401)

    async def test_repeated_request_with_a_key_makes_one_export_and_one_job(
        self, alice: Client, sql: asyncpg.Connection
    ) -> None:
        first, again = [await alice.post("/exports", json={"format": "csv"}, headers=KEY) for _ in range(2)]

        assert (first.status_code, again.status_code) == (202, 202)
        assert first.content == again.content
        assert first.headers["location"] == again.headers["location"]
        assert again.headers["idempotency-replayed"] == "true"
        assert await sql.fetchval("SELECT count(*) FROM export") == 1
        assert await sql.fetchval("SELECT count(*) FROM job") == 1

    @pytest.mark.parametrize("headers", [{}, KEY])
    async def test_failed_commit_leaves_neither_export_nor_job(
        self, alice: Client, sql: asyncpg.Connection, headers: dict[str, str]
    ) -> None:
        await sql.execute(
            """
            CREATE FUNCTION break_export() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$;
            CREATE CONSTRAINT TRIGGER broken AFTER INSERT ON export
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION break_export();
            """
        )
        try:
            with pytest.raises(DBAPIError, match="broken"):
                await alice.post("/exports", json={"format": "csv"}, headers=headers)
        finally:
            await sql.execute("DROP FUNCTION break_export CASCADE")

        for table in ("export", "job", "idempotency_record"):
            assert await sql.fetchval(f"SELECT count(*) FROM {table}") == 0


class TestLimits:
    """Five exports of an owner may be unfinished, and fifty kept, at whatever door and moment they are asked for."""

    async def statuses(self, alice: Client, path: str, count: int, **options: Any) -> Counter[int]:
        """What so many requests at once are answered with."""
        answers = await asyncio.gather(*(alice.post(path, **options) for _ in range(count)))
        for answer in answers:
            if answer.status_code == 409:
                problem(answer, 409, "too_many")
        return Counter(answer.status_code for answer in answers)

    async def test_number_of_unfinished_exports_of_an_owner_is_limited(self, alice: Client, bob: Client) -> None:
        for _ in range(5):
            await requested(alice)
        problem(await alice.post("/exports", json={"format": "csv"}), 409, "too_many")
        assert (await bob.post("/exports", json={"format": "csv"})).status_code == 202

    async def test_requests_at_the_same_time_make_no_more_exports(self, alice: Client, sql: asyncpg.Connection) -> None:
        assert await self.statuses(alice, "/exports", 20, json={"format": "csv"}) == {202: 5, 409: 15}
        assert await sql.fetchval("SELECT count(*) FROM export") == 5

    async def test_requests_at_the_same_time_keep_no_more_exports(self, alice: Client, sql: asyncpg.Connection) -> None:
        await sql.execute(
            "INSERT INTO export (owner, format, job_id, ready_at, expires_at) "
            "SELECT 'alice', 'csv', uuid7(), now(), now() + interval '1 day' FROM generate_series(1, 48)"
        )
        assert await self.statuses(alice, "/exports", 5, json={"format": "csv"}) == {202: 2, 409: 3}

    async def test_retried_jobs_make_no_more_exports(self, alice: Client, sql: asyncpg.Connection) -> None:
        cancelled = []
        for _ in range(10):
            export = await requested(alice)
            assert (await alice.post(f"/jobs/{export['job_id']}/cancel")).status_code == 200
            cancelled.append(export["job_id"])

        answers = await asyncio.gather(*(alice.post(f"/jobs/{job_id}/retry") for job_id in cancelled))

        assert Counter(answer.status_code for answer in answers) == {200: 5, 409: 5}
        assert {answer.json().get("code", "too_many") for answer in answers} == {"too_many"}
        assert await sql.fetchval("SELECT count(*) FROM job") == 5
        problem(await alice.post("/exports", json={"format": "csv"}), 409, "too_many")
        refused = next(job_id for job_id, answer in zip(cancelled, answers, strict=True) if answer.status_code == 409)
        taken = next(job_id for job_id, answer in zip(cancelled, answers, strict=True) if answer.status_code == 200)
        await alice.post(f"/jobs/{taken}/cancel")
        assert (await alice.post(f"/jobs/{refused}/retry")).status_code == 200

    async def test_repeated_request_with_a_key_is_answered_at_the_limit(self, alice: Client) -> None:
        first = await alice.post("/exports", json={"format": "csv"}, headers=KEY)
        for _ in range(4):
            await requested(alice)

        problem(
            await alice.post("/exports", json={"format": "csv"}, headers={"Idempotency-Key": "new"}), 409, "too_many"
        )
        again = await alice.post("/exports", json={"format": "csv"}, headers=KEY)

        assert (again.status_code, again.content) == (202, first.content)


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
    async def test_status_of_an_export_follows_its_job(
        self, alice: Client, sql: asyncpg.Connection, state: str, status: str
    ) -> None:
        export = await requested(alice)
        if state in ("cancelled", "discarded"):
            await sql.execute(
                "INSERT INTO job_history (id, kind, queue, priority, owner, payload, max_attempts, run_at, state, "
                "finished_at) SELECT id, kind, queue, priority, owner, payload, max_attempts, run_at, $1, now() "
                "FROM job",
                state,
            )
        if state in ("cancelled", "discarded", "pruned"):
            await sql.execute("DELETE FROM job")
        else:
            await sql.execute("UPDATE job SET state = $1", state)

        assert (await alice.get(f"/exports/{export['id']}")).json() == export | {"status": status}
        found = problem(await alice.get(content_path(export)), 409, "export_not_ready")
        assert status in found["detail"]

    async def test_export_of_another_owner_is_not_found(self, alice: Client, bob: Client, jobs: Jobs) -> None:
        export = await made(alice, jobs)
        nothing = problem(await alice.get(NOWHERE), 404, "not_found")

        for path in (f"/exports/{export['id']}", content_path(export)):
            response = await bob.get(path)
            assert problem(response, 404) | {"request_id": ""} == nothing | {"request_id": ""}
        assert (await bob.head(content_path(export))).status_code == 404

    async def test_locked_export_of_another_owner_is_not_found(
        self, alice: Client, bob: Client, jobs: Jobs, sql: asyncpg.Connection
    ) -> None:
        export = await made(alice, jobs)
        nothing = problem(await alice.get(NOWHERE), 404)
        async with sql.transaction():
            await sql.execute("SELECT FROM export JOIN job_history ON job_history.id = job_id FOR UPDATE")

            for path in (f"/exports/{export['id']}", content_path(export)):
                assert problem(await bob.get(path), 404) | {"request_id": ""} == nothing | {"request_id": ""}
                assert (await alice.get(path)).status_code == 200
            for change in ("cancel", "retry"):
                problem(await bob.post(f"/jobs/{export['job_id']}/{change}"), 404)

    async def test_expired_export_is_not_found(self, alice: Client, jobs: Jobs, sql: asyncpg.Connection) -> None:
        export = await made(alice, jobs)
        await sql.execute("UPDATE export SET expires_at = now()")

        problem(await alice.get(f"/exports/{export['id']}"), 404)
        problem(await alice.get(content_path(export)), 404)


class TestFile:
    async def items(self, alice: Client, bob: Client) -> list[dict[str, Any]]:
        """Some items of alice, oldest first; and others that are no concern of her export."""
        kept = []
        for text in TEXTS:
            created = await alice.post("/items", json={"name": text, "description": text, "tags": [text, "t"]})
            kept.append(created.json())
        kept.append((await alice.post("/items", json={"name": "bare"})).json())
        deleted = (await alice.post("/items", json={"name": "tagged", "tags": ["t"]})).json()
        await alice.delete(f"/items/{deleted['id']}")
        await bob.post("/items", json={"name": "tagged", "tags": ["t"]})
        return kept

    async def test_ndjson_file_has_each_item_as_the_api_shows_it(self, alice: Client, bob: Client, jobs: Jobs) -> None:
        items = await self.items(alice, bob)

        export = await made(alice, jobs, format="ndjson")
        response = await alice.get(content_path(export))

        assert response.headers["content-type"] == "application/x-ndjson"
        shown = [(await alice.get(f"/items/{created['id']}")).content for created in items]
        assert response.content.split(b"\n") == [*shown, b""]
        assert (export["item_count"], export["size"]) == (len(items), len(response.content))

    async def test_csv_file_has_a_row_for_each_item(self, alice: Client, bob: Client, jobs: Jobs) -> None:
        items = await self.items(alice, bob)

        response = await alice.get(content_path(await made(alice, jobs, format="csv")))

        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        rows = list(csv.DictReader(io.StringIO(response.content.decode(), newline=""), strict=True))
        for row, created in zip(rows, items, strict=True):
            assert list(row) == list(created)
            values = row | {"tags": json.loads(row["tags"]), "version": int(row["version"])}
            assert values == created | {"description": created["description"] or ""}

    async def test_file_has_only_the_items_with_the_tag(self, alice: Client, bob: Client, jobs: Jobs) -> None:
        items = await self.items(alice, bob)

        export = await made(alice, jobs, tag="a,b")
        lines = (await alice.get(content_path(export))).text.splitlines()

        assert [json.loads(line) for line in lines] == [created for created in items if "a,b" in created["tags"]]
        assert export["item_count"] == 1

    @pytest.mark.parametrize(("kind", "size"), [("ndjson", 0), ("csv", 56)])
    async def test_file_without_items_is_served(self, alice: Client, jobs: Jobs, kind: str, size: int) -> None:
        export = await made(alice, jobs, format=kind)

        for headers in ({}, {"Range": "bytes=0-99"}):
            response = await alice.get(content_path(export), headers=headers)
            assert response.is_success
            assert len(response.content) == size == int(response.headers["content-length"])
        assert (export["item_count"], export["size"]) == (0, size)


class TestContent:
    """Its chunks have a hundred bytes here."""

    @pytest.fixture
    async def export(self, alice: Client, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Export:
        monkeypatch.setattr(export_file, "CHUNK_BYTES", 100)
        for number in range(10):
            await alice.post("/items", json={"name": f"{number}"})
        return await made(alice, jobs)

    @pytest.fixture
    async def content(self, alice: Client, export: Export) -> bytes:
        return (await alice.get(content_path(export))).content

    async def test_content_is_sent_whole_and_uncompressed(self, alice: Client, export: Export) -> None:
        response = await alice.get(content_path(export), headers={"Accept-Encoding": "gzip, br"})

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

    async def test_head_of_the_content_has_the_headers_of_get(self, alice: Client, export: Export) -> None:
        got = await alice.get(content_path(export))
        # A range is for GET alone.
        head = await alice.head(content_path(export), headers={"Range": "bytes=0-1"})

        assert (head.status_code, head.content) == (200, b"")
        for headers in (got.headers, head.headers):
            del headers["x-request-id"]
        assert head.headers == got.headers

    async def test_range_of_the_content_is_sent(self, alice: Client, export: Export, content: bytes) -> None:
        size = len(content)
        edges = sorted({0, 1, 99, 100, 101, 150, 200, 299, 300, size // 100 * 100, size - 1})
        parts = [(first, last) for first in edges for last in edges if first <= last]
        assert size > 1000

        for first, last in parts:
            response = await alice.get(content_path(export), headers={"Range": f"bytes={first}-{last}"})
            assert response.status_code == 206
            assert response.content == content[first : last + 1]
            assert response.headers["content-range"] == f"bytes {first}-{last}/{size}"
            assert response.headers["content-length"] == str(last - first + 1)

    @pytest.mark.parametrize(
        ("header", "part"), [("bytes=1234-", slice(1234, None)), ("bytes=-101", slice(-101, None))]
    )
    async def test_open_ended_range_is_sent_to_the_end(
        self, alice: Client, export: Export, content: bytes, header: str, part: slice
    ) -> None:
        response = await alice.get(content_path(export), headers={"Range": header, "Accept-Encoding": "gzip"})

        assert (response.status_code, response.content) == (206, content[part])

    async def test_range_beyond_the_end_is_416(self, alice: Client, export: Export, content: bytes) -> None:
        response = await alice.get(content_path(export), headers={"Range": f"bytes={len(content)}-"})

        problem(response, 416, "range_not_satisfiable")
        assert response.headers["content-range"] == f"bytes */{len(content)}"

    @pytest.mark.parametrize("header", ["bytes=0-1,5-6", "bytes=5-1", "lines=1-2"])
    async def test_invalid_or_multiple_ranges_are_ignored(
        self, alice: Client, export: Export, content: bytes, header: str
    ) -> None:
        response = await alice.get(content_path(export), headers={"Range": header})

        assert (response.status_code, response.content) == (200, content)

    async def test_if_range_sends_a_part_only_of_the_same_file(
        self, alice: Client, export: Export, content: bytes
    ) -> None:
        etag = (await alice.head(content_path(export))).headers["etag"]

        same = await alice.get(content_path(export), headers={"Range": "bytes=5-", "If-Range": etag})
        other = await alice.get(content_path(export), headers={"Range": "bytes=5-", "If-Range": '"another"'})

        assert (same.status_code, same.content) == (206, content[5:])
        assert (other.status_code, other.content) == (200, content)

    async def test_if_none_match_of_the_same_file_is_304(self, alice: Client, export: Export) -> None:
        etag = (await alice.head(content_path(export))).headers["etag"]

        for header in (etag, f"W/{etag}", f'"a", {etag}', "*"):
            response = await alice.get(content_path(export), headers={"If-None-Match": header, "Range": "bytes=0-1"})
            assert (response.status_code, response.content) == (304, b"")
            assert response.headers["etag"] == etag
        for header in ('"a"', etag.strip('"'), ""):
            response = await alice.get(content_path(export), headers={"If-None-Match": header})
            assert response.status_code == 200


class TestBrokenDownload:
    @pytest.fixture
    def url(self, settings: Settings) -> Iterator[str]:
        with serving(create_app(settings)) as url:
            yield url

    @pytest.mark.parametrize("lost", [1, 7])
    async def test_download_of_a_deleted_file_is_cut_off(
        self,
        alice: Client,
        jobs: Jobs,
        url: str,
        sql: asyncpg.Connection,
        monkeypatch: pytest.MonkeyPatch,
        lost: int,
    ) -> None:
        monkeypatch.setattr(export_file, "CHUNK_BYTES", 100)
        for number in range(10):
            await alice.post("/items", json={"name": f"{number}"})
        export = await made(alice, jobs)
        await sql.execute("DELETE FROM export_chunk WHERE start >= $1", lost * 100)

        received = b""

        async def download() -> None:
            nonlocal received
            async with (
                httpx.AsyncClient(headers=alice.headers) as client,
                client.stream("GET", f"{url}/api/v1{content_path(export)}") as response,
            ):
                assert response.headers["content-length"] == str(export["size"])
                async for piece in response.aiter_bytes():
                    received += piece

        with pytest.raises(httpx.RemoteProtocolError):
            await download()
        assert len(received) == lost * 100

    async def test_download_of_a_file_that_is_gone_is_not_begun(
        self, alice: Client, jobs: Jobs, sql: asyncpg.Connection
    ) -> None:
        await alice.post("/items", json={"name": "one"})
        export = await made(alice, jobs)
        await sql.execute("DELETE FROM export_chunk")

        problem(await alice.get(content_path(export)), 404, "not_found")


class TestSlowReader:
    async def test_slow_reader_holds_no_database_connection(
        self, alice: Client, jobs: Jobs, settings: Settings, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(export_file, "CHUNK_BYTES", 100)
        for number in range(10):
            await alice.post("/items", json={"name": f"{number}"})
        export = await made(alice, jobs)
        run = await sql.fetchval("SELECT run FROM export")
        pool_of_one = Database(settings.model_copy(update={"DB_POOL_SIZE": 1, "DB_POOL_TIMEOUT": 1.0}))

        readers = [
            await exports.read_content(pool_of_one, export["id"], run=run, start=0, stop=export["size"])
            for _ in range(5)
        ]
        beginnings = [await anext(reader) for reader in readers]  # each has begun, and none has ended
        contents = [
            first + b"".join([piece async for piece in reader])
            for first, reader in zip(beginnings, readers, strict=True)
        ]
        await pool_of_one.aclose()

        assert {sha256(content).hexdigest() for content in contents} == {
            await sql.fetchval("SELECT digest FROM export")
        }

    async def test_download_waits_for_a_pool_that_is_busy(
        self, alice: Client, jobs: Jobs, settings: Settings, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(export_file, "CHUNK_BYTES", 100)
        await alice.post("/items", json={"name": "a" * 200})
        export = await made(alice, jobs)
        run = await sql.fetchval("SELECT run FROM export")
        busy = Database(
            settings.model_copy(update={"DB_POOL_SIZE": 1, "DB_POOL_TIMEOUT": 0.01}), pool_name="busy for a while"
        )

        def timeouts() -> float:
            return metric("db_client_connection_timeouts_total", db_client_connection_pool_name="busy for a while")

        content = await exports.read_content(busy, export["id"], run=run, start=0, stop=export["size"])
        pieces = [await anext(content)]
        async with busy.connection():
            following = asyncio.ensure_future(anext(content))
            await until(lambda: timeouts() >= 3)
            assert not following.done()
        pieces += [await following, *[piece async for piece in content]]
        assert sha256(b"".join(pieces)).hexdigest() == await sql.fetchval("SELECT digest FROM export")

        monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0)
        content = await exports.read_content(busy, export["id"], run=run, start=0, stop=export["size"])
        await anext(content)
        async with busy.connection():
            with pytest.raises(DatabaseUnavailableError):
                await anext(content)
        await busy.aclose()


class TestManyDownloads:
    """A hundred downloads of one caller at once, from the application as it is deployed."""

    @pytest.fixture
    def url(self, settings: Settings) -> Iterator[str]:
        defaults = ("DB_POOL_SIZE", "DB_POOL_TIMEOUT", "MAX_REQUESTS_PER_CALLER")
        as_deployed = {name: Settings.model_fields[name].default for name in defaults}
        with serving(create_app(settings.model_copy(update=as_deployed))) as url:
            yield f"{url}/api/v1"

    async def test_downloads_of_one_caller_are_whole_or_refused_and_others_are_served(
        self, alice: Client, bob: Client, jobs: Jobs, url: str, sql: asyncpg.Connection
    ) -> None:
        await sql.execute(
            "INSERT INTO item (owner, name, description) "
            "SELECT 'alice', n::text, (SELECT string_agg(md5(n::text || m), '') FROM generate_series(1, 300) AS m) "
            "FROM generate_series(1, 1600) AS n"
        )
        export = await made(alice, jobs)
        size = export["size"]
        assert size > 15_000_000  # more than sockets hold: a download ends only when it is read
        kinds: list[tuple[dict[str, str], int]] = [
            ({"If-None-Match": '"another"'}, size),
            ({"Range": "bytes=1-"}, size - 1),
            ({"Range": "bytes=0-", "If-Range": '"another"'}, size),
        ]
        expected: list[int] = []
        sizes: list[int] = []
        go_on = asyncio.Event()

        async def download(client: httpx.AsyncClient, headers: dict[str, str], length: int) -> int:
            async with client.stream("GET", content_path(export), headers=headers) as response:
                if response.status_code == 429:
                    await response.aread()
                    problem(response, 429, "concurrency_limited")
                    return 0
                assert response.is_success
                expected.append(length)
                await go_on.wait()
                received = sum([len(piece) async for piece in response.aiter_raw()])
                sizes.append(received)
                return received

        async with (
            httpx.AsyncClient(base_url=url, headers=alice.headers, limits=httpx.Limits(), timeout=60) as of_alice,
            httpx.AsyncClient(base_url=url, headers=bob.headers, timeout=60) as of_bob,
        ):
            downloads = [asyncio.ensure_future(download(of_alice, *kinds[number % 3])) for number in range(100)]
            await until(lambda: len(expected) + sum(task.done() for task in downloads) == 100)
            answers = [(await of_bob.get("/items")).status_code for _ in range(20)]
            go_on.set()
            await asyncio.gather(*downloads)
            answers += [(await of_alice.get(path)).status_code for path in ("/items", f"/exports/{export['id']}")]

        assert answers == [200] * 22
        assert len(sizes) == 8
        assert sorted(sizes) == sorted(expected)
