"""Child jobs: a job enqueues others, waits for their end without a slot, and goes on with their results."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Unpack
from uuid import UUID

from pydantic import BaseModel, ValidationError
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.database.engine import Database
from plinth.database.uuid7 import python_uuid7
from plinth.jobs.batch_end import end_batches, event_of
from plinth.jobs.batches import open_batch
from plinth.jobs.codec import PayloadCodec, decode, result_context
from plinth.jobs.context import JobContext
from plinth.jobs.enqueue import EnqueueOptions, prepare
from plinth.jobs.kinds import JobKind, kind_named
from plinth.jobs.outcome import State
from plinth.jobs.results import load
from plinth.jobs.steps import MAX_NAME, StepChanged

__all__ = ["ChildFailed", "run_jobs"]

MAX_CHILDREN = 10_000
MAX_RESULTS = 1_048_576  # bytes of JSON, of all children together
_COUNTER = 0xFFFF  # the bits of a batch's id that its children's ids count in

_SIZE = "SELECT COALESCE(sum(octet_length(result::text)), 0) FROM job_history WHERE id BETWEEN $1 AND $2"
# An error is that of the last failed run, unless the job has succeeded since.
_ENDS = """
SELECT id, state, result::text AS result, CASE
    WHEN state <> 'succeeded' OR errors -> -1 ->> 'outcome' = 'result' THEN COALESCE(errors -> -1 ->> 'error', '')
    END AS error
FROM job_history WHERE id BETWEEN $1 AND $2 ORDER BY id
"""


class ChildFailed(Exception):
    """A child job has not succeeded, or its result could not be kept. `error` is what its owner may read."""

    def __init__(self, job_id: UUID, kind: str, state: State, error: str) -> None:
        why = f": {error}" if error else ""
        super().__init__(f"The child job {job_id} of the kind {kind} is {state}{why}")
        self.id = job_id
        self.kind = kind
        self.state = state
        self.error = error


class _Children(NamedTuple):
    """The children that a step has enqueued. Their ids follow that of their batch, in the order of their payloads."""

    batch: UUID
    number: int

    @property
    def ids(self) -> list[UUID]:
        return [UUID(int=self.batch.int + place) for place in range(1, self.number + 1)]


class _End(NamedTuple):
    """How a child has ended. `error`: it has failed."""

    id: UUID
    state: State
    result: Any
    error: str | None


async def run_jobs(
    ctx: JobContext,
    name: str,
    kind: str | JobKind[Any],
    payloads: Sequence[BaseModel],
    *,
    return_exceptions: bool = False,
    **options: Unpack[EnqueueOptions],
) -> list[Any]:
    """Run a child job for each payload, give the slot back until all have ended, and return their results in order.

    It is three durable steps: `name`, `name.ended` and `name.results`. A cancellation of this job cancels the children.

    Args:
        name: of 1 to 192 characters, known in this job, as that of a step.
        return_exceptions: a child that has failed is a `ChildFailed` among the results, in each run of this job.
        options: as for `plinth.jobs.enqueue`; the owner is this job's.

    Raises:
        ChildFailed: the first in order that has failed. This run has failed then, and the next looks at them again.
        StepChanged: a result does not fit the return type of the children's kind.
        ValueError: there are more than 10,000 payloads, or the results have more than 1 MiB together.
        RuntimeError: children were deleted or are being done again; within `ctx.session()`, or after `complete`.
        UnknownKindError, TypeError: as for `plinth.jobs.enqueue`.
    """
    ctx.check_steps(suspends=True)
    kind = kind if isinstance(kind, JobKind) else kind_named(kind)
    if not 0 < len(name) <= MAX_NAME - len(".results"):
        raise ValueError(f"the name of child jobs has 1 to {MAX_NAME - len('.results')} characters")
    options = {"owner": ctx.owner, **options}

    async def start(session: AsyncSession) -> _Children:
        return await _start(session, ctx.id, kind, payloads, options)

    async with ctx.session() as session:
        children = await ctx.step(name, start, session)
    await ctx.wait_for(event_of(children.batch), name=f"{name}.ended")

    async def read() -> list[_End]:
        ends = await _read(ctx.database, name, children, kind.codec_for(ctx.settings))
        failed = next((end for end in ends if end.error is not None), None)
        if failed is not None and not return_exceptions:
            raise ChildFailed(failed.id, kind.name, failed.state, failed.error or "")
        return ends

    ends = await ctx.steps.run(f"{name}.results", read, (), retry=None, block=None, limit=MAX_RESULTS)
    return [
        _result(kind, end) if end.error is None else ChildFailed(end.id, kind.name, end.state, end.error)
        for end in ends
    ]


async def _start(
    session: AsyncSession, parent: UUID, kind: JobKind[Any], payloads: Sequence[BaseModel], options: EnqueueOptions
) -> _Children:
    if len(payloads) > MAX_CHILDREN:
        raise ValueError(f"a job runs {MAX_CHILDREN} child jobs at most by one call")
    children = _Children(UUID(int=python_uuid7().int & ~_COUNTER), len(payloads))
    options = {**options, "batch": children.batch}
    prepared = prepare(kind, payloads, **options)
    rows = [row._replace(id=job_id) for row, job_id in zip(prepared.rows, children.ids, strict=True)]
    await open_batch(session, children.batch, owner=prepared.terms.owner, parent=parent)
    await replace(prepared, rows=rows).execute(session)
    if not rows:
        await end_batches(session, [children.batch])
    return children


async def _read(database: Database, name: str, children: _Children, codec: PayloadCodec | None) -> list[_End]:
    within = UUID(int=children.batch.int + 1), UUID(int=children.batch.int + children.number)
    async with database.connection() as connection:
        if await connection.fetchval(_SIZE, *within) > MAX_RESULTS:
            raise ValueError(f"The results of {name!r} have more than {MAX_RESULTS} bytes: keep them elsewhere.")
        rows = await connection.fetch(_ENDS, *within)
    if missing := children.number - len(rows):
        raise RuntimeError(f"Of the child jobs of {name!r}, {missing} were deleted or are being done again.")

    def plain(row: Any) -> Any:
        text = row["result"] or "null"
        return json.loads(text if codec is None else decode(codec, text, result_context(row["id"])))

    return [_End(row["id"], State(row["state"]), plain(row), row["error"]) for row in rows]


def _result(kind: JobKind[Any], end: _End) -> Any:
    if kind.result is None or end.result is None:
        return None
    try:
        return load(kind.result, json.dumps(end.result))
    except ValidationError:
        raise StepChanged(f"The result of the child job {end.id} does not fit the type of {kind.name} now.") from None
