"""Functions written for arq, on the durable engine: `register(WorkerSettings)`, and arq's names under this one.

    from plinth.jobs.arq import cron, func, register, Retry
    from plinth.jobs.arq.connections import RedisSettings
    from plinth.jobs.arq.jobs import Job

Nothing here imports arq: objects of arq's own classes are known by what they hold. `docs/jobs/from-arq.md` says what
differs.
"""

from plinth.jobs.arq.connections import ArqRedis, create_pool
from plinth.jobs.arq.cron import cron
from plinth.jobs.arq.register import register
from plinth.jobs.arq.worker import Retry, func

__all__ = ["ArqRedis", "Retry", "create_pool", "cron", "func", "register"]
