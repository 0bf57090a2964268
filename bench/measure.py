"""What one round measures: the stores, the contenders on them, and a function for each case of `jobs.py`."""

import asyncio
import contextlib
import itertools
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import redis

from bench.http import LOAD_CORE, SERVER_CORE
from bench.load import busy_ns
from bench.queues.process import ROOT, Contender
from plinth.embedded.postgres import Postgres
from plinth.embedded.redis import Redis

THEIR_PYTHON = ROOT / ".venv" / "bench" / "bin" / "python"
# The shares of --jobs that they drain: a slow engine would take all the time, and a rate needs no more jobs for that.
SHARES = {"procrastinate": 0.1, "dbos": 0.25, "absurd": 0.1}

ONE_BY_ONE = 2000
BULK = 10_000
RATE, PICKUP_SECONDS, WARM_UP_SECONDS = 50, 10, 1
IDLE_SECONDS, SETTLE_SECONDS = 20, 3


@dataclass
class Bench:
    """The stores, and the engines that work on them."""

    postgres: Postgres
    redis: Redis
    folder: Path
    jobs: int
    # Redis has sixteen, and few contenders use theirs.
    numbers: Iterator[int] = field(default_factory=lambda: itertools.cycle(range(16)))

    def contender(self, name: str, beside: str = "") -> Contender:
        """On a new store."""
        database = f"bench_{name}_{beside}".rstrip("_")
        self.postgres.execute(f"CREATE DATABASE {database} OWNER plinth")
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": self.postgres.url(database),
            "REDIS_URL": self.redis.url(next(self.numbers)),
        }
        if name == "plinth":
            # All that is different from production: no identity provider has to be named.
            env |= {"ENVIRONMENT": "test", "LOG_FORMAT": "json", "METRICS_PORT": "0"}
            env["LOG_JOB_SAMPLE"] = os.environ.get("LOG_JOB_SAMPLE", "1")
            python = Path(sys.executable)
        else:
            python = THEIR_PYTHON
        title = f"{name} beside {beside}" if beside else name
        return Contender(name, title, python, database, env, self.folder / f"{database}.log")

    def drained_jobs(self, contender: Contender) -> int:
        return max(1, int(self.jobs * SHARES.get(contender.name, 1)))

    def settle(self, contender: Contender) -> None:
        """Vacuums and checkpoints, so that no engine pays for another's rows or plans with old statistics."""
        self.postgres.execute("VACUUM (ANALYZE)", contender.database)
        self.postgres.execute("CHECKPOINT")

    def transactions(self, contender: Contender) -> int:
        """What the contender's database has seen. Asked in another one, so that asking does not count."""
        counted = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = "
        return int(self.postgres.execute(f"{counted}'{contender.database}'"))

    def commands(self) -> int:
        with redis.Redis.from_url(self.redis.url()) as client:
            return int(client.info("stats")["total_commands_processed"])


Figures = dict[str, float]


def measure_enqueue(bench: Bench, contender: Contender) -> Figures:
    """No worker is there."""
    contender.client.ask("clear")
    bench.settle(contender)
    contender.client.ask("one_by_one", ONE_BY_ONE // 10)  # what is prepared once is prepared
    one_by_one = contender.client.ask("one_by_one", ONE_BY_ONE)["seconds"]
    contender.client.ask("clear")
    in_bulk = contender.client.ask("in_bulk", BULK)["seconds"]
    contender.client.ask("clear")
    return {"one_by_one": ONE_BY_ONE / one_by_one, "in_bulk": BULK / in_bulk}


def measure_drain(bench: Bench, contender: Contender, *, clear: bool = True) -> Figures:
    """From the run of the first job to the moment when the store calls the last one finished."""
    jobs = bench.drained_jobs(contender)
    if clear:
        contender.client.ask("clear")
    contender.client.ask("in_bulk", jobs)
    bench.settle(contender)
    busy, started = busy_ns(SERVER_CORE), time.monotonic_ns()
    with contender.working(jobs) as worker:
        first = worker.hear()["first"]
        cpu, store = worker.cpu_ns(), busy_ns(LOAD_CORE)
        worker.hear()
        seconds = contender.client.ask("drained")["at"] - first
        cpu, store = worker.cpu_ns() - cpu, busy_ns(LOAD_CORE) - store
        others = busy_ns(SERVER_CORE) - busy - worker.cpu_ns()
        return {
            "drain": jobs / seconds,
            "memory": worker.memory(),
            "worker_cpu": cpu / jobs / 1e3,
            "store_cpu": store / jobs / 1e3,
            "others": max(0.0, others / (time.monotonic_ns() - started)),
        }


def measure_pickup(bench: Bench, contender: Contender) -> Figures:
    """From the call that enqueues to the run, at a pace that leaves each system idle most of the time."""
    contender.client.ask("clear")
    bench.settle(contender)
    warm_up = RATE * WARM_UP_SECONDS
    jobs = warm_up + RATE * PICKUP_SECONDS
    with contender.working(jobs, "waited") as worker:
        time.sleep(SETTLE_SECONDS)
        late = contender.client.ask("paced", RATE, jobs)["late"]
        worker.hear()
        waited = sorted(worker.hear()["waited"][warm_up:])
        contender.client.ask("drained")
    return {
        "p50": waited[len(waited) // 2] * 1e3,
        "p99": waited[len(waited) * 99 // 100] * 1e3,
        "late": late * 1e3,
    }


def measure_idle(bench: Bench, contender: Contender) -> Figures:
    """A worker that has nothing to do, after it had something."""
    contender.client.ask("clear")
    with contender.working(1) as worker:
        contender.client.ask("one_by_one", 1)
        worker.hear()
        worker.hear()
        contender.client.ask("drained")
        time.sleep(SETTLE_SECONDS)
        started = time.monotonic()
        cpu, transactions, commands = worker.cpu_ns(), bench.transactions(contender), bench.commands()
        time.sleep(IDLE_SECONDS)
        cpu, transactions = worker.cpu_ns() - cpu, bench.transactions(contender) - transactions
        commands = bench.commands() - commands - 1  # asking counts
        seconds = time.monotonic() - started
    return {
        "idle_cpu": cpu / 1e7 / seconds,
        "transactions": transactions / seconds,
        "commands": commands / seconds,
    }


@contextlib.contextmanager
def stores(folder: Path) -> Iterator[tuple[Postgres, Redis]]:
    """PostgreSQL and Redis, as safe as `plinth run` has them."""
    postgres = Postgres(folder / "postgresql", log=folder / "postgresql.log", durable=True)
    server = Redis(folder / "redis", log=folder / "redis.log", durable=True)
    with contextlib.ExitStack() as running:
        postgres.start()
        running.callback(postgres.stop)
        server.start()
        running.callback(server.stop)
        yield postgres, server


@contextlib.contextmanager
def open_transaction(contender: Contender) -> Iterator[None]:
    """A transaction in its database that has a snapshot: no row version that dies meanwhile can be removed."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(contender.env["DATABASE_URL"]))
        runner.run(connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class"))
        try:
            yield
        finally:
            connection.terminate()
