"""Redis: the client and what is kept there. `from plinth.redis import Redis` instead of from redis-py.

redis-py imports OpenTelemetry's SDK, where it is installed, for metrics of its own that have to be switched on: 35 ms
of each start and 2.4 MB of each process. Here it is imported as if the SDK were not there; a program that has imported
`opentelemetry.sdk.metrics` before has redis-py with it.
"""

import sys

_SDK = "opentelemetry.sdk.metrics"

_hidden = _SDK not in sys.modules
if _hidden:
    # Its import fails then.
    sys.modules[_SDK] = None  # type: ignore[assignment]
try:
    from redis.asyncio import Redis
finally:
    if _hidden:
        del sys.modules[_SDK]

__all__ = ["Redis"]
