"""What more API processes bring on one machine, and the share of PostgreSQL in a request."""

import json
import os
import subprocess
import sys
import threading

from bench.growth.service import Client, Cost, Service
from bench.http import API, ROOT, Contender, wire
from bench.load import Call, Plan, plan_to_json

__all__ = ["measure_processes"]

COUNTS = (1, 2, 4, 8)
CONNECTIONS = 32  # over all processes
SECONDS = 5.0
OWNER = "reader"


def measure_processes(service: Service) -> None:
    service.execute(
        f"""
        INSERT INTO item (owner, name, tags, created_at)
        SELECT '{OWNER}', 'Item ' || n, '{{a,b}}', now() - n * interval '1 minute' FROM generate_series(1, 1000) AS n
        """
    )
    service.settle()
    ids = service.execute(f"SELECT id FROM item WHERE owner = '{OWNER}'").split()
    print(f"\nOn {os.cpu_count()} cores, with the load, PostgreSQL and Redis on them too.")
    print(
        "\n| API processes | requests | requests/s | CPU of the API | CPU of PostgreSQL |\n| ---: | --- |"
        + " ---: |" * 3
    )
    for count in COUNTS:
        apis = [service.api(number) for number in range(count)]
        with service.running(*apis):
            token = service.issuer.token(OWNER)
            page, _ = Client(service, apis[0], OWNER).ask("GET", "/items?limit=50")
            new = json.dumps({"name": "A new item", "description": "Made by the benchmark."})
            calls = {
                "one item": [Call(wire("GET", f"{API}/items/{item}", token), 200, 1, 10_000) for item in ids],
                "50 items": [Call(wire("GET", f"{API}/items?limit=50", token), 200, 1, 2 * len(json.dumps(page)))],
                "a new item": [Call(wire("POST", f"{API}/items", token, new), 201, 1, 10_000)],
            }
            for name, of in calls.items():
                load(apis, of, 1.0)
                cost = Cost(service, *(api.pid for api in apis))
                requests = load(apis, of, SECONDS)
                seconds, ours, database = cost.end()
                print(
                    f"| {count} | {name} | {requests / seconds:,.0f} | {ours / requests * 1e6:.0f} µs "
                    f"| {database / requests * 1e6:.0f} µs |",
                    flush=True,
                )


def load(apis: list[Contender], calls: list[Call], seconds: float) -> int:
    """Load all processes at once. Returns the requests that were answered."""
    answered = []

    def drive(port: int, pid: int) -> None:
        plan = Plan(port, pid, 0, max(1, CONNECTIONS // len(apis)), seconds, sys.maxsize, calls)
        command = [sys.executable, "-m", "bench.load"]
        done = subprocess.run(command, cwd=ROOT, input=plan_to_json(plan), capture_output=True, text=True, check=True)
        answered.append(json.loads(done.stdout)["requests"])

    threads = [threading.Thread(target=drive, args=(api.port, api.pid)) for api in apis]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(answered) < len(apis):
        raise SystemExit("a load has failed")
    return sum(answered)
