"""A large export, made by a worker process that hardly grows."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from typing import Any

import asyncpg
import psutil
import pytest

import app.jobs  # noqa: F401 - registers the kinds of jobs
from app.business import exports
from plinth.database.engine import Database

ITEMS = 40_000  # of 1.5 KB each
MAX_GROWTH = 15_000_000  # bytes: the file has 59 MB, the worker grows by 3
PATIENCE = 60.0  # seconds, for what takes two on an idle machine

INSERT_ITEMS = f"""
INSERT INTO item (owner, name, description, tags, created_at)
SELECT 'alice', 'item ' || n, repeat(md5(n::text), 40), ARRAY['even', 'tag ' || n % 7], now() - n * interval '1 second'
FROM generate_series(1, {ITEMS}) AS n
"""


@pytest.fixture
def worker(database_url: str) -> Iterator[psutil.Process]:
    """A worker as it runs in a pod."""
    environment = {"ENVIRONMENT": "test", "DATABASE_URL": database_url, "METRICS_PORT": "0", "LOG_FORMAT": "json"}
    process = subprocess.Popen(
        [sys.executable, "-m", "plinth.cli", "worker"],
        env=os.environ | environment | {"JOBS_POLL_INTERVAL": "0.1"},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0


async def made(database: Database, worker: psutil.Process, owner: str) -> tuple[dict[str, Any], int]:
    """An export of all that `owner` has, and the most memory that the worker used meanwhile."""
    async with database.session() as session:
        export = await exports.request_export(session, owner, format="ndjson", tag=None, keep=timedelta(days=1))
    deadline, most = time.monotonic() + PATIENCE, 0
    while export["status"] in ("pending", "running"):
        assert time.monotonic() < deadline, export
        await asyncio.sleep(0.05)
        most = max(most, worker.memory_info().rss)
        async with database.connection() as connection:
            export = await exports.get_export(connection, owner, export["id"])
    assert export["status"] == "ready"
    return export, most


async def test_large_export_takes_little_memory(
    database: Database, sql: asyncpg.Connection, worker: psutil.Process
) -> None:
    await sql.execute(INSERT_ITEMS, timeout=PATIENCE)
    _, before = await made(database, worker, "bob, who has no items")

    export, most = await made(database, worker, "alice")

    assert most - before < MAX_GROWTH
    assert export["item_count"] == ITEMS
    digest, lines, size = sha256(), 0, 0
    content = await exports.read_content(database, export["id"], run=export["run"], start=0, stop=export["size"])
    async for piece in content:
        digest.update(piece)
        lines += piece.count(b"\n")
        size += len(piece)
    assert (lines, size, digest.hexdigest()) == (ITEMS, export["size"], export["digest"])
