"""The tiny service behaves as the tests that use it expect."""

from datetime import timedelta

import asyncpg
import pytest

from notes.config import Settings
from notes.jobs import Digest, Purge, digest, purge
from plinth.jobs import State
from plinth.testing import Client, Jobs
from tests.support.notes import note


@pytest.fixture
def alice(client: Client) -> Client:
    return client.signed_in("alice")


async def test_note_is_visible_to_its_owner_only(client: Client, alice: Client) -> None:
    made = (await alice.post("/notes", json=note(tags=["a"]))).json()
    assert (await alice.get("/notes")).json()["items"] == [made]
    assert (await alice.get(f"/notes/{made['id']}")).json() == made
    for method in ("GET", "DELETE"):
        assert (await client.signed_in("bob").request(method, f"/notes/{made['id']}")).status_code == 404


async def test_digest_is_written_by_its_job(alice: Client, jobs: Jobs) -> None:
    for text in ("buy milk\nand bread", "call bob"):
        await alice.post("/notes", json=note(text=text))
    made = (await alice.post("/digests")).json()["job_id"]
    await jobs.enqueued(digest, owner="alice")
    (ended,) = await jobs.run_due()
    assert (str(ended.id), ended.state) == (made, State.SUCCEEDED)
    newest = (await alice.get("/notes")).json()["items"][0]
    assert (newest["text"], newest["tags"]) == ("2 notes\nbuy milk\ncall bob", ["digest"])


async def test_digest_leaves_deleted_notes_out(alice: Client, jobs: Jobs) -> None:
    made = (await alice.post("/notes", json=note())).json()
    await alice.delete(f"/notes/{made['id']}")
    await jobs.perform(digest, Digest(owner="alice"))
    (written,) = (await alice.get("/notes")).json()["items"]
    assert written["text"] == "0 notes"


async def test_deleted_notes_are_purged_after_the_configured_days(
    alice: Client, jobs: Jobs, sql: asyncpg.Connection, settings: Settings
) -> None:
    texts = ("kept", "deleted", "deleted long ago")
    made = [(await alice.post("/notes", json=note(text=text))).json() for text in texts]
    for one in made[1:]:
        await alice.delete(f"/notes/{one['id']}")
    too_long = timedelta(days=settings.NOTES_KEEP_DAYS, hours=1)
    await sql.execute("UPDATE note SET deleted_at = deleted_at - $1::interval WHERE id = $2", too_long, made[2]["id"])
    await jobs.perform(purge, Purge())
    assert [row["text"] for row in await sql.fetch("SELECT text FROM note ORDER BY id")] == ["kept", "deleted"]
