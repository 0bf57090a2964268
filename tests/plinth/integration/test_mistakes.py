"""The commonest mistakes of the first hours: each is answered in a sentence that says what to do."""

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import jwt
import pytest

from notes.config import Settings
from notes.main import create_app
from plinth.identity import sign_local_token
from plinth.identity.local import signing_keys
from plinth.settings.general import Environment
from plinth.testing import NO_DATABASE, problem
from tests.support.api import client_of, signed_in
from tests.support.cli import Run, command_line
from tests.support.notes import settings_with

JSON = {"Content-Type": "application/json"}
NOBODY = {"Authorization": ""}
SOME = UUID(int=7)


@pytest.fixture(scope="module")
def settings(database_url: str, redis_url: str) -> Settings:
    return settings_with(DATABASE_URL=database_url, REDIS_URL=redis_url, ENVIRONMENT="local")


@pytest.fixture(scope="module")
async def local(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(create_app(settings), headers=signed_in(settings, "alice")) as client:
        yield client


REQUESTS: dict[str, tuple[str, str, dict[str, Any], int, str]] = {
    "no token": ("GET", "/notes", {"headers": NOBODY}, 401, "needs a bearer token"),
    "another scheme": ("GET", "/notes", {"headers": {"Authorization": "Token abc"}}, 401, "needs a bearer token"),
    "no token but a word": ("GET", "/notes", {"headers": {"Authorization": "Bearer abc"}}, 401, "malformed"),
    "a wrong path": ("GET", "/note", {}, 404, "not_found"),
    "a slash at the end": ("GET", "/notes/", {}, 404, "not_found"),
    "a wrong method": ("PUT", "/notes", {"json": {}}, 405, "method_not_allowed"),
    "a form": ("POST", "/notes", {"data": {"text": "x"}}, 415, "application/json"),
    "no content type": ("POST", "/notes", {"content": b'{"text": "x"}'}, 415, "application/json"),
    "no JSON": ("POST", "/notes", {"content": b"{text: 1}", "headers": JSON}, 422, "not valid"),
    "no body": ("POST", "/notes", {"headers": JSON}, 422, "not valid"),
    "a missing field": ("POST", "/notes", {"json": {}}, 422, "Field required"),
    "a misspelt field": ("POST", "/notes", {"json": {"text": "x", "tag": []}}, 422, "not permitted"),
    "a field of a wrong type": ("POST", "/notes", {"json": {"text": 1}}, 422, "valid string"),
    "a misspelt parameter": ("GET", "/jobs?limt=1", {}, 422, "not permitted"),
    "a limit that is too large": ("GET", "/jobs?limit=1000", {}, 422, "less than or equal to 100"),
    "an id that is none": ("GET", "/notes/7", {}, 422, "valid UUID"),
    "the id of nothing": ("GET", f"/notes/{SOME}", {}, 404, "no such note"),
    "a change of no version": ("PATCH", f"/notes/{SOME}", {"json": {"text": "x"}}, 428, "If-Match"),
    "a permission that lacks": ("GET", "/queues", {}, 403, "plinth:jobs:read"),
}


@pytest.mark.parametrize("mistake", REQUESTS)
async def test_a_request_is_answered_with_what_is_wrong(local: httpx.AsyncClient, mistake: str) -> None:
    method, path, options, status, said = REQUESTS[mistake]

    answer = await local.request(method, path, **options)

    problem(answer, status)
    assert said in answer.text


def expired(settings: Settings) -> str:
    token = sign_local_token(settings, subject="alice", ttl=60)
    claims = jwt.decode(token, options={"verify_signature": False})
    past = {"iat": claims["iat"] - 600, "exp": claims["exp"] - 600}
    return jwt.encode(claims | past, signing_keys(settings)[0], headers=jwt.get_unverified_header(token))


def of_another_key(settings: Settings) -> str:
    return sign_local_token(settings_with(SECRET_KEY=secrets.token_hex(32)), subject="alice", ttl=60)


@pytest.mark.parametrize(("token", "reason"), [(expired, "expired"), (of_another_key, "bad_signature")])
async def test_a_developer_is_told_which_check_a_token_failed(
    local: httpx.AsyncClient, settings: Settings, token: Callable[[Settings], str], reason: str
) -> None:
    answer = await local.get("/notes", headers={"Authorization": f"Bearer {token(settings)}"})

    assert problem(answer, 401)["detail"] == f"The token is not valid: {reason}."


async def test_no_other_environment_tells_it(settings: Settings) -> None:
    elsewhere = settings.model_copy(update={"ENVIRONMENT": Environment.TEST})
    async with client_of(create_app(elsewhere)) as client:
        answer = await client.get("/notes", headers={"Authorization": "Bearer abc"})

    assert problem(answer, 401)["detail"] == "The token is not valid."


COMMANDS: dict[str, tuple[list[str], dict[str, str], int, str]] = {
    "no database": (["jobs", "list"], {"DATABASE_URL": NO_DATABASE}, 1, "nothing listens"),
    "an unknown command": (["job"], {}, 2, "No such command"),
    "an unknown option": (["jobs", "list", "--stat", "running"], {}, 2, "No such option"),
    "a state that is none": (["jobs", "list", "--state", "done"], {}, 2, "'done' is not"),
    "an id that is none": (["jobs", "show", "7"], {}, 2, "UUID"),
    "the id of nothing": (["jobs", "show", str(SOME)], {}, 1, "no such job"),
    "an unknown kind": (["jobs", "enqueue", "nonsense", "{}"], {}, 2, "There is no kind of job"),
    "a payload that is no JSON": (["jobs", "enqueue", "digest", "{owner}"], {}, 2, "JSON"),
    "a number that is none": (["config", "check"], {"DB_POOL_SIZE": "many"}, 2, "DB_POOL_SIZE"),
    "another kind of database": (["config", "check"], {"DATABASE_URL": "mysql://db/x"}, 2, "postgresql://"),
    "production without its settings": (["api"], {"ENVIRONMENT": "production"}, 2, "SECRET_KEY"),
    "a provider without its issuer": (["api"], {"AUTH_PROVIDER": "custom"}, 2, "OIDC_ISSUER"),
    "a token of a provider": (
        ["token", "--sub", "alice"],
        {
            "AUTH_PROVIDER": "clerk",
            "CLERK_ISSUER": "https://x.example",
            "CLERK_AUTHORIZED_PARTIES": "https://a.example",
        },
        1,
        "AUTH_PROVIDER",
    ),
}


@pytest.fixture
def run(tmp_path: Path, database_url: str) -> Iterator[Run]:
    with command_line(tmp_path, DATABASE_URL=database_url) as run:
        yield run


@pytest.mark.parametrize("mistake", COMMANDS)
def test_a_command_ends_with_a_sentence(run: Run, mistake: str) -> None:
    arguments, environment, code, said = COMMANDS[mistake]

    result = run(*arguments, **environment)

    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_a_database_that_is_missing_is_told(run: Run, database_url: str) -> None:
    result = run("jobs", "list", DATABASE_URL=database_url.replace("/notes_", "/nothing_"))
    assert (result.exit_code, "The server has no such database" in result.stderr) == (1, True)


def test_a_role_that_is_missing_is_told(run: Run, database_url: str) -> None:
    result = run("jobs", "list", DATABASE_URL=database_url.replace("plinth@", "nobody_here@"))
    assert (result.exit_code, "no such role" in result.stderr) == (1, True)


def test_a_database_without_migrations_is_told(run: Run, empty_database_url: str) -> None:
    result = run("jobs", "list", DATABASE_URL=empty_database_url)
    assert (result.exit_code, "run `plinth migrate`" in result.stderr) == (1, True)


def test_a_folder_without_a_service_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").unlink()
    result = run("version")
    assert (result.exit_code, "There is no service in" in result.stderr) == (2, True)
