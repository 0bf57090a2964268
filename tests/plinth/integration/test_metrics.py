"""The metrics of the service as a whole: on a real server, and with several applications in one process."""

from collections import Counter

import httpx
import pytest

from notes.config import Settings
from notes.main import create_app
from plinth.testing import serving, until
from tests.support.api import client_of, signed_in
from tests.support.metrics import OPENMETRICS, metric, samples, series
from tests.support.notes import note, settings_with

REQUESTS = "http_server_request_duration_seconds_count"
# What is there only while an application runs.
PER_APPLICATION = {
    "plinth_dependency_up",
    "plinth_event_loop_lag_seconds",
    "db_client_connection_count",
    "db_client_connection_max",
    "db_client_connection_pending_requests",
    "plinth_workers_alive",
}


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    return settings_with(DATABASE_URL=database_url, REDIS_URL=redis_url, MAX_BODY_BYTES=10_000)


def requests() -> Counter[tuple[str, str, str]]:
    keys = ("http_request_method", "http_route", "http_response_status_code")
    found: Counter[tuple[str, str, str]] = Counter()
    for sample in samples():
        if sample.name == REQUESTS:
            method, route, status = (sample.labels[key] for key in keys)
            found[method, route, status] = int(sample.value)
    return found


def test_each_request_of_a_real_server_is_counted_once_under_its_route(settings: Settings) -> None:
    before = requests()
    with serving(create_app(settings)) as root, httpx.Client(base_url=f"{root}/api/v1") as client:
        client.headers.update(signed_in(settings))
        made = [client.post("/notes", json=note()).json()["id"] for _ in range(3)]
        for note_id in made:
            client.get(f"/notes/{note_id}")
        client.get("/notes/0195e0ca-0000-7000-8000-000000000000")
        client.get("/notes/nonsense")
        client.put(f"/notes/{made[0]}")
        client.get("/me", headers={"Authorization": "Bearer nonsense"})
        client.post("/notes", content=b" " * 20_000)
        client.get("/nowhere")
        client.request("PROPFIND", "/notes")
        for path in ("/public/health", "/public/health/ready"):
            client.get(path)
    assert requests() - before == {
        ("POST", "/api/v1/notes", "201"): 3,
        ("GET", "/api/v1/notes/{note_id}", "200"): 3,
        ("GET", "/api/v1/notes/{note_id}", "404"): 1,
        ("GET", "/api/v1/notes/{note_id}", "422"): 1,
        ("PUT", "/api/v1/notes/{note_id}", "405"): 1,
        ("GET", "/api/v1/me", "401"): 1,
        ("POST", "unmatched", "413"): 1,
        ("GET", "unmatched", "404"): 1,
        ("_OTHER", "/api/v1/notes", "405"): 1,
    }
    assert metric("http_server_active_requests") == 0


async def test_metrics_of_two_applications_are_added_up_and_end_with_them(settings: Settings) -> None:
    async with client_of(create_app(settings)), client_of(create_app(settings)) as client:
        await client.get("/me", headers=signed_in(settings))
        found = [(sample.name, frozenset(sample.labels.items())) for sample in samples(OPENMETRICS)]
        assert len(found) == len(set(found))
        shown = {name for name, _ in found}
        assert PER_APPLICATION - {"plinth_workers_alive"} <= shown
        assert metric("db_client_connection_max", db_client_connection_pool_name="main") == 2 * settings.DB_POOL_SIZE
        # Readiness looks again each second; on a busy machine its first look may take too long.
        await until(lambda: metric("plinth_dependency_up", dependency="database") == 1)
    assert not {name for name, _ in series()} & PER_APPLICATION


async def test_statements_of_a_request_are_timed(settings: Settings) -> None:
    def updates() -> float:
        name = "db_client_operation_duration_seconds_count"
        return metric(name, db_system_name="postgresql", db_operation_name="UPDATE")

    async with client_of(create_app(settings), headers=signed_in(settings)) as client:
        made = (await client.post("/notes", json=note())).json()["id"]
        before = updates()
        assert (await client.delete(f"/notes/{made}", headers={"If-Match": '"1"'})).status_code == 204
        assert updates() == before + 1
