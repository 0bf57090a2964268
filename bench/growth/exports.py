"""What an export of one owner's items takes, as they grow: time, memory of the worker, CPU of it and of PostgreSQL."""

import time

from bench.growth.service import PATIENCE, Client, Cost, Service, peak_memory

__all__ = ["measure_exports"]

COUNTS = (10_000, 100_000, 1_000_000, 5_000_000)


def measure_exports(service: Service, most: int) -> None:
    print("\n| Items | seconds | items/s | CPU of the worker | CPU of PostgreSQL | the worker's memory | the file |")
    print("| ---: |" + " ---: |" * 6)
    for count in (count for count in COUNTS if count <= most):
        service.execute(
            f"""
            INSERT INTO item (owner, name, description, created_at)
            SELECT 'export-{count}', 'Item ' || n, 'A thing of its owner, and the description of it: ' || n,
                now() - n * interval '1 second' FROM generate_series(1, {count}) AS n
            """
        )
        service.settle()
        api = service.api()
        with service.running(api), service.worker() as worker:
            client = Client(service, api, f"export-{count}")
            cost = Cost(service, worker)
            export, _ = client.ask("POST", "/exports", {"format": "ndjson"})
            end = time.monotonic() + PATIENCE
            while export["status"] in ("pending", "running") and time.monotonic() < end:
                time.sleep(0.1)
                export, _ = client.ask("GET", f"/exports/{export['id']}")
            seconds, ours, database = cost.end()
            if export["status"] != "ready" or export["item_count"] != count:
                raise SystemExit(f"the export is {export}")
            print(
                f"| {count:,} | {seconds:.1f} | {count / seconds:,.0f} | {ours:.1f} s | {database:.1f} s "
                f"| {peak_memory(worker):.0f} MB | {export['size'] / 1e6:,.0f} MB |",
                flush=True,
            )
