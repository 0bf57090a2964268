"""`make up`, from nothing: the service on PostgreSQL 16 and Redis 7, an item and an export through it, and its end."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

import app
from app.core.config import Settings
from plinth.identity import sign_local_token
from tests.images.conftest import ROOT, Docker, Note, close_to_others, run, until
from tests.support.ports import free_port


class Compose:
    """The compose file of a copy of this tree, as a project of its own."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.folder = folder
        self.name = f"plinth-test-{uuid4().hex[:8]}"
        self.environment = {**os.environ, "COMPOSE_PROJECT_NAME": self.name, "PORT": str(port)}
        self.api = f"http://127.0.0.1:{port}/api/v1"

    def make(self, target: str) -> subprocess.CompletedProcess[str]:
        return run("make", target, f"PORT={self.environment['PORT']}", cwd=self.folder, env=self.environment)

    def __call__(self, *arguments: str) -> str:
        command = ["docker", "compose", "--file", "docker/docker-compose.yml", *arguments]
        done = run(*command, cwd=self.folder, env=self.environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def states(self) -> dict[str, tuple[str, str]]:
        """The state and the health of each service."""
        lines = self("ps", "--all", "--format", "json").splitlines()
        return {entry["Service"]: (entry["State"], entry["Health"]) for entry in map(json.loads, lines)}

    def signed_in(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self('exec', '-T', 'api', 'plinth', 'token', '--sub', 'alice')}"}


@pytest.fixture
def compose(docker: Docker, context: Path) -> Iterator[Compose]:
    compose = Compose(context)
    yield compose
    compose("down", "--volumes", "--remove-orphans", "--rmi", "local")


def remains(docker: Docker, name: str) -> dict[str, set[str]]:
    """What there is of a project."""
    label = f"label=com.docker.compose.project={name}"
    return {
        kind: set(docker(kind, "ls", *every, "--filter", label, "--format", shown).split())
        for kind, every, shown in (
            ("container", ["--all"], "{{.Names}}"),
            ("network", [], "{{.Name}}"),
            ("volume", [], "{{.Name}}"),
        )
    }


def test_it_comes_up_from_nothing_serves_reloads_and_leaves_nothing_but_volumes(
    docker: Docker, compose: Compose, note: Note
) -> None:
    assert remains(docker, compose.name) == {"container": set(), "network": set(), "volume": set()}
    began = time.monotonic()
    up = compose.make("up")
    note(f"make up took {time.monotonic() - began:.0f} s.")
    assert up.returncode == 0, up.stdout + up.stderr + compose("logs")
    assert compose.states() == {
        "api": ("running", "healthy"),
        "worker": ("running", "healthy"),
        "migrate": ("exited", ""),
        "postgres": ("running", "healthy"),
        "redis": ("running", "healthy"),
    }
    assert "server_version_num 16" in compose(
        "exec",
        "-T",
        "postgres",
        "psql",
        "-U",
        "plinth",
        "-Atc",
        "SELECT 'server_version_num ' || current_setting('server_version_num')",
    )
    assert "redis_version:7." in compose("exec", "-T", "redis", "redis-cli", "info", "server")

    key = compose.folder / ".plinth/compose.env"
    assert key.stat().st_mode & 0o777 == 0o600
    forged = sign_local_token(Settings.isolated(), subject="alice", ttl=600)
    assert httpx.get(f"{compose.api}/me", headers={"Authorization": f"Bearer {forged}"}).status_code == 401

    with httpx.Client(base_url=compose.api, headers=compose.signed_in()) as client:
        made = client.post("/items", json={"name": "anvil"})
        assert made.status_code == 201, made.text
        export = client.post("/exports", json={"format": "ndjson"}, headers={"Idempotency-Key": "an-export"})
        assert export.status_code == 202, export.text
        ready = f"/exports/{export.json()['id']}"
        until(lambda: client.get(ready).json()["status"] == "ready", "the export is ready")
        (line,) = client.get(f"{ready}/content").text.splitlines()
        assert json.loads(line)["name"] == "anvil"
        components = client.get("/public/health/ready").json()["components"]
        assert {name: state["status"] for name, state in components.items()} == {"database": "up", "redis": "up"}

    reloads(compose, note)
    lines = compose("logs", "--no-log-prefix", "api", "worker").splitlines()
    assert lines
    assert [line for line in lines if line.startswith("{")] == [], "lines are for people here"

    assert compose.make("down").returncode == 0
    assert remains(docker, compose.name) == {
        "container": set(),
        "network": set(),
        "volume": {f"{compose.name}_postgres", f"{compose.name}_redis"},
    }

    # And the data are there again, in another image: the requirements have changed.
    before = docker("image", "inspect", "--format", "{{.Id}}", "plinth-dev")
    with (compose.folder / "requirements/service.txt").open("a") as file:
        file.write("# changed\n")
    assert compose.make("up").returncode == 0
    assert docker("inspect", "--format", "{{.Image}}", compose("ps", "--quiet", "api")) != before
    names = [item["name"] for item in httpx.get(f"{compose.api}/items", headers=compose.signed_in()).json()["items"]]
    assert names == ["anvil"]


def reloads(compose: Compose, note: Note) -> None:
    """An edit is served by the API, and run by the worker, without a build."""

    def version() -> Any:
        try:
            return httpx.get(f"{compose.api}/public/health").json()["version"]
        except httpx.TransportError:
            return None

    edited = compose.folder / "app/__init__.py"
    edited.write_text(edited.read_text().replace(app.__version__, "9.9.9"))
    began = time.monotonic()
    until(lambda: version() == "9.9.9", "the API serves the new code")
    note(f"An edit was served {time.monotonic() - began:.1f} s later.")
    until(lambda: "9.9.9" in compose("exec", "-T", "api", "plinth", "workers"), "the worker runs the new code")


def test_a_checkout_that_its_owner_alone_may_read_is_a_sentence(compose: Compose) -> None:
    """The container's user is another one."""
    close_to_others(compose.folder)
    up = compose.make("up")
    assert up.returncode != 0
    assert "as after a checkout under umask 077" in up.stdout
    assert "At the top of the tree: chmod -R a+rX app plinth migrations" in up.stdout


def test_each_clone_has_a_name_of_its_own(context: Path, tmp_path: Path) -> None:
    def name(folder: Path, **given: str) -> str:
        done = run("make", "--dry-run", "down", cwd=folder, env={"PATH": os.environ["PATH"], **given})
        return str(re.findall(r"--project-name (\S+)", done.stdout)[0])

    other = shutil.copytree(context, tmp_path / "clone")
    assert name(context) == name(context) != name(other)
    assert re.fullmatch(r"plinth-[0-9]+", name(context))
    assert name(context, COMPOSE_PROJECT_NAME="mine") == "mine"


def test_without_docker_it_is_a_sentence(tmp_path: Path) -> None:
    for name in ("make", "sh", "sed", "git"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    for target in ("up", "down", "image", "cluster-up", "cluster-down", "deploy"):
        done = run("make", target, cwd=ROOT, env={"PATH": str(tmp_path)})
        assert done.returncode == 2
        assert " needs docker, and it is not installed.\n" in done.stdout
