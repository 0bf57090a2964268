"""The application as a whole, as its items show it."""

import httpx
import pytest

from app.main import create_app
from tests.support.api import client_of, signed_in
from tests.support.service import item, settings_with


class TestSideBySide:
    async def test_two_applications_keep_to_their_databases(self, database_url: str, fresh_database_url: str) -> None:
        first, second = [settings_with(DATABASE_URL=url) for url in (database_url, fresh_database_url)]
        alice = signed_in(first, "alice")
        async with (
            client_of(create_app(first), headers=alice) as of_first,
            client_of(create_app(second), headers=alice) as of_second,
        ):
            made = (await of_first.post("/items", json=item())).json()

            assert (await of_first.get("/items")).json()["items"] == [made]
            assert (await of_second.get("/items")).json()["items"] == []
            assert (await of_second.get(f"/items/{made['id']}")).status_code == 404


class TestCompression:
    @pytest.mark.parametrize(
        ("items", "accepted", "coding"), [(1, "gzip", None), (30, "identity", None), (30, "br, gzip", "gzip")]
    )
    async def test_is_for_large_answers_to_those_who_take_it(
        self, database_url: str, items: int, accepted: str, coding: str | None
    ) -> None:
        settings = settings_with(DATABASE_URL=database_url)
        async with client_of(create_app(settings), headers=signed_in(settings)) as client:
            for _ in range(items):
                await client.post("/items", json=item())
            response: httpx.Response = await client.get("/items", headers={"Accept-Encoding": accepted})

        assert len(response.json()["items"]) == items
        assert response.headers.get("content-encoding") == coding
