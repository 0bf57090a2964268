"""arq's `create_pool` and `ArqRedis.enqueue_job`, which enqueue to the database."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.jobs.arq.access import Access
from plinth.jobs.arq.jobs import Job
from plinth.jobs.arq.registry import Registered, named, queue_named
from plinth.jobs.arq.worker import Duration, seconds
from plinth.jobs.enqueue import EnqueuedJob, EnqueueOptions, enqueue

__all__ = ["ArqRedis", "RedisSettings", "create_pool"]

# By the index on state and time: of all ended jobs, those of this time are read.
ENDED_LATELY = """
SELECT EXISTS (
    SELECT FROM job_history WHERE state IN ('succeeded', 'cancelled', 'discarded')
    AND finished_at > now() - make_interval(secs => $3) AND kind = $1 AND unique_key = $2
)
"""
FOR_EVER = 100 * 365 * 86_400.0  # seconds


class RedisSettings:
    """Where arq's Redis is: for `plinth jobs import-arq`. Jobs go to the database, whatever this says.

    Takes the arguments of arq's own class; those that are not named here are not looked at.
    """

    def __init__(
        self,
        host: Any = "localhost",
        port: int = 6379,
        unix_socket_path: str | None = None,
        database: int = 0,
        username: str | None = None,
        password: str | None = None,
        ssl: bool = False,
        **_others: Any,
    ) -> None:
        self.host, self.port, self.unix_socket_path = host, port, unix_socket_path
        self.database, self.username, self.password, self.ssl = database, username, password, ssl

    @classmethod
    def from_dsn(cls, dsn: str) -> "RedisSettings":
        """Read an address such as `redis://localhost:6379/1`. Raises RuntimeError if it is none of Redis."""
        url = urlsplit(dsn)
        if url.scheme not in ("redis", "rediss", "unix"):
            raise RuntimeError("invalid DSN scheme")
        path = url.path if url.scheme == "unix" else None
        number = parse_qs(url.query).get("db", [""])[0] or ("" if path else url.path.strip("/"))
        where = (url.hostname or "localhost", url.port or 6379, path, int(number or 0))
        return cls(*where, url.username, url.password, url.scheme == "rediss")


class ArqRedis(Access):
    """Enqueues arq's jobs: to a session's transaction, to a database, or to that of the API or the worker around it.

    It is no client of Redis.
    """

    async def enqueue_job(
        self,
        function: str,
        *args: Any,
        _job_id: str | None = None,
        _queue_name: str | None = None,
        _defer_until: datetime | None = None,
        _defer_by: Duration | None = None,
        _expires: Duration | None = None,
        _job_try: int | None = None,
        **kwargs: Any,
    ) -> Job | None:
        """Enqueue a job, or return None if one of the function's has this `_job_id`, waiting, running or ended lately.

        Args:
            function: its name.
            args: its arguments, beside `kwargs`.
            _job_id: one job of the function has it at a time, and for `keep_result` after its end.
            _queue_name: instead of the one of WorkerSettings.
            _defer_until: not before this time; without a zone it is local.
            _defer_by: not before so long from now.
            _expires: it is not started or tried again later than that from now. There is no other limit.
            _job_try: the number that the first try has.

        Raises:
            UnknownKindError: no such function is registered in this process.
            SerializationError: an argument does not survive.
            RuntimeError: it is deferred in both ways, or no database is open.
            ValueError: the id, the queue or a time is none.
        """
        found = named(function)
        _job_id = _job_id or None  # arq makes one of its own for an empty one
        if _defer_until and _defer_by:
            raise RuntimeError("_defer_until and _defer_by: a job is deferred in one way")
        now, delay, lasts = datetime.now(UTC), seconds(_defer_by) or 0, seconds(_expires)
        due = now + timedelta(seconds=delay) if _defer_until is None else _defer_until.astimezone(UTC)
        details = {
            "job_id": _job_id,
            "job_try": _job_try,
            "enqueue_time": now,
            "due": due,
            "expires": None if not lasts else now + timedelta(seconds=lasts),
        }
        call = found.source.codec.call(function, args, kwargs, **details)
        options: EnqueueOptions = {"delay": delay} if _defer_until is None else {"run_at": due}
        if _queue_name is not None:
            options["queue"] = queue_named(_queue_name)
        if _job_id is None or found.keep_result == 0:
            made = await enqueue(self.target, found.kind, call, unique_key=_job_id, **options)
        else:
            async with self.session() as session:
                made = await self._enqueue_unless_ended(session, found, call, _job_id, options)
        return Job(_job_id or made.id.hex, self, _id=made.id) if made.created else None

    async def _enqueue_unless_ended(
        self, session: AsyncSession, found: Registered, call: Any, job_id: str, options: EnqueueOptions
    ) -> EnqueuedJob:
        # Looked up after the row is there: a job that has ended in between is seen.
        async with session.begin_nested() as savepoint:
            made = await enqueue(session, found.kind, call, unique_key=job_id, **options)
            keep = FOR_EVER if found.keep_result is None else found.keep_result
            connection = await session.connection()
            ended = await connection.exec_driver_sql(ENDED_LATELY, (found.kind.name, job_id, keep))
            if not (made.created and ended.scalar_one()):
                return made
            await savepoint.rollback()
            return EnqueuedJob(made.id, created=False)

    async def close(self, *_arguments: Any, **_options: Any) -> None:
        """Do nothing: the database is not closed by its pool of jobs."""

    aclose = close

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name}: this enqueues jobs, and is no client of Redis. Open one of your own.")


async def create_pool(settings_: Any = None, **_options: Any) -> ArqRedis:
    """Make what enqueues jobs to the database of the API or the worker. arq's arguments are not looked at."""
    return ArqRedis()
