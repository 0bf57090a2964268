"""Which secrets a deployment refuses."""

import re
import secrets
import subprocess
from pathlib import Path

import pytest

from plinth.settings import DEVELOPMENT_SECRET_KEY, PlatformSettings
from plinth.settings.secret_files import variables
from plinth.settings.secret_strength import is_example, weakness

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize("make", [lambda: secrets.token_hex(16), lambda: secrets.token_urlsafe(24), secrets.token_hex])
def test_random_secret_is_strong(make: object) -> None:
    assert callable(make)
    assert not [found for found in (make() for _ in range(2000)) if weakness(found)]


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "5b0f2d7c91e84a36f0c7b21d9e6a4f8",
        "a" * 32,
        "ab" * 40,
        "0123456789abcdef" * 4,
        "correct-horse-" * 5,
        "abcdefghijklmnopqrstuvwxyz0123456789",
        "98765432109876543210987654321098",
        f"{DEVELOPMENT_SECRET_KEY}X",
        f"x{DEVELOPMENT_SECRET_KEY}".upper(),
        DEVELOPMENT_SECRET_KEY[::-1],
        DEVELOPMENT_SECRET_KEY.replace("-", ""),
        DEVELOPMENT_SECRET_KEY * 2,
        " ".join(DEVELOPMENT_SECRET_KEY),
        2 * "1f0c8a52d97b4e36a0d5c2f7e8b14963",
        "password" * 4 + "1",
        "qwertyuiopasdfghjklzxcvbnm1234567890",
        "super_secret_jwt_token_with_at_least_32_characters_long",
    ],
)
def test_secret_that_can_be_guessed_is_weak(secret: str) -> None:
    assert weakness(secret)
    assert not secret or secret not in str(weakness(secret))


# Settings that are secrets, or hold one, and where the repository prints an example of them.
SIGNING = re.compile(r"(?:SECRET_KEY|JWT_SECRET)[\"']?\s*[=:]\s*[\"']?([\w./+=-]{20,})")
PASSWORD = re.compile(r"(?:postgres(?:ql)?|rediss?(?:\+sentinel)?)://([\w-]*):([\w-]+)@")
TOKEN = re.compile(r"^[# ]*[A-Z_]+_(?:TOKEN|PASSWORD|CLIENT_SECRET)[\"']?[=:] ?([\w-]+)$", re.MULTILINE)
HEADERS = re.compile(r"OTLP_(?:TRACES_)?HEADERS=[\w-]+=([\w-]+)")


def printed() -> str:
    """What the repository prints beside its tests: pages, settings, chart, compose file, manifests, code."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    shown = [name for name in files if name and not name.startswith(("tests/", "requirements/", "bench/", "plinth/"))]
    shown += [f"plinth/settings/{file.name}" for file in (ROOT / "plinth/settings").glob("*.py")]
    return "\n".join((ROOT / name).read_text(encoding="utf-8", errors="ignore") for name in shown)


def test_every_example_of_a_secret_that_the_repository_prints_is_known() -> None:
    text = printed()
    signing = {DEVELOPMENT_SECRET_KEY, *SIGNING.findall(text)}
    assert len(signing) >= 2
    assert not [value for value in signing if weakness(value) is None]
    passwords, others = set(PASSWORD.findall(text)), {*TOKEN.findall(text), *HEADERS.findall(text)}
    assert passwords >= {("plinth", "plinth"), ("user", "password"), ("", "password")}
    assert others >= {"the-token", "the-key", "the-secret", "plinth"}
    assert not [pair for pair in passwords if not is_example(pair[1], pair[0])]
    assert not [value for value in others if not is_example(value)]
    # The chart's, of a try-out whose key it does not know.
    assert "for-trying-out-only" in text
    assert is_example("for-trying-out-only")


def test_each_secret_setting_is_looked_at() -> None:
    """A new one is looked for in what the repository prints, too."""
    assert set(variables(PlatformSettings.model_fields).values()) == {
        *("SECRET_KEY", "SUPABASE_JWT_SECRET", "JOBS_ENCRYPTION_KEY"),
        *("DATABASE_URL", "DATABASE_REPLICA_URL", "REDIS_URL"),
        "UPSTASH_REDIS_TOKEN",
        "UPSTASH_REDIS_REST_TOKEN",
        *("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"),
        "OPS_CLIENT_SECRET",
    }
