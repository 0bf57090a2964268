"""`plinth doctor` and `plinth jobs watch`, against servers that are well and others."""

import asyncio
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from plinth.testing import NO_DATABASE
from plinth.testing.servers import Servers
from tests.support.cli import Run, command_line
from tests.support.identity_provider import IdentityProvider

PORTS = {"METRICS_PORT": "0"}


@pytest.fixture
def run(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Run]:
    with command_line(tmp_path, DATABASE_URL=database_url, REDIS_URL=redis_url, **PORTS) as run:
        yield run


def found(result: Result) -> dict[str, dict[str, Any]]:
    assert isinstance(result.exception, SystemExit | None), result.exception
    return {(finding := json.loads(line))["about"]: finding for line in result.stdout.splitlines()}


def test_a_healthy_service_has_nothing_to_do(run: Run) -> None:
    result = run("doctor")

    assert result.exit_code == 0, result.output
    for about in ("settings", "database", "clock", "migrations", "rights", "redis", "identity"):
        assert any(line.startswith(f"ok     {about} ") for line in result.stdout.splitlines()), result.stdout


def test_a_database_that_is_away_is_told_with_what_to_do(run: Run) -> None:
    result = run("doctor", "--json", DATABASE_URL=NO_DATABASE)

    assert result.exit_code == 1
    database = found(result)["database"]
    assert database["status"] == "wrong"
    assert database["text"].startswith("The database does not answer")
    assert "config check" in database["do"]
    assert found(result)["redis"]["status"] == "ok"  # the rest is looked at all the same


def test_an_empty_database_lacks_migrations(run: Run, empty_database_url: str) -> None:
    migrations = found(run("doctor", "--json", DATABASE_URL=empty_database_url))["migrations"]

    assert (migrations["status"], migrations["do"]) == ("wrong", "plinth migrate")
    assert migrations["text"].startswith("missing: plinth_0001")


def test_a_role_without_rights_is_told_what_to_grant(run: Run, servers: Servers, fresh_database_url: str) -> None:
    servers.postgres.execute("DROP ROLE IF EXISTS reader")
    servers.postgres.execute("CREATE ROLE reader LOGIN")
    url = fresh_database_url.replace("plinth@", "reader@")
    try:
        rights = found(run("doctor", "--json", DATABASE_URL=url))["rights"]
    finally:
        servers.postgres.execute("DROP ROLE reader")

    assert rights["status"] == "wrong"
    assert rights["do"] == "GRANT ALL ON ALL TABLES IN SCHEMA public TO reader"


def test_clocks_that_are_apart_are_wrong(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["plinth.cli.doctor"], "SKEW_SECONDS", -1.0)

    assert found(run("doctor", "--json"))["clock"]["status"] == "wrong"


def test_a_replica_that_cannot_be_read_is_noted(run: Run, database_url: str) -> None:
    assert "replica" not in found(run("doctor", "--json"))
    for url, text in ((NO_DATABASE, "The database does not answer"), (database_url, "The replica takes writes")):
        replica = found(run("doctor", "--json", DATABASE_REPLICA_URL=url))["replica"]
        assert replica["status"] == "note"
        assert replica["text"].startswith(text)


def test_redis_that_is_away_or_not_set(run: Run) -> None:
    assert found(run("doctor", "--json", REDIS_URL="redis://127.0.0.1:1"))["redis"]["status"] == "wrong"
    assert found(run("doctor", "--json", REDIS_URL=""))["redis"]["status"] == "note"


def test_the_issuer_is_asked_for_its_keys(run: Run) -> None:
    with IdentityProvider() as provider:
        given = {"AUTH_PROVIDER": "custom", "OIDC_ISSUER": provider.issuer, "OIDC_AUDIENCE": "notes"}
        reached = found(run("doctor", "--json", **given))["identity"]
    away = found(run("doctor", "--json", **given))["identity"]

    assert (reached["status"], reached["text"].partition(" ")[0]) == ("ok", "1")
    assert away["status"] == "wrong"
    assert "firewall" in away["do"]


def test_a_port_that_is_taken_is_noted(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (finding,) = (
            json.loads(line)
            for line in run("doctor", "--json", METRICS_PORT=str(port)).stdout.splitlines()
            if f'"{port} ' in line
        )

    assert (finding["about"], finding["status"]) == ("port", "note")
    assert "METRICS_PORT" in finding["do"]


def test_settings_that_cannot_be_used_are_named_first(run: Run) -> None:
    result = run("doctor", DB_POOL_SIZE="many")

    assert result.exit_code == 2
    assert "DB_POOL_SIZE" in result.stderr


def test_the_queues_are_shown_until_ctrl_c(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    async def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "sleep", sleep)
    run("jobs", "enqueue", "digest", "{}")
    result = run("jobs", "watch", "--every", "3")

    assert result.exit_code == 0
    assert looks == [3.0, 3.0]
    assert result.output.count("Ctrl-C ends.") == 2
