"""The pytest plugin as a service's tests use it, in a pytest of its own."""

from pathlib import Path

import pytest

from tests.plinth.integration.testing.conftest import Pytest

CONFIGURATION = """
[tool.plinth]
settings = "notes.config:Settings"

[tool.pytest]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "session"
asyncio_default_test_loop_scope = "session"
"""

# A service that needs no database, with a handler that fails.
BROKEN = """
import pytest
from notes.config import Settings
from plinth.api.dependencies import PrincipalDep
from plinth.testing import NO_DATABASE, open_client, settings_for_tests

@pytest.fixture(scope="module")
def settings():
    return settings_for_tests(Settings, DATABASE_URL=NO_DATABASE)

@pytest.fixture(scope="module")
def application(application):
    @application.get("/api/v1/broken")
    async def broken(principal: PrincipalDep, number: int):
        return divide(number)

    return application

def divide(number):
    return 1 / number
"""


def files(tests: str) -> dict[str, str]:
    """A project with a failing handler and these tests."""
    conftest = 'pytest_plugins = ["plinth.testing.plugin"]\n'
    return {"pyproject.toml": CONFIGURATION, "conftest.py": conftest, "test_it.py": BROKEN + tests}


def test_traceback_of_a_failing_handler_is_short_and_shows_no_token(run_pytest: Pytest, tmp_path: Path) -> None:
    done = run_pytest(
        files("""
async def test_it(client):
    alice = client.signed_in("alice")
    with open("token", "w") as file:
        file.write(alice.headers["Authorization"])
    response = await alice.get("/broken", params={"number": 0})
    assert response.status_code == 200
"""),
        "-vv",
    )

    assert done.returncode == 1, done.stderr
    assert ": in broken" in done.stdout, done.stdout
    assert ">       return 1 / number" in done.stdout
    assert "E       ZeroDivisionError: division by zero" in done.stdout
    assert len(done.stdout.splitlines()) < 100, done.stdout
    token = (tmp_path / "token").read_text().removeprefix("Bearer ")
    assert len(token) > 100
    assert not any(text in done.stdout for text in (token, "Bearer", "fastapi/routing.py", "starlette/"))


def test_client_raises_errors_and_returns_refusals(run_pytest: Pytest) -> None:
    done = run_pytest(
        files("""
import time
from plinth.testing import problem

BROKEN = {"url": "/broken", "params": {"number": 0}}

async def test_an_error_is_raised_at_once(client):
    began = time.process_time()
    with pytest.raises(ZeroDivisionError):
        await client.signed_in("alice").get(**BROKEN)
    assert time.process_time() - began < 5

async def test_refusals_are_answered(client):
    problem(await client.get("/broken"), 401)
    problem(await client.signed_in().get("/broken"), 422, "validation_error")
    problem(await client.signed_in().get("/nowhere"), 404)

async def test_an_error_is_a_500_where_that_is_wanted(application):
    async with open_client(application, raise_errors=False) as client:
        problem(await client.signed_in().get(**BROKEN), 500, "internal_error")

def test_the_environment_reaches_no_test():
    assert "example.com" not in Settings().DATABASE_URL.get_secret_value()
""")
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_folder_without_a_service_is_reported_in_one_sentence(run_pytest: Pytest) -> None:
    done = run_pytest(files("") | {"pyproject.toml": "[project]\nname = 'x'\nversion = '1'\n"})

    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "There is no service in" in done.stderr
    assert "Traceback" not in done.stderr
