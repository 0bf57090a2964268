"""The service under test, its stores, and what their work costs."""

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.http import API, ROOT, Contender, Issuer, build_contenders
from bench.load import cpu_ns, processes
from plinth.embedded.postgres import Postgres
from plinth.embedded.redis import Redis

__all__ = ["Client", "Cost", "Service", "peak_memory", "serving"]

PATIENCE = 3600.0  # seconds, for an export of five million items


@dataclass
class Service:
    """A migrated database, and the commands of the service on it."""

    postgres: Postgres
    issuer: Issuer
    folder: Path
    env: dict[str, str]

    def api(self, number: int = 0, **settings: str) -> Contender:
        argv = [sys.executable, "-m", "plinth.cli", "api", "--host", "127.0.0.1", "--port", "{port}"]
        return Contender("plinth", argv, self.env | settings, self.folder / f"api{number}.log")

    @contextlib.contextmanager
    def running(self, *contenders: Contender) -> Iterator[None]:
        """With these processes, on any core."""
        with contextlib.ExitStack() as closing:
            for contender in contenders:
                contender.start(anywhere=True)
                closing.callback(contender.stop)
            yield

    @contextlib.contextmanager
    def worker(self) -> Iterator[int]:
        """With a worker; its process id."""
        with (self.folder / "worker.log").open("ab") as log:
            command = [sys.executable, "-m", "plinth.cli", "worker"]
            process = subprocess.Popen(command, env=self.env, cwd=self.folder, stdout=log, stderr=log)
        try:
            yield process.pid
        finally:
            process.terminate()
            process.wait()

    def execute(self, sql: str) -> str:
        return self.postgres.execute(sql, "plinth")

    def settle(self) -> None:
        self.execute("VACUUM (ANALYZE)")
        self.execute("CHECKPOINT")

    @property
    def database_pid(self) -> int:
        assert self.postgres.process is not None
        return self.postgres.process.pid


@contextlib.contextmanager
def serving() -> Iterator[Service]:
    """The stores, as safe as `plinth run` has them, and a migrated database."""
    with contextlib.ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="plinth-growth-")))
        shutil.copy(ROOT / "pyproject.toml", folder)  # `plinth` finds the service by it
        folder.chmod(0o755)  # PostgreSQL, which is never root, has to get through
        postgres = Postgres(folder / "postgresql", log=folder / "postgresql.log", durable=True)
        redis = Redis(folder / "redis", log=folder / "redis.log", durable=True)
        for server in (postgres, redis):
            server.start()
            closing.callback(server.stop)
        issuer = Issuer(folder)
        env = build_contenders(folder, postgres.url(), redis.url(), issuer)["plinth"].env
        # Callers are few here, and none is to be held back. The pool is as in the chart.
        env |= {"RATE_LIMIT": ""}
        migrate = [sys.executable, "-m", "plinth.cli", "migrate"]
        subprocess.run(migrate, env=env, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
        yield Service(postgres, issuer, folder, env)


class Client:
    """A caller of the service, on one connection."""

    def __init__(self, service: Service, api: Contender, owner: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=PATIENCE)
        self._headers = {"Authorization": f"Bearer {service.issuer.token(owner)}", "Content-Type": "application/json"}

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[Any, http.client.HTTPMessage]:
        """Send a request; the answer's document and headers. Exits if it is an error."""
        data = None if body is None else json.dumps(body)
        url = path if path.startswith(API) else API + path
        self._connection.request(method, url, data, self._headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 400:
            sys.exit(f"{method} {path} gave {answer.status}: {text[:500]!r}")
        return json.loads(text), answer.headers


class Cost:
    """Time and CPU from here to `end`: of processes of the service, and of PostgreSQL."""

    def __init__(self, service: Service, *pids: int) -> None:
        self._pids, self._database = pids, service.database_pid
        self._began, self._cpu = time.perf_counter(), self._now()

    def _now(self) -> tuple[int, int]:
        return sum(map(cpu_ns, self._pids)), cpu_ns(self._database) + sum(map(ended_ns, processes(self._database)))

    def end(self) -> tuple[float, float, float]:
        """Seconds, and seconds of CPU of the processes and of PostgreSQL."""
        seconds, (ours, database) = time.perf_counter() - self._began, self._now()
        return seconds, (ours - self._cpu[0]) / 1e9, (database - self._cpu[1]) / 1e9


def ended_ns(pid: int) -> int:
    """CPU time of the children of a process that have ended, in nanoseconds; a tick is 1/100 s on Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) * 10_000_000


def peak_memory(pid: int) -> float:
    """The most resident memory that a process has had, in MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(os.strerror(3))
