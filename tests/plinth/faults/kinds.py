"""The kinds of jobs that the fault tests run. What a job does to the world is a row in `ledger`.

`run_log` gets a row at the start of each run, committed at once: it tells how often a job really ran. Neither table
has a constraint, so an effect that is taken twice is there to be counted.
"""

import asyncio
import os
import signal
import time
from typing import Literal
from uuid import UUID

from pydantic import BaseModel
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.jobs import JobContext, Limit, RetryPolicy, ended_batch, job, run_jobs

__all__ = [
    "TABLES",
    "Effect",
    "Family",
    "Followed",
    "Killer",
    "Nothing",
    "Stepped",
    "Trouble",
    "Work",
    "blocking",
    "counted",
    "effect",
    "fails",
    "hangs",
    "in_a_thread",
    "killer",
    "last",
    "leads",
    "limited",
    "parent",
    "plain",
    "slot",
    "stepped",
    "stubborn",
    "times_out",
]

TABLES = """
CREATE TABLE ledger (job_id uuid NOT NULL, run bigint NOT NULL, worker int NOT NULL, at timestamptz NOT NULL);
CREATE TABLE run_log (job_id uuid NOT NULL, run bigint NOT NULL, worker int NOT NULL, at timestamptz NOT NULL);
CREATE TABLE slot_log (from_slot timestamptz, to_slot timestamptz, at timestamptz);
CREATE TABLE step_ledger (job_id uuid NOT NULL, step text NOT NULL);
CREATE TABLE step_log (job_id uuid NOT NULL, step text NOT NULL, kept boolean NOT NULL);
CREATE FUNCTION log_slot() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO slot_log VALUES (OLD.last_slot, NEW.last_slot, now()); RETURN NULL; END $$;
CREATE TRIGGER log_slot AFTER UPDATE OF last_slot ON job_schedule
    FOR EACH ROW WHEN (OLD.last_slot <> NEW.last_slot) EXECUTE FUNCTION log_slot();
"""
_BOOK = "INSERT INTO ledger VALUES ($1, $2, $3, clock_timestamp())"
_LOG = "INSERT INTO run_log VALUES ($1, $2, $3, clock_timestamp())"

_BOOK_STEP = "INSERT INTO step_ledger VALUES ($1, $2)"
# `kept`: the step's result was there already, so it must not run.
_LOG_STEP = """
INSERT INTO step_log VALUES ($1, $2, EXISTS (SELECT FROM job_step WHERE job_id = $1 AND name = $2))
"""

# While the database is away every attempt fails: such jobs come back soon, and do not run out of attempts.
SOON = RetryPolicy(max_attempts=1000, base=0.1, ceiling=0.3)


class Nothing(BaseModel):
    """No payload."""


class Work(BaseModel):
    """So many seconds of it."""

    seconds: float = 0.0


class Effect(Work):
    """`subject`: the job whose effect it is, if not its own; `run`: which run of that job."""

    subject: UUID | None = None
    run: int | None = None


class Followed(BaseModel):
    """The unique key of the job that follows."""

    key: str


class Family(Work):
    """So many children, each of so many seconds."""

    children: int = 1


class Killer(BaseModel):
    """Its first `runs` runs kill their worker, at a certain moment."""

    runs: int = 1
    moment: Literal["start", "before commit", "after commit"] = "start"


Moment = Literal[
    "never",
    "before the step",
    "in the step",
    "after the step",
    "in the transaction",
    "before the commit",
    "after the commit",
    "after the sleep",
    "after the event",
]


class Stepped(BaseModel):
    """Its first run that comes to a certain moment kills its worker."""

    dies: Moment = "never"
    seconds: float = 0.0


class Trouble(BaseModel):
    """Its first `attempts` attempts are in trouble, for so many seconds."""

    attempts: int = 1
    seconds: float = 0.0


async def log_run(ctx: JobContext) -> None:
    """Tell that a run has begun."""
    async with ctx.database.connection() as connection:
        await connection.execute(_LOG, ctx.id, ctx.run, os.getpid())


async def book(session: AsyncSession, job_id: UUID, run: int) -> None:
    """Take effect, in the session's transaction."""
    connection = await session.connection()
    await connection.exec_driver_sql(_BOOK, (job_id, run, os.getpid()))


async def book_and_complete(ctx: JobContext) -> None:
    """Take effect and complete, in one transaction."""
    async with ctx.session() as session:
        await book(session, ctx.id, ctx.run)
        await ctx.complete(session)


async def sleep_and_complete(ctx: JobContext, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await book_and_complete(ctx)


@job("faults.effect", retry=SOON)
async def effect(ctx: JobContext, payload: Effect) -> None:
    """Works, then takes effect and completes in one transaction."""
    await log_run(ctx)
    await asyncio.sleep(payload.seconds)
    async with ctx.session() as session:
        await book(session, payload.subject or ctx.id, payload.run or ctx.run)
        await ctx.complete(session)


@job("faults.plain", retry=SOON)
async def plain(ctx: JobContext, payload: Work) -> None:
    """Works and just returns. Its effect is a job that follows, which the engine enqueues as it completes this one."""
    await log_run(ctx)
    await asyncio.sleep(payload.seconds)
    ctx.enqueue(effect, Effect(subject=ctx.id, run=ctx.run))


@job("faults.leads", retry=SOON)
async def leads(ctx: JobContext, payload: Followed) -> None:
    """Just returns. Its effect is a job that follows, of a unique key."""
    await log_run(ctx)
    ctx.enqueue(effect, Effect(subject=ctx.id, run=ctx.run), unique_key=payload.key)


@job("faults.stubborn", retry=SOON)
async def stubborn(ctx: JobContext, payload: Work) -> None:
    """Like `effect`, but when it is cancelled it goes on to its end."""
    await log_run(ctx)
    work = asyncio.create_task(sleep_and_complete(ctx, payload.seconds))
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            continue
    await work


@job("faults.in-a-thread", retry=SOON)
async def in_a_thread(ctx: JobContext, payload: Work) -> None:
    """Works in a thread, which cannot be cancelled."""
    await log_run(ctx)
    await asyncio.to_thread(time.sleep, payload.seconds)
    await book_and_complete(ctx)


@job("faults.blocking")
async def blocking(ctx: JobContext, payload: Work) -> None:
    """Stops the event loop for its time."""
    await log_run(ctx)
    time.sleep(payload.seconds)  # noqa: ASYNC251 - that is the fault
    await book_and_complete(ctx)


@job("faults.killer")
async def killer(ctx: JobContext, payload: Killer) -> None:
    """Kills its worker."""
    await log_run(ctx)
    deadly = ctx.run <= payload.runs
    if deadly and payload.moment == "start":
        _die()
    async with ctx.session() as session:
        await book(session, ctx.id, ctx.run)
        await ctx.complete(session)
        if deadly and payload.moment == "before commit":
            _die()
    if deadly:
        _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@job("faults.times-out", time_limit=0.5, retry=SOON)
async def times_out(ctx: JobContext, payload: Trouble) -> None:
    """Its first attempts take longer than they may."""
    await log_run(ctx)
    if ctx.attempt <= payload.attempts:
        await asyncio.sleep(payload.seconds)
    await book_and_complete(ctx)


@job("faults.hangs", time_limit=0.5, retry=SOON)
async def hangs(ctx: JobContext, payload: Trouble) -> None:
    """Its first attempts take longer than they may, do not listen when they are cancelled, and speak of progress."""
    await log_run(ctx)
    end = time.monotonic() + (payload.seconds if ctx.attempt <= payload.attempts else 0)
    while time.monotonic() < end:
        ctx.progress(1, message=f"run {ctx.run}")
        try:
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            continue
    await book_and_complete(ctx)


@job("faults.fails", retry=RetryPolicy(base=1.0, ceiling=1.0))
async def fails(ctx: JobContext, payload: Trouble) -> None:
    """Its first attempts raise."""
    await log_run(ctx)
    if ctx.attempt <= payload.attempts:
        raise RuntimeError("as it was asked to")
    await book_and_complete(ctx)


@job("faults.limited", max_running=3, retry=SOON)
async def limited(ctx: JobContext, payload: Work) -> None:
    """At most three at once, in the whole fleet."""
    await log_run(ctx)
    await sleep_and_complete(ctx, payload.seconds)


class Keyed(Work):
    """Work for a key."""

    key: str


@job("faults.keyed", limit=Limit(lambda work: work.key, max_running=2), retry=SOON)
async def keyed(ctx: JobContext, payload: Keyed) -> None:
    """At most two of a key at once, in the whole fleet."""
    await log_run(ctx)
    await sleep_and_complete(ctx, payload.seconds)


@job("faults.slot", retry=SOON)
async def slot(ctx: JobContext, payload: Nothing) -> None:
    """What a schedule enqueues."""
    await log_run(ctx)
    await book_and_complete(ctx)


@job("faults.counted", retry=SOON)
async def counted(ctx: JobContext, payload: Work) -> int:
    """Works, takes effect in a step, and returns: the engine ends it."""
    await log_run(ctx)
    await asyncio.sleep(payload.seconds)
    async with ctx.session() as session:
        await ctx.step("book", book, session, ctx.id, ctx.run)
    return 1


@job("faults.last", retry=SOON)
async def last(ctx: JobContext, payload: Nothing) -> list[int]:
    """What a batch enqueues at its end: its effect, and how many members ended in each way."""
    await log_run(ctx)
    ended = list((await ended_batch(ctx))[1:])
    async with ctx.session() as session:
        await book(session, ctx.id, ctx.run)
        await ctx.complete(session, result=ended)
    return ended


@job("faults.parent", retry=SOON)
async def parent(ctx: JobContext, payload: Family) -> int:
    """Runs children, and takes effect with what they returned."""
    await log_run(ctx)
    total: int = sum(await run_jobs(ctx, "children", counted, [Work(seconds=payload.seconds)] * payload.children))
    async with ctx.session() as session:
        await book(session, ctx.id, ctx.run)
        await ctx.complete(session, result=total)
    return total


@job("faults.stepped", retry=SOON)
async def stepped(ctx: JobContext, payload: Stepped) -> None:
    """A step, one in a transaction, a sleep, the event `go` and the job's id, and the transaction that completes it."""
    await log_run(ctx)

    async def reach(moment: Moment) -> None:
        if payload.dies != moment:
            return
        async with ctx.database.connection() as connection:
            died = f"died {moment}"
            before = await connection.fetchval(
                "SELECT true FROM step_ledger WHERE step = $1 AND job_id = $2", died, ctx.id
            )
            if not before:
                await connection.execute(_BOOK_STEP, ctx.id, died)
                _die()

    async def log_step(step: str) -> None:
        async with ctx.database.connection() as connection:
            await connection.execute(_LOG_STEP, ctx.id, step)

    async def outside() -> int:
        await log_step("outside")
        await asyncio.sleep(payload.seconds)
        await reach("in the step")
        return ctx.run

    async def inside(session: AsyncSession) -> int:
        await log_step("inside")
        await (await session.connection()).exec_driver_sql(_BOOK_STEP, (ctx.id, "inside"))
        await reach("in the transaction")
        return ctx.run

    await reach("before the step")
    given = await ctx.step("outside", outside)
    await reach("after the step")
    async with ctx.session() as session:
        given += await ctx.step("inside", inside, session)
        await reach("before the commit")
    await reach("after the commit")
    await ctx.sleep(0.2)
    await reach("after the sleep")
    assert await ctx.wait_for(f"go {ctx.id}") == {"to": str(ctx.id)}
    await reach("after the event")
    assert given <= 2 * ctx.run
    await book_and_complete(ctx)
