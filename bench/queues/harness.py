"""What the contenders have in common: two roles, and the language in which `bench/jobs.py` speaks to them.

A client enqueues and asks the store; it reads commands from standard input. A worker runs jobs until SIGTERM and says
when the first and when the last ran. Both answer with one JSON object a line.

The no-op job is the same everywhere: it carries a number and the time it was sent. Nothing but the standard library is
imported here, because all but one run where this service is not installed.
"""

import asyncio
import gc
import json
import os
import signal
import sys
import time
from array import array
from collections.abc import Callable
from typing import Any, Protocol

# The same for all processes of a Linux machine, and no program sets it.
now = time.monotonic

Ran = Callable[[int, float], None]

POLL_SECONDS = 0.002


class Queue(Protocol):
    """One job system, tuned."""

    def __init__(self, database_url: str, redis_url: str) -> None: ...

    async def open(self) -> None:
        """Connect as a client. A worker is not opened: `work` does what that system's own worker does."""

    async def install(self) -> None:
        """Make the tables, if there are any."""

    async def clear(self) -> None:
        """Forget all jobs, and what is kept of finished ones."""

    async def enqueue(self, number: int, sent_at: float) -> None:
        """Enqueue one job the ordinary way. When this returns, the store has accepted it."""

    async def enqueue_many(self, numbers: range, sent_at: float) -> None:
        """Enqueue jobs in the fastest way that the system's own interface offers."""

    async def unfinished(self) -> bool:
        """Whether the store holds a job that is due or running."""

    async def add_history(self, jobs: int) -> None:
        """Add jobs that finished long ago, as the system keeps them."""

    async def add_scheduled(self, jobs: int) -> None:
        """Add jobs that are due tomorrow.

        Raises:
            NotImplementedError: the system has no such jobs; the case is not measured.
        """

    async def work(self, ran: Ran) -> None:
        """Run a worker. Its job does nothing but call `ran` with its number and the time it was sent."""


# Standard output belongs to this conversation; what a system prints goes where its errors go.
_out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def say(**words: Any) -> None:
    print(json.dumps(words), file=_out, flush=True)


async def client(queue: Queue) -> None:
    """Do what standard input says, until it ends."""
    await queue.open()
    gc.collect()
    gc.freeze()  # as servers do, so that no engine pays for the size of its imports at a moment of chance
    while line := await asyncio.to_thread(sys.stdin.readline):
        match json.loads(line):
            case ["one_by_one", jobs]:
                say(seconds=await one_by_one(queue, jobs))
            case ["in_bulk", jobs]:
                say(seconds=await in_bulk(queue, jobs))
            case ["paced", rate, jobs]:
                say(late=await paced(queue, rate, jobs))
            case ["drained"]:
                say(at=await drained(queue))
            case ["install" | "clear" | "add_history" | "add_scheduled" as word, *arguments]:
                try:
                    await getattr(queue, word)(*arguments)
                    say()
                except NotImplementedError as reason:
                    say(cannot=str(reason))


async def one_by_one(queue: Queue, jobs: int) -> float:
    """Enqueue one after the other, each accepted before the next. Returns the seconds that took."""
    started = now()
    for number in range(jobs):
        await queue.enqueue(number, now())
    return now() - started


async def in_bulk(queue: Queue, jobs: int) -> float:
    started = now()
    await queue.enqueue_many(range(jobs), started)
    return now() - started


async def paced(queue: Queue, rate: float, jobs: int) -> float:
    """Open loop: each job is sent when its time has come, whatever became of the ones before.

    Returns by how many seconds the latest was late: a slow client must not be taken for a slow worker.
    """
    latest = 0.0
    started = now()
    async with asyncio.TaskGroup() as sending:
        for number in range(jobs):
            due = started + number / rate
            await asyncio.sleep(due - now())
            sent_at = now()
            latest = max(latest, sent_at - due)
            sending.create_task(queue.enqueue(number, sent_at))
    return latest


async def drained(queue: Queue) -> float:
    """Wait until the store calls every due job finished. Returns the moment."""
    while await queue.unfinished():  # noqa: ASYNC110 - the queues send no event
        await asyncio.sleep(POLL_SECONDS)
    return now()


class Witness:
    """Sees the jobs run, each once."""

    def __init__(self, jobs: int, *, tell_waited: bool) -> None:
        self._runs = bytearray(jobs)
        self._waited = array("d", bytes(8 * jobs))
        self._left = jobs
        self._tell_waited = tell_waited

    def ran(self, number: int, sent_at: float) -> None:
        moment = now()
        if self._left == len(self._runs):
            say(first=moment)
        if self._runs[number]:
            # The system under test would catch an exception. Work done twice must never count.
            print(f"job {number} ran twice", file=sys.stderr, flush=True)
            os._exit(1)
        self._runs[number] = 1
        self._waited[number] = moment - sent_at
        self._left -= 1
        if not self._left:
            say(last=moment, **({"waited": self._waited.tolist()} if self._tell_waited else {}))


async def worker(queue: Queue, jobs: int, *, tell_waited: bool, gated: bool) -> None:
    """Work until SIGTERM, and be gone at once then: how a worker ends is not measured.

    `gated`: not before it is told to, with all that is imported ready.
    """
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
    if gated:
        say()
        await asyncio.to_thread(sys.stdin.readline)
    await queue.work(Witness(jobs, tell_waited=tell_waited).ran)
