"""The session of /ops: which requests it lets pass, and how it ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from sqlmodel import func, select

from notes.config import Settings
from notes.main import create_app
from plinth.api.dependencies import SessionDep
from plinth.errors import ConflictError
from plinth.identity import sign_local_token
from plinth.identity.permissions import READ_JOBS
from plinth.jobs.admin.queues import pause_queue
from plinth.ops.pages import page_router
from plinth.ops.session import OperatorDep
from plinth.testing import problem
from tests.support.api import client_of
from tests.support.logs import logging_as
from tests.support.notes import settings_with
from tests.support.ops import OPS, csrf_of, from_a_page, sign_in

SESSION = "__Host-plinth-ops-session"

router = page_router()


@router.post("/test")
async def change(operator: OperatorDep) -> str:
    return operator.subject


@router.get("/test/lost")
async def lose_the_database(operator: OperatorDep, session: SessionDep) -> str:
    await session.exec(select(func.pg_terminate_backend(func.pg_backend_pid())))
    return operator.subject


@router.post("/test/refused")
async def change_and_refuse(operator: OperatorDep, session: SessionDep) -> str:
    await pause_queue(session, "refused", by=operator)
    raise ConflictError("Too late.")


@pytest.fixture(scope="module")
def settings(database_url: str, redis_url: str) -> Settings:
    return settings_with(
        DATABASE_URL=database_url,
        REDIS_URL=redis_url,
        OPS_ENABLED=True,
        OPERATOR_ROLE="operator",
        PERMISSIONS=f"support={READ_JOBS}",
    )


def app_with(settings: Settings, **changes: Any) -> FastAPI:
    given = settings.model_dump(exclude_unset=True) | changes
    app = create_app(Settings.isolated(**given))
    app.include_router(router)
    return app


@asynccontextmanager
async def browser_of(settings: Settings, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app_with(settings, **changes)) as client:
        yield client


@pytest.fixture(scope="module")
async def running(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with browser_of(settings) as client:
        yield client


@pytest.fixture
async def browser(running: httpx.AsyncClient) -> httpx.AsyncClient:
    """A browser without cookies."""
    running.cookies.clear()
    return running


@pytest.fixture
async def operator(browser: httpx.AsyncClient, settings: Settings) -> httpx.AsyncClient:
    assert (await sign_in(browser, settings)).status_code == 303
    return browser


class TestSignIn:
    async def test_page_leads_to_the_sign_in_and_back(self, browser: httpx.AsyncClient, settings: Settings) -> None:
        asked = await browser.get(f"{OPS}?kind=mail")

        assert (asked.status_code, asked.headers["location"]) == (303, "/ops/sign-in?next=%2Fops%3Fkind%3Dmail")
        form = await browser.get(f"https://service.test{asked.headers['location']}")
        assert 'name="next" value="/ops?kind=mail"' in form.text
        done = await sign_in(browser, settings, back_to="/ops?kind=mail")
        assert (done.status_code, done.headers["location"]) == (303, "/ops?kind=mail")
        page = await browser.get(f"{OPS}?kind=mail")
        assert page.status_code == 200
        assert "olga" in page.text

    async def test_cookie_is_for_this_host_over_https_and_tells_nothing(
        self, browser: httpx.AsyncClient, settings: Settings
    ) -> None:
        cookie = (await sign_in(browser, settings)).headers["set-cookie"]

        name, value = cookie.partition(";")[0].split("=", 1)
        attributes = {part.strip().partition("=")[0].lower(): part.partition("=")[2] for part in cookie.split(";")[1:]}
        assert name == SESSION
        assert attributes.keys() == {"max-age", "path", "secure", "httponly", "samesite"}
        assert (attributes["path"], attributes["samesite"].lower()) == ("/", "lax")
        assert 590 <= int(attributes["max-age"]) <= 600  # the token's, which is less than OPS_SESSION_HOURS
        assert len(value) < 1000
        assert "olga" not in value

    async def test_session_ends_after_the_hours_of_the_settings(self, settings: Settings) -> None:
        async with browser_of(settings, OPS_SESSION_HOURS=0.1) as browser:
            cookie = (await sign_in(browser, settings, ttl=86_400)).headers["set-cookie"]
        assert "Max-Age=360;" in cookie or "Max-Age=359;" in cookie

    async def test_more_roles_than_a_cookie_holds_are_refused_with_a_reason(self, settings: Settings) -> None:
        roles = [f"a-role-with-a-long-name-{number}" for number in range(200)]
        granted = ",".join(f"{role}={READ_JOBS}" for role in roles)
        async with browser_of(settings, PERMISSIONS=granted) as browser:
            answer = await sign_in(browser, settings, roles=roles)
        assert (answer.status_code, "PERMISSIONS" in answer.text) == (403, True)
        assert "set-cookie" not in answer.headers

    async def test_roles_that_grant_nothing_here_take_no_place(
        self, browser: httpx.AsyncClient, settings: Settings
    ) -> None:
        roles = ["operator", *(f"a-role-with-a-long-name-{number}" for number in range(300))]
        await sign_in(browser, settings, roles=roles)
        assert len(browser.cookies[SESSION]) < 500
        assert (await browser.get(OPS)).status_code == 200

    @pytest.mark.parametrize("token", ["", "x.y.z", "plk_" + "0" * 32 + "_" + "0" * 48, "ä" * 20_000])
    async def test_token_that_the_api_refuses_is_refused(self, browser: httpx.AsyncClient, token: str) -> None:
        answer = await browser.post(f"{OPS}/sign-in", data={"token": token}, headers=from_a_page())

        assert answer.status_code == 403
        assert "The token is not valid." in answer.text
        assert "set-cookie" not in answer.headers
        assert not token or token not in answer.text

    @pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.test"}])
    async def test_no_other_page_signs_a_browser_in(
        self, browser: httpx.AsyncClient, settings: Settings, headers: dict[str, str]
    ) -> None:
        token = sign_local_token(settings, subject="mallory", ttl=600, roles=["operator"])

        answer = await browser.post(f"{OPS}/sign-in", data={"token": token}, headers=headers)

        assert answer.status_code == 403
        assert "another origin" in answer.text
        assert "set-cookie" not in answer.headers

    @pytest.mark.parametrize(
        "back_to",
        [
            *("https://evil.test/", "//evil.test", "/\\evil.test", "/ops//../..//evil.test", "/ops/../api/v1/me"),
            *(
                "/ops/%2e%2e/x",
                "/ops/%2E./x",
                "/opsx",
                "/ops@evil.test",
                "javascript:alert(1)",
                "/ops\r\nX: y",
                "/ops/ x",
            ),
            "/ops/" + "x" * 2000,
        ],
    )
    async def test_sign_in_leads_to_own_pages_alone(
        self, browser: httpx.AsyncClient, settings: Settings, back_to: str
    ) -> None:
        done = await sign_in(browser, settings, back_to=back_to)
        assert (done.status_code, done.headers["location"]) == (303, "/ops")
        form = await browser.get(f"{OPS}/sign-in", params={"next": back_to})
        assert 'name="next" value="/ops"' in form.text

    async def test_attempts_are_counted_by_address(self, settings: Settings) -> None:
        async with browser_of(settings, RATE_LIMIT_ANONYMOUS="3/minute", REDIS_URL=None) as browser:
            for _ in range(3):
                wrong = await browser.post(f"{OPS}/sign-in", data={"token": "x"}, headers=from_a_page())
                assert wrong.status_code == 403
            limited = await sign_in(browser, settings)
        assert limited.status_code == 429
        assert int(limited.headers["retry-after"]) > 0
        assert limited.headers["content-type"].startswith("text/html")

    async def test_log_has_no_token_and_no_cookie(self, settings: Settings) -> None:
        token = sign_local_token(settings, subject="olga", ttl=600, roles=["operator"])
        with logging_as(LOG_LEVEL="DEBUG") as stderr:
            async with browser_of(settings) as browser:
                for sent in (token, token[:-1]):
                    await browser.post(f"{OPS}/sign-in", data={"token": sent}, headers=from_a_page())
                cookie = browser.cookies[SESSION]
                csrf = csrf_of(await browser.get(OPS))
        written = stderr.getvalue()
        assert "sign-in refused" in written
        assert not any(secret in written for secret in (token[:-1], cookie, csrf))


class TestPages:
    async def test_policy_and_headers(self, operator: httpx.AsyncClient) -> None:
        for path in ("", "/sign-in", "/sign-in/start"):
            headers = (await operator.get(OPS + path)).headers
            policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
            assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
            assert (headers["cache-control"], headers["referrer-policy"]) == ("no-store", "no-referrer")

    async def test_failure_of_the_database_is_a_page_with_its_reason(self, operator: httpx.AsyncClient) -> None:
        page = await operator.get(f"{OPS}/test/lost")
        assert page.status_code == 503
        assert page.headers["content-type"].startswith("text/html")
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert page.headers["retry-after"] == "1"
        assert "Try again in a moment." in page.text
        assert "it closed the connection." in page.text

    async def test_act_that_ends_in_an_error_changes_nothing(
        self, operator: httpx.AsyncClient, sql: asyncpg.Connection
    ) -> None:
        csrf = csrf_of(await operator.get(OPS))
        page = await operator.post(f"{OPS}/test/refused", data={"csrf": csrf}, headers=from_a_page())
        assert (page.status_code, "Too late." in page.text) == (409, True)
        assert await sql.fetchval("SELECT count(*) FROM job_queue") == 0

    async def test_style_is_served_without_a_session(self, browser: httpx.AsyncClient) -> None:
        style = await browser.get(f"{OPS}/static/ops.css")
        assert (style.status_code, style.headers["content-type"].partition(";")[0]) == (200, "text/css")

    async def test_reader_sees_and_changes_nothing(self, browser: httpx.AsyncClient, settings: Settings) -> None:
        await sign_in(browser, settings, roles=["support"])
        page = await browser.get(OPS)
        assert page.status_code == 200

        answer = await browser.post(f"{OPS}/test", data={"csrf": csrf_of(page)}, headers=from_a_page())

        assert answer.status_code == 403
        assert "plinth:jobs:operate" in answer.text
        assert "www-authenticate" not in answer.headers

    async def test_caller_without_a_permission_sees_why_and_can_sign_out(
        self, browser: httpx.AsyncClient, settings: Settings
    ) -> None:
        await sign_in(browser, settings, roles=["customer"], subject="<b>carl</b>")

        page = await browser.get(OPS)

        assert page.status_code == 403
        assert "plinth:jobs:read" in page.text
        assert "&lt;b&gt;carl" in page.text
        assert "<b>carl" not in page.text
        out = await browser.post(f"{OPS}/sign-out", data={"csrf": csrf_of(page)}, headers=from_a_page())
        assert (out.status_code, out.headers["location"]) == (303, "/ops/sign-in")

    async def test_htmx_goes_to_the_sign_in_as_a_whole_page(self, browser: httpx.AsyncClient) -> None:
        headers = {"HX-Request": "true", "HX-Current-URL": "https://service.test/ops/jobs?kind=mail"}
        answer = await browser.get(OPS, headers=headers)

        assert answer.status_code == 401
        assert answer.headers["hx-redirect"] == "/ops/sign-in?next=%2Fops%2Fjobs%3Fkind%3Dmail"

    async def test_links_begin_with_the_prefix_that_a_proxy_takes_off(self, settings: Settings) -> None:
        async with client_of(app_with(settings)) as client:
            transport = client._transport
            assert isinstance(transport, httpx.ASGITransport)
            transport.root_path = "/shop"
            asked = await client.get(OPS)
            done = await sign_in(client, settings)
            page = await client.get(OPS)
            slash = await client.get(f"{OPS}/")
        assert asked.headers["location"] == "/shop/ops/sign-in?next=%2Fops"
        assert (slash.status_code, slash.headers["location"]) == (307, "/shop/ops")
        assert done.headers["location"] == "/shop/ops"
        assert 'href="/shop/ops/static/ops.css"' in page.text
        assert 'action="/shop/ops/sign-out"' in page.text

    async def test_services_behind_paths_of_one_host_have_a_cookie_each(self, settings: Settings) -> None:
        async with client_of(app_with(settings)) as client:
            transport = client._transport
            assert isinstance(transport, httpx.ASGITransport)
            for transport.root_path in ("/shop", "/crm/eu"):
                await sign_in(client, settings)
                page = await client.get(OPS)
                assert page.status_code == 200
            assert set(client.cookies) == {f"{SESSION}-shop", f"{SESSION}-crm-eu"}
            await client.post(f"{OPS}/sign-out", data={"csrf": csrf_of(page)}, headers=from_a_page())
            assert set(client.cookies) == {f"{SESSION}-shop"}

    async def test_cookie_is_no_bearer_token(self, operator: httpx.AsyncClient) -> None:
        problem(await operator.get("https://service.test/api/v1/jobs"), 401)

    async def test_bearer_token_is_no_session(self, browser: httpx.AsyncClient, settings: Settings) -> None:
        token = sign_local_token(settings, subject="olga", ttl=600, roles=["operator"])
        assert (await browser.get(OPS, headers={"Authorization": f"Bearer {token}"})).status_code == 303


class TestForgedRequests:
    @pytest.mark.parametrize("how", ["field", "header"])
    async def test_page_s_own_form_is_taken(self, operator: httpx.AsyncClient, how: str) -> None:
        csrf = csrf_of(await operator.get(OPS))
        data, headers = ({"csrf": csrf}, {}) if how == "field" else ({}, {"X-CSRF-Token": csrf})

        answer = await operator.post(f"{OPS}/test", data=data, headers=from_a_page() | headers)

        assert (answer.status_code, answer.json()) == (200, "olga")

    @pytest.mark.parametrize("csrf", [None, "", "x" * 22, "ä"])
    async def test_form_without_the_session_s_token_is_refused(
        self, operator: httpx.AsyncClient, csrf: str | None
    ) -> None:
        data = {} if csrf is None else {"csrf": csrf}

        answer = await operator.post(f"{OPS}/test", data=data, headers=from_a_page())

        assert answer.status_code == 403
        assert "not of this session" in answer.text

    async def test_token_of_another_session_is_refused(self, operator: httpx.AsyncClient, settings: Settings) -> None:
        other = csrf_of(await operator.get(OPS))
        await sign_in(operator, settings)

        answer = await operator.post(f"{OPS}/test", data={"csrf": other}, headers=from_a_page())

        assert answer.status_code == 403

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            *({"Sec-Fetch-Site": site} for site in ("cross-site", "same-site", "none")),
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
            *(
                {"Origin": origin}
                for origin in ("https://evil.test", "null", "https://service.test.evil.test", "http://service.test", "")
            ),
        ],
    )
    async def test_post_of_another_origin_is_refused_with_the_right_token_too(
        self, operator: httpx.AsyncClient, headers: dict[str, str]
    ) -> None:
        csrf = csrf_of(await operator.get(OPS))

        answer = await operator.post(f"{OPS}/test", data={"csrf": csrf}, headers=headers)

        assert answer.status_code == 403
        assert "another origin" in answer.text

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://service.test"},  # of a browser without Sec-Fetch-Site
            {"Sec-Fetch-Site": "same-origin", "Origin": "null"},  # of a page without referrer
        ],
    )
    async def test_post_of_this_origin_is_taken(self, operator: httpx.AsyncClient, headers: dict[str, str]) -> None:
        csrf = csrf_of(await operator.get(OPS))
        answer = await operator.post(f"{OPS}/test", data={"csrf": csrf}, headers=headers)
        assert answer.status_code == 200

    async def test_refused_requests_are_counted(self, settings: Settings) -> None:
        foreign = {"Origin": "https://evil.test"}
        async with browser_of(settings, RATE_LIMIT_ANONYMOUS="3/minute", REDIS_URL=None) as browser:
            answers = [await browser.post(f"{OPS}/test", headers=foreign) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [403, 403, 403, 429]
        async with browser_of(settings, RATE_LIMIT="3/minute", REDIS_URL=None) as browser:
            await sign_in(browser, settings)
            answers = [await browser.post(f"{OPS}/test", headers=foreign) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [403, 403, 403, 429]
        assert not any("csrf" in answer.text for answer in answers)

    async def test_script_of_an_origin_that_cors_allows_reads_no_page(self, settings: Settings) -> None:
        script = {"Origin": "https://app.service.test", "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}
        async with browser_of(settings, BACKEND_CORS_ORIGINS="https://app.service.test") as browser:
            await sign_in(browser, settings)
            read = await browser.get(OPS, headers=script)
            link = await browser.get(OPS, headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})
        assert (read.status_code, link.status_code) == (403, 200)
        assert "csrf" not in read.text


class TestEnd:
    async def test_sign_out_ends_the_session(self, operator: httpx.AsyncClient) -> None:
        csrf = csrf_of(await operator.get(OPS))

        answer = await operator.post(f"{OPS}/sign-out", data={"csrf": csrf}, headers=from_a_page())

        assert (answer.status_code, answer.headers["location"]) == (303, "/ops/sign-in")
        assert SESSION not in operator.cookies
        assert (await operator.get(OPS)).status_code == 303

    async def test_link_does_not_sign_out(self, operator: httpx.AsyncClient) -> None:
        problem(await operator.get(f"{OPS}/sign-out"), 405)

    async def test_form_that_is_sent_after_the_end_is_told_to_have_changed_nothing(
        self, operator: httpx.AsyncClient, settings: Settings
    ) -> None:
        csrf = csrf_of(await operator.get(OPS))
        operator.cookies.clear()
        sent = await operator.post(f"{OPS}/test", data={"csrf": csrf}, headers=from_a_page())
        assert (sent.status_code, sent.headers["location"]) == (303, "/ops/sign-in?next=%2Fops&lost=1")
        form = await operator.get(f"https://service.test{sent.headers['location']}")
        assert "Your session has ended, and nothing was changed." in form.text
        assert "nothing was changed" not in (await operator.get(f"{OPS}/sign-in?next=%2Fops")).text

    async def test_changed_cookie_is_no_session(self, operator: httpx.AsyncClient) -> None:
        good = operator.cookies[SESSION]
        for wrong in (good[:-1], good[:40] + ("A" if good[40] != "A" else "B") + good[41:], "x", "a" * 5000, "ä"):
            headers = {b"Cookie": f"{SESSION}={wrong}".encode()}
            operator.cookies.clear()
            assert (await operator.get(OPS, headers=headers)).status_code == 303, wrong
        assert (await operator.get(OPS, headers={"Cookie": f"{SESSION}={good}"})).status_code == 200

    async def test_session_is_over_at_its_time(
        self, operator: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept = {"Cookie": f"{SESSION}={operator.cookies[SESSION]}"}  # by a client that forgets nothing
        operator.cookies.clear()
        assert (await operator.get(OPS, headers=kept)).status_code == 200
        monkeypatch.setattr("plinth.ops.cookies.time.time", lambda: 4_000_000_000.0)
        assert (await operator.get(OPS, headers=kept)).status_code == 303

    async def test_permission_that_the_settings_no_longer_grant_is_gone(self, settings: Settings) -> None:
        async with browser_of(settings) as browser:
            await sign_in(browser, settings)
            cookie = {"Cookie": f"{SESSION}={browser.cookies[SESSION]}"}
        async with browser_of(settings, OPERATOR_ROLE="boss") as browser:
            assert (await browser.get(OPS, headers=cookie)).status_code == 403

    async def test_session_of_an_issuer_that_the_settings_no_longer_name_is_over(
        self, operator: httpx.AsyncClient, settings: Settings
    ) -> None:
        cookie = {"Cookie": f"{SESSION}={operator.cookies[SESSION]}"}
        other = {"AUTH_PROVIDER": "supabase", "SUPABASE_URL": "https://project.supabase.test"}
        async with browser_of(settings, **other) as browser:
            assert (await browser.get(OPS, headers=cookie)).status_code == 303

    async def test_rotation_of_the_secret_key_ends_no_session(self, settings: Settings) -> None:
        old, new = "3f1d6a0b9c8e7d5f42a1b0c9d8e7f6a5", "a5f6e7d8c9b0a1425fd7e8c90b6a1d3f"
        before = Settings.isolated(**settings.model_dump(exclude_unset=True) | {"SECRET_KEY": old})
        async with browser_of(before) as browser:
            await sign_in(browser, before)
            cookie = {"Cookie": f"{SESSION}={browser.cookies[SESSION]}"}
        for keys, status in ((f"{old},{new}", 200), (f"{new},{old}", 200), (new, 303)):
            async with browser_of(settings, SECRET_KEY=keys) as browser:
                assert (await browser.get(OPS, headers=cookie)).status_code == status


async def test_on_this_machine_http_is_enough(settings: Settings) -> None:
    token = sign_local_token(settings, subject="olga", ttl=600, roles=["operator"])
    async with browser_of(settings) as browser:
        here = "http://127.0.0.1:8000/ops"
        done = await browser.post(f"{here}/sign-in", data={"token": token}, headers=from_a_page())
        page = await browser.get(here)
        elsewhere = await browser.post("http://service.test/ops/sign-in", data={"token": token}, headers=from_a_page())
    assert done.headers["set-cookie"].startswith("plinth-ops-session=")
    assert "secure" not in done.headers["set-cookie"].lower()
    assert page.status_code == 200
    assert elsewhere.headers["set-cookie"].startswith(SESSION)


async def test_sign_in_and_sign_out_are_in_the_audit_log(settings: Settings, browser: httpx.AsyncClient) -> None:
    await sign_in(browser, settings, subject="ann", roles=["support"])
    csrf = csrf_of(await browser.get(OPS))
    await browser.post(f"{OPS}/sign-out", data={"csrf": csrf}, headers=from_a_page())
    await sign_in(browser, settings, subject="carl", roles=["customer"])

    token = sign_local_token(settings, subject="olga", ttl=600, roles=["operator"])
    audit = await browser.get("https://service.test/api/v1/audit", headers={"Authorization": f"Bearer {token}"})

    acts = [(record["subject"], record["action"], record["target"]) for record in audit.json()["items"]]
    assert [act[:2] for act in acts] == [("ann", "session.end"), ("ann", "session.begin")]
    assert acts[0][2] == acts[1][2]
