"""docs/settings.md, typed word for word."""

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

import pytest

from plinth.settings import AuthProvider, PlatformSettings
from plinth.settings.loading import CheckedSettings
from tests.support.settings import isolated_problems

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "settings.md").read_text()


def section(heading: str) -> str:
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def names(text: str) -> list[str]:
    return re.findall(r"`([A-Z][A-Z0-9_*]+)`", text)


def test_the_table_of_groups_has_every_setting_in_the_file_that_it_links_to() -> None:
    placed = []
    for file, patterns in re.findall(r"^\| \[\w+\]\(\.\./(\S+)\.py\) \| (.*?) \|", section("The groups"), re.MULTILINE):
        module = import_module(file.replace("/", "."))
        (group,) = (
            found
            for found in vars(module).values()
            if isinstance(found, type) and issubclass(found, CheckedSettings) and found.__module__ == module.__name__
        )
        own = [name for name in group.model_fields if name in vars(group)["__annotations__"]]
        assert all(any(fnmatch(name, pattern) for pattern in names(patterns)) for name in own), file
        placed += own
    assert placed == list(PlatformSettings.model_fields)


def test_the_table_of_what_a_deployment_refuses_is_complete() -> None:
    plain = dict.fromkeys(("SUPABASE_URL", "CLERK_ISSUER", "OIDC_ISSUER", "OIDC_JWKS_URL"), "http://localhost")
    found = isolated_problems(ENVIRONMENT="production", DEBUG=True, BACKEND_CORS_ORIGINS="*", **plain)
    found += isolated_problems(ENVIRONMENT="production", READINESS_REQUIRED="redis")
    found += isolated_problems(ENVIRONMENT="production", DATABASE_REPLICA_URL="postgresql://app:app@db/app")
    found += isolated_problems(
        ENVIRONMENT="production", UPSTASH_REDIS_URL="http://localhost", UPSTASH_REDIS_TOKEN="the-token"
    )
    headers = [name for name in PlatformSettings.model_fields if name.startswith("OTEL_") and name.endswith("_HEADERS")]
    examples = dict.fromkeys(headers, "x-api-key=the-key")
    found += isolated_problems(
        ENVIRONMENT="production",
        FORWARDED_ALLOW_IPS="*",
        SUPABASE_JWT_SECRET="a" * 32,
        JOBS_ENCRYPTION_KEY="a" * 32,
        OPS_CLIENT_SECRET="the-secret",
        **examples,
    )
    found += isolated_problems(
        ENVIRONMENT="production", UPSTASH_REDIS_REST_URL="http://localhost", UPSTASH_REDIS_REST_TOKEN="the-token"
    )
    rows = re.findall(r"^\| (`.*?) \|", section("What a deployment refuses"), re.MULTILINE)
    assert {name for row in rows for name in names(row)} == {problem.partition(" ")[0] for problem in found}


def test_the_table_of_providers_says_what_each_needs_and_accepts() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", section("Identity providers"), re.MULTILINE)
    assert [name for name, _, _ in rows] == list(AuthProvider)
    for name, needs, algorithms in rows:
        missing = {problem.partition(" ")[0] for problem in isolated_problems(AUTH_PROVIDER=name, DB_POOL_SIZE=0)}
        assert set(names(needs)) == missing - {"DB_POOL_SIZE"}
        given = dict.fromkeys(names(needs), "https://id.example.com")
        if name == "supabase":
            given["SUPABASE_JWT_SECRET"] = "s" * 32
        accepted = PlatformSettings.isolated(AUTH_PROVIDER=name, **given).jwt_algorithms
        assert tuple(re.findall(r"`([A-Z][A-Za-z]+\d*)`", algorithms.replace("`SUPABASE_JWT_SECRET`", ""))) == accepted


class Copy:
    """A copy of the project, in which the page is typed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("app", "plinth", "scripts", "charts"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", ".env.example"):
            shutil.copy(ROOT / name, folder)

    def add_to_settings(self, code: str) -> None:
        """Add the imports and the end of the class in `code` to those of `app/core/config.py`."""
        imports, _, body = code.partition("class Settings(PlatformSettings):\n")
        lines = re.sub(r".*\.\.\..*\n\n", "", body, count=1)
        file = self.folder / "app/core/config.py"
        head, _, tail = file.read_text().partition("\n\n\n@lru_cache")
        docstring, _, rest = head.partition("\n\n")
        file.write_text(f"{docstring}\n\n{imports.strip()}\n{rest}\n\n{lines.rstrip()}\n\n\n@lru_cache{tail}")

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        command = command.replace("make schema", f"{sys.executable} -m scripts.values_schema")
        command = command.replace("plinth config", f"{sys.executable} -m plinth.cli config")
        environment = {"PATH": os.environ["PATH"]}
        return subprocess.run(
            ["bash", "-euc", command], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def test_a_setting_is_added_as_the_page_says(copy: Copy) -> None:
    blocks = re.findall(r"```(\w*)\n(.*?)```", section("Add a setting"), re.DOTALL)
    (field, line, commands, output, a_list, rule) = (code for _, code in blocks)
    copy.add_to_settings(field)
    forgotten = copy.run("make schema")
    assert forgotten.returncode == 1
    assert forgotten.stderr == (
        ".env.example has no line for 'INVOICE_DUE_DAYS', or no comment above it: write what the setting does.\n"
    )
    with (copy.folder / ".env.example").open("a") as file:
        file.write(line)
    done = copy.run(commands)
    assert (done.returncode, done.stdout, done.stderr) == (0, output, "")
    schema = json.loads((copy.folder / "charts/plinth/values.schema.json").read_text())
    assert schema["definitions"]["config"]["properties"]["INVOICE_DUE_DAYS"] == {
        "description": "Days until an invoice is due.",
        "type": ["number", "string", "null"],
        "exclusiveMinimum": 0,
        "maximum": 3650,
    }

    copy.add_to_settings(
        f"from typing import Annotated, Literal\nclass Settings(PlatformSettings):\n    ...\n\n    {a_list}"
    )
    copy.add_to_settings(rule)
    done = copy.run("INVOICE_CURRENCIES=EUR,USD plinth config check | grep INVOICE_C")
    assert done.stdout.split() == ["INVOICE_CURRENCIES", "set", "EUR,USD"]
    refused = copy.run("INVOICE_DUE_DAYS=1 plinth config check")
    assert refused.returncode != 0
    assert "INVOICE_DUE_DAYS (environment): expected no less than JOBS_KEEP_SUCCEEDED_DAYS" in refused.stderr


def test_the_message_on_the_page_is_the_one_that_is_printed(tmp_path: Path) -> None:
    (message,) = re.findall(r"```\n(.*?)```", section("How settings are read"), re.DOTALL)
    (tmp_path / ".env").write_text("DB_POOL_SIZE=many\n")
    code = "from plinth.settings import PlatformSettings; PlatformSettings()"
    variables = {"DATABSE_URL": "x", "AUTH_PROVIDER": "custom", "OIDC_AUDIENCE": "api"}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT), **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.stderr.endswith(message)
