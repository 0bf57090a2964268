"""Redis commands are spans of recorded traces."""

import pytest
from opentelemetry import trace
from redis import exceptions

from plinth.redis.client import close_redis, open_redis
from plinth.telemetry import trace_setup
from tests.plinth.unit.telemetry.test_tracing import traced
from tests.support.collector import Collector

pytestmark = pytest.mark.usefixtures("fresh_tracing")


async def test_redis_command_is_a_span_without_its_arguments(collector: Collector) -> None:
    settings = traced(collector.url, REDIS_URL="redis://127.0.0.1:1")
    redis = open_redis(settings)
    assert redis is not None
    async with trace_setup.running(settings, "api"):
        with pytest.raises(exceptions.ConnectionError):
            await redis.get("unrecorded")
        with trace.get_tracer("test").start_as_current_span("outer"), pytest.raises(exceptions.ConnectionError):
            await redis.get("hunter2")
    await close_redis(redis)

    span = collector.one("GET")
    assert (span.kind, span.failed) == ("CLIENT", True)
    assert span.parent_id == collector.one("outer").span_id
    assert span.attributes == {
        "db.system.name": "redis",
        "db.operation.name": "GET",
        "server.address": "127.0.0.1",
        "server.port": 1,
        "error.type": "ConnectionError",
    }
