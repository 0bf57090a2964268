"""`plinth` with no metrics of requests, statements and commands: what `bench/http.py` compares the whole with.

Logs and traces are off by settings. There is none that switches metrics off.
"""

from typing import Any

from redis.asyncio import Redis
from starlette.types import ASGIApp

import app.core.cache
import app.core.db
import app.main
from app.cli import main


def _uncounted(app: ASGIApp, **options: Any) -> ASGIApp:
    return app


app.main.HttpMetricsMiddleware = _uncounted  # type: ignore[assignment, attr-defined]
app.core.db.Database._count = lambda self, pool_name: None  # type: ignore[method-assign]
app.core.cache._CountedRedis = Redis  # type: ignore[assignment, misc]

if __name__ == "__main__":
    main()
