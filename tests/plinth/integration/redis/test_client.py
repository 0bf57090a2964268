"""The client on a real server."""

from collections.abc import Callable
from typing import Any

import pytest

from plinth.redis.client import close_redis, open_redis


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
