"""Rows of this service belong to issuer and subject, as `principal.owner` names them."""

import asyncpg

from app.core.config import Settings
from app.main import create_app
from plinth.testing import open_client, settings_for_tests


async def test_items_exports_and_their_jobs_carry_the_issuer(fresh_database_url: str) -> None:
    connection = await asyncpg.connect(fresh_database_url)
    await connection.execute("UPDATE first_issuer SET issuer = 'https://another.example.com'")
    async with open_client(create_app(settings_for_tests(Settings, DATABASE_URL=fresh_database_url))) as client:
        alice = client.signed_in("alice")
        item = (await alice.post("/items", json={"name": "lamp"})).json()
        keyed = await alice.post("/items", json={"name": "desk"}, headers={"Idempotency-Key": "k"})
        export = (await alice.post("/exports", json={"format": "csv"})).json()
        path = f"/items/{item['id']}"
        answers = [
            keyed,
            await alice.get(path),
            await alice.get(f"/exports/{export['id']}"),
            await alice.get(f"/jobs/{export['job_id']}"),
            await alice.patch(path, json={"name": "new"}, headers={"If-Match": "*"}),
            await alice.delete(path),
        ]
        assert [answer.status_code for answer in answers] == [201, 200, 200, 200, 200, 204]
        for table in ("item", "export", "job"):
            found = await connection.fetchval(f"SELECT string_agg(DISTINCT owner, ' ') FROM {table}")
            assert (table, found) == (table, "alice\tplinth-local")

        # As release 0.1.0 wrote it: of the alice of the first issuer.
        old = await connection.fetchval("INSERT INTO item (owner, name) VALUES ('alice', 'old') RETURNING id")
        assert (await alice.get(f"/items/{old}")).status_code == 404
        assert [row["name"] for row in (await alice.get("/items")).json()["items"]] == ["desk"]
    await connection.close()
