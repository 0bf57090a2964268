"""How the cost of this service grows with what it holds and with what runs: the tables of docs/sizing.md.

    python -m bench.growth [--only items,schedules,streams,exports,processes] [--rounds 3] [--most 1000000]

It takes a quarter of an hour, and 10 GB of disk for the export of five million items. `python bench/jobs.py --only
growth` tells how the drain of the job engine grows.
"""

import argparse
import sys
from collections.abc import Callable

from bench.growth.exports import measure_exports
from bench.growth.items import measure_items
from bench.growth.processes import measure_processes
from bench.growth.schedules import measure_schedules
from bench.growth.service import Service, serving
from bench.growth.streams import measure_streams

CASES: dict[str, Callable[[Service, int, int], None]] = {
    "items": measure_items,
    "schedules": measure_schedules,
    "streams": lambda service, _, most: measure_streams(service, most),
    "exports": lambda service, _, most: measure_exports(service, most),
    "processes": lambda service, _, __: measure_processes(service),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description="How the service's cost grows.")
    parser.add_argument("--only", default=",".join(CASES), help="these cases (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of items and schedules (default: %(default)s)")
    parser.add_argument("--most", type=int, default=5_000_000, help="no larger number of anything")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if unknown := set(chosen) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    for name in chosen:
        print(f"{name} …", file=sys.stderr, flush=True)
        with serving() as service:  # new stores: no case pays for another's rows
            CASES[name](service, arguments.rounds, arguments.most)


main()
