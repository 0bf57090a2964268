"""The jobs: a digest when a caller asks for one, and the removal of deleted notes by schedule."""

from datetime import timedelta
from typing import cast

from pydantic import BaseModel
from sqlalchemy import delete, func
from sqlmodel import col, select

from notes.config import Settings
from notes.models import Note
from plinth.jobs import JobContext, RetryPolicy, job, schedule

__all__ = ["Digest", "Purge", "digest", "purge"]


class Digest(BaseModel):
    owner: str


@job("notes.digest", time_limit=60, retry=RetryPolicy(max_attempts=5))
async def digest(ctx: JobContext, payload: Digest) -> None:
    """Write a note that holds the first line of each of an owner's notes."""
    async with ctx.session() as session:
        notes = (await session.exec(select(Note).where(Note.owner == payload.owner).order_by(col(Note.id)))).all()
        ctx.progress(0, len(notes), "notes read")
        lines = [note.text.partition("\n")[0] for note in notes]
        session.add(
            Note(owner=payload.owner, text="\n".join([f"{len(notes)} notes", *lines])[:10_000], tags=["digest"])
        )
        # Committed together: a run that was replaced leaves no second digest.
        await ctx.complete(session)


class Purge(BaseModel):
    """Nothing: the job looks for itself."""


@job("notes.purge", retry=RetryPolicy(max_attempts=3), max_running=1)
async def purge(ctx: JobContext, payload: Purge) -> None:
    """Remove the notes that were deleted more than NOTES_KEEP_DAYS ago."""
    keep = timedelta(days=cast(Settings, ctx.settings).NOTES_KEEP_DAYS)
    async with ctx.session() as session:
        old = delete(Note).where(col(Note.deleted_at) < func.now() - keep)
        await session.exec(old, execution_options={"include_deleted": True})
        await ctx.complete(session)


schedule(purge, Purge(), cron="0 * * * *")
