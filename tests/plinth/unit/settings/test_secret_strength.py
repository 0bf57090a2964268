"""Which secrets a deployment refuses."""

import re
import secrets
import subprocess
from pathlib import Path

import pytest

from plinth.settings import DEVELOPMENT_SECRET_KEY
from plinth.settings.secret_strength import weakness

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
        "super_secret_jwt_token_with_at_least_32_characters_long",
    ],
)
def test_secret_that_can_be_guessed_is_weak(secret: str) -> None:
    assert weakness(secret)
    assert not secret or secret not in str(weakness(secret))


def test_no_example_of_the_repository_is_strong() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    shown = [name for name in files if name and not name.startswith(("tests/", "requirements/", "bench/"))]
    pattern = re.compile(r"(?:SECRET_KEY|JWT_SECRET)[\"']?\s*[=:]\s*[\"']?([\w./+=-]{20,})")
    found = {
        value for name in shown for value in pattern.findall((ROOT / name).read_text(encoding="utf-8", errors="ignore"))
    }
    assert len(found) >= 2
    assert not [value for value in found if weakness(value) is None]
