"""The pool behind Sentinel is made of the URL; nothing connects before it is used."""

from typing import Any

from plinth.redis.client import close_redis, open_redis
from plinth.settings import PlatformSettings


async def test_tls_is_spoken_to_the_servers_and_the_sentinels() -> None:
    url = "rediss+sentinel://app:s3cret@one,two:5000/main/2?ssl_cert_reqs=none&sentinel_password=other&protocol=3"
    redis = open_redis(PlatformSettings.isolated(REDIS_URL=url, REDIS_TIMEOUT=0.3))
    assert redis is not None
    pool: Any = redis.connection_pool
    connection = pool.make_connection()
    assert connection.ssl_context.get().verify_mode == 0
    assert (connection.username, connection.password, connection.db) == ("app", "s3cret", 2)
    asked = [sentinel.connection_pool for sentinel in pool._sentinel.sentinels]
    assert [(of.connection_kwargs["host"], of.connection_kwargs["port"]) for of in asked] == [
        ("one", 26379),
        ("two", 5000),
    ]
    for of in asked:
        sentinel = of.make_connection()
        assert sentinel.ssl_context.get().verify_mode == 0
        assert (sentinel.username, sentinel.password) == (None, "other")
        assert sentinel.socket_connect_timeout == sentinel.socket_timeout == 0.3
    await close_redis(redis)


async def test_plain_text_is_spoken_to_both() -> None:
    redis = open_redis(PlatformSettings.isolated(REDIS_URL="redis+sentinel://:s3cret@one/main"))
    assert redis is not None
    pool: Any = redis.connection_pool
    pools = [pool, pool._sentinel.sentinels[0].connection_pool]
    assert [hasattr(pool.make_connection(), "ssl_context") for pool in pools] == [False, False]
    assert [pool.make_connection().password for pool in pools] == ["s3cret", None]  # each has its own
    await close_redis(redis)
