# ruff: noqa: T201 - a script: the tests run it on this machine and, from a ConfigMap, in a pod of the cluster
"""Steady load on the API until a file appears, then a report of all that was asked and answered, as JSON.

    python load.py URL STOP_FILE

Reads from the environment TOKENS, one for each client, separated by blanks, and RATE, requests a second of each. Half
the clients keep their connections, the other half open one for each request. A client writes an item, reads it and
lists the first page; every fourth time it asks for an export as well. Whatever is no 2xx within 5 s has failed.

With RETRY=1 a client that was refused or cut off sends the same write again, under the same Idempotency-Key, until it
is accepted: what a caller does that must lose no data. Without it nothing is ever sent twice.
"""

import asyncio
import json
import os
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

RETRY = os.environ.get("RETRY") == "1"
PAUSE = 1 / float(os.environ.get("RATE", "4"))
# How long a write is sent again and again, in seconds.
PATIENCE = 60


class Failed(Exception):
    pass


class Caller:
    def __init__(self, url: str, token: str, *, keep: bool) -> None:
        # Named for its tag: what it exports is small, and its own.
        self.name = uuid4().hex[:12]
        self.requests = 0
        self.failures: list[str] = []
        # When each of these requests began, in seconds since 1970.
        self.failed_at: list[float] = []
        self.items: list[str] = []
        self.exports: list[str] = []
        self.slowest = 0.0
        self.client = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=5,
            limits=httpx.Limits(max_keepalive_connections=None if keep else 0),
        )

    async def run(self, stop: Path) -> None:
        async with self.client:
            for turn in count():
                if stop.exists():  # noqa: ASYNC240 - it takes microseconds
                    return
                try:
                    await self.turn(turn)
                except Failed:
                    await asyncio.sleep(PAUSE)

    async def turn(self, turn: int) -> None:
        item = await self.write("items", {"name": f"item {turn}", "tags": [self.name]}, keyed=turn % 2 == 0)
        self.items.append(item["id"])
        await self.send("GET", f"items/{item['id']}")
        await self.send("GET", "items?limit=10")
        if turn % 4 == 0:
            export = await self.write("exports", {"format": "ndjson", "tag": self.name}, keyed=turn % 8 == 0)
            self.exports.append(export["id"])

    async def write(self, path: str, body: dict[str, Any], *, keyed: bool) -> Any:
        headers = {"Idempotency-Key": f'"{uuid4()}"'} if keyed or RETRY else {}
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return await self.send("POST", path, json=body, headers=headers)
            except Failed:
                if not RETRY or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(PAUSE)

    async def send(self, method: str, path: str, **options: Any) -> Any:
        self.requests += 1
        began, started = time.time(), time.monotonic()
        try:
            response = await self.client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise self.failed(f"{method} {path}: {error!r}", began) from None
        took = time.monotonic() - started
        self.slowest = max(self.slowest, took)
        if not response.is_success:
            raise self.failed(f"{method} {path}: {response.status_code} {response.text[:200]}", began)
        await asyncio.sleep(max(0.0, PAUSE - took))
        return response.json()

    def failed(self, what: str, began: float) -> Failed:
        self.failures.append(f"{time.strftime('%X')} {what}")
        self.failed_at.append(began)
        return Failed()


async def main(url: str, stop: Path) -> None:
    tokens = os.environ["TOKENS"].split()
    callers = [Caller(url, token, keep=number % 2 == 0) for number, token in enumerate(tokens)]
    await asyncio.gather(*(caller.run(stop) for caller in callers))
    report = {
        "requests": sum(caller.requests for caller in callers),
        "failures": [failure for caller in callers for failure in caller.failures],
        "failed_at": [moment for caller in callers for moment in caller.failed_at],
        "items": [caller.items for caller in callers],
        "exports": [caller.exports for caller in callers],
        "slowest": max(caller.slowest for caller in callers),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
