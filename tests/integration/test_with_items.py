"""The application as a whole, by what it does with items."""

from collections.abc import Callable
from typing import Any

import pytest

from app.main import create_app
from plinth.testing import Client, open_client


class TestSideBySide:
    async def test_two_applications_use_their_own_databases(
        self, client: Client, make_settings: Callable[..., Any], fresh_database_url: str
    ) -> None:
        async with open_client(create_app(make_settings(DATABASE_URL=fresh_database_url))) as other:
            of_first, of_second = client.signed_in("alice"), other.signed_in("alice")
            made = (await of_first.post("/items", json={"name": "lamp"})).json()

            assert (await of_first.get("/items")).json()["items"] == [made]
            assert (await of_second.get("/items")).json()["items"] == []
            assert (await of_second.get(f"/items/{made['id']}")).status_code == 404


class TestCompression:
    @pytest.mark.parametrize(
        ("items", "accepted", "coding"), [(1, "gzip", None), (30, "identity", None), (30, "br, gzip", "gzip")]
    )
    async def test_large_responses_are_compressed_when_accepted(
        self, client: Client, items: int, accepted: str, coding: str | None
    ) -> None:
        alice = client.signed_in("alice")
        for _ in range(items):
            await alice.post("/items", json={"name": "lamp"})
        response = await alice.get("/items", headers={"Accept-Encoding": accepted})

        assert len(response.json()["items"]) == items
        assert response.headers.get("content-encoding") == coding
