"""The Redis client of scripts, and the keys of this service."""

from collections.abc import Callable
from typing import Any

import pytest

from app.core import cache
from app.core.config import Settings


async def test_client_of_a_script_is_one_until_it_is_closed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "get_settings", lambda: settings)
    client = cache.init_redis()
    assert client is not None
    assert cache.init_redis() is client
    await client.set(cache.cache_key("greeting"), "hello")
    assert await client.get(cache.cache_key("greeting")) == b"hello"

    await cache.close_redis()

    assert cache.init_redis() is not client
    await cache.close_redis()


def test_keys_of_two_services_on_one_redis_differ(
    make_settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = set()
    for name in ("One", "Two"):
        settings = make_settings(PROJECT_NAME=name)
        monkeypatch.setattr(cache, "get_settings", lambda settings=settings: settings)
        keys.add(cache.cache_key("a", "b"))
    assert len(keys) == 2


def test_without_redis_there_is_no_client(make_settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings(REDIS_URL=None)
    monkeypatch.setattr(cache, "get_settings", lambda: settings)
    assert cache.init_redis() is None
