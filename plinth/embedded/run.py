"""Everything on one machine: the servers that the settings leave out, the migrations, the service."""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from plinth.embedded.address import Address
from plinth.embedded.lock import Lock
from plinth.embedded.process import POLL, EmbeddedError, Process, Sleep, environment
from plinth.embedded.report import Progress, say, summary
from plinth.embedded.secret_key import make_key
from plinth.embedded.servers import Servers
from plinth.embedded.supervisor import StopRequested, Supervisor
from plinth.settings import PlatformSettings

MIGRATION_QUIET = 5.0  # seconds for the migrations, before it is shown what they wait for
HEALTH_TIMEOUT = 60.0  # seconds for the API to answer after its start
API_GRACE = 25.0  # seconds; uvicorn gives its requests 20
WORKER_MARGIN = 5.0  # seconds that a worker may take beyond its grace
WORKER_HOST = "127.0.0.1"  # of its probes and metrics, unless it is told another


def run(settings: PlatformSettings, *, host: str, port: int, reload: bool, data_dir: Path) -> int:
    """Run the service with all it needs until a signal comes; returns the exit code.

    What keeps it from running is told in a sentence: 1 if something failed.
    """
    try:
        with Lock(data_dir) as lock:
            address = Address(host, port)
            address.check()
            lock.note(url=address.url)
            with Supervisor(lock) as supervisor:
                try:
                    _serve(supervisor, lock, Servers(data_dir, settings), settings, address, reload)
                except StopRequested:
                    say("\nStopping (Ctrl-C again to hurry).")
            say("Stopped.")
    except EmbeddedError as error:
        say(error, error=True)
        return 1
    return 0


def _serve(
    supervisor: Supervisor, lock: Lock, servers: Servers, settings: PlatformSettings, address: Address, reload: bool
) -> None:
    """Start one thing after the other, then watch over them; returns only by an exception."""
    progress = Progress()
    servers.start(supervisor)
    progress.done("The servers answer")

    key = make_key(settings, servers.folder)
    settings = settings.model_copy(update={name: SecretStr(value) for name, value in key.items()})
    env = environment(**servers.addresses, **key)
    _migrate(servers.logs / "migrate.log", env, supervisor.sleep)
    lock.note(environment=servers.addresses)
    progress.done("The migrations are applied")

    options = ["--reload"] if reload else []
    # Only one of the two can have METRICS_PORT, if it is set: the worker. The usual one may be another program's.
    chosen = settings.METRICS_PORT if "METRICS_PORT" in settings.model_fields_set else 0
    worker_metrics = Address(WORKER_HOST, chosen) if chosen else Address.free(WORKER_HOST)
    api_metrics = Address.free(address.host)

    def start_api() -> Process:
        return Process(
            "The API",
            _command("api", "--host", address.host, "--port", str(address.port), *options),
            env=env | {"METRICS_PORT": str(api_metrics.port)},
            grace=API_GRACE,
        )

    def start_worker() -> Process:
        return Process(
            "The worker",
            _command("worker", *options),
            env=env | {"METRICS_PORT": str(worker_metrics.port)},
            hurry_signal=signal.SIGTERM,  # the second one makes it give back at once what still runs
            grace=settings.JOBS_SHUTDOWN_GRACE + WORKER_MARGIN,
        )

    # While code is being written, a process that was killed is started again as one is whose code has changed.
    api = supervisor.add(start_api(), again=_telling(start_api) if reload else None)
    worker = supervisor.add(start_worker(), again=_telling(start_worker) if reload else None)

    health = f"{settings.API_V1_STR}/public/health"
    deadline = time.monotonic() + HEALTH_TIMEOUT
    while not address.answers(health):
        ended = [program for program in (api, worker) if not program.running]
        # With reload, code that does not start is code that is being written.
        if ended or (time.monotonic() > deadline and not reload):
            raise (*ended, api)[0].failure()
        supervisor.sleep(POLL)
    progress.done("The API answers")

    say(summary(settings, servers, address.url, health, (api_metrics.url, worker_metrics.url)))
    supervisor.watch()


def _telling(start: Callable[[], Process]) -> Callable[[], Process]:
    """The same, for a process that was killed: it says so."""

    def again() -> Process:
        process = start()
        say(f"{process.name} was killed. It is started again.", error=True)
        return process

    return again


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "plinth.cli", *arguments]


def _migrate(log: Path, env: dict[str, str], sleep: Sleep) -> None:
    process = Process("The migration", _command("migrate"), env=env, log=log, grace=API_GRACE)
    try:
        if not process.wait(MIGRATION_QUIET, sleep) and (said := process.last_lines()):
            say(f"The migrations are not applied yet:\n{said}")
        process.wait(float("inf"), sleep)
        if process.exit_code != 0:
            raise process.failure()
    finally:
        process.stop()
