"""Sign-in at an OpenID Connect provider, and what forgers try there."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from notes.config import Settings
from notes.main import create_app
from tests.support.api import client_of
from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET, IdentityProvider, Mood, SigningKey, compact
from tests.support.logs import logging_as
from tests.support.notes import settings_with
from tests.support.ops import OPS, csrf_of, from_a_page

SESSION, ATTEMPT = "__Host-plinth-ops-session", "__Host-plinth-ops-sign-in"


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider() as provider:
        provider.id_token = {"sub": "olga", "roles": ["operator"]}
        provider.access_token = {"sub": "olga"}
        yield provider


def settings_of(database_url: str, provider: IdentityProvider, **values: Any) -> Settings:
    return settings_with(
        DATABASE_URL=database_url,
        AUTH_PROVIDER="custom",
        OIDC_ISSUER=provider.issuer,
        OIDC_AUDIENCE="plinth",
        OPERATOR_ROLE="operator",
        OPERATOR_SCOPE="jobs:operate",
        OPS_ENABLED=True,
        OPS_CLIENT_ID=CLIENT_ID,
        OPS_CLIENT_SECRET=CLIENT_SECRET,
        **values,
    )


@asynccontextmanager
async def browser_of(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(create_app(settings)) as client:
        yield client


@pytest.fixture
async def browser(database_url: str, provider: IdentityProvider) -> AsyncIterator[httpx.AsyncClient]:
    async with browser_of(settings_of(database_url, provider)) as client:
        yield client


async def begin(browser: httpx.AsyncClient, back_to: str = "/ops") -> str:
    """Begin a sign-in; returns the provider's page."""
    answer = await browser.get(f"{OPS}/sign-in/start", params={"next": back_to})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


async def at_provider(location: str) -> str:
    """Sign in at the provider; returns the address that it sends the browser to."""
    async with httpx.AsyncClient() as other:
        answer = await other.get(location)
    assert answer.status_code == 302
    return answer.headers["location"]


async def sign_in(browser: httpx.AsyncClient, back_to: str = "/ops") -> httpx.Response:
    return await browser.get(await at_provider(await begin(browser, back_to)))


def refused(answer: httpx.Response, status: int = 400) -> None:
    """A page that says so, without a session."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("text/html")
    assert SESSION not in answer.headers.get("set-cookie", "")


class TestSignIn:
    async def test_operator_signs_in_at_the_provider_and_is_led_back(
        self, browser: httpx.AsyncClient, provider: IdentityProvider
    ) -> None:
        asked = await browser.get(f"{OPS}?kind=mail")
        page = await browser.get(f"https://service.test{asked.headers['location']}")
        assert 'href="/ops/sign-in/start?next=/ops%3Fkind%3Dmail"' in page.text
        assert 'name="token"' not in page.text

        done = await sign_in(browser, "/ops?kind=mail")

        assert (done.status_code, done.headers["location"]) == (303, "/ops?kind=mail")
        assert ATTEMPT not in browser.cookies
        shown = await browser.get(f"{OPS}?kind=mail")
        assert (shown.status_code, "olga" in shown.text) == (200, True)

    async def test_provider_is_asked_with_pkce_state_and_nonce(
        self, browser: httpx.AsyncClient, provider: IdentityProvider
    ) -> None:
        location = await begin(browser)

        asked = {name: value for name, (value,) in parse_qs(urlsplit(location).query).items()}
        assert location.startswith(f"{provider.url}/authorize?")
        assert asked["redirect_uri"] == f"{OPS}/sign-in/callback"
        assert (asked["response_type"], asked["scope"], asked["client_id"]) == ("code", "openid", CLIENT_ID)
        assert asked["code_challenge_method"] == "S256"
        secrets = [asked["state"], asked["nonce"], asked["code_challenge"]]
        assert len(set(secrets)) == 3
        assert min(map(len, secrets)) >= 22
        again = {name: value for name, (value,) in parse_qs(urlsplit(await begin(browser)).query).items()}
        assert not {again["state"], again["nonce"], again["code_challenge"]} & set(secrets)

    async def test_roles_and_scopes_of_an_access_token_for_the_api_count(
        self, browser: httpx.AsyncClient, provider: IdentityProvider
    ) -> None:
        provider.id_token = {"sub": "olga"}
        provider.access_token = {"sub": "olga", "scope": "openid jobs:operate"}
        await sign_in(browser)
        assert (await browser.get(OPS)).status_code == 200

    @pytest.mark.parametrize("audience", ["another-api", ...])
    async def test_access_token_for_another_api_gives_nothing(
        self, browser: httpx.AsyncClient, provider: IdentityProvider, audience: Any
    ) -> None:
        provider.id_token = {"sub": "olga"}
        provider.access_token = {"sub": "olga", "aud": audience, "roles": ["operator"]}
        await sign_in(browser)
        assert (await browser.get(OPS)).status_code == 403

    async def test_opaque_access_token_is_left_aside(
        self, browser: httpx.AsyncClient, provider: IdentityProvider
    ) -> None:
        provider.token_answer = {"access_token": "opaque"}
        await sign_in(browser)
        assert (await browser.get(OPS)).status_code == 200

    async def test_client_secret_goes_into_the_form_where_the_provider_takes_no_other(
        self, browser: httpx.AsyncClient, provider: IdentityProvider
    ) -> None:
        provider.discovery = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
        await sign_in(browser)
        assert (await browser.get(OPS)).status_code == 200

    async def test_session_outlives_the_id_token(self, browser: httpx.AsyncClient) -> None:
        done = await sign_in(browser)
        (cookie,) = [one for one in done.headers.get_list("set-cookie") if one.startswith(SESSION)]
        age = int(cookie.partition("Max-Age=")[2].partition(";")[0])
        assert 8 * 3600 - 5 <= age <= 8 * 3600

    async def test_form_for_tokens_is_not_there(self, browser: httpx.AsyncClient, provider: IdentityProvider) -> None:
        token = provider.token(roles=["operator"])
        refused(await browser.post(f"{OPS}/sign-in", data={"token": token}, headers=from_a_page()), 404)


class TestSignOut:
    async def test_session_ends_at_the_provider_too(
        self, browser: httpx.AsyncClient, provider: IdentityProvider
    ) -> None:
        await sign_in(browser)
        csrf = csrf_of(await browser.get(OPS))

        answer = await browser.post(f"{OPS}/sign-out", data={"csrf": csrf}, headers=from_a_page())

        assert answer.status_code == 200
        url = answer.headers["refresh"].removeprefix("0; url=")
        assert url.startswith(f"{provider.url}/logout?")
        asked = parse_qs(urlsplit(url).query)
        assert asked == {"client_id": [CLIENT_ID], "post_logout_redirect_uri": [f"{OPS}/sign-in"]}
        assert "olga" not in answer.text
        assert SESSION not in browser.cookies

    @pytest.mark.parametrize("down", [False, True])
    async def test_session_ends_here_whatever_the_provider_does(
        self, browser: httpx.AsyncClient, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch, down: bool
    ) -> None:
        provider.discovery = {"end_session_endpoint": ...}
        await sign_in(browser)
        csrf = csrf_of(await browser.get(OPS))
        if down:
            monkeypatch.setattr("plinth.ops.code_flow.TTL", -1.0)
            provider.down()

        answer = await browser.post(f"{OPS}/sign-out", data={"csrf": csrf}, headers=from_a_page())

        assert (answer.status_code, answer.headers["location"]) == (303, "/ops/sign-in")
        assert SESSION not in browser.cookies


class TestAttacks:
    async def test_answer_is_taken_once(self, browser: httpx.AsyncClient) -> None:
        callback = await at_provider(await begin(browser))
        sealed = browser.cookies[ATTEMPT]
        assert (await browser.get(callback)).status_code == 303
        browser.cookies.clear()

        refused(await browser.get(callback))
        refused(await browser.get(callback, headers={"Cookie": f"{ATTEMPT}={sealed}"}))  # the provider knows the code

    async def test_answer_in_another_browser_is_refused(self, browser: httpx.AsyncClient) -> None:
        callback = await at_provider(await begin(browser))
        browser.cookies.clear()
        refused(await browser.get(callback))

    @pytest.mark.parametrize("state", ["", "x", "ä"])
    async def test_wrong_state_is_refused_and_ends_nothing(self, browser: httpx.AsyncClient, state: str) -> None:
        callback = await at_provider(await begin(browser))
        forged = httpx.URL(callback).copy_set_param("state", state)
        refused(await browser.get(forged))
        assert (await browser.get(callback)).status_code == 303

    async def test_code_of_another_sign_in_is_refused(
        self, browser: httpx.AsyncClient, database_url: str, provider: IdentityProvider
    ) -> None:
        async with browser_of(settings_of(database_url, provider)) as attacker:
            stolen = httpx.URL(await at_provider(await begin(attacker))).params["code"]
        callback = httpx.URL(await at_provider(await begin(browser)))
        with logging_as() as stderr:
            refused(await browser.get(callback.copy_set_param("code", stolen)))
        (line,) = stderr.lines("sign-in refused")
        assert line["reason"] == f"{provider.url}/token answered 400"

    @pytest.mark.parametrize(
        ("claims", "reason"),
        [
            ({"nonce": "another"}, "wrong_nonce"),
            ({"nonce": ...}, "wrong_nonce"),
            ({"nonce": 7}, "wrong_nonce"),
            ({"aud": "another-client"}, "wrong_audience"),
            ({"aud": "plinth"}, "wrong_audience"),
            ({"aud": [CLIENT_ID, "another-client"]}, "wrong_party"),
            ({"azp": "another-client"}, "wrong_party"),
            ({"iss": "https://evil.test"}, "wrong_issuer"),
            ({"exp": 1_000_000_000, "iat": 999_999_000}, "expired"),
            ({"sub": ...}, "missing_claim"),
            ({"sub": "a\tb"}, "invalid_claim"),
        ],
    )
    async def test_id_token_that_is_not_for_this_sign_in_is_refused(
        self, browser: httpx.AsyncClient, provider: IdentityProvider, claims: dict[str, Any], reason: str
    ) -> None:
        provider.id_token |= claims
        with logging_as() as stderr:
            refused(await sign_in(browser))
        (line,) = stderr.lines("sign-in refused")
        assert line["reason"] == reason
        assert ATTEMPT not in browser.cookies

    async def test_id_token_for_several_clients_that_names_this_one_is_taken(
        self, browser: httpx.AsyncClient, provider: IdentityProvider
    ) -> None:
        provider.id_token |= {"aud": [CLIENT_ID, "another-client"], "azp": CLIENT_ID}
        assert (await sign_in(browser)).status_code == 303

    @pytest.mark.parametrize("kind", ["unsigned", "other key", "access token", "none"])
    async def test_token_that_is_no_id_token_of_the_provider_is_refused(
        self, browser: httpx.AsyncClient, provider: IdentityProvider, kind: str
    ) -> None:
        location = await begin(browser)
        nonce = parse_qs(urlsplit(location).query)["nonce"][0]
        claims = provider.claims(aud=CLIENT_ID, nonce=nonce, sub="olga", roles=["operator"])
        tokens: dict[str, Any] = {
            "unsigned": compact({"alg": "none", "typ": "JWT"}, claims, lambda _: b""),
            "other key": provider.token(SigningKey.make("forged"), **claims),
            "access token": provider.token(header={"typ": "at+jwt"}, **claims),
            "none": 7,
        }
        provider.token_answer = {"id_token": tokens[kind]}

        refused(await browser.get(await at_provider(location)))

    async def test_access_token_of_another_person_is_refused(
        self, browser: httpx.AsyncClient, provider: IdentityProvider
    ) -> None:
        provider.access_token = {"sub": "mallory", "roles": ["operator"]}
        refused(await sign_in(browser))

    async def test_answer_of_another_issuer_is_refused(self, browser: httpx.AsyncClient) -> None:
        callback = httpx.URL(await at_provider(await begin(browser)))
        refused(await browser.get(callback.copy_set_param("iss", "https://evil.test")))

    async def test_refusal_of_the_provider_is_told_without_its_words(self, browser: httpx.AsyncClient) -> None:
        callback = httpx.URL(await at_provider(await begin(browser)))
        state = callback.params["state"]
        answer = await browser.get(f"{OPS}/sign-in/callback", params={"state": state, "error": "<script>denied"})
        refused(answer)
        assert "denied" not in answer.text
        assert ATTEMPT not in browser.cookies

    async def test_cookie_of_an_attempt_is_no_session(self, browser: httpx.AsyncClient) -> None:
        await begin(browser)
        cookie = {"Cookie": f"{SESSION}={browser.cookies[ATTEMPT]}"}
        browser.cookies.clear()
        assert (await browser.get(OPS, headers=cookie)).status_code == 303

    async def test_sign_in_takes_no_longer_than_its_minutes(
        self, browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("plinth.ops.sign_in.ATTEMPT_SECONDS", -1)
        begun = await browser.get(f"{OPS}/sign-in/start")
        kept = {"Cookie": begun.headers["set-cookie"].partition(";")[0]}  # by a client that forgets nothing
        callback = await at_provider(begun.headers["location"])
        refused(await browser.get(callback, headers=kept))

    async def test_log_has_no_code_and_no_token(self, browser: httpx.AsyncClient, provider: IdentityProvider) -> None:
        with logging_as(LOG_LEVEL="DEBUG") as stderr:
            callback = httpx.URL(await at_provider(await begin(browser)))
            await browser.get(callback)
            provider.id_token |= {"aud": "another"}
            await sign_in(browser)
        # The test's own clients log what they ask for.
        written = str([line for line in stderr.lines() if not line.get("logger", "").startswith(("httpx", "httpcore"))])
        assert "sign-in refused" in written
        assert callback.params["code"] not in written
        assert callback.params["state"] not in written
        assert CLIENT_SECRET not in written
        assert "eyJ" not in written


class TestProviderAway:
    async def test_provider_that_says_nothing_is_not_waited_for(
        self, browser: httpx.AsyncClient, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("plinth.ops.code_flow.DEADLINE", 0.05)
        provider.mood = Mood.SILENT
        refused(await browser.get(f"{OPS}/sign-in/start"), 503)

    async def test_sign_ins_at_once_ask_for_its_addresses_once(
        self, browser: httpx.AsyncClient, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        provider.mood = Mood.ERROR
        for status in (503, 303):
            provider.fetched.clear()
            begun = await asyncio.gather(*(browser.get(f"{OPS}/sign-in/start") for _ in range(5)))
            assert [answer.status_code for answer in begun] == [status] * 5
            assert sum(provider.fetched.values()) == 1
            provider.mood = Mood.WELL
            later = time.monotonic() + 3
            monkeypatch.setattr("plinth.ops.code_flow.time", SimpleNamespace(monotonic=lambda later=later: later))

    async def test_start_and_callback_say_so(self, browser: httpx.AsyncClient, provider: IdentityProvider) -> None:
        callback = await at_provider(await begin(browser))
        provider.down()
        answer = await browser.get(callback)
        refused(answer, 503)
        assert answer.headers["retry-after"] == "5"
        assert "identity provider" in answer.text

    async def test_wrong_client_secret_is_a_fault_of_this_side(
        self, database_url: str, provider: IdentityProvider
    ) -> None:
        settings = settings_of(database_url, provider)
        wrong = Settings.isolated(**settings.model_dump(exclude_unset=True) | {"OPS_CLIENT_SECRET": "wrong"})
        with logging_as() as stderr:
            async with browser_of(wrong) as browser:
                refused(await sign_in(browser), 503)
        (line,) = stderr.lines("request failed")
        assert "answered 401" in line["cause"]

    @pytest.mark.parametrize("url", [..., 7, "http://192.0.2.1/authorize", "javascript:alert(1)", "https://a\nb/"])
    async def test_browser_is_sent_to_no_other_than_a_web_address(
        self, browser: httpx.AsyncClient, provider: IdentityProvider, url: Any
    ) -> None:
        provider.discovery = {"authorization_endpoint": url}
        refused(await browser.get(f"{OPS}/sign-in/start"), 503)

    async def test_discovery_of_another_issuer_is_refused(
        self, browser: httpx.AsyncClient, provider: IdentityProvider
    ) -> None:
        provider.discovery = {"issuer": "https://evil.test"}
        refused(await browser.get(f"{OPS}/sign-in/start"), 503)
