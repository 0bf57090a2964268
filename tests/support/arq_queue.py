"""Jobs in Redis as arq writes them, without arq. `test_arq_itself.py` holds that it does."""

import pickle
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis

__all__ = ["DAY", "put"]

DAY = 86_400_000  # milliseconds


async def put(
    redis: Redis,
    job_id: str,
    function: str,
    *args: Any,
    queue: str = "arq:queue",
    at: float | None = None,
    expires: int = DAY,
    first: int | None = None,
    dumps: Callable[[Any], bytes] = pickle.dumps,
    **kwargs: Any,
) -> int:
    """Enqueue a job, `at` a number of seconds since 1970; `expires`: milliseconds after that. Returns when it was."""
    now = round(time.time() * 1000)
    score = now if at is None else round(at * 1000)
    data = dumps({"t": first, "f": function, "a": args, "k": kwargs, "et": now})
    async with redis.pipeline(transaction=True) as pipe:
        pipe.psetex(f"arq:job:{job_id}", max(1, score - now + expires), data)
        pipe.zadd(queue, {job_id: score})
        await pipe.execute()
    return now
