"""The client on a real server."""

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from redis.exceptions import ResponseError

from plinth.redis.client import close_redis, open_redis
from plinth.telemetry import trace_setup
from tests.support.collector import Collector


@pytest.mark.parametrize(
    "name", ["orders-api", "Orders API", "Müller API", "a\tb", "a\nb", " ", "", "\N{ZERO WIDTH SPACE}", "Ω" * 63]
)
async def test_a_service_of_any_name_is_connected(make_settings: Callable[..., Any], name: str) -> None:
    redis = open_redis(make_settings(PROJECT_NAME=name))
    assert redis is not None
    try:
        assert await redis.ping()
    finally:
        await close_redis(redis)


@pytest.mark.usefixtures("fresh_tracing")
async def test_span_of_a_refused_command_has_the_prefix_of_the_error(
    make_settings: Callable[..., Any], collector: Collector
) -> None:
    settings = make_settings(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_TRACES_SAMPLER_ARG=1)
    redis = open_redis(settings)
    assert redis is not None
    async with trace_setup.running(settings, "api"):
        await redis.set("text", "hunter2", ex=60)
        with trace.get_tracer("test").start_as_current_span("outer"), pytest.raises(ResponseError):
            await redis.lpush("text", "hunter2")
    await close_redis(redis)

    span = collector.one("LPUSH")
    assert span.attributes["db.response.status_code"] == "WRONGTYPE"
    assert "hunter2" not in repr(span)
