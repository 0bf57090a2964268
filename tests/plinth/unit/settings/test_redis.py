import pytest

from plinth.settings import PlatformSettings
from tests.support.settings import isolated_problems


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),
        ({"REDIS_URL": "redis://cache:6380/2"}, "redis://cache:6380/2"),
        (
            {"UPSTASH_REDIS_URL": "https://x-1.upstash.io/", "UPSTASH_REDIS_TOKEN": "to/ken="},
            "rediss://default:to%2Fken%3D@x-1.upstash.io:6379",
        ),
        (
            {
                "REDIS_URL": "redis://cache",
                "UPSTASH_REDIS_URL": "https://x-1.upstash.io",
                "UPSTASH_REDIS_TOKEN": "token",
            },
            "redis://cache",
        ),
    ],
)
def test_redis_url_may_come_from_the_upstash_settings(values: dict[str, str], expected: str | None) -> None:
    assert PlatformSettings.isolated(**values).redis_url == expected


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"UPSTASH_REDIS_URL": "https://x.upstash.io"}, "UPSTASH_REDIS_TOKEN"),
        ({"UPSTASH_REDIS_TOKEN": "token"}, "UPSTASH_REDIS_URL"),
    ],
)
def test_upstash_url_and_token_need_each_other(given: dict[str, str], missing: str) -> None:
    found = isolated_problems(**given)
    assert len(found) == 1
    assert found[0].startswith(f"{missing} (not set): expected")
