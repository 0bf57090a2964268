"""This service beside the smallest FastAPI + asyncpg program that does the same work, in one run.

    python bench/http.py [--rounds N] [--seconds 1.5] [--only get,list] [--json FILE]
    python bench/http.py --observability …    this service with all that watches it, beside itself without
    python bench/http.py --collector hangs …  this service with a collector that hangs or is away, beside one that takes

Both run on core 0; the load, PostgreSQL and Redis on core 1. Rounds alternate (A B, B A, …), each ratio is taken
within a pair of neighbours, and the result is the median of those. Processes are begun anew now and then: one and the
same program may cost 3% more or less from one start to the next. `README.md` here says what makes it fair.

Over 350 lines: the contenders, the load and the report share the state of a run and are read together.
"""
# ruff: noqa: E402 - the path comes first, because of this file's name

import sys
from pathlib import Path

# A script's own folder comes first on its path, and there this file would hide the standard library's `http`.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import os
import platform
import random
import secrets
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import asyncpg
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.load import Call, Plan, plan_to_json
from plinth.embedded.postgres import MAJOR, Postgres
from plinth.embedded.redis import Redis

ROOT = Path(sys.path[0])
API = "/api/v1"

SERVER_CORE, LOAD_CORE = 0, 1
CONNECTIONS = 32
STARTS = 5
WARM_UP_SECONDS = 1.0

# The same pool for both.
POOL_SIZE, POOL_OVERFLOW = 10, 0

OWNERS, ITEMS_EACH = 50, 150
READS = 1000  # items read in turn; the requests of a round in which no token comes twice


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Processes started in this block run on `core` alone, where the platform lets us say so."""
    if not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Issuer:
    """An identity provider on loopback: an RS256 key, its JWKS, and as many tokens as one likes."""

    audience = "bench"

    def __init__(self, folder: Path) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.public_key = folder / "public.pem"
        self.public_key.write_bytes(
            self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        jwks = json.dumps({"keys": [{**jwk, "kid": "1", "use": "sig", "alg": "RS256"}]}).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(jwks)))
                self.end_headers()
                self.wfile.write(jwks)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.jwks_url = f"{self.url}/jwks.json"

    def token(self, subject: str, serial: int = 0) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "aud": self.audience, "sub": subject, "iat": now, "exp": now + 3600}
        # What a provider's token commonly carries besides: its size is part of the work.
        claims |= {"jti": str(serial), "azp": "bench", "scope": "openid items"}
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": "1", "typ": "at+jwt"})


class Collector:
    """Takes spans over OTLP/HTTP on loopback, and throws them away; or never answers. It runs on the load's core."""

    def __init__(self, *, hangs: bool = False) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                collector.exports += 1
                if hangs:
                    threading.Event().wait()
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        collector, self.exports = self, 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        with pinned(LOAD_CORE):  # as the threads are that are started here
            threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"


@dataclass
class Contender:
    """A program under test. `{port}` in `argv` is filled in."""

    name: str
    argv: list[str]
    env: dict[str, str]
    log: Path
    port: int = 0
    starts: list[float] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self, *, anywhere: bool = False) -> float:
        """Start it on the server's core, or on any, and wait for its first 200. Returns the seconds that took."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        argv = [word.format(port=self.port) for word in self.argv]
        with self.log.open("ab") as log, contextlib.nullcontext() if anywhere else pinned(SERVER_CORE):
            started = time.perf_counter()
            self.process = subprocess.Popen(argv, env=self.env, cwd=self.log.parent, stdout=log, stderr=log)
        while time.perf_counter() - started < 30 and self.process.poll() is None:
            with contextlib.suppress(OSError):
                if http_request(self.port, "GET", f"{API}/public/health")[0] == 200:
                    return time.perf_counter() - started
            time.sleep(0.002)
        raise self.failure("it does not serve")

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def failure(self, message: str) -> SystemExit:
        return SystemExit(f"{self.name}: {message}\nIts log ends:\n{self.log.read_text()[-3000:]}")

    def ask(self, method: str, path: str, token: str = "", body: str | None = None, *, status: int = 200) -> bytes:
        """One request, for preparation. Exits if its answer has another status."""
        found, answer = http_request(self.port, method, path, token, body)
        if found != status:
            raise self.failure(f"{method} {path} gave {found} {answer[:500]!r}")
        return answer

    def note_memory(self, when: str) -> None:
        """Resident memory in MB (10^6 bytes), as the kernel counts it: the most of all its processes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                self.memory[when] = max(self.memory.get(when, 0), int(line.split()[1]) * 1024 / 1e6)


def expect(holds: bool, message: str) -> None:
    if not holds:
        sys.exit(message)


def http_request(port: int, method: str, path: str, token: str = "", body: str | None = None) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if body is not None:
        headers["Content-Type"] = "application/json"
    data = body.encode() if body is not None else None
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def wire(method: str, path: str, token: str = "", body: str | None = None) -> str:
    """The request as the load generator sends it. No Accept-Encoding: no answer is compressed."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "User-Agent: bench", "Accept: */*"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body.encode())}"]
    return "\r\n".join(lines) + "\r\n\r\n" + (body or "")


@dataclass(frozen=True, slots=True)
class Round:
    """CPU of the server in µs per request, latencies in ms, `others`: the share of its core that others had."""

    requests: int
    per_second: float
    cpu: float
    p50: float
    p99: float
    others: float


class Work:
    """The requests of each case, and how long each answer has to be: every contender is asked beforehand."""

    def __init__(self, issuer: Issuer, items: dict[str, list[str]]) -> None:
        """`items`: the ids of each owner's items, newest first."""
        self._issuer = issuer
        self._items = items
        self._creators = [f"creator-{number}" for number in range(OWNERS)]
        self._tokens = {owner: issuer.token(owner) for owner in [*items, *self._creators]}
        everything = [(owner, item) for owner in items for item in items[owner]]
        self._reads = random.Random(1).sample(everything, READS)
        self._lengths: dict[tuple[str, str], int] = {}
        self._serial = 0

    def health(self, contender: Contender) -> list[Call]:
        body = contender.ask("GET", f"{API}/public/health")
        return [Call(wire("GET", f"{API}/public/health"), 200, len(body), len(body))]

    def get(self, contender: Contender) -> list[Call]:
        """Single items of many owners. An owner uses the same token all the time."""
        return self._get(contender, self._tokens.__getitem__)

    def get_cold(self, contender: Contender) -> list[Call]:
        """The same, with a new token in each request."""
        return self._get(contender, self._new_token)

    def _new_token(self, owner: str) -> str:
        self._serial += 1
        return self._issuer.token(owner, self._serial)

    def _get(self, contender: Contender, token: Callable[[str], str]) -> list[Call]:
        calls = []
        for owner, item in self._reads:
            path = f"{API}/items/{item}"
            length = self._lengths.get((contender.name, item))
            if length is None:
                body = contender.ask("GET", path, self._tokens[owner])
                expect(json.loads(body)["id"] == item, f"{contender.name} answers {path} with {body!r}")
                length = self._lengths[contender.name, item] = len(body)
            calls.append(Call(wire("GET", path, token(owner)), 200, length, length))
        return calls

    def list_100(self, contender: Contender) -> list[Call]:
        path = f"{API}/items?limit=100"
        calls = []
        for owner, ids in self._items.items():
            body = contender.ask("GET", path, self._tokens[owner])
            page = json.loads(body)
            found = [item["id"] for item in (page if isinstance(page, list) else page["items"])]
            expect(found == ids[:100], f"{contender.name} does not list the owner's 100 newest items")
            calls.append(Call(wire("GET", path, self._tokens[owner]), 200, len(body), len(body)))
        return calls

    def create(self, contender: Contender) -> list[Call]:
        calls = []
        for owner in self._creators:
            new = json.dumps({"name": f"Item of {owner}", "description": "Made by the benchmark."})
            body = contender.ask("POST", f"{API}/items", self._tokens[owner], new, status=201)
            expect(json.loads(body)["name"] == f"Item of {owner}", f"{contender.name} made {body!r}")
            # The fraction of a timestamp, seven characters, is missing where it is zero.
            request = wire("POST", f"{API}/items", self._tokens[owner], new)
            calls.append(Call(request, 201, len(body) - 14, len(body) + 14))
        return calls


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the table. `opponent` names the contender that this service is compared with."""

    title: str
    calls: Callable[[Work, Contender], list[Call]]
    opponent: str = "smallest"
    cold: bool = False  # new calls for each round, each sent once


CASES = {
    "health": Case("health", Work.health),
    "get": Case("get one", Work.get),
    "list": Case("list 100", Work.list_100),
    "create": Case("create", Work.create),
    "get-cached": Case("get one, verdicts cached by both", Work.get, "smallest, verdicts cached"),
    "get-cold": Case("get one, each token new to both", Work.get_cold, cold=True),
}


def measure(contender: Contender, calls: list[Call], seconds: float, max_requests: int = sys.maxsize) -> Round:
    """Load a contender for one round."""
    plan = Plan(contender.port, contender.pid, SERVER_CORE, CONNECTIONS, seconds, max_requests, calls)
    with pinned(LOAD_CORE):
        load = subprocess.run(
            [sys.executable, "-m", "bench.load"],
            cwd=ROOT,
            input=plan_to_json(plan),
            capture_output=True,
            text=True,
            check=False,
        )
    if load.returncode:
        raise contender.failure(load.stderr.strip())
    result = json.loads(load.stdout)
    latencies = sorted(result["latencies_ns"])
    return Round(
        requests=len(latencies),
        per_second=len(latencies) / result["seconds"],
        cpu=result["cpu_ns"] / len(latencies) / 1e3,
        p50=latencies[len(latencies) // 2] / 1e6,
        p99=latencies[len(latencies) * 99 // 100] / 1e6,
        others=max(0.0, (result["busy_ns"] - result["cpu_ns"]) / 1e9 / result["seconds"]),
    )


def compare(
    case: Case, work: Work, contenders: dict[str, Contender], rounds: int, seconds: float, *, anew: int
) -> dict[str, list[Round]]:
    """Alternating rounds of one case: A B, B A, A B, …; processes are new every `anew` pairs, or never if it is 0."""
    pair = [contenders["plinth"], contenders[case.opponent]]
    calls = {contender.name: case.calls(work, contender) for contender in pair}
    result: dict[str, list[Round]] = {contender.name: [] for contender in pair}
    for number in range(rounds):
        if number == 0 or (anew and number % anew == 0):
            for contender in pair:
                if number > 0:
                    contender.note_memory("load")
                    contender.stop()
                    contender.start()
                measure(contender, calls[contender.name], WARM_UP_SECONDS)
        for contender in pair if number % 2 == 0 else pair[::-1]:
            if case.cold:
                fresh = case.calls(work, contender)
                result[contender.name].append(measure(contender, fresh, seconds, len(fresh)))
            else:
                result[contender.name].append(measure(contender, calls[contender.name], seconds))
    return result


async def prepare(url: str) -> dict[str, list[str]]:
    """Fill the migrated table. Returns the ids of each owner's items, newest first."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            f"""
            INSERT INTO item (owner, name, description, tags, created_at)
            SELECT 'owner-' || o, 'Item ' || i, 'A thing of its owner, and the description of it: ' || i,
                   '{{red,small}}', now() - make_interval(mins => i)
            FROM generate_series(1, {OWNERS}) o, generate_series(1, {ITEMS_EACH}) i
            """
        )
        await connection.execute("VACUUM ANALYZE item")
        rows = await connection.fetch("SELECT owner, id FROM item ORDER BY owner, created_at DESC, id DESC")
    finally:
        await connection.close()
    items: dict[str, list[str]] = {}
    for owner, item in rows:
        items.setdefault(owner, []).append(str(item))
    return items


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[tuple[str, str]]:
    """PostgreSQL and Redis on the load's core, without fsync: disks are not compared here. Yields their URLs."""
    postgres = Postgres(folder / "postgresql", log=folder / "postgresql.log", durable=False)
    redis = Redis(folder / "redis", log=folder / "redis.log", durable=False)
    with contextlib.ExitStack() as running, pinned(LOAD_CORE):
        postgres.start()
        running.callback(postgres.stop)
        redis.start()
        running.callback(redis.stop)
        yield postgres.url(), redis.url()


def build_contenders(folder: Path, database_url: str, redis_url: str, issuer: Issuer) -> dict[str, Contender]:
    # As in a deployment: what would make a start slower or a log line cheaper is not inherited.
    base = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "DATABASE_URL": database_url}
    ours = {
        **base,
        "ENVIRONMENT": "test",  # all that is different from production: the issuer may be on loopback
        "SECRET_KEY": secrets.token_hex(32),  # the known one would have each Host looked at
        "LOG_FORMAT": "json",
        "DOCS_ENABLED": "false",
        "METRICS_PORT": "0",
        "REDIS_URL": redis_url,
        "DB_POOL_SIZE": str(POOL_SIZE),
        "DB_MAX_OVERFLOW": str(POOL_OVERFLOW),
        "RATE_LIMIT": "20000/minute",  # on, and never reached
        "MAX_REQUESTS_PER_CALLER": "1000",  # the same
        "AUTH_PROVIDER": "custom",
        "OIDC_ISSUER": issuer.url,
        "OIDC_AUDIENCE": issuer.audience,
        "OIDC_JWKS_URL": issuer.jwks_url,
    }
    smallest = {
        **base,
        "JWT_PUBLIC_KEY": str(issuer.public_key),
        "JWT_ISSUER": issuer.url,
        "JWT_AUDIENCE": issuer.audience,
        "POOL_MIN": str(POOL_SIZE),
        "POOL_MAX": str(POOL_SIZE + POOL_OVERFLOW),
    }
    caching = {**smallest, "CACHE_VERDICTS": "1"}
    python = [sys.executable, "-m"]
    serve_ours = [*python, "plinth.cli", "api", "--host", "127.0.0.1", "--port", "{port}"]
    serve_smallest = [*python, "uvicorn", "bench.smallest:app", "--port", "{port}", "--no-access-log"]
    serve_smallest += ["--loop", "uvloop", "--http", "httptools", "--log-level", "warning"]
    contenders = [
        Contender("plinth", serve_ours, ours, folder / "plinth.log"),
        Contender("smallest", serve_smallest, smallest, folder / "smallest.log"),
        Contender("smallest, verdicts cached", serve_smallest, caching, folder / "caching.log"),
    ]
    return {contender.name: contender for contender in contenders}


UNOBSERVED = "nothing watched"


def build_observed(contenders: dict[str, Contender], collector: Collector) -> dict[str, Contender]:
    """This service with metrics, a tenth of its traces and a line for each request; and without all of them."""
    plinth = contenders["plinth"]
    # A caller that sends no `traceparent` is sampled here.
    watched = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_TRACES_SAMPLER_ARG": "0.1", "LOG_ACCESS_SAMPLE": "1"}
    unwatched = {"LOG_LEVEL": "WARNING", "LOG_ACCESS_SAMPLE": "0"}
    argv = [word.replace("plinth.cli", "bench.unobserved") for word in plinth.argv]
    return {
        "plinth": replace(plinth, env=plinth.env | watched),
        UNOBSERVED: Contender(UNOBSERVED, argv, plinth.env | unwatched, plinth.log.with_name("unobserved.log")),
    }


TAKING = "its collector takes"


def build_with_collectors(contenders: dict[str, Contender], collector: Collector, trouble: str) -> dict[str, Contender]:
    """This service with all its traces recorded, and a collector in `trouble`; and with one that takes them."""
    plinth = contenders["plinth"]
    recording = plinth.env | {"OTEL_TRACES_SAMPLER": "always_on"}
    url = Collector(hangs=True).url if trouble == "hangs" else "http://127.0.0.1:9"  # a port without a listener
    return {
        "plinth": replace(plinth, env=recording | {"OTEL_EXPORTER_OTLP_ENDPOINT": url}),
        TAKING: Contender(
            TAKING,
            plinth.argv,
            recording | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url},
            plinth.log.with_name("taking.log"),
        ),
    }


def time_starts(contenders: list[Contender]) -> None:
    """Start and stop in turn. The first start does not count, it warms the caches; the last one stays."""
    for contender in contenders:
        contender.start()
        contender.stop()
    for number in range(STARTS):
        for contender in contenders:
            contender.starts.append(contender.start())
            if number < STARTS - 1:
                contender.stop()


@dataclass(frozen=True, slots=True)
class Ratio:
    """This service over its opponent, within pairs of neighbouring rounds: the median and the middle half."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: list[float], theirs: list[float]) -> Self:
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        return cls(statistics.median(ratios), low, high)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def summarise(case: Case, rounds: dict[str, list[Round]]) -> dict[str, Any]:
    ours = [asdict(each) for each in rounds["plinth"]]
    theirs = [asdict(each) for each in rounds[case.opponent]]
    summary: dict[str, Any] = {"title": case.title, "opponent": case.opponent}
    for measure in ("cpu", "p50", "p99", "per_second"):
        a, b = [each[measure] for each in ours], [each[measure] for each in theirs]
        summary[measure] = {
            "plinth": statistics.median(a),
            "opponent": statistics.median(b),
            "ratio": asdict(Ratio.of(a, b)),
        }
    costs = [a["cpu"] - b["cpu"] for a, b in zip(ours, theirs, strict=True)]
    summary["cost"] = statistics.median(costs)
    summary["cost_quartiles"] = statistics.quantiles(costs, n=4) if len(costs) > 1 else costs * 3
    summary["others"] = max(each["others"] for each in ours + theirs)
    summary["rounds"] = {"plinth": ours, "opponent": theirs}
    return summary


def print_report(report: dict[str, Any]) -> None:
    print(f"\n{report['about']}\n")
    print(f"{'':33} {'CPU µs/request':>25}{'':17} {'p50 ms':>22} {'p99 ms':>22} {'requests/s':>13}")
    names = f"{'plinth':>8} {'other':>6}"
    print(f"{'':33} {names} {'ratio (middle half)':>26} {names} {'ratio':>6} {names} {'ratio':>6} {names}")
    for row in report["cases"].values():
        cpu, p50, p99, rate = row["cpu"], row["p50"], row["p99"], row["per_second"]
        print(
            f"{row['title']:33} {cpu['plinth']:8.0f} {cpu['opponent']:6.0f} {Ratio(**cpu['ratio'])!s:>26} "
            f"{p50['plinth']:8.1f} {p50['opponent']:6.1f} {p50['ratio']['median']:6.2f} "
            f"{p99['plinth']:8.1f} {p99['opponent']:6.1f} {p99['ratio']['median']:6.2f} "
            f"{rate['plinth']:8.0f} {rate['opponent']:6.0f}"
        )
    for row in report["cases"].values():
        if row["opponent"] == UNOBSERVED:
            low, _, high = row["cost_quartiles"]
            costs = f"{row['cost']:.0f} µs of CPU a request ({low:.0f} to {high:.0f})"
            print(f"{row['title']}: to be watched costs {costs}")
    print(f"\n{'':33} {'first 200':>10} {'RSS then':>10} {'after load':>10}")
    for name, row in report["processes"].items():
        print(f"{name:33} {row['first_200']:8.2f} s {row['start']:7.0f} MB {row['load']:7.0f} MB")
    if report["others"] > 0.05:
        print(f"\nOther programs had up to {report['others']:.0%} of the servers' core in a round: run it again.")


def main() -> None:
    parser = argparse.ArgumentParser(description="This service beside the smallest one that does the same work.")
    parser.add_argument("--rounds", type=int, help="pairs of rounds for each case: 8, or 24 with --observability")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a round")
    parser.add_argument("--only", help=f"some of the cases {','.join(CASES)}")
    watching = parser.add_mutually_exclusive_group()
    watching.add_argument("--observability", action="store_true", help="all that watches the service, on and off")
    watching.add_argument("--collector", choices=["hangs", "away"], help="such a collector, beside one that takes")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    arguments = parser.parse_args()
    if not Path("app/api/v1/items.py").exists():
        parser.error("it drives the sample's items, and this service is without them")
    cases = CASES
    if arguments.observability:  # both cache verdicts, as it is the same service
        cases = {name: replace(CASES[name], opponent=UNOBSERVED) for name in ("health", "get", "list", "create")}
    if arguments.collector:
        cases = {name: replace(CASES[name], opponent=TAKING) for name in ("get", "create")}
    rounds = arguments.rounds or (24 if arguments.observability else 8)
    chosen = (arguments.only or ",".join(cases)).split(",")
    if unknown := set(chosen) - set(cases):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        parser.error("this needs Linux and two cores: one for the server, one for everything else")

    with contextlib.ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="plinth-bench-")))
        shutil.copy(ROOT / "pyproject.toml", folder)  # `plinth` finds the service by it; a .env must not be found
        folder.chmod(0o755)  # PostgreSQL, which is never root, has to get through
        database_url, redis_url = closing.enter_context(servers(folder))
        issuer = Issuer(folder)
        contenders = build_contenders(folder, database_url, redis_url, issuer)
        collector = Collector()
        if arguments.observability:
            contenders = build_observed(contenders, collector)
        if arguments.collector:
            contenders = build_with_collectors(contenders, collector, arguments.collector)
        for contender in contenders.values():
            closing.callback(contender.stop)
        migrate = [sys.executable, "-m", "plinth.cli", "migrate"]
        subprocess.run(migrate, env=contenders["plinth"].env, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
        work = Work(issuer, asyncio.run(prepare(database_url)))

        time_starts(list(contenders.values()))
        for contender in contenders.values():
            contender.note_memory("start")
        results = {}
        for name in chosen:
            print(f"{cases[name].title} …", file=sys.stderr, flush=True)
            # What a process has to do with a collector in trouble shows in the same one, after a while.
            # What it costs to be watched is a difference as small as that of two starts of the same program.
            anew = 0 if arguments.collector else 1 if arguments.observability else 2
            measured = compare(cases[name], work, contenders, rounds, arguments.seconds, anew=anew)
            results[name] = summarise(cases[name], measured)
        for contender in contenders.values():
            contender.note_memory("load")
        traced = arguments.observability or arguments.collector
        expect(not traced or collector.exports > 0, "no span came to the collector")

    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("fastapi", "uvicorn", "asyncpg")]
    report = {
        "about": (
            f"{platform.machine()}, Python {platform.python_version()}, {', '.join(versions)}, PostgreSQL {MAJOR}; "
            f"{CONNECTIONS} connections, {rounds} pairs of rounds of {arguments.seconds} s"
        ),
        "cases": results,
        "processes": {
            contender.name: {"first_200": statistics.median(contender.starts), **contender.memory}
            for contender in contenders.values()
        },
        "others": max(row["others"] for row in results.values()),
    }
    print_report(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
