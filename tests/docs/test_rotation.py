"""docs/security.md: the steps by which the secret key is rotated, with an API process for each."""

import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from string import Template

import httpx
import pytest

from tests.support.pages import ROOT, blocks
from tests.support.ports import free_port
from tests.support.processes import PATIENCE, declare

OLD, NEW = secrets.token_hex(32), secrets.token_hex(32)
PLINTH = [sys.executable, "-m", "plinth.cli"]


def steps() -> list[str]:
    """The values of SECRET_KEY, from before the rotation to its end."""
    (block,) = blocks("docs/security.md", "## Rotate the secret key", "sh")
    values = re.findall(r"^SECRET_KEY=(\S+)", block, re.MULTILINE)
    return [OLD, *(Template(value).substitute(OLD=OLD, NEW=NEW) for value in values)]


class Api:
    """An API process with a key, on one database with the others."""

    def __init__(self, folder: Path, environment: dict[str, str], port: int) -> None:
        self.folder = folder
        self.environment = environment
        self.url = f"http://127.0.0.1:{port}/api/v1"

    def token(self) -> str:
        command = [*PLINTH, "token", "--sub", "alice"]
        return subprocess.check_output(command, cwd=self.folder, env=self.environment, text=True).strip()

    def get(self, token: str, **parameters: str) -> httpx.Response:
        parameters = {"limit": "1", **parameters}
        return httpx.get(f"{self.url}/items", params=parameters, headers={"Authorization": f"Bearer {token}"})

    def wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                httpx.get(f"{self.url}/public/health")
                return
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.05)


@contextmanager
def started(folder: Path, key_file: Path, key: str, database_url: str) -> Iterator[Api]:
    port = free_port()
    key_file.write_text(f"{key}\n")
    given = {"DATABASE_URL": database_url, "SECRET_KEY_FILE": str(key_file), "METRICS_PORT": "0", "RATE_LIMIT": ""}
    api = Api(folder, {**os.environ, **given, "PYTHONPATH": str(ROOT), "LOG_LEVEL": "WARNING"}, port)
    with subprocess.Popen([*PLINTH, "api", "--port", str(port)], cwd=folder, env=api.environment) as process:
        try:
            yield api
        finally:
            process.terminate()


@pytest.fixture
def apis(tmp_path: Path, database_url: str) -> Iterator[list[Api]]:
    """A process for each step, side by side as in the roll-outs."""
    declare(tmp_path, "app.core.config:Settings")
    with ExitStack() as closing:
        found = [
            closing.enter_context(started(tmp_path, tmp_path / f"key-{number}", key, database_url))
            for number, key in enumerate(steps())
        ]
        for api in found:
            api.wait()
        yield found


def test_rotation_of_the_key_refuses_nothing_until_the_old_one_is_dropped(apis: list[Api]) -> None:
    tokens = [api.token() for api in apis]
    for name in ("anvil", "bellows"):
        headers = {"Authorization": f"Bearer {tokens[0]}", "Idempotency-Key": name}
        assert httpx.post(f"{apis[0].url}/items", json={"name": name}, headers=headers).status_code == 201
    cursors = [api.get(token).json()["next_cursor"] for api, token in zip(apis, tokens, strict=True)]

    # While a step rolls out, processes of two steps serve, and each gets what the other one signed.
    for before, after in ((0, 1), (1, 2), (2, 3)):
        for signed, read in ((before, after), (after, before)):
            assert apis[read].get(tokens[signed]).status_code == 200, (signed, read)
            assert apis[read].get(tokens[signed], cursor=cursors[signed]).status_code == 200, (signed, read)

    # From the last step on nothing of the old key is taken.
    for signed in (0, 1):
        assert apis[3].get(tokens[signed]).status_code == 401
        assert apis[3].get(tokens[3], cursor=cursors[signed]).status_code == 422
    assert apis[3].get(tokens[2], cursor=cursors[2]).status_code == 200
