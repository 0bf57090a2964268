"""Everything on one machine: the servers that the settings leave out, the migrations, the service."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from plinth.embedded.address import Address
from plinth.embedded.lock import Lock, Record
from plinth.embedded.process import EmbeddedError, Process, Sleep, environment
from plinth.embedded.report import Progress, complain, say, summary
from plinth.embedded.servers import Servers
from plinth.embedded.supervisor import StopRequested, Supervisor
from plinth.settings import PlatformSettings

HEALTH_TIMEOUT = 60.0  # seconds for the API to answer after its start
PROGRAM_GRACE = 25.0  # seconds; uvicorn gives its requests 20
WORKER_MARGIN = 5.0  # seconds that a worker may take beyond its grace
WORKER_HOST = "127.0.0.1"  # of its probes and metrics, unless it is told another


def run(settings: PlatformSettings, *, host: str, port: int, reload: bool, data_dir: Path) -> int:
    """Run the service with all it needs until a signal comes; returns the exit code.

    What keeps it from running is told in a sentence: 1 if something failed.
    """
    try:
        with Lock(data_dir) as lock:
            lock.end_orphans()
            address = Address(host, port)
            address.check()
            lock.write({"pid": os.getpid(), "url": address.url})
            with Servers(data_dir, settings) as servers, Supervisor() as supervisor:
                try:
                    _serve(supervisor, servers, lock, settings, address, reload)
                except StopRequested:
                    say("\nStopping (Ctrl-C again to hurry).")
            say("Stopped.")
    except EmbeddedError as error:
        complain(error)
        return 1
    return 0


def _serve(
    supervisor: Supervisor, servers: Servers, lock: Lock, settings: PlatformSettings, address: Address, reload: bool
) -> None:
    """Start one thing after the other, then watch over them; returns only by an exception."""
    progress = Progress()
    servers.start(supervisor)
    progress.done("The servers answer")

    env = environment(**servers.addresses)
    _migrate(servers.logs / "migrate.log", env, supervisor.sleep)
    progress.done("The migrations are applied")

    again = ["--reload"] if reload else []
    listen = ["--host", address.host, "--port", str(address.port)]
    # Only one of the two can have METRICS_PORT, if it is set: the worker. The usual one may be another program's.
    chosen = settings.METRICS_PORT if "METRICS_PORT" in settings.model_fields_set else 0
    worker_metrics = Address(WORKER_HOST, chosen) if chosen else Address.free(WORKER_HOST, but={address.port})
    api_metrics = Address.free(address.host, but={address.port, worker_metrics.port})
    api = supervisor.add(_program("The API", ["api", *listen, *again], env | _at(api_metrics)))
    worker = supervisor.add(_worker(settings, again, env | _at(worker_metrics)))
    programs = [api, worker]
    lock.write(_record(address, servers, programs))

    health = f"{settings.API_V1_STR}/public/health"
    deadline = time.monotonic() + HEALTH_TIMEOUT
    while not address.answers(health):
        ended = [program for program in programs if not program.running]
        # With reload, code that does not start is code that is being written.
        if ended or (time.monotonic() > deadline and not reload):
            raise (*ended, api)[0].failure()
        supervisor.sleep(0.02)
    progress.done("The API answers")

    say(summary(settings, servers, address.url, health, (api_metrics.url, worker_metrics.url)))
    supervisor.watch()


def _at(metrics: Address) -> dict[str, str]:
    return {"METRICS_PORT": str(metrics.port)}


def _program(name: str, arguments: list[str], env: dict[str, str], **options: Any) -> Process:
    command = [sys.executable, "-m", "plinth.cli", *arguments]
    return Process(name, command, env=env, **{"grace": PROGRAM_GRACE, **options})


def _worker(settings: PlatformSettings, options: list[str], env: dict[str, str]) -> Process:
    return _program(
        "The worker",
        ["worker", *options],
        env,
        hurry_signal=signal.SIGTERM,  # the second one makes it give back at once what still runs
        grace=settings.JOBS_SHUTDOWN_GRACE + WORKER_MARGIN,
    )


def _migrate(log: Path, env: dict[str, str], sleep: Sleep) -> None:
    process = _program("The migration", ["migrate"], env, log=log)
    try:
        process.wait(float("inf"), sleep)
        if process.exit_code != 0:
            raise process.failure()
    finally:
        process.stop()


def _record(address: Address, servers: Servers, programs: list[Process]) -> Record:
    started = {str(program.pid): psutil.Process(program.pid).create_time() for program in programs}
    return {"pid": os.getpid(), "url": address.url, "environment": servers.addresses, "programs": started}
