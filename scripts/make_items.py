"""Make many items through the API: something to page through, to export, to load a machine with.

    .venv/bin/python scripts/make_items.py 10000 --token "$(.venv/bin/plinth token --sub alice)"

Each item is sent with an idempotency key, so a run that was cut short can be typed again: no item comes twice.
"""

import argparse
import asyncio
import sys
import time

import click
import httpx

MAX_ATTEMPTS = 10


async def make_item(client: httpx.AsyncClient, run: str, number: int) -> None:
    """Make one item; waits as told when the service asks for patience (429, 503)."""
    tag = "even" if number % 2 == 0 else "odd"
    body = {"name": f"item {number:06}", "description": f"made by {run}", "tags": [tag]}
    for _ in range(MAX_ATTEMPTS):
        response = await client.post("/items", json=body, headers={"Idempotency-Key": f"{run}-{number}"})
        if response.status_code not in (429, 503):
            response.raise_for_status()
            return
        await asyncio.sleep(float(response.headers.get("Retry-After", "1")))
    raise SystemExit(f"item {number} was refused {MAX_ATTEMPTS} times: {response.text}")


async def make_items(count: int, *, api: str, token: str, run: str, concurrency: int) -> None:
    numbers = iter(range(count))
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=api, headers=headers, timeout=30) as client:

        async def work() -> None:
            for number in numbers:
                await make_item(client, run, number)
                bar.update(1)

        # For a person who waits: a pipe or a file gets nothing of it.
        with click.progressbar(length=count, label="Items", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
            await asyncio.gather(*(work() for _ in range(concurrency)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("count", type=int)
    parser.add_argument("--token", required=True)
    parser.add_argument("--api", default="http://127.0.0.1:8000/api/v1")
    parser.add_argument("--run", default="make_items", help="names the run: the same name makes nothing twice")
    parser.add_argument("--concurrency", type=int, default=8)
    arguments = parser.parse_args()
    started = time.perf_counter()
    try:
        asyncio.run(
            make_items(
                arguments.count,
                api=arguments.api,
                token=arguments.token,
                run=arguments.run,
                concurrency=arguments.concurrency,
            )
        )
    except httpx.HTTPError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"{arguments.count} items in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
