"""`plinth api` as a process: its second port, how it drains, its error messages."""

import os
import re
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import httpx
import pytest

import notes
from plinth.testing import NO_DATABASE
from plinth.testing.servers import Servers, scratch_folder
from tests.support.api import signed_in
from tests.support.notes import copy_packages, note, settings_with
from tests.support.ports import free_port
from tests.support.processes import PATIENCE, Process, plinth


@pytest.fixture
def port() -> int:
    return free_port()


def test_host_decides_only_with_a_known_key(tmp_path: Path, port: int) -> None:
    """A web page whose name points at 127.0.0.1 gets nothing of a service whose key it could know."""
    rebound = {"Host": "page.example"}
    for key, status in ({}, 421), ({"SECRET_KEY": secrets.token_hex(32)}, 200):
        with api(tmp_path, port, DATABASE_URL=NO_DATABASE, **key) as (_, address, _):
            assert httpx.get(f"{address}/public/health").status_code == 200
            assert httpx.get(f"{address}/public/health", headers=rebound).status_code == status


@contextmanager
def api(folder: Path, port: int, *options: str, **environment: str) -> Iterator[tuple[Process, str, str]]:
    """A process that serves; the addresses of its API and of its second port."""
    given = {"ENVIRONMENT": "test", "RATE_LIMIT": "", "RATE_LIMIT_ANONYMOUS": "", **environment}
    with plinth(folder, "api", "--port", str(port), *options, **given) as process:
        process.heard("Uvicorn running on")
        yield process, f"http://127.0.0.1:{port}/api/v1", process.heard("liveness and metrics")["address"]


def drain(probes: str, answers: list[tuple[int, str, float]]) -> Thread:
    """Ask for the drain as preStop does, in a thread; the answer and the seconds it took end up in `answers`."""

    def ask() -> None:
        started = time.monotonic()
        answer = httpx.post(f"{probes}/drain", timeout=PATIENCE)
        answers.append((answer.status_code, answer.text, time.monotonic() - started))

    thread = Thread(target=ask)
    thread.start()
    return thread


class TestSecondPort:
    def test_second_port_serves_liveness_readiness_and_metrics(
        self, tmp_path: Path, port: int, database_url: str
    ) -> None:
        with api(tmp_path, port, DATABASE_URL=database_url) as (_, address, probes):
            assert probes != address
            with httpx.Client(base_url=probes) as client:
                assert client.get("/livez").text == "alive\n"
                assert client.get("/readyz").text == "ready\n"
                assert "python_info" in client.get("/metrics").text

    def test_readiness_of_the_second_port_follows_the_main_port(
        self, tmp_path: Path, port: int, own_servers: Servers
    ) -> None:
        def turn(status: int) -> None:
            with httpx.Client() as client:
                for url in (f"{probes}/readyz", f"{address}/public/health/ready"):
                    deadline = time.monotonic() + PATIENCE
                    while client.get(url).status_code != status:
                        assert time.monotonic() < deadline, "".join(process.lines)
                        time.sleep(0.05)

        with api(tmp_path, port, DATABASE_URL=own_servers.postgres.url()) as (process, address, probes):
            turn(200)
            own_servers.postgres.stop()
            turn(503)
            assert httpx.get(f"{probes}/livez").status_code == 200
            own_servers.postgres.start()
            turn(200)

    def test_taken_metrics_port_is_reported(self, tmp_path: Path, port: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as busy:
            taken = str(busy.getsockname()[1])
            with plinth(tmp_path, "api", "--port", str(port), DATABASE_URL=NO_DATABASE, METRICS_PORT=taken) as refused:
                code, lines = refused.end()
        assert code == 1
        assert len(lines) == 1, "".join(lines)
        assert re.fullmatch(
            rf"Liveness and metrics cannot be served on 127\.0\.0\.1:{taken}: .*[Aa]ddress already in use\n", lines[0]
        )

    def test_taken_main_port_is_reported(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as busy:
            taken = str(busy.getsockname()[1])
            with plinth(tmp_path, "api", "--port", taken, DATABASE_URL=NO_DATABASE) as refused:
                assert refused.end()[0] == 3
                assert refused.said("[Errno", timeout=0), "".join(refused.lines)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
class TestIPv6:
    def test_all_addresses_are_those_of_both_families(self, tmp_path: Path, port: int, database_url: str) -> None:
        given = {"DATABASE_URL": database_url, "SECRET_KEY": secrets.token_hex(32)}
        with api(tmp_path, port, "--host", "::", **given) as (process, _, probes):
            assert process.said(f"Uvicorn running on http://[::]:{port} ", timeout=0)
            assert probes.startswith("http://[::]:")
            second = probes.rpartition(":")[2]
            for host in ("127.0.0.1", "[::1]"):
                assert httpx.get(f"http://{host}:{second}/livez").text == "alive\n"
                httpx.get(f"http://{host}:{port}/api/v1/me", headers={"X-Request-ID": f"asked-at-{len(host)}"})
            lines = [process.heard("request", nth=nth) for nth in (1, 2)]
            clients = {line["request_id"]: line["client"] for line in lines}
        assert clients == {"asked-at-9": "127.0.0.1", "asked-at-5": "::1"}

    def test_one_address_is_listened_on_alone(self, tmp_path: Path, port: int, database_url: str) -> None:
        with api(tmp_path, port, "--host", "::1", DATABASE_URL=database_url) as (process, _, probes):
            assert process.said(f"Uvicorn running on http://[::1]:{port} ", timeout=0)
            assert httpx.get(f"{probes}/livez").text == "alive\n"
            assert httpx.get(f"http://[::1]:{port}/api/v1/public/health").status_code == 200
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"http://127.0.0.1:{port}/api/v1/public/health")

    def test_taken_port_is_reported(self, tmp_path: Path) -> None:
        with socket.create_server(("0.0.0.0", 0)) as busy:
            taken = str(busy.getsockname()[1])
            given = {"DATABASE_URL": NO_DATABASE, "SECRET_KEY": secrets.token_hex(32)}
            with plinth(tmp_path, "api", "--host", "::", "--port", taken, **given) as refused:
                assert refused.end()[0] == 3
                assert refused.said("[Errno", timeout=0), "".join(refused.lines)


def test_root_path_that_is_none_is_refused(tmp_path: Path) -> None:
    with plinth(tmp_path, "api", "--root-path", "shop/", DATABASE_URL=NO_DATABASE) as refused:
        code, lines = refused.end()
    assert code == 2
    assert "expected a path such as /shop" in "".join(lines)


def test_root_path_of_the_command_is_in_the_links(tmp_path: Path, port: int, database_url: str) -> None:
    with api(tmp_path, port, "--root-path", "/shop", DATABASE_URL=database_url, ROOT_PATH="/other") as (_, address, _):
        made = httpx.post(f"{address}/notes", json=note(), headers=signed_in(settings_with()))
        document = httpx.get(f"{address}/openapi.json").json()
    assert made.status_code == 201
    assert document["servers"] == [{"url": "/shop"}]


class TestDrain:
    def test_drain_closes_connections_and_fails_no_request(self, tmp_path: Path, port: int, database_url: str) -> None:
        headers = signed_in(settings_with())
        with (
            api(tmp_path, port, DATABASE_URL=database_url, DRAIN_SECONDS="1") as (process, address, probes),
            httpx.Client(base_url=address, headers=headers) as kept,
        ):
            before = [kept.post("/notes", json=note()) for _ in range(3)]
            assert {response.status_code for response in before} == {201}
            assert not any("connection" in response.headers for response in before)

            answers: list[tuple[int, str, float]] = []
            asking = drain(probes, answers)
            served, closed = len(before), 0
            while asking.is_alive() or not closed:
                # The one that kept its connection, and one that comes anew, as long as the drain takes.
                for response in (kept.post("/notes", json=note()), httpx.get(f"{address}/notes", headers=headers)):
                    assert response.is_success, response.text
                    closed += response.headers.get("connection") == "close"
                served += 1
            ((status, text, seconds),) = answers
            assert (status, text) == (200, "drained\n")
            assert seconds >= 1
            response = kept.get("/public/health")
            assert response.headers["connection"] == "close", "and so it stays"

            process.process.send_signal(signal.SIGTERM)
            assert process.end()[0] == 0
        assert closed > 2
        assert served > len(before)

    def test_drain_closes_an_idle_connection_with_its_next_response(
        self, tmp_path: Path, port: int, database_url: str
    ) -> None:
        request = b"GET /api/v1/public/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with (
            api(tmp_path, port, DATABASE_URL=database_url, DRAIN_SECONDS="0") as (_, _, probes),
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as idle,
        ):
            idle.sendall(request)
            answer = b""
            while not answer.endswith(b"}"):
                answer += idle.recv(65_536)
            assert b"connection: close" not in answer
            assert httpx.post(f"{probes}/drain").status_code == 200
            idle.sendall(request)
            answer = b""
            while received := idle.recv(65_536):  # it ends: the server hangs up
                answer += received
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"connection: close\r\n" in answer

    def test_drain_ends_streams(self, tmp_path: Path, port: int, database_url: str) -> None:
        headers = signed_in(settings_with())
        with api(tmp_path, port, DATABASE_URL=database_url, DRAIN_SECONDS="0") as (_, address, probes):
            # No worker runs, so there is nothing to come after the first event.
            key = {"Idempotency-Key": "a-digest"}
            job = httpx.post(f"{address}/digests", headers=headers | key).json()["job_id"]
            with httpx.stream("GET", f"{address}/jobs/{job}/events", headers=headers, timeout=PATIENCE) as stream:
                lines = stream.iter_lines()
                while not next(lines).startswith("data:"):
                    pass
                assert httpx.post(f"{probes}/drain").status_code == 200
                assert not any(lines), "there is more than its end"


def test_with_reload_both_ports_serve_the_new_code(
    port: int, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in os.environ:
        if name.startswith("COV"):  # the copy is not what is to be covered
            monkeypatch.delenv(name)
    with scratch_folder() as folder:
        # A copy: a change to the code of this tree would disturb other tests.
        copy_packages(folder)
        with api(folder, port, "--reload", DATABASE_URL=database_url) as (process, address, probes):
            # The port is there before the code is: an early request waits.
            assert httpx.get(f"{address}/public/health", timeout=PATIENCE).json()["version"] == notes.__version__
            assert httpx.get(f"{probes}/readyz").status_code == 200
            changed = folder / "notes" / "__init__.py"
            changed.write_text(changed.read_text().replace(notes.__version__, "9.9.9"))
            process.heard("the code has changed")
            process.heard("Finished server process")
            # Meanwhile no request is refused: it waits for the new code.
            assert httpx.get(f"{address}/public/health", timeout=PATIENCE).json()["version"] == "9.9.9"
            moved = process.heard("liveness and metrics", nth=2)["address"]
            assert httpx.get(f"{moved}/readyz").status_code == 200
            process.process.terminate()
            assert process.end()[0] == 0
