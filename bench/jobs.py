"""The job engine beside arq, pgqueuer, procrastinate, DBOS Transact and absurd, each tuned, with jobs that do nothing.

    make bench-jobs ARGS='[--rounds 5] [--jobs 20000] [--only drain,pickup] [--json FILE]'

All use the same PostgreSQL, which syncs each commit, and the same Redis, which logs as `plinth run` has it. Workers run
on core 0; PostgreSQL, Redis and the client that enqueues on core 1. In each round everyone has a turn, in another order
each time; a ratio is taken against arq within a round, and the result is the median of those. `README.md` here says
what makes it fair.
"""
# ruff: noqa: E402 - the path comes first, because of this folder's http.py

import sys
from pathlib import Path

# A script's own folder comes first on its path, and there `http.py` would hide the standard library's `http`.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.growth.jobs import Row, measure_growth, print_growth
from bench.http import LOAD_CORE, pinned
from bench.measure import (
    BULK,
    RATE,
    THEIR_PYTHON,
    Bench,
    Figures,
    measure_drain,
    measure_enqueue,
    measure_idle,
    measure_pickup,
    open_transaction,
    stores,
)
from bench.queues.process import Contender
from plinth.embedded.postgres import MAJOR

BASE = "arq"  # the engine that the others are compared with
NAMES = ("arq", "plinth", "pgqueuer", "procrastinate", "dbos", "absurd")
PACKAGES = {"absurd": "absurd-sdk"}  # of other names
HISTORY, SCHEDULED = 1_000_000, 100_000


@dataclass(frozen=True, slots=True)
class Case:
    measure: Callable[[Bench, Contender], Figures]
    rows: dict[str, str]  # the figures that the table shows, and how it calls them


CASES = {
    "enqueue": Case(
        measure_enqueue,
        {"one_by_one": "enqueue one by one, jobs/s", "in_bulk": f"enqueue {BULK:,} in bulk, jobs/s"},
    ),
    "drain": Case(
        measure_drain,
        {
            "drain": "drain, jobs/s",
            "worker_cpu": "- CPU of the worker, µs/job",
            "store_cpu": "- CPU of the stores' core, µs/job",
            "memory": "- memory of the worker then, MB",
        },
    ),
    "pickup": Case(measure_pickup, {"p50": f"pickup at {RATE} jobs/s, p50 ms", "p99": "- p99 ms"}),
    "idle": Case(
        measure_idle,
        {
            "idle_cpu": "idle: CPU of the worker, % of a core",
            "transactions": "- PostgreSQL transactions/s",
            "commands": "- Redis commands/s",
        },
    ),
}


@dataclass(frozen=True, slots=True)
class Beside:
    """What a drain should not notice."""

    words: str
    command: str = ""  # of the client, which fills a store of its own; without one, a transaction stays open
    jobs: int = 0
    steps: int = 0  # of each job


STEPPED = ("plinth", "dbos", "absurd")  # the others have no steps

BESIDE = {
    "history": Beside(f"{HISTORY:,} history jobs", "add_history", HISTORY),
    "scheduled": Beside(f"{SCHEDULED:,} scheduled jobs", "add_scheduled", SCHEDULED),
    "xmin": Beside("an open transaction"),
    "steps": Beside("jobs with five steps", steps=5),
}
GROWTH = "growth"  # of this engine alone, and only if it is asked for: it takes a quarter of an hour


def take_turns(case: Case, bench: Bench, contenders: list[Contender], rounds: int) -> dict[str, list[Figures]]:
    """A round for each, in another order each time."""
    results: dict[str, list[Figures]] = {contender.title: [] for contender in contenders}
    for number in range(rounds):
        shift = number // 2 % len(contenders)
        order = contenders[shift:] + contenders[:shift]
        for contender in order if number % 2 == 0 else order[::-1]:
            results[contender.title].append(case.measure(bench, contender))
    return results


def compare_beside(bench: Bench, plain: Contender, name: str, rounds: int) -> list[Figures]:
    """Drains beside one of BESIDE, each over a plain drain of the same round.

    Nothing if the system has no such jobs.
    """
    beside = BESIDE[name]
    if beside.steps:
        if plain.name not in STEPPED:
            return []
        stepped = dataclasses.replace(plain, env=plain.env | {"BENCH_STEPS": str(beside.steps)})
        stepped.client = plain.client
        return in_pairs(lambda: drain(bench, plain), lambda: drain(bench, stepped), rounds)
    if not beside.command:
        return in_pairs(lambda: drain(bench, plain), lambda: drain_beside_transaction(bench, plain), rounds)
    filled = bench.contender(plain.name, name)
    with filled.connected():
        filled.client.ask("install")
        if filled.client.ask(beside.command, beside.jobs):
            return []
        return in_pairs(lambda: drain(bench, plain), lambda: drain(bench, filled, clear=False), rounds)


def drain(bench: Bench, contender: Contender, *, clear: bool = True) -> float:
    return measure_drain(bench, contender, clear=clear)["drain"]


def drain_beside_transaction(bench: Bench, contender: Contender) -> float:
    with open_transaction(contender):
        return drain(bench, contender)


def in_pairs(plain: Callable[[], float], other: Callable[[], float], rounds: int) -> list[Figures]:
    """The one first and the other first, in turns."""
    figures = []
    for number in range(rounds):
        if number % 2 == 0:
            usual, beside = plain(), other()
        else:
            beside, usual = other(), plain()
        figures.append({"plain": usual, "beside": beside, "ratio": beside / usual})
    return figures


def median(rounds: list[Figures], figure: str) -> float:
    return statistics.median(each[figure] for each in rounds)


def ratio(ours: list[Figures], theirs: list[Figures], figure: str) -> float | None:
    """The median of the ratios within rounds, where there is something to divide by."""
    ratios = [a[figure] / b[figure] for a, b in zip(ours, theirs, strict=True) if b[figure]]
    return statistics.median(ratios) if ratios else None


def summarise(results: dict[str, dict[str, list[Figures]]]) -> dict[str, Any]:
    """For each row of the table, each contender's median and its ratio to arq."""
    table: dict[str, Any] = {}
    for name, case in CASES.items():
        rounds = results.get(name, {})
        for figure in case.rows if rounds else ():
            table[figure] = {
                title: {
                    "median": median(own, figure),
                    "ratio": ratio(own, rounds[BASE], figure) if BASE in rounds else None,
                }
                for title, own in rounds.items()
            }
    return table


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def print_report(report: dict[str, Any], titles: list[str]) -> None:
    print(f"\n{report['about']}\n")
    print(f"{'':38}" + "".join(f"{title:>22}" for title in titles))
    for case in CASES.values():
        for figure, words in case.rows.items():
            row = report["table"].get(figure)
            if row is None:
                continue
            cells = ""
            for title in titles:
                over = row[title]["ratio"]
                cells += f"{number(row[title]['median']):>12} "
                cells += f"{'' if over is None or title == BASE else f'({number(over)}x)':>9}"
            print(f"{words:38}{cells}")
    for beside, by_name in report["beside"].items():
        for name, rounds in by_name.items():
            words = f"{name}: drain {'of' if BESIDE[beside].steps else 'beside'} {BESIDE[beside].words}"
            if not rounds:
                print(f"{words:60} not measured")
                continue
            rates = f"{number(median(rounds, 'beside'))} jobs/s over {number(median(rounds, 'plain'))}"
            print(f"{words:60} {number(median(rounds, 'ratio'))}x ({rates})")
    if report["others"] > 0.05:
        print(f"\nOther programs had up to {report['others']:.0%} of the worker's core in a round: run it again.")


def versions() -> dict[str, str]:
    """Of the contenders, as installed in their environment."""
    script = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    others = [PACKAGES.get(name, name) for name in NAMES if name != "plinth"]
    found = subprocess.run([str(THEIR_PYTHON), "-c", script, *others], capture_output=True, text=True, check=True)
    return dict(json.loads(found.stdout))


def parse_arguments() -> argparse.Namespace:
    cases = [*CASES, *BESIDE]
    parser = argparse.ArgumentParser(description="The job engine beside others, each tuned.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds for each case (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs to drain in a round (default: %(default)s)")
    parser.add_argument("--only", default=",".join(cases), help=f"these cases, or {GROWTH} (default: %(default)s)")
    parser.add_argument("--contenders", default=",".join(NAMES), help="these systems (default: %(default)s)")
    parser.add_argument(
        "--beside",
        default="plinth",
        help="the engines that drain beside history, scheduled jobs and an open transaction (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    arguments = parser.parse_args()
    for option, known in (("only", [*cases, GROWTH]), ("contenders", NAMES), ("beside", NAMES)):
        chosen = getattr(arguments, option).split(",")
        if unknown := set(chosen) - set(known):
            parser.error(f"--{option}: there is no {', '.join(sorted(unknown))}")
        setattr(arguments, option, chosen)
    if GROWTH in arguments.only and "plinth" not in arguments.contenders:
        parser.error(f"--only {GROWTH}: it is measured of plinth alone, which is not among the contenders")
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        parser.error("this needs Linux and two cores: one for the worker, one for everything else")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    with contextlib.ExitStack() as closing:
        closing.enter_context(pinned(LOAD_CORE))
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="plinth-bench-")))
        folder.chmod(0o755)  # PostgreSQL, which is never root, has to get through
        bench = Bench(*closing.enter_context(stores(folder)), folder, arguments.jobs)
        contenders = {name: bench.contender(name) for name in NAMES if name in arguments.contenders}
        for contender in contenders.values():
            closing.enter_context(contender.connected())
            contender.client.ask("install")
        results: dict[str, dict[str, list[Figures]]] = {}
        beside: dict[str, dict[str, list[Figures]]] = {}
        growth: dict[Row, list[float]] = {}
        for name in arguments.only:
            print(f"{name} …", file=sys.stderr, flush=True)
            if name in CASES:
                results[name] = take_turns(CASES[name], bench, list(contenders.values()), arguments.rounds)
            elif name == GROWTH:
                growth = measure_growth(bench, contenders["plinth"], arguments.rounds)
            else:
                filling = [contender for contender in contenders.values() if contender.name in arguments.beside]
                beside[name] = {c.name: compare_beside(bench, c, name, arguments.rounds) for c in filling}

    named = ", ".join(f"{name} {version}" for name, version in versions().items())
    report = {
        "about": (
            f"{platform.machine()}, Python {platform.python_version()}, {named}, PostgreSQL {MAJOR}; "
            f"{arguments.rounds} rounds, drains of {arguments.jobs:,} jobs; medians, and ratios to {BASE}"
        ),
        "table": summarise(results),
        "beside": beside,
        "growth": [dataclasses.asdict(row) | {"rates": rates} for row, rates in growth.items()],
        "others": max((each["others"] for own in results.get("drain", {}).values() for each in own), default=0.0),
        "rounds": results,
    }
    print_report(report, list(contenders))
    if growth:
        print_growth(growth)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
