"""The durable job engine: an accepted job is never lost and never takes effect twice.

PostgreSQL holds the truth; Redis only rings a doorbell. A job is a typed async function:

    class Welcome(BaseModel):
        user_id: UUID

    @job("mail.welcome", time_limit=30)
    async def welcome(ctx: JobContext, payload: Welcome) -> None: ...

    await enqueue(session, "mail.welcome", Welcome(user_id=user.id))     # committed with the caller's transaction

`docs/jobs/index.md` says what is promised, and what is not.
"""

from plinth.jobs.batches import Batch, EndedBatch, MemberResult, batch, ended_batch, member_results
from plinth.jobs.children import ChildFailed, run_jobs
from plinth.jobs.codec import PayloadCodec
from plinth.jobs.context import JobContext
from plinth.jobs.decorator import job
from plinth.jobs.encryption import aes_gcm
from plinth.jobs.enqueue import EnqueuedJob, enqueue, enqueue_many
from plinth.jobs.events import emit
from plinth.jobs.hooks import DiscardedJob, around_jobs, on_discard, worker_lifespan
from plinth.jobs.kinds import JobKind, UnknownKindError, kind_named
from plinth.jobs.limits import Limit
from plinth.jobs.open_batch import BatchEndedError
from plinth.jobs.outcome import Discard, JobCancelled, LeaseLost, Retry, Snooze, State
from plinth.jobs.owner_limit import TooManyJobsError
from plinth.jobs.retry import RetryPolicy
from plinth.jobs.schedules import Schedule, schedule
from plinth.jobs.steps import EventTimeout, StepChanged, StepFailed

__all__ = [
    "Batch",
    "BatchEndedError",
    "ChildFailed",
    "Discard",
    "DiscardedJob",
    "EndedBatch",
    "EnqueuedJob",
    "EventTimeout",
    "JobCancelled",
    "JobContext",
    "JobKind",
    "LeaseLost",
    "Limit",
    "MemberResult",
    "PayloadCodec",
    "Retry",
    "RetryPolicy",
    "Schedule",
    "Snooze",
    "State",
    "StepChanged",
    "StepFailed",
    "TooManyJobsError",
    "UnknownKindError",
    "aes_gcm",
    "around_jobs",
    "batch",
    "emit",
    "ended_batch",
    "enqueue",
    "enqueue_many",
    "job",
    "kind_named",
    "member_results",
    "on_discard",
    "run_jobs",
    "schedule",
    "worker_lifespan",
]
