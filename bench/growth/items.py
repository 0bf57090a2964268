"""What a request costs as the items of one owner grow: each list and filter, a late page, one item, a new one."""

import random
import statistics
from collections.abc import Callable
from typing import Any

from bench.growth.service import Client, Cost, Service

__all__ = ["measure_items"]

COUNTS = (1_000, 10_000, 100_000, 1_000_000)
REQUESTS = 200  # of each kind, for each owner, in a round
LATE_PAGE = 50

LISTS = {
    "newest 50": "/items?limit=50",
    "first 50 by name": "/items?limit=50&sort=name",
    "newest 50 with a tag of all": "/items?limit=50&tag=all",
    "50 with a tag of each hundredth": "/items?limit=50&tag=rare",
}
Request = Callable[[], object]


def measure_items(service: Service, rounds: int, most: int) -> None:
    counts = [count for count in COUNTS if count <= most]
    for count in counts:
        service.execute(
            f"""
            INSERT INTO item (owner, name, description, tags, created_at)
            SELECT 'owner-{count}', 'Item ' || md5(n::text), 'A thing of its owner, and the description of it: ' || n,
                CASE WHEN n % 100 = 0 THEN '{{all,rare}}'::text[] ELSE '{{all}}' END, now() - n * interval '1 minute'
            FROM generate_series(1, {count}) AS n
            """
        )
    service.settle()
    api = service.api()
    with service.running(api):
        requests = {count: requests_of(service, Client(service, api, f"owner-{count}"), count) for count in counts}
        measured: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
        for _ in range(rounds):
            for name in requests[counts[0]]:
                for count in counts:
                    request = requests[count][name]
                    request()
                    cost = Cost(service, api.pid)
                    for _ in range(REQUESTS):
                        request()
                    measured.setdefault((name, count), []).append(cost.end())
    print(f"\n| One owner has | {' | '.join(f'{count:,}' for count in counts)} |")
    print("| --- |" + " ---: |" * len(counts))
    for name in requests[counts[0]]:
        cells = []
        for count in counts:
            rows = [[value / REQUESTS * 1e3 for value in row] for row in measured[name, count]]
            milliseconds, ours, database = (statistics.median(column) for column in zip(*rows, strict=True))
            cells.append(f"{milliseconds:.2f} ms ({ours:.2f} + {database:.2f})")
        print(f"| {name} | {' | '.join(cells)} |")
    print("\nA request at a time: milliseconds, and of them CPU of the API and of PostgreSQL.")


def requests_of(service: Service, client: Client, count: int) -> dict[str, Request]:
    """The requests, by what the table calls them."""

    def getting(path: str) -> Request:
        return lambda: client.ask("GET", path)

    requests: dict[str, Request] = {name: getting(path) for name, path in LISTS.items()}
    path = LISTS["newest 50"]
    for _ in range(min(LATE_PAGE, count // 50) - 1):
        _, headers = client.ask("GET", path)
        path = str(headers["Link"]).partition(">")[0].removeprefix("<")
    requests[f"50 of page {LATE_PAGE}"] = getting(path)
    ids = service.execute(ids_of(count)).split()
    requests["one item"] = lambda: client.ask("GET", f"/items/{random.choice(ids)}")
    new: dict[str, Any] = {"name": "A new item", "description": "Made by the benchmark.", "tags": ["new"]}
    requests["a new item"] = lambda: client.ask("POST", "/items", new)
    return requests


def ids_of(count: int) -> str:
    step = max(1, count // 1000)
    return (
        "SELECT id FROM (SELECT id, row_number() OVER (ORDER BY created_at) AS n FROM item "
        f"WHERE owner = 'owner-{count}') AS numbered WHERE n % {step} = 0"
    )
