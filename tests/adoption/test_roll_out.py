"""Pods of the last release and of this tree serve the same callers on one database that this tree has migrated."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from plinth.testing.servers import scratch_folder
from scripts.releases import releases
from tests.adoption.fork import OWN, ROOT, Fork

Calls: TypeAlias = list[dict[str, Any]]

# Migrates if it is told to, then answers requests of alice.
POD = """
import asyncio, json, sys
from app.core.config import Settings
from app.main import create_app
from plinth.testing import open_client, settings_for_tests
from plinth.testing.servers import migrate

url, migrates, calls = json.loads(sys.argv[1])

async def answer():
    async with open_client(create_app(settings_for_tests(Settings, DATABASE_URL=url))) as client:
        alice = client.signed_in("alice")
        answers = [await alice.request(**call) for call in calls]
        return [{"status": one.status_code, "headers": dict(one.headers), "body": one.json()} for one in answers]

if migrates:
    migrate(Settings, url)
print(json.dumps(asyncio.run(answer())))
"""


def pod(code: Path, url: str, calls: Calls, *, migrates: bool = False) -> Calls:
    """The answers of a process that runs the code in a folder."""
    done = subprocess.run(
        [sys.executable, "-c", POD, json.dumps((url, migrates, calls))],
        cwd=code,
        env=OWN | {"PYTHONPATH": str(code)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: Calls = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.fixture(scope="module")
def last_release() -> Iterator[Path]:
    """The code of the last release that the changelog names."""
    with scratch_folder() as folder:
        yield Fork(folder / "old", releases((ROOT / "CHANGELOG.md").read_text())[0].commit).folder


def making(name: str) -> Calls:
    """Calls that make rows of every kind, and read a first page."""
    return [
        {"method": "POST", "url": "/items", "json": {"name": f"{name} 1"}},
        {"method": "POST", "url": "/items", "json": {"name": f"{name} 2"}, "headers": {"Idempotency-Key": name}},
        {"method": "POST", "url": "/exports", "json": {"format": "csv"}},
        {"method": "GET", "url": "/items?sort=-name&limit=1"},
    ]


def finding(name: str, made: Calls) -> Calls:
    """Calls that take up what those calls have made."""
    item, _, export, page = (answer["body"] for answer in made)
    job = f"/jobs/{export['job_id']}"
    changed = {"json": {"description": "new"}, "headers": {"If-Match": '"1"'}}
    return [
        {"method": "GET", "url": "/items?sort=-name"},
        {"method": "GET", "url": f"/items?sort=-name&limit=1&cursor={page['next_cursor']}"},
        making(name)[1],
        {"method": "GET", "url": f"/exports/{export['id']}"},
        {"method": "PATCH", "url": f"/items/{item['id']}", **changed},
        {"method": "POST", "url": f"{job}/cancel"},
        {"method": "POST", "url": f"{job}/retry"},
    ]


def check(name: str, made: Calls, found: Calls) -> None:
    assert [answer["status"] for answer in made] == [201, 201, 202, 200]
    assert [answer["status"] for answer in found] == [200, 200, 201, 200, 200, 200, 200]
    assert [row["name"] for row in found[0]["body"]["items"]][:2] == [f"{name} 2", f"{name} 1"]
    assert [row["name"] for row in found[1]["body"]["items"]] == [f"{name} 1"]
    assert found[2]["headers"]["idempotency-replayed"] == "true"
    assert found[2]["body"] == made[1]["body"]
    assert found[6]["body"]["owner"] == "alice"


def test_each_release_serves_what_the_other_has_made(last_release: Path, empty_database_url: str) -> None:
    old = pod(last_release, empty_database_url, making("old"), migrates=True)
    new = pod(ROOT, empty_database_url, [*finding("old", old), *making("young")], migrates=True)
    check("old", old, new[:7])
    check("young", new[7:], pod(last_release, empty_database_url, finding("young", new[7:])))
