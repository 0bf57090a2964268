"""The application factory needs settings alone; `app.main.app` is made when it is first read."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from app.core.config import Settings
from app.main import create_app
from plinth.testing import NO_DATABASE, open_client, problem, settings_for_tests

ROOT = Path(__file__).parents[2]

PRODUCTION: dict[str, Any] = {
    "ENVIRONMENT": "production",
    "SECRET_KEY": "a secret of quite some length and of our own",
    "DATABASE_URL": NO_DATABASE,
    "AUTH_PROVIDER": "custom",
    "OIDC_ISSUER": "https://issuer.example.com",
    "OIDC_AUDIENCE": "plinth",
}


def python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in an interpreter of its own, with nothing in its environment but what is given."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


class TestImport:
    def test_import_reads_no_setting_and_opens_no_connection(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("DATABASE_URL=mysql://plinth:hunter2@db/plinth\nNONSENSE=1\n")
        code = """
import gc, os
import wsgiref.handlers  # copies the environment when it is imported
from app.core.config import Settings

read = set()

class Watched(type(os.environ)):
    def __getitem__(self, name):
        read.add(name)
        return super().__getitem__(name)

    def __iter__(self):
        read.update(Settings.model_fields)
        return super().__iter__()

os.environ.__class__ = Watched
import app.main
from sqlalchemy import Engine

application = app.main.create_app(Settings.isolated(PROJECT_NAME="Bare"))
document = application.openapi()

assert "app" not in vars(app.main)
assert not read & set(Settings.model_fields), read
assert not any(isinstance(thing, Engine) for thing in gc.get_objects())
print(document["info"]["title"])
"""
        done = python(code, tmp_path, DATABASE_URL="nonsense", SECRET_KEY="short")

        assert (done.stdout, done.returncode) == ("Bare\n", 0), done.stderr


class TestModuleApp:
    def test_app_is_created_when_it_is_first_read(self, tmp_path: Path) -> None:
        code = """
import gc, uvicorn, app.main

assert not hasattr(app.main, "application")
assert not gc.get_freeze_count()
config = uvicorn.Config("app.main:app", log_config=None)
config.load()
assert vars(app.main)["app"] is app.main.app
assert gc.get_freeze_count()  # no request waits while its objects are looked at for garbage
print(app.main.app.title)
"""
        done = python(code, tmp_path, PROJECT_NAME="Asked for")

        assert (done.stdout, done.returncode) == ("Asked for\n", 0), done.stderr

    @pytest.mark.parametrize("names", ["b3", "tracecontext,xray,nonsense"])
    def test_no_propagator_of_opentelemetry_stops_the_start(self, tmp_path: Path, names: str) -> None:
        """FastAPI imports OpenTelemetry's propagators, whose import raises for a name that is not installed."""
        code = "import uvicorn; uvicorn.Config('app.main:app', log_config=None).load(); print('loaded')"
        done = python(code, tmp_path, OTEL_PROPAGATORS=names)
        assert (done.stdout, done.returncode) == ("loaded\n", 0), done.stderr

    def test_variables_without_effect_are_logged_once(self, tmp_path: Path) -> None:
        code = "import uvicorn; uvicorn.Config('app.main:app', log_config=None).load()"
        ignored = {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://collector:4317"}
        done = python(code, tmp_path, LOG_FORMAT="json", **ignored)
        line = json.loads(done.stderr)
        assert (line["level"], line["message"]) == ("warning", "setting")
        assert line["name"] == "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT, OTEL_METRICS_EXPORTER"

    def test_invalid_settings_are_a_line_of_the_log(self, tmp_path: Path) -> None:
        code = "import uvicorn; uvicorn.main(['app.main:app', '--port', '1'])"
        done = python(code, tmp_path, LOG_FORMAT="json", LOG_PROFILE="ecs", DB_POOL_SIZE="many")
        line = json.loads(done.stderr)
        assert line["log.level"] == "critical"
        assert line["problems"] == ["DB_POOL_SIZE (environment): expected a valid integer"]

    def test_invalid_settings_are_reported_in_one_message(self, tmp_path: Path) -> None:
        wrong = {"DATABASE_URL": "mysql://plinth:hunter2@db/plinth", "DB_POOL_SIZE": "many", "SECRET_KEY": "hunter3"}
        code = "import uvicorn; uvicorn.main(['app.main:app', '--port', '1'])"

        done = python(code, tmp_path, ENVIRONMENT="production", **wrong)

        assert done.returncode not in (0, None)
        assert "The configuration cannot be used" in done.stderr
        assert all(name in done.stderr for name in (*wrong, "AUTH_PROVIDER"))
        assert not any(word in done.stderr for word in ("Traceback", "hunter2", "hunter3"))
        assert done.stdout == ""


class TestSideBySide:
    async def test_two_applications_share_nothing(self) -> None:
        one = settings_for_tests(
            Settings,
            DATABASE_URL=NO_DATABASE,
            PROJECT_NAME="One",
            API_V1_STR="/one",
            MAX_BODY_BYTES=10,
            RATE_LIMIT="1/minute",
            BACKEND_CORS_ORIGINS="https://one.example.com",
        )
        two = settings_for_tests(
            Settings,
            DATABASE_URL=NO_DATABASE,
            PROJECT_NAME="Two",
            API_V1_STR="/two/v1",
            MAX_BODY_BYTES=20,
            RATE_LIMIT="2/minute",
            SECRET_KEY="another secret which signs other tokens",
            DOCS_ENABLED=False,
        )
        first, second = create_app(one), create_app(two)
        assert (first.title, second.title) == ("One", "Two")
        async with open_client(first) as of_one, open_client(second) as of_two:
            origin = {"Origin": "https://one.example.com"}

            answers = [
                [(await client.get("/me")).status_code for _ in range(3)]
                for client in (of_one.signed_in("alice"), of_two.signed_in("alice"))
            ]
            assert answers == [[200, 429, 429], [200, 200, 429]]
            token_of_one = {"Authorization": of_one.signed_in("bob").headers["Authorization"]}
            problem(await of_two.get("/me", headers=token_of_one), 401)
            problem(await of_one.post(f"/jobs/{uuid4()}/cancel", content=b"x" * 15), 413)
            problem(await of_two.post(f"/jobs/{uuid4()}/cancel", content=b"x" * 15), 401)
            assert "access-control-allow-origin" in (await of_one.get("/public/health", headers=origin)).headers
            assert "access-control-allow-origin" not in (await of_two.get("/public/health", headers=origin)).headers
            assert (await of_one.get("/openapi.json")).status_code == 200
            problem(await of_two.get("/openapi.json"), 404)
            problem(await of_one.get("http://service.test/two/v1/public/health"), 404)


class TestDocs:
    async def statuses(self, settings: Settings) -> set[int]:
        async with open_client(create_app(settings)) as client:
            paths = ("http://service.test/docs", "/openapi.json")
            return {(await client.get(path)).status_code for path in paths}

    @pytest.mark.parametrize("values", [{"DATABASE_URL": NO_DATABASE}, PRODUCTION | {"DOCS_ENABLED": True}])
    async def test_docs_are_served_in_development_and_when_enabled(self, values: dict[str, Any]) -> None:
        assert await self.statuses(settings_for_tests(Settings, **values)) == {200}

    @pytest.mark.parametrize("values", [PRODUCTION, {"DATABASE_URL": NO_DATABASE, "DOCS_ENABLED": False}])
    async def test_docs_are_off_in_production_and_when_disabled(self, values: dict[str, Any]) -> None:
        assert await self.statuses(settings_for_tests(Settings, **values)) == {404}

    async def test_docs_page_loads_the_openapi_document(self) -> None:
        async with open_client(create_app(settings_for_tests(Settings, DATABASE_URL=NO_DATABASE))) as client:
            page = await client.get("http://service.test/docs")

        assert page.headers["content-type"].startswith("text/html")
        assert "/api/v1/openapi.json" in page.text


class TestProduction:
    async def test_production_sends_strict_transport_security(self) -> None:
        async with open_client(create_app(settings_for_tests(Settings, **PRODUCTION))) as client:
            response = await client.get("/public/health")

        assert "strict-transport-security" in response.headers
