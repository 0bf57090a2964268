# ruff: noqa: T201 - a script: the tests run it in a pod of another namespace
"""What a pod with nothing but this repository tries against a try-out, and what comes of it, as JSON.

    python stranger.py JSON

Takes `api` (addresses of the API), `second` (of second ports), `postgresql` and `redis` (hosts) and a `token`. Prints
what came of each attempt, by its name: an HTTP status, the name of an exception, or null where nothing answers.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable
from typing import Any

import asyncpg
import httpx
import redis.asyncio

# Seconds for each attempt. A policy drops packets: what it keeps away shows by its silence.
PATIENCE = 8
# What the repository has printed so far.
PASSWORDS = ("for-trying-out-only", "plinth", "")
REQUESTS = [("GET", "me"), ("GET", "items"), ("POST", "items"), ("POST", "exports"), ("POST", "queues/default/pause")]
CHANGES = [("GET", "drain"), ("POST", "drain"), ("PUT", "log-level"), ("POST", "log-level")]


async def ask(method: str, url: str, token: str = "", **options: Any) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(timeout=None, headers=headers) as client:
        return (await client.request(method, url, **options)).status_code


async def write_to_postgresql(host: str, password: str) -> str:
    connection = await asyncpg.connect(host=host, user="plinth", password=password, database="plinth")
    return await connection.execute("CREATE TABLE stranger ()")


async def write_to_redis(host: str, password: str) -> Any:
    client = redis.asyncio.Redis(host=host, password=password or None)
    return await client.set("stranger", "was here")


async def outcome(attempt: Awaitable[Any]) -> Any:
    try:
        async with asyncio.timeout(PATIENCE):
            return await attempt
    except (TimeoutError, ConnectionError, httpx.ConnectError):
        return None
    except Exception as error:  # noqa: BLE001 - whatever it is, the test is to see it
        return type(error).__name__


async def main(given: dict[str, Any]) -> None:
    attempts: dict[str, Awaitable[Any]] = {}
    for name, address in given["api"].items():
        for method, path in REQUESTS:
            body = {"json": {"name": "mine", "format": "csv"}} if method == "POST" else {}
            attempts[f"{name}: {method} {path}"] = ask(
                method, f"http://{address}/api/v1/{path}", given["token"], **body
            )
    for name, address in given["second"].items():
        for method, path in CHANGES:
            attempts[f"{name}: {method} {path}"] = ask(method, f"http://{address}:9090/{path}", content="DEBUG")
    for password in PASSWORDS:
        attempts[f"postgresql: {password!r}"] = write_to_postgresql(given["postgresql"], password)
        attempts[f"redis: {password!r}"] = write_to_redis(given["redis"], password)
    results = await asyncio.gather(*map(outcome, attempts.values()))
    print(json.dumps(dict(zip(attempts, results, strict=True))))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
