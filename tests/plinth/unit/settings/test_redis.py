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
        *(
            (
                {f"UPSTASH_REDIS_{url}": "https://x-1.upstash.io", f"UPSTASH_REDIS_{token}": "token"},
                "rediss://default:token@x-1.upstash.io:6379",
            )
            for url, token in (("REST_URL", "REST_TOKEN"), ("URL", "REST_TOKEN"), ("REST_URL", "TOKEN"))
        ),
        (
            {
                "UPSTASH_REDIS_URL": "https://x-1.upstash.io",
                "UPSTASH_REDIS_TOKEN": "token",
                "UPSTASH_REDIS_REST_URL": "https://x-1.upstash.io/",
                "UPSTASH_REDIS_REST_TOKEN": "token",
            },
            "rediss://default:token@x-1.upstash.io:6379",
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
        ({"UPSTASH_REDIS_REST_URL": "https://x.upstash.io"}, "UPSTASH_REDIS_REST_TOKEN"),
        ({"UPSTASH_REDIS_REST_TOKEN": "token"}, "UPSTASH_REDIS_REST_URL"),
    ],
)
def test_upstash_url_and_token_need_each_other(given: dict[str, str], missing: str) -> None:
    found = isolated_problems(**given)
    assert len(found) == 1
    assert found[0].startswith(f"{missing} (not set): expected")


@pytest.mark.parametrize("part", ["URL", "TOKEN"])
def test_both_names_of_an_upstash_value_have_to_agree(part: str) -> None:
    values = {"URL": "https://x.upstash.io", "TOKEN": "s3cret"}
    given = {f"UPSTASH_REDIS_{rest}{name}": value for name, value in values.items() for rest in ("", "REST_")}
    given[f"UPSTASH_REDIS_REST_{part}"] = "https://y.upstash.io" if part == "URL" else "other-s3cret"
    found = isolated_problems(**given)
    expected = f"expected the value of UPSTASH_REDIS_{part}, which means the same, or none"
    assert found == [f"UPSTASH_REDIS_REST_{part} (argument): {expected}"]


def test_plain_http_to_upstash_is_refused_under_either_name() -> None:
    for rest in ("", "REST_"):
        (found,) = isolated_problems(
            **{f"UPSTASH_REDIS_{rest}URL": "http://x.upstash.io", f"UPSTASH_REDIS_{rest}TOKEN": "token"}
        )
        assert found.startswith(f"UPSTASH_REDIS_{rest}URL (argument): expected https://")
