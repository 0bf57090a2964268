"""What a scrape costs: the metrics of a service with many routes, as its second port writes them.

    python bench/scrape.py [--routes 200] [--statuses 200,422] [--times 50]

Prints how long one takes, and how late a tick of the event loop is while one scrape follows another.
"""
# ruff: noqa: E402 - the path comes first, because of a neighbour's name

import sys
from pathlib import Path

# A script's own folder comes first on its path, and there `http.py` would hide the standard library's `http`.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import asyncio
import statistics
import time

import app.main  # noqa: F401 - whatever they define is shown
from plinth.telemetry.http_metrics import HTTP
from plinth.telemetry.metrics import exposition

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def scrape(accept: str, times: int) -> tuple[float, int]:
    """The median in milliseconds, and the number of lines."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        _, content = exposition(accept)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000, content.count(b"\n")


async def lateness(times: int) -> list[float]:
    """By how many milliseconds ticks of the loop were late while a thread scraped."""
    scraping = asyncio.create_task(asyncio.to_thread(scrape, OPENMETRICS, times))
    late = []
    while not scraping.done():
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        late.append((time.perf_counter() - began - 0.001) * 1000)
    return sorted(late)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a scrape costs.")
    parser.add_argument("--routes", type=int, default=200)
    parser.add_argument("--statuses", default="200,422", help="of each route (default: %(default)s)")
    parser.add_argument("--times", type=int, default=50)
    arguments = parser.parse_args()
    for number in range(arguments.routes):
        for status in arguments.statuses.split(","):
            for histogram in HTTP.histograms("GET", f"/api/v1/resources-{number}/{{resource_id}}", int(status)):
                histogram.observe(0.02)
    for name, accept in (("text", ""), ("OpenMetrics", OPENMETRICS)):
        milliseconds, lines = scrape(accept, arguments.times)
        print(f"{name:12} {milliseconds:6.1f} ms   {lines:,} lines")
    late = asyncio.run(lateness(arguments.times))
    print(f"the loop was late by {statistics.median(late):.1f} ms, at most {late[-1]:.1f} ms")


if __name__ == "__main__":
    main()
