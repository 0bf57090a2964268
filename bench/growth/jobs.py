"""How this engine's drain grows: with workers, with due jobs, with kinds and queues.

`make bench-jobs ARGS='--only growth'` runs it, as nothing else does. All workers share core 0. A ratio is taken against
the first row of its group, within a round; the result is the median of those.
"""

import contextlib
import dataclasses
import statistics
import sys
from dataclasses import dataclass

from bench.measure import Bench
from bench.queues.process import Contender


@dataclass(frozen=True, slots=True)
class Row:
    jobs: int
    workers: int = 1
    kinds: int = 1
    queues: int = 1


GROUPS = {
    "workers": [Row(100_000, workers=workers) for workers in (1, 2, 4)],
    "due jobs": [Row(10**power) for power in (3, 4, 5, 6)],
    "kinds and queues": [Row(20_000, kinds=kinds, queues=queues) for kinds in (1, 10, 100) for queues in (1, 10, 100)],
}


def measure_growth(bench: Bench, plinth: Contender, rounds: int) -> dict[Row, list[float]]:
    """Jobs a second, for each row and round."""
    rates: dict[Row, list[float]] = {row: [] for rows in GROUPS.values() for row in rows}
    for _ in range(rounds):
        for row, measured in rates.items():
            print(f"{row} …", file=sys.stderr, flush=True)
            spread = {"BENCH_KINDS": str(row.kinds), "JOBS_QUEUES": ",".join(f"queue{n}" for n in range(row.queues))}
            contender = dataclasses.replace(plinth, env=plinth.env | spread)
            with contender.connected():
                measured.append(drain(bench, contender, row.jobs, row.workers))
    return rates


def drain(bench: Bench, contender: Contender, jobs: int, workers: int) -> float:
    """From the first run on any worker to the moment when the store calls the last job finished.

    The workers are told to begin together: the first to be up would have done the work before the others are.
    """
    contender.client.ask("clear")
    contender.client.ask("in_bulk", jobs)
    bench.settle(contender)
    with contextlib.ExitStack() as running:
        processes = [running.enter_context(contender.working(jobs, "gated")) for _ in range(workers)]
        for process in processes:
            process.hear()
        for process in processes:
            process.tell("begin")
        first = min(process.hear()["first"] for process in processes)
        seconds: float = contender.client.ask("drained")["at"] - first
    return jobs / seconds


def print_growth(rates: dict[Row, list[float]]) -> None:
    for group, rows in GROUPS.items():
        print(f"\n{group + ':':20}{'workers':>10}{'due jobs':>12}{'kinds':>8}{'queues':>8}{'jobs/s':>12}")
        for row in rows:
            over = statistics.median(a / b for a, b in zip(rates[row], rates[rows[0]], strict=True))
            columns = f"{row.workers:>10}{row.jobs:>12,}{row.kinds:>8}{row.queues:>8}"
            print(f"{'':20}{columns}{statistics.median(rates[row]):>12,.0f} ({over:.2f}x)")
