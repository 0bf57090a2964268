"""`plinth` with no metrics of requests, statements and commands: what `bench/http.py` compares the whole with.

Logs and traces are off by settings. There is none that switches metrics off.
"""

from redis.asyncio import Redis

import app.core.cache
import app.core.db
from app.cli import main
from app.core.http_metrics import HttpMetrics

HttpMetrics.begin = lambda self, method: method  # type: ignore[method-assign]
HttpMetrics.end = lambda self, *values: None  # type: ignore[method-assign]
app.core.db.observe = lambda engine, *, counted: None  # type: ignore[attr-defined]
app.core.db.Database._count = lambda self, pool, pool_name: None  # type: ignore[method-assign]
app.core.cache._CountedRedis = Redis  # type: ignore[assignment, misc]

if __name__ == "__main__":
    main()
