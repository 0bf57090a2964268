"""Redaction removes secrets from log values and leaves the rest as it is."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, SecretStr

from plinth.settings.urls import MASK
from plinth.telemetry.redaction import is_secret, redact, redact_text
from tests.support.api import signed_in
from tests.support.notes import settings_with

SECRET = "hunter2/hunter2"
JWT = signed_in(settings_with(), "alice")["Authorization"].removeprefix("Bearer ")


KEY_ID = f"plk_{'0a' * 16}_"
API_KEY = f"{KEY_ID}{'5f' * 24}"


class Login(BaseModel):
    user: str
    password: str
    token: SecretStr = SecretStr(SECRET)


class Odd:
    def __repr__(self) -> str:
        return f"Odd(api_key={SECRET!r})"


def redacted(**event: Any) -> dict[str, Any]:
    redact(event)
    return event


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError


class TestApiKeys:
    @pytest.mark.parametrize(
        ("text", "clean"),
        [
            (API_KEY, f"{KEY_ID}{MASK}"),
            (f"the key {API_KEY}, of deploy", f"the key {KEY_ID}{MASK}, of deploy"),
            (f"['{API_KEY}']", f"['{KEY_ID}{MASK}']"),
            (f"/notes/{API_KEY}", f"/notes/{KEY_ID}{MASK}"),
            (f"x{API_KEY}", f"x{KEY_ID}{MASK}"),
            (f"Bearer {API_KEY}", f"Bearer {MASK}"),
            (API_KEY[:-30], f"{KEY_ID}{MASK}"),
            (API_KEY[:-40], f"plk_{MASK}"),
            (f"plk_{'5f' * 24}", f"plk_{MASK}"),
        ],
    )
    def test_secret_of_an_api_key_is_redacted(self, text: str, clean: str) -> None:
        assert redact_text(text) == clean
        assert redacted(it=text) == {"it": clean}
        assert redacted(it=[text]) == {"it": [clean]}

    @pytest.mark.parametrize("text", ["plk_", "keys begin with plk_ and an id", "plk_short"])
    def test_text_that_holds_no_api_key_is_unchanged(self, text: str) -> None:
        assert redact_text(text) == text


class TestText:
    @pytest.mark.parametrize(
        "text",
        [
            f"Bearer {JWT}",
            f"bearer\t{JWT}",
            JWT,
            f"the token was {JWT}, and it did not hold",
            JWT.rpartition(".")[0],
            "Authorization: Bearer hunter2/hunter2",
            "authorization: hunter2/hunter2 hunter2/hunter2",
            "'authorization': 'Basic hunter2/hunter2'",
            "[(b'Authorization', b'Digest hunter2/hunter2')]",
            "Cookie: a=hunter2/hunter2; b=hunter2/hunter2",
            "[('set-cookie', 'sid=hunter2/hunter2; Path=/')]",
            "password=hunter2/hunter2",
            "DATABASE_PASSWORD=hunter2/hunter2 and more",
            "password: hunter2/hunter2, user: me",
            '{"user": "me", "password": "hunter2/hunter2"}',
            '{"password": "hun\\"hunter2/hunter2"}',
            r"{\"refresh_token\": \"hunter2/hunter2\"}",
            "{'client_secret': 'hunter2/hunter2'}",
            "Login(user='me', password='hunter2/hunter2 and more hunter2/hunter2')",
            "password = 'hunter2/hunter2",
            "api-key => hunter2/hunter2",
            "X-Api-Key: hunter2/hunter2",
            "GET https://api.example/v1?access_token=hunter2/hunter2&page=2",
            "plinth --client-secret hunter2/hunter2 --port 1",
            "AWS_SECRET_ACCESS_KEY=hunter2/hunter2",
            f"id-{JWT}",
            '{"password": ["hunter2/hunter2", "hunter2/hunter2"], "user": "me"}',
            "{'credentials': {'user': 'me', 'value': 'hunter2/hunter2'}, 'n': 1}",
            "password := hunter2/hunter2",
            "authorization=Bearer hunter2/hunter2",
            "authorization = Basic hunter2/hunter2, user: me",
            "token: bearer hunter2/hunter2",
            "access_token=Token hunter2/hunter2&page=2",
            '["password","hunter2/hunter2"]',
            'authorization=Token token="hunter2/hunter2"',
            'Authorization: Token token="hunter2/hunter2"',
            'Authorization: Digest username="u", response="hunter2/hunter2"',
            r'"Authorization: Digest username=\"u\", response=\"hunter2/hunter2\""',
            'token_type=bearer access_token="hunter2/hunter2"',
            'token_type: bearer\naccess_token: "hunter2/hunter2"',
            "token=bearer\npassword={'a': 'hunter2/hunter2'}",
            "-----BEGIN PRIVATE KEY-----\nhunter2/hunter2\n-----END PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----\\nhunter2/hunter2",
        ],
    )
    def test_secrets_in_text_are_redacted(self, text: str) -> None:
        clean = redact_text(text)
        assert "********" in clean
        for secret in (SECRET, JWT, JWT.split(".")[1]):
            assert secret not in clean

    @pytest.mark.parametrize(
        ("url", "clean"),
        [
            ("postgresql://plinth:hunter2@db:5432/x", "postgresql://plinth:********@db:5432/x"),
            ("postgresql://plinth:hun%40ter2@db", "postgresql://plinth:********@db"),
            ("postgresql://app@server:hunter2@db/x", "postgresql://app@server:********@db/x"),
            ("smtp://me@corp.example:hunter2@mail:587", "smtp://me@corp.example:********@mail:587"),
            ("redis://:hunter2@cache:6379/0", "redis://:********@cache:6379/0"),
            ("https://ghp_hunter2hunter2hunter2@git.example/x", "https://********@git.example/x"),
        ],
    )
    def test_only_the_password_of_a_url_is_redacted(self, url: str, clean: str) -> None:
        assert redact_text(f"cannot reach {url}: refused") == f"cannot reach {clean}: refused"

    @pytest.mark.parametrize(
        ("text", "clean"),
        [
            ("token: bearer\nUser bob logged in", "token: ********\nUser bob logged in"),
            ("Unknown token: token expired at noon", "Unknown token: ******** expired at noon"),
            ("'Authorization: Bearer hunter2', 'x'", "'Authorization: ********', 'x'"),
        ],
    )
    def test_text_around_a_secret_is_kept(self, text: str, clean: str) -> None:
        assert redact_text(text) == clean

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "GET /api/v1/items/0190f3a4",
            "This needs a bearer token.",
            'Bearer error="invalid_token"',
            "http://127.0.0.1:8000/docs and http://host:80/users/@me",
            "max_tokens=5, prompt_tokens: 17",
            "the key is unknown: kid=1",
            "unexpected token in line 3",
            "An idempotency key was used before.",
            "redis://default@cache:6379",
            "eyJ",
            "no password",
        ],
    )
    def test_text_without_secrets_is_unchanged(self, text: str) -> None:
        assert redact_text(text) == text

    @pytest.mark.parametrize(
        "piece",
        ["a", "key ", "token", "://", "://a:", "bearer ", "password=\'", "password=\\\\", "eyJ", "eyJaaaaaa.aaaaaa.",
         "-----BEGIN PRIVATE KEY-----", "cookie:", "--key-", '{"password":', "basic a", "-eyJ", "token-", "--token",
         "password=[", "secret={", "a-"],
    )  # fmt: skip
    def test_redaction_takes_linear_time(self, piece: str) -> None:
        # Quadratic time would take more than ten minutes.
        text = "--" + piece * (200_000 // len(piece)) + "token"
        assert len(redact_text(text)) <= len(text) * 9


class TestNames:
    @pytest.mark.parametrize(
        "name",
        ["password", "PASSWORD", "db_password", "passwd", "pwd", "secret", "SECRET_KEY", "client_secret", "token",
         "access_token", "accessToken", "authorization", "Authorization", "set-cookie", "api_key", "apikey",
         "x-api-key", "private_key", "credentials"],
    )  # fmt: skip
    def test_values_of_secret_names_are_redacted(self, name: str) -> None:
        assert is_secret(name)
        assert redacted(**{name: SECRET}) == {name: "********"}
        assert redacted(**{name: 12345}) == {name: "********"}
        assert redacted(**{name: {"deep": [SECRET]}}) == {name: "********"}
        assert redacted(**{name: None}) == {name: None}

    @pytest.mark.parametrize(
        "name", ["event", "tokens", "max_tokens", "unique_key", "key", "kid", "path", "principal", "idempotency_key"]
    )
    def test_harmless_names_are_not_secret(self, name: str) -> None:
        assert not is_secret(name)


class TestValues:
    def test_secrets_in_text_without_a_space_are_redacted(self) -> None:
        assert redacted(a='["password","hunter2"]', b="password=hunter2", c='{"token":"hunter2"}') == {
            "a": '["password","********"]', "b": "password=********", "c": '{"token":"********"}',
        }  # fmt: skip

    def test_secrets_in_values_of_any_type_are_redacted(self) -> None:
        line = redacted(
            nested={"headers": [("Authorization", f"Bearer {JWT}")], "password": SECRET, "user": "me", "n": [1, None]},
            model=Login(user="me", password=SECRET),
            error=RuntimeError(f"secret={SECRET}"),
            odd=Odd(),
            items=(f"token={SECRET}", b"password=hunter2/hunter2"),
            deep=[[[[{"a": {"cookie": SECRET}}]]]],
            raw=[(b"x-api-key", SECRET.encode()), ("Authorization", f"Digest {SECRET}"), (b"accept", b"*/*")],
        )
        assert SECRET not in repr(line)
        assert JWT not in repr(line)
        assert line["nested"]["user"] == "me"
        assert line["nested"]["n"] == [1, None]
        assert line["raw"] == [["x-api-key", "********"], ["Authorization", "********"], ["accept", "*/*"]]
        assert line["model"]["user"] == "me"

    def test_values_without_secrets_are_unchanged(self) -> None:
        moment = datetime(2026, 11, 25, tzinfo=UTC)
        line = redacted(event="request", n=1, x=1.5, yes=True, none=None, id=UUID(int=7), at=moment, names=["a", "b"])
        assert line == {
            "event": "request",
            "n": 1,
            "x": 1.5,
            "yes": True,
            "none": None,
            "id": str(UUID(int=7)),
            "at": "2026-11-25T00:00:00Z",
            "names": ["a", "b"],
        }

    def test_value_whose_repr_fails_is_replaced_by_its_type(self) -> None:
        assert redacted(one=Mute(), more=[Mute()]) == {"one": "<Mute>", "more": "<list>"}

    def test_self_referential_value_is_redacted(self) -> None:
        loop: list[Any] = [f"password={SECRET}"]
        loop.append(loop)
        line = redacted(loop=loop)
        assert SECRET not in repr(line)
