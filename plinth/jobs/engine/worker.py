"""The worker process: opens its connections, keeps a worker session, runs jobs until it is told to stop."""

import asyncio
import gc
import os
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

import structlog

from plinth.database.engine import Database, DatabaseUnavailableError, bind_default_database
from plinth.health.loop_watch import LoopWatch
from plinth.health.probe_server import ProbeServer
from plinth.jobs.doorbell import DOORBELL, Doorbell
from plinth.jobs.engine.fleet_metrics import FleetMetrics
from plinth.jobs.engine.runner import Runner
from plinth.jobs.engine.store import DEADLINE_MARGIN, Store
from plinth.jobs.engine.threads import NAME, HandlerThreads
from plinth.jobs.hooks import worker_running
from plinth.jobs.kinds import JobKind, kinds
from plinth.jobs.resources import open_resources
from plinth.settings import PlatformSettings
from plinth.telemetry import trace_setup
from plinth.telemetry.logging import log_warnings
from plinth.telemetry.metrics import DEPENDENCY_UP, Labels, tell_build

__all__ = ["Worker", "run_worker"]

log = structlog.get_logger("plinth.jobs.engine.worker")

AWAY_SECONDS = 1.0
LEAVE_SECONDS, LEAVE_LOOKS = 1.0, 20

# Handlers may take longer over a statement, and wait longer for a connection, than a request may.
HANDLER_LIMITS = {"DB_STATEMENT_TIMEOUT": 60.0, "DB_POOL_TIMEOUT": 30.0, "DB_CONNECT_TIMEOUT": 5.0}
# The engine's own statements take milliseconds. Three at once: a claim, a batch of outcomes, the housekeeping.
ENGINE_LIMITS = {
    "DB_POOL_SIZE": 3,
    "DB_MAX_OVERFLOW": 0,
    "DB_STATEMENT_TIMEOUT": 10.0,
    "DB_POOL_TIMEOUT": 10.0,
    "DB_CONNECT_TIMEOUT": 2.0,
}
# A connection caches plans until the next VACUUM or ANALYZE. A plan made while the queue was empty scans the whole
# table for each run of a batch once a burst arrives. Every statement of the engine on a large table has an index.
# One plan fits all arguments, and planning a claim anew takes 0.4 ms.
ENGINE_PLANNING = {"enable_seqscan": "off", "plan_cache_mode": "force_generic_plan"}
# A claim holds the locks of kinds with limits from its first statement to its last. A worker that stands still in
# between, its event loop blocked or its node gone, keeps such kinds from all others for no longer than this.
ENGINE_SESSION = {**ENGINE_PLANNING, "idle_in_transaction_session_timeout": "5s"}


def engine_database(settings: PlatformSettings, session_info: Mapping[str, Any] | None = None) -> Database:
    """Open the engine's own connections, which handlers never get."""
    return Database(
        settings.model_copy(update=ENGINE_LIMITS),
        session_info=session_info,
        pool_name="engine",
        server_settings=ENGINE_SESSION,
    )


class Worker:
    """Runs every kind of job that this process has registered. `run` it in an event loop of its own.

    Opens `DB_POOL_SIZE` connections for handlers, up to three for the engine and one for the heartbeat.
    """

    def __init__(
        self,
        settings: PlatformSettings,
        *,
        queues: Sequence[str] | None = None,
        concurrency: int | None = None,
        registered: Mapping[str, JobKind[Any]] | None = None,
    ) -> None:
        self._settings = settings
        self._queues = list(dict.fromkeys(queues or settings.JOBS_QUEUES))
        self._concurrency = concurrency or settings.JOBS_CONCURRENCY
        self._kinds = dict(kinds() if registered is None else registered)
        self.threads = HandlerThreads(self._concurrency)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._session: Runner | None = None

    @property
    def ready(self) -> bool:
        """Whether it has a worker session and so can claim jobs; it has none while the database is away."""
        session = self._session
        return session is not None and not session.lost.is_set()

    @property
    def stuck(self) -> bool:
        """Whether no slot or no thread becomes free: a run has held each beyond its time limit."""
        longest = max((kind.time_limit for kind in self._kinds.values()), default=0.0)
        threads = self.threads.waiting > longest + DEADLINE_MARGIN.total_seconds()
        return threads or (self._session is not None and self._session.overdue == self._concurrency)

    def _dependencies(self, doorbell: Doorbell | None) -> list[tuple[Labels, float]]:
        session = self._session
        found: list[tuple[Labels, float]] = [(("database",), session is not None and session.in_touch)]
        if doorbell is not None:
            found.append((("redis",), doorbell.heard))
        return found

    def stop(self) -> None:
        """Stop claiming and wait for runs within the grace period. A second call releases them at once."""
        (self._hurry if self._stop.is_set() else self._stop).set()

    async def run(self) -> None:
        """Run jobs until `stop` is called."""
        settings = self._settings
        async with AsyncExitStack() as closing:
            await closing.enter_async_context(trace_setup.running(settings, "worker"))
            opened = open_resources(settings, limits=HANDLER_LIMITS, pool_name="main")
            resources = await closing.enter_async_context(opened)
            doorbell, database = resources.doorbell, resources.database
            closing.enter_context(bind_default_database(database))
            closing.enter_context(self.threads.running())
            engine = engine_database(settings, {DOORBELL: doorbell})
            closing.push_async_callback(engine.aclose)
            fleet_metrics = FleetMetrics(engine, settings)
            fleet_metrics.start()
            closing.push_async_callback(fleet_metrics.stop)
            closing.enter_context(
                DEPENDENCY_UP.by(partial(self._dependencies, None if resources.redis is None else doorbell))
            )
            await closing.enter_async_context(worker_running(database))
            log.info(
                "worker started",
                queues=self._queues,
                concurrency=self._concurrency,
                kinds=sorted(self._kinds),
                version=settings.service.version,
            )
            connections = settings.DB_POOL_SIZE + settings.DB_MAX_OVERFLOW
            if self._concurrency > connections and not settings.DB_USE_NULL_POOL:
                log.info("handlers share connections", slots=self._concurrency, connections=connections)
            while not self._stop.is_set():
                store = await self._open_session(engine, self._session)
                if store is None:
                    break
                self._session = Runner(
                    store,
                    settings,
                    database=database,
                    doorbell=doorbell,
                    kinds=self._kinds,
                    queues=self._queues,
                    concurrency=self._concurrency,
                )
                await self._session.serve(self._stop, self._hurry)
            if self._session is not None and self._session.lost.is_set():
                with suppress(DatabaseUnavailableError):
                    await self._session.survive()
        log.info("worker stopped")

    async def _open_session(self, engine: Database, lost: Runner | None) -> Store | None:
        away = False
        while not self._stop.is_set():
            try:
                if lost is not None:
                    await lost.survive()
                return await Store.open_session(
                    engine,
                    name=f"{socket.gethostname()}:{os.getpid()}",
                    version=self._settings.service.version,
                    queues=self._queues,
                    kinds=sorted(self._kinds),
                    concurrency=self._concurrency,
                    expire_after=self._settings.JOBS_SESSION_TIMEOUT,
                )
            except DatabaseUnavailableError as error:
                if not away:
                    log.warning("waiting for the database", reason=error.reason)
                away = True
                with suppress(TimeoutError):
                    async with asyncio.timeout(AWAY_SECONDS):
                        await self._stop.wait()
        return None


async def run_worker(
    settings: PlatformSettings, *, queues: Sequence[str] | None, concurrency: int | None, host: str
) -> None:
    """Run a worker in this process, with signal handlers, and probes and metrics on `host`:METRICS_PORT.

    Raises:
        ProbeServerError: the port is taken.
        asyncpg.UndefinedTableError: the database has not been migrated.
    """
    log_warnings(settings)
    tell_build(settings)
    worker = Worker(settings, queues=queues, concurrency=concurrency)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(worker.threads)
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, worker.stop)
    # As in the API: a full collection that scans what stays loaded stops the event loop for tens of milliseconds.
    gc.freeze()
    watch = LoopWatch()
    probes = ProbeServer(
        host, settings.METRICS_PORT, alive=lambda: watch.alive and not worker.stuck, ready=lambda: worker.ready
    )
    probes.start()
    try:
        with watch.running():
            await worker.run()
    finally:
        probes.stop()
    await _leave(worker.threads)


async def _leave(threads: HandlerThreads) -> None:
    """End the process at once if a handler does not end, in the loop or in a thread.

    Its job is released and its writes are fenced off, but the event loop and the interpreter would wait for it, and
    Kubernetes for the pod.
    """
    threads.shutdown(wait=False, cancel_futures=True)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    for _ in range(LEAVE_LOOKS):
        stuck = sum(not task.done() for task in tasks)
        stuck += sum(thread.name.startswith(NAME) for thread in threading.enumerate())
        if not stuck:
            return
        await asyncio.sleep(LEAVE_SECONDS / LEAVE_LOOKS)
    log.error("handlers do not end; the process exits, their jobs are released", count=stuck)
    os._exit(1)
