import pytest

from plinth.settings import PlatformSettings
from plinth.settings.sentinel import SentinelURL
from tests.support.settings import isolated_problems


def test_url_names_the_sentinels_the_service_and_the_credentials_of_both() -> None:
    found = SentinelURL.parse(
        "rediss+sentinel://app:p%40ss@one,[::1]:5000,two.example:26380/main/2"
        "?sentinel_username=s&sentinel_password=s%40&protocol=3"
    )
    assert found is not None
    assert found.sentinels == (("one", 26379), ("::1", 5000), ("two.example", 26380))
    assert (found.service, found.username, found.password) == ("main", "s", "s@")
    assert found.server == "rediss://app:p%40ss@primary/2?protocol=3"


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("redis+sentinel://one/main", "redis://primary"),
        ("Redis+Sentinel://one/a.b-c_D/", "redis://primary/"),
        ("redis+sentinel://:s3,c@ret@one,two/main/0", "redis://:s3,c@ret@primary/0"),
    ],
)
def test_short_url_is_enough(url: str, server: str) -> None:
    found = SentinelURL.parse(url)
    assert found is not None
    assert (found.server, found.username, found.password) == (server, None, None)


@pytest.mark.parametrize("url", ["redis://one/0", "rediss://one", "unix:///run/redis.sock", "one"])
def test_url_of_a_server_is_none(url: str) -> None:
    assert SentinelURL.parse(url) is None


@pytest.mark.parametrize(
    "rest",
    [
        *("one", "one/", "/main", "one,/main", "one:x/main", "one:99999/main", "[::1/main", "a..b/main"),
        *("one/main/zero", "one/main/0/1", "one/ma in", ":s3/cret@one/main/0"),
    ],
)
def test_wrong_url_is_refused_without_a_word_of_it(rest: str) -> None:
    (found,) = isolated_problems(REDIS_URL=f"redis+sentinel://{rest}")
    assert found.startswith("REDIS_URL (argument): expected redis")
    assert "s3" not in found


@pytest.mark.parametrize("query", ["nonsense=1", "db=a", "sentinel_user=x", "ssl_cert_reqs=none"])
def test_parameters_are_those_of_a_server_and_of_the_sentinels(query: str) -> None:
    (found,) = isolated_problems(REDIS_URL=f"redis+sentinel://one/main?{query}")
    assert found.startswith("REDIS_URL (argument): expected ")
    PlatformSettings.isolated(REDIS_URL="rediss+sentinel://one/main?ssl_cert_reqs=none&sentinel_password=x")


def test_repr_has_no_password() -> None:
    found = SentinelURL.parse("redis+sentinel://:s3cret@one/main?sentinel_password=s3cret")
    assert "s3cret" not in repr(found)
