"""A request that is sent again with its `Idempotency-Key` takes effect once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import httpx
import pytest
from structlog.testing import capture_logs

from plinth.testing import problem
from tests.support.notes import note

KEY = {"Idempotency-Key": "order-4711"}


class TestReplay:
    async def test_replay_is_the_first_response_byte_for_byte(
        self, api: httpx.AsyncClient, sql: asyncpg.Connection
    ) -> None:
        body = note(text="Grüße 🎉", tags=["a"])

        first, again = [await api.post("/notes", json=body, headers=KEY) for _ in range(2)]

        assert (first.status_code, again.status_code) == (201, 201)
        assert first.content == again.content
        for name in ("content-type", "location", "etag"):
            assert first.headers[name] == again.headers[name]
        assert "idempotency-replayed" not in first.headers
        assert again.headers["idempotency-replayed"] == "true"
        assert await sql.fetchval("SELECT count(*) FROM note") == 1

    async def test_response_with_a_key_equals_the_response_without(self, api: httpx.AsyncClient) -> None:
        keyed = await api.post("/notes", json=note(tags=["a"]), headers=KEY)

        assert keyed.content == (await api.get(keyed.headers["location"].removeprefix("/api/v1"))).content

    async def test_replay_is_the_first_response_after_the_note_has_changed(self, api: httpx.AsyncClient) -> None:
        first = await api.post("/notes", json=note(), headers=KEY)
        path = first.headers["location"].removeprefix("/api/v1")
        await api.patch(path, json={"text": "new"}, headers={"If-Match": "*"})

        assert (await api.post("/notes", json=note(), headers=KEY)).content == first.content

    async def test_key_of_one_caller_replays_nothing_to_another(
        self, api: httpx.AsyncClient, bob: dict[str, str]
    ) -> None:
        mine = await api.post("/notes", json=note(), headers=KEY)
        theirs = await api.post("/notes", json=note(), headers=KEY | bob)

        assert (mine.status_code, theirs.status_code) == (201, 201)
        assert mine.json()["id"] != theirs.json()["id"]


class TestKeys:
    @pytest.mark.parametrize("body", [note(text="another"), note(tags=[])])
    async def test_key_of_another_request_is_refused(
        self, api: httpx.AsyncClient, body: object, sql: asyncpg.Connection
    ) -> None:
        await api.post("/notes", json=note(), headers=KEY)

        problem(await api.post("/notes", json=body, headers=KEY), 422, "idempotency_key_reused")
        assert await sql.fetchval("SELECT count(*) FROM note") == 1

    @pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é", "\x7f", "\xa0"])
    async def test_key_outside_of_visible_ascii_or_255_characters_is_refused(
        self, api: httpx.AsyncClient, key: str
    ) -> None:
        response = await api.post("/notes", json=note(), headers={b"Idempotency-Key": key.encode("latin-1")})

        assert problem(response, 422)["errors"][0]["loc"] == ["header", "Idempotency-Key"]

    @pytest.mark.parametrize("key", ["x", "x" * 255, "!~'\";--%s{}"])
    async def test_any_visible_ascii_key_is_accepted(self, api: httpx.AsyncClient, key: str) -> None:
        response = await api.post("/notes", json=note(), headers={"Idempotency-Key": key})

        assert response.status_code == 201

    async def test_expired_key_may_be_used_again(self, api: httpx.AsyncClient, sql: asyncpg.Connection) -> None:
        await api.post("/notes", json=note(), headers=KEY)
        await sql.execute("UPDATE idempotency_record SET expires_at = now() - interval '1 second'")

        response = await api.post("/notes", json=note(text="another"), headers=KEY)

        assert response.status_code == 201
        assert "idempotency-replayed" not in response.headers
        assert await sql.fetchval("SELECT count(*) FROM idempotency_record") == 1

    async def test_key_is_kept_for_a_day(self, api: httpx.AsyncClient, sql: asyncpg.Connection) -> None:
        await api.post("/notes", json=note(), headers=KEY)

        left = await sql.fetchval("SELECT expires_at - now() FROM idempotency_record")
        assert timedelta(hours=23, minutes=59) < left <= timedelta(hours=24)

    async def test_new_keys_delete_expired_keys(self, api: httpx.AsyncClient, sql: asyncpg.Connection) -> None:
        for n in range(25):
            await api.post("/notes", json=note(), headers={"Idempotency-Key": f"old-{n}"})
        await sql.execute("UPDATE idempotency_record SET expires_at = now() - interval '1 second'")

        left = []
        for n in range(3):
            await api.post("/notes", json=note(), headers={"Idempotency-Key": f"new-{n}"})
            left.append(await sql.fetchval("SELECT count(*) FROM idempotency_record WHERE key LIKE 'old-%'"))

        assert left == [15, 5, 0]


class TestConcurrency:
    async def test_twenty_concurrent_requests_with_one_key_make_one_note(
        self, api: httpx.AsyncClient, sql: asyncpg.Connection
    ) -> None:
        responses = await asyncio.gather(*(api.post("/notes", json=note(), headers=KEY) for _ in range(20)))

        made = [response for response in responses if response.status_code == 201]
        for response in responses:
            if response.status_code != 201:
                problem(response, 409, "idempotency_in_progress")
        assert len({response.content for response in made}) == 1
        assert Counter("idempotency-replayed" in response.headers for response in made)[False] == 1
        assert await sql.fetchval("SELECT count(*) FROM note") == 1
        assert (await api.post("/notes", json=note(), headers=KEY)).content == made[0].content

    async def test_twenty_concurrent_requests_with_twenty_keys_make_twenty_notes(
        self, api: httpx.AsyncClient, sql: asyncpg.Connection
    ) -> None:
        keys = [{"Idempotency-Key": str(n)} for n in range(20)]

        responses = await asyncio.gather(*(api.post("/notes", json=note(), headers=key) for key in keys))

        assert {response.status_code for response in responses} == {201}
        assert await sql.fetchval("SELECT count(*) FROM note") == 20


class TestFailure:
    @pytest.fixture
    async def broken(self, sql: asyncpg.Connection) -> AsyncIterator[None]:
        """Inserting a note fails, at the very end: when its transaction commits."""
        await sql.execute(
            """
            CREATE FUNCTION break_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$;
            CREATE CONSTRAINT TRIGGER broken AFTER INSERT ON note
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION break_note();
            """
        )
        yield
        await sql.execute("DROP FUNCTION IF EXISTS break_note CASCADE")

    async def test_failed_request_leaves_nothing_and_frees_its_key(
        self, api: httpx.AsyncClient, sql: asyncpg.Connection, broken: None
    ) -> None:
        with capture_logs():
            problem(await api.post("/notes", json=note(), headers=KEY), 500, "internal_error")
        assert await sql.fetchval("SELECT count(*) FROM idempotency_record") == 0
        assert await sql.fetchval("SELECT count(*) FROM note") == 0

        await sql.execute("DROP FUNCTION break_note CASCADE")

        assert (await api.post("/notes", json=note(), headers=KEY)).status_code == 201

    async def test_invalid_request_does_not_use_up_its_key(self, api: httpx.AsyncClient) -> None:
        problem(await api.post("/notes", json={}, headers=KEY), 422)

        assert (await api.post("/notes", json=note(), headers=KEY)).status_code == 201
