"""API keys: made, listed and revoked by commands; with them machines call the API."""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from structlog.testing import capture_logs

from notes.config import Settings
from notes.main import create_app
from plinth.api.schemas import Me
from plinth.database.engine import Database, DatabaseUnavailableError
from plinth.identity import api_key_verifier
from plinth.identity.api_key_verifier import ISSUER, ApiKeyVerifier
from plinth.identity.api_keys import MAX_SCOPES, NewKey, create_key, read_key, revoke_key
from plinth.identity.errors import Reason, TokenError
from plinth.identity.verifier import CACHE_SECONDS, MAX_CACHED
from plinth.settings import PlatformSettings
from plinth.settings.urls import MASK
from plinth.telemetry.redaction import redact_text
from plinth.testing import NO_DATABASE, problem
from tests.plinth.integration.jobs.conftest import OLGA, until
from tests.support.api import client_of
from tests.support.cli import Run, command_line
from tests.support.notes import note, settings_with
from tests.support.settings import isolated_problems

FORM = re.compile(r"plk_[0-9a-f]{32}_[0-9a-f]{48}")


@pytest.fixture(scope="module")
def settings(database_url: str, redis_url: str) -> Settings:
    return settings_with(
        DATABASE_URL=database_url,
        REDIS_URL=redis_url,
        OPERATOR_ROLE="operator",
        OPERATOR_SCOPE="jobs:operate",
        RATE_LIMIT="600/minute",
        RATE_LIMIT_ANONYMOUS="20/minute",
    )


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings)
    yield database
    await database.aclose()


@pytest.fixture
async def verifier(database: Database) -> AsyncIterator[ApiKeyVerifier]:
    verifier = ApiKeyVerifier(database)
    yield verifier
    await verifier.aclose()


@pytest.fixture
def run(tmp_path: Path, database_url: str) -> Iterator[Callable[..., Any]]:
    with command_line(tmp_path, DATABASE_URL=database_url) as run:
        yield lambda *arguments: asyncio.to_thread(run, *arguments)


@pytest.fixture
def unconnected(tmp_path: Path) -> Iterator[Run]:
    with command_line(tmp_path, DATABASE_URL=NO_DATABASE) as run:
        yield run


async def make(database: Database, *scopes: str, name: str = "deploy", days: float = 90) -> NewKey:
    async with database.session() as session:
        return await create_key(session, name, scopes=scopes, expires_in=timedelta(days=days), by=OLGA)


async def revoke(database: Database, made: NewKey) -> None:
    async with database.session() as session:
        await revoke_key(session, made.id, by=OLGA)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def wrong(made: NewKey) -> str:
    """The same key with another secret."""
    return made.key[:-1] + ("1" if made.key[-1] == "0" else "0")


async def refusal(verifier: ApiKeyVerifier, key: str) -> Reason:
    with pytest.raises(TokenError) as caught:
        await verifier.verify(key)
    return caught.value.reason


class TestCommands:
    async def test_create_prints_nothing_but_the_key_on_stdout(
        self, run: Callable[..., Any], sql: asyncpg.Connection
    ) -> None:
        result = await run("keys", "create", "deploy", "--scope", "orders:write", "--scope", "orders:read")

        assert result.exit_code == 0, result.output
        key = result.stdout.removesuffix("\n")
        assert FORM.fullmatch(key)
        secret = key.rpartition("_")[2]
        assert secret not in result.stderr
        (row,) = await sql.fetch("SELECT * FROM api_key")
        assert (row["id"].hex, row["name"]) == (key.split("_")[1], "deploy")
        assert row["scopes"] == ["orders:read", "orders:write"]
        assert row["digest"] == hashlib.sha256(secret.encode()).digest()
        assert row["expires_at"] - row["created_at"] == timedelta(days=90)
        assert (row["last_used_at"], row["revoked_at"]) == (None, None)
        assert row["created_by"].startswith("cli:")

    async def test_keys_have_secrets_of_their_own(self, database: Database) -> None:
        made = [(await make(database)).key for _ in range(3)]
        assert len({key.rpartition("_")[2] for key in made}) == 3

    async def test_create_prints_json(self, run: Callable[..., Any]) -> None:
        result = await run("keys", "create", "deploy", "--expires", "2h", "--json")
        made = json.loads(result.stdout)
        assert set(made) == {"id", "name", "scopes", "expires_at", "key"}
        assert read_key(made["key"]).id == UUID(made["id"])  # type: ignore[union-attr]
        left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
        assert timedelta(minutes=119) < left <= timedelta(hours=2)

    async def test_list_shows_every_key_without_its_secret(
        self, run: Callable[..., Any], database: Database, sql: asyncpg.Connection
    ) -> None:
        made = [await make(database, "orders:read", name=name) for name in ("old", "gone", "live")]
        await sql.execute("UPDATE api_key SET expires_at = now() - interval '1 s' WHERE name = 'old'")
        await revoke(database, made[1])

        result = await run("keys", "list", "--json")
        listed = [json.loads(line) for line in result.stdout.splitlines()]
        assert [(one["name"], one["status"]) for one in listed] == [
            ("live", "active"),
            ("gone", "revoked"),
            ("old", "expired"),
        ]
        assert [one["id"] for one in listed] == [str(one.id) for one in made[::-1]]
        assert set(listed[0]) == {
            *("id", "name", "scopes", "status", "created_at", "created_by", "expires_at", "last_used_at", "revoked_at")
        }
        table = await run("keys", "list")
        assert [line.split()[1:4] for line in table.stdout.splitlines()] == [
            ["NAME", "SCOPES", "STATUS"],
            ["live", "orders:read", "active"],
            ["gone", "orders:read", "revoked"],
            ["old", "orders:read", "expired"],
        ]
        for one in made:
            assert one.key.rpartition("_")[2] not in result.output + table.output

    @pytest.mark.parametrize("by_key", [False, True])
    async def test_revoke_takes_the_id_or_the_key(
        self, run: Callable[..., Any], database: Database, sql: asyncpg.Connection, by_key: bool
    ) -> None:
        made = await make(database)
        revoked = []
        for _ in range(2):  # a second time changes nothing
            result = await run("keys", "revoke", made.key if by_key else str(made.id))
            assert (result.exit_code, result.stdout) == (0, f"{made.id} is revoked, everywhere within a minute.\n")
            revoked.append(await sql.fetchval("SELECT revoked_at FROM api_key"))
        assert revoked[0] is not None
        assert revoked[0] == revoked[1]
        assert await sql.fetchval("SELECT count(*) FROM audit_record WHERE action = 'key.revoke'") == 1

    async def test_unknown_key_cannot_be_revoked(self, run: Callable[..., Any]) -> None:
        result = await run("keys", "revoke", str(uuid4()))
        assert (result.exit_code, result.stderr) == (1, "There is no such key.\n")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("create", ""), "1 to 100 printable characters"),
            (("create", "a" * 101), "1 to 100 printable characters"),
            (("create", "a\nb"), "1 to 100 printable characters"),
            (("create", "a", "--scope", ""), "at most 50 scopes"),
            (("create", "a", "--scope", "orders:read orders:write"), "at most 50 scopes"),
            (("create", "a", "--scope", "é"), "at most 50 scopes"),
            (("create", "a", "--scope", "s" * 101), "at most 50 scopes"),
            (("create", "a", *(part for n in range(MAX_SCOPES + 1) for part in ("--scope", f"s{n}"))), "at most 50"),
            (("create", "a", "--expires", "0s"), "a key expires within 3650 days"),
            (("create", "a", "--expires", "3651d"), "up to 3650d"),
            (("create", "a", "--expires", "soon"), "expected a number and a unit"),
            (("create",), "Missing argument"),
            (("revoke", "7"), "the id of a key"),
        ],
        ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
    )
    def test_wrong_usage_is_told_without_the_database(
        self, unconnected: Run, arguments: tuple[str, ...], said: str
    ) -> None:
        result = unconnected("keys", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert said in " ".join(result.stderr.replace("│", " ").split())

    def test_mistyped_key_is_not_quoted_in_the_error(self, unconnected: Run) -> None:
        secret = "5f" * 24
        result = unconnected("keys", "revoke", f"plk_{uuid4().hex}-{secret}")
        assert result.exit_code == 2
        assert secret not in result.output

    async def test_longest_name_and_scopes_fit_into_the_audit_log(self, database: Database) -> None:
        scopes = [f"{n:02}".ljust(100, "s") for n in range(MAX_SCOPES)]
        made = await make(database, *scopes, name="é" * 100, days=3650)
        assert made.scopes == scopes

    def test_new_key_is_not_in_its_repr(self) -> None:
        made = NewKey(uuid4(), "a", [], datetime.now(UTC), f"plk_{uuid4().hex}_{'5f' * 24}")
        assert "5f5f" not in repr(made)


class TestRequests:
    async def test_key_is_a_caller_with_its_scopes(self, service: httpx.AsyncClient, database: Database) -> None:
        made = await make(database, "orders:write")
        response = await service.get("/me", headers=bearer(made.key))
        me = Me.model_validate_json(response.content)
        assert (me.subject, me.issuer, me.scopes, me.roles) == (str(made.id), "plinth:keys", ["orders:write"], [])
        assert abs(me.expires_at - made.expires_at) < timedelta(seconds=1)
        assert '"default";q=600' in response.headers["ratelimit-policy"]

    async def test_key_owns_what_it_makes(self, service: httpx.AsyncClient, database: Database) -> None:
        mine, other = bearer((await make(database)).key), bearer((await make(database)).key)
        made = (await service.post("/notes", json=note(), headers=mine)).json()
        assert (await service.get(f"/notes/{made['id']}", headers=mine)).status_code == 200
        assert (await service.get(f"/notes/{made['id']}", headers=other)).status_code == 404

    @pytest.mark.parametrize(("scopes", "status"), [((), 403), (("operator",), 403), (("jobs:operate",), 200)])
    async def test_key_is_an_operator_by_its_scope_alone(
        self, service: httpx.AsyncClient, database: Database, scopes: tuple[str, ...], status: int
    ) -> None:
        made = await make(database, *scopes)
        assert (await service.get("/queues", headers=bearer(made.key))).status_code == status

    async def test_act_of_a_key_is_recorded_under_its_id(
        self, service: httpx.AsyncClient, database: Database, sql: asyncpg.Connection
    ) -> None:
        made = await make(database, "jobs:operate")
        assert (await service.post("/queues/mail/pause", headers=bearer(made.key))).status_code == 204
        (row,) = await sql.fetch("SELECT issuer, subject FROM audit_record WHERE action = 'queue.pause'")
        assert tuple(row) == ("plinth:keys", str(made.id))

    async def test_wrong_keys_are_refused_and_counted_by_address(self, settings: Settings, database: Database) -> None:
        made = await make(database)
        expired = await make(database, days=1e-11)
        gone = await make(database)
        await revoke(database, gone)
        unknown = f"plk_{uuid4().hex}_{'5f' * 24}"
        keys = [wrong(made), expired.key, gone.key, unknown, "plk_", f"{made.key}0", made.key.upper(), f"{made.key}é"]
        async with client_of(create_app(settings)) as client:
            with capture_logs() as lines:
                for n, key in enumerate(keys):
                    headers = {b"Authorization": f"Bearer {key}".encode()}
                    response = await client.get("/me", headers=headers)
                    problem(response, 401, "unauthorized")
                    assert response.headers["www-authenticate"] == 'Bearer error="invalid_token"'
                    assert response.headers["ratelimit-policy"] == '"default";q=20;w=60'
                    assert key not in response.text, n
            reasons = [line["reason"] for line in lines if line["event"] == "token refused"]
            assert reasons[:4] == ["unknown_api_key", "expired", "revoked", "unknown_api_key"]
            assert "5f5f" not in repr(lines)
            for _ in range(20 - len(keys)):
                problem(await client.get("/me", headers=bearer(unknown)), 401)
            problem(await client.get("/me", headers=bearer(unknown)), 429, "rate_limited")
            assert (await client.get("/me", headers=bearer(made.key))).status_code == 200

    async def test_key_is_checked_before_the_body_is_read(self, service: httpx.AsyncClient, database: Database) -> None:
        made = await make(database)
        body = {"nonsense": True}
        problem(await service.post("/notes", json=body, headers=bearer(wrong(made))), 401)
        problem(await service.post("/notes", json=body, headers=bearer(made.key)), 422)

    async def test_key_cannot_be_looked_up_while_the_database_is_away(self, database: Database) -> None:
        made = await make(database)
        away = settings_with(DATABASE_URL=NO_DATABASE)
        async with client_of(create_app(away)) as client:
            response = await client.get("/me", headers=bearer(made.key))
            problem(response, 503, "database_unavailable")
            assert response.headers["retry-after"]


class TestVerifier:
    async def test_verified_key_is_cached(self, database: Database, verifier: ApiKeyVerifier) -> None:
        made = await make(database, "a", "b")
        assert verifier.cached(made.key) is None
        principal = await verifier.verify(made.key)
        assert (principal.subject, principal.issuer) == (str(made.id), ISSUER)
        assert (principal.scopes, principal.roles) == (frozenset({"a", "b"}), frozenset())
        assert verifier.cached(made.key) is principal

    async def test_cache_holds_no_key(self, database: Database, verifier: ApiKeyVerifier) -> None:
        made = await make(database)
        await verifier.verify(made.key)
        assert made.key.rpartition("_")[2] not in repr(vars(verifier))

    async def test_flood_of_wrong_keys_leaves_the_pool_to_others(
        self, settings: Settings, database: Database, verifier: ApiKeyVerifier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken: list[int] = []
        fetch = api_key_verifier._FIND.fetchrow

        async def counted(connection: Any, **values: Any) -> Any:
            taken.append(database.engine.pool.checkedout())  # type: ignore[attr-defined]
            return await fetch(connection, **values)

        monkeypatch.setattr(api_key_verifier, "_FIND", SimpleNamespace(fetchrow=counted))
        wrong = [f"plk_{uuid4().hex}_{'0' * 48}" for _ in range(50)]
        found = await asyncio.gather(*map(verifier.verify, wrong), return_exceptions=True)
        assert {type(error) for error in found} == {TokenError}
        assert max(taken) <= 2

    async def test_many_requests_of_one_key_look_it_up_and_note_its_use_once(
        self, database: Database, verifier: ApiKeyVerifier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        look_ups = 0
        fetch = api_key_verifier._FIND.fetchrow

        async def counted(connection: Any, **values: Any) -> Any:
            nonlocal look_ups
            look_ups += 1
            return await fetch(connection, **values)

        monkeypatch.setattr(api_key_verifier, "_FIND", SimpleNamespace(fetchrow=counted))
        made = await make(database)
        found = await asyncio.gather(*(verifier.verify(made.key) for _ in range(50)))
        assert {principal.subject for principal in found} == {str(made.id)}
        assert look_ups <= api_key_verifier.MAX_LOOK_UPS
        assert len(verifier._writing) <= api_key_verifier.MAX_LOOK_UPS

    async def test_look_ups_that_wait_share_a_failure_of_the_database(
        self, database: Database, verifier: ApiKeyVerifier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Behind a database that hangs, of 60 requests the last was answered after 25 s.
        look_ups = 0

        async def hanging(connection: Any, **values: Any) -> Any:
            nonlocal look_ups
            look_ups += 1
            await asyncio.sleep(0.05)
            raise DatabaseUnavailableError

        made = await make(database)
        with monkeypatch.context() as hung:
            hung.setattr(api_key_verifier, "_FIND", SimpleNamespace(fetchrow=hanging))
            found = await asyncio.gather(*(verifier.verify(made.key) for _ in range(50)), return_exceptions=True)
        assert {type(error) for error in found} == {DatabaseUnavailableError}
        assert look_ups <= api_key_verifier.MAX_LOOK_UPS
        assert await verifier.verify(made.key)

    async def test_refusals_are_not_cached(self, database: Database, verifier: ApiKeyVerifier) -> None:
        made = await make(database)
        for _ in range(2):
            assert await refusal(verifier, wrong(made)) is Reason.UNKNOWN_API_KEY
        assert verifier.cached(wrong(made)) is None
        assert verifier._cache == {}

    async def test_revoked_key_is_accepted_for_a_minute_at_most(self, database: Database) -> None:
        now = 1_000_000.0
        verifier = ApiKeyVerifier(database, monotonic=lambda: now)
        made = await make(database)
        await verifier.verify(made.key)
        await revoke(database, made)
        assert CACHE_SECONDS <= 60
        now += CACHE_SECONDS - 1
        assert verifier.cached(made.key) is not None
        now += 1
        assert verifier.cached(made.key) is None
        assert await refusal(verifier, made.key) is Reason.REVOKED
        await verifier.aclose()

    async def test_key_that_expires_is_cached_no_longer(self, database: Database) -> None:
        made = await make(database, days=1 / 24 / 60 / 2)  # 30 seconds
        now = 1_000_000.0
        verifier = ApiKeyVerifier(database, monotonic=lambda: now)
        await verifier.verify(made.key)
        assert verifier.cached(made.key) is not None
        now += 30
        assert verifier.cached(made.key) is None
        await verifier.aclose()

    async def test_cache_is_bounded_and_forgets_the_oldest(
        self, database: Database, verifier: ApiKeyVerifier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert MAX_CACHED == 4096
        monkeypatch.setattr(api_key_verifier, "MAX_CACHED", 2)
        made = [await make(database) for _ in range(3)]
        for one in made:
            await verifier.verify(one.key)
        assert [verifier.cached(one.key) is not None for one in made] == [False, True, True]

    async def test_cached_key_is_accepted_while_the_database_is_away(self, database: Database) -> None:
        made = await make(database)
        verifier = ApiKeyVerifier(database)
        await verifier.verify(made.key)
        verifier._database = Database(settings_with(DATABASE_URL=NO_DATABASE))
        assert verifier.cached(made.key) is not None
        with pytest.raises(DatabaseUnavailableError):
            await verifier.verify(made.key)
        await verifier.aclose()
        await verifier._database.aclose()


class TestLastUse:
    async def test_use_is_written_once_a_minute(
        self, database: Database, verifier: ApiKeyVerifier, sql: asyncpg.Connection
    ) -> None:
        made = await make(database)
        last_used = "SELECT last_used_at FROM api_key"

        async def use() -> Any:
            await verifier.verify(made.key)
            await asyncio.gather(*verifier._writing)
            return await sql.fetchval(last_used)

        first = await use()
        assert first is not None
        assert await use() == first
        await sql.execute("UPDATE api_key SET last_used_at = now() - interval '61 s'")
        again = await use()
        assert again > first

    async def test_use_is_written_of_a_request(
        self, service: httpx.AsyncClient, database: Database, sql: asyncpg.Connection
    ) -> None:
        made = await make(database)
        await service.get("/me", headers=bearer(made.key))
        await until(lambda: sql.fetchval("SELECT last_used_at FROM api_key"))

    async def test_use_that_cannot_be_written_fails_no_request(
        self, database: Database, verifier: ApiKeyVerifier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Refusing:
            async def fetch(self, connection: asyncpg.Connection, **parameters: Any) -> None:
                await connection.fetch("SELECT 1 / 0")

        monkeypatch.setattr(api_key_verifier, "_USED", Refusing())
        made = await make(database)
        with capture_logs() as lines:
            assert await verifier.verify(made.key)
            await asyncio.gather(*verifier._writing)
        (line,) = lines
        assert (line["event"], line["key_id"]) == ("the use of an API key was not written", str(made.id))


class TestForms:
    async def test_redaction_knows_the_keys_that_are_made(self, database: Database) -> None:
        made = await make(database)
        assert redact_text(f"it is {made.key}!") == f"it is plk_{made.id.hex}_{MASK}!"

    @pytest.mark.parametrize(
        ("provider", "setting"),
        [("custom", "OIDC_ISSUER"), ("clerk", "CLERK_ISSUER"), ("supabase", "SUPABASE_URL")],
    )
    def test_no_identity_provider_can_have_the_issuer_of_keys(self, provider: str, setting: str) -> None:
        found = isolated_problems(AUTH_PROVIDER=provider, **{setting: ISSUER})
        assert any(setting in one for one in found)

    def test_local_tokens_have_another_issuer(self) -> None:
        assert ISSUER not in PlatformSettings.isolated().issuers
