"""A contender's processes, as `bench/jobs.py` sees them."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.http import SERVER_CORE, pinned
from bench.load import cpu_ns, processes

ROOT = Path(__file__).resolve().parent.parent.parent
# Longer than anything here takes: filling a store with a million jobs is the longest.
TIMEOUT = 900.0


class Process:
    """A process that answers with one JSON object a line."""

    def __init__(self, contender: "Contender", *role: str) -> None:
        self._contender = contender
        self._popen = subprocess.Popen(
            [str(contender.python), "-m", "bench.queues", contender.name, *role],
            env=contender.env,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=contender.log.open("ab"),
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._popen.terminate()
        try:
            self._popen.wait(15)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def hear(self) -> dict[str, Any]:
        """Its next words."""
        assert self._popen.stdout is not None
        watchdog = threading.Timer(TIMEOUT, self._popen.kill)
        watchdog.start()
        line = self._popen.stdout.readline()
        watchdog.cancel()
        if not line:
            sys.exit(f"{self._contender.name} has ended. Its log ends:\n{self._contender.log.read_text()[-3000:]}")
        words: dict[str, Any] = json.loads(line)
        return words

    def tell(self, *words: Any) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(words) + "\n")
        self._popen.stdin.flush()

    def ask(self, *words: Any) -> dict[str, Any]:
        self.tell(*words)
        return self.hear()

    def cpu_ns(self) -> int:
        """CPU time since its start, with that of its children."""
        return cpu_ns(self._popen.pid)

    def memory(self) -> float:
        """Resident memory in MB (10^6 bytes), as the kernel counts it."""
        total = 0.0
        for pid in processes(self._popen.pid):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024 / 1e6
        return total


@dataclass
class Contender:
    """A system on a store of its own: a database and a Redis number, of which it uses what it uses."""

    name: str
    title: str
    python: Path
    database: str
    env: dict[str, str]
    log: Path
    client: Process = field(init=False)

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """With a client, on the core of its caller."""
        with Process(self, "client") as self.client:
            yield

    @contextlib.contextmanager
    def working(self, jobs: int, *options: str) -> Iterator[Process]:
        """With a worker, alone on its core."""
        with pinned(SERVER_CORE):
            worker = Process(self, "worker", str(jobs), *options)
        with worker:
            yield worker
