"""Metrics of jobs in one process. Labels are kinds and outcomes, which the code bounds."""

from typing import NamedTuple

from prometheus_client import Counter
from prometheus_client import Histogram as SharedHistogram

from plinth.telemetry.histogram import Family, Histogram, render
from plinth.telemetry.metrics import Observed, expose

__all__ = [
    "ENQUEUED",
    "HEARTBEAT_LAG",
    "HOUSEKEEPING",
    "LEASES_LOST",
    "UNKNOWN_KIND",
    "KindMetrics",
    "of_kind",
    "reaped",
]

UNKNOWN_KIND = "unknown"  # every kind that this process has not registered
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

ENQUEUED = Counter("plinth_jobs_enqueued", "Jobs that were enqueued, counted once that has committed.", ["kind"])
_STARTED = Counter("plinth_jobs_started", "Runs that were started.", ["kind"])
_FINISHED = Counter("plinth_jobs_finished", "Runs that ended, by outcome.", ["kind", "outcome"])
_WAIT = Family("plinth_job_wait_seconds", "From the time a job was due to its start.", _SECONDS)
_RUN = Family("plinth_job_run_seconds", "From the start of a run to its end.", _SECONDS)
LEASES_LOST = Counter("plinth_job_leases_lost", "Runs whose outcome came too late: the job had been taken away.")
_REAPED = Counter("plinth_jobs_reaped", "Runs taken away from lost workers and hung handlers.", ["kind", "fate"])
HEARTBEAT_LAG = Observed("plinth_worker_heartbeat_lag_seconds", "Time since the worker's session was last renewed.")
HOUSEKEEPING = SharedHistogram(
    "plinth_job_housekeeping_seconds",
    "How long a step took that a worker repeats for all: sweep, reap, prune, schedules.",
    ["task"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


class KindMetrics(NamedTuple):
    """The metrics' children of one kind, kept because a look-up costs more than the count."""

    started: Counter
    wait: Histogram
    run: Histogram
    finished: dict[str, Counter]


_known: dict[str, KindMetrics] = {}


def of_kind(kind: str) -> KindMetrics:
    """Return the metrics of a registered kind.

    They show from here on, at 0: Prometheus sees no increase in a series that begins at 1.
    """
    if (found := _known.get(kind)) is not None:
        return found
    outcomes = ("succeeded", "retryable", "discarded", "cancelled", "released", "suspended", "snoozed", "lost")
    found = _known[kind] = KindMetrics(
        _STARTED.labels(kind),
        Histogram(_WAIT, f'kind="{kind}"'),
        Histogram(_RUN, f'kind="{kind}"'),
        {outcome: _FINISHED.labels(kind, outcome) for outcome in outcomes},
    )
    reaped(kind)
    return found


def reaped(kind: str) -> dict[str, Counter]:
    """Return the counters of runs of a kind that were taken away, by fate. They show from here on, at 0."""
    return {fate: _REAPED.labels(kind, fate) for fate in ("available", "cancelled", "discarded")}


def _render(openmetrics: bool) -> str:
    known = list(_known.values())
    waits, runs = (metrics.wait for metrics in known), (metrics.run for metrics in known)
    return render(_WAIT, waits, openmetrics) + render(_RUN, runs, openmetrics)


expose(_render)
