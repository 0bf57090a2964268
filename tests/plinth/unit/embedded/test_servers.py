from pathlib import Path

import pytest

from notes.config import Settings
from plinth.embedded.servers import Servers

GIVEN = {
    "DATABASE_URL": "postgresql://db.example/plinth",
    "REDIS_URL": "redis://redis.example",
    "UPSTASH_REDIS_URL": "https://name.upstash.io",
    "UPSTASH_REDIS_TOKEN": "token",
}


@pytest.mark.parametrize(
    ("given", "embedded"),
    [
        ([], {"DATABASE_URL", "REDIS_URL"}),
        (["DATABASE_URL"], {"REDIS_URL"}),
        (["REDIS_URL"], {"DATABASE_URL"}),
        (["UPSTASH_REDIS_URL", "UPSTASH_REDIS_TOKEN"], {"DATABASE_URL"}),
        (["DATABASE_URL", "REDIS_URL"], set()),
    ],
)
def test_only_servers_without_a_url_are_embedded(tmp_path: Path, given: list[str], embedded: set[str]) -> None:
    settings = Settings.isolated(**{name: GIVEN[name] for name in given})
    assert Servers(tmp_path, settings).addresses.keys() == embedded
