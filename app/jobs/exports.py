"""The work behind exports: making their files, and deleting them when they have expired."""

from datetime import timedelta
from typing import cast

from pydantic import BaseModel

from app.business import exports
from app.core.config import Settings
from plinth.jobs import JobContext, RetryPolicy, job, schedule

__all__ = ["build", "expire"]


# Each one keeps a core busy, and a connection: keep `max_running` below DB_POOL_SIZE.
@job(
    exports.BUILD,
    time_limit=1800,
    retry=RetryPolicy(max_attempts=5),
    max_running=4,
    max_per_owner=exports.MAX_UNFINISHED,
)
async def build(ctx: JobContext, payload: exports.ExportBuild) -> None:
    """Make the file of an export, part by part; a later run goes on behind the last part that is written."""
    export_id = payload.export_id
    async with ctx.session() as session:
        plan = await ctx.step("begin", exports.begin_file, session, export_id, ctx.run)
    written = exports.Written()
    while not written.complete:
        ctx.progress(written.item_count, plan.item_count, "items written")
        async with ctx.session() as session:  # the part and its step commit together
            written = await ctx.step("part", exports.write_part, session, export_id, plan, written)
    ctx.progress(written.item_count, plan.item_count, "items written")
    digest = await ctx.step("digest", exports.digest_of, ctx.database, export_id, plan, written)
    async with ctx.session() as session:
        keep = timedelta(days=cast(Settings, ctx.settings).EXPORTS_KEEP_DAYS)
        await exports.publish(session, export_id, plan, written, digest=digest, keep=keep)
        await ctx.complete(session)


class Expiry(BaseModel):
    """The payload of `expire`: it looks for itself."""


@job("exports.expire", retry=RetryPolicy(max_attempts=3), max_running=1)
async def expire(ctx: JobContext, payload: Expiry) -> None:
    """Delete the exports that have expired."""
    deleted = 0
    while count := await exports.delete_expired_exports(ctx.database):
        deleted += count
        ctx.progress(deleted, message="exports deleted")
        ctx.raise_if_cancelled()


schedule(expire, Expiry(), cron="*/10 * * * *")
