"""Settings to test with, and the problems of wrong ones."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plinth.settings import PlatformSettings, SettingsError

PRODUCTION = {
    "ENVIRONMENT": "production",
    "SECRET_KEY": "5b0f2d7c91e84a36f0c7b21d9e6a4f83",
    "DATABASE_URL": "postgresql://app:secret@db/app?sslmode=require",
    "AUTH_PROVIDER": "custom",
    "OIDC_ISSUER": "https://id.example.com/",
    "OIDC_AUDIENCE": "https://api.example.com",
}

SENTINEL = "s3ntinel"
SECRETS = {
    "SECRET_KEY": f"{SENTINEL}-5b0f2d7c91e84a36f0c7b21d9e6a4f83",
    "DATABASE_URL": f"postgresql://app:{SENTINEL}@db/app",
    "DATABASE_REPLICA_URL": f"postgresql://app:{SENTINEL}@standby/app",
    "REDIS_URL": f"redis://:{SENTINEL}@cache:6379/0?password={SENTINEL}",
    "UPSTASH_REDIS_URL": "https://x.upstash.io",
    "UPSTASH_REDIS_TOKEN": SENTINEL,
    "UPSTASH_REDIS_REST_TOKEN": SENTINEL,
    "OPS_CLIENT_SECRET": SENTINEL,
    "SUPABASE_JWT_SECRET": f"{SENTINEL}-5b0f2d7c91e84a36f0c7b21d9e6a4f83",
    "JOBS_ENCRYPTION_KEY": f"{SENTINEL}-5b0f2d7c91e84a36f0c7b21d9e6a4f83",
}


def clear_environment(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Unset every variable, and work in `folder`."""
    for name in set(os.environ) - {"PYTEST_CURRENT_TEST"}:
        monkeypatch.delenv(name)
    monkeypatch.chdir(folder)


def problems(make: Callable[[], object]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        make()
    return caught.value.problems


def isolated_problems(**values: Any) -> list[str]:
    return problems(lambda: PlatformSettings.isolated(**values))


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in an interpreter of its own that has just these variables set."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
