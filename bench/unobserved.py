"""`plinth` with no metrics of requests, statements and commands: what `bench/http.py` compares the whole with.

Logs and traces are off by settings. There is none that switches metrics off.
"""

from redis.asyncio import Redis

import plinth.database.engine
import plinth.redis.client
from plinth.cli import main
from plinth.telemetry.http_metrics import HttpMetrics

HttpMetrics.begin = lambda self, method: method  # type: ignore[method-assign]
HttpMetrics.end = lambda self, *values: None  # type: ignore[method-assign]
plinth.database.engine.observe = lambda engine, *, counted: None  # type: ignore[attr-defined]
plinth.database.engine.Database._count = lambda self, pool, pool_name: None  # type: ignore[method-assign]
plinth.redis.client.ObservedRedis = Redis  # type: ignore[assignment, misc]

if __name__ == "__main__":
    main()
