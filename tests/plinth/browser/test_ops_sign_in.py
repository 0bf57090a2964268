"""Sign-in and sign-out of /ops in a browser, at an identity provider on another site."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator

import pytest

from notes.main import create_app
from plinth.testing import serving
from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET, IdentityProvider
from tests.support.notes import settings_with

pytest.importorskip("playwright", reason="`make browser-test` installs it")
from playwright.async_api import Page, async_playwright, expect

pytestmark = pytest.mark.slow  # needs more than Python: `make browser-test`

TIMEOUT = 60_000


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider() as provider:
        provider.id_token = {"sub": "olga", "roles": ["operator"]}
        provider.access_token = {"sub": "olga"}
        yield provider


@pytest.fixture
def url(database_url: str, provider: IdentityProvider) -> Iterator[str]:
    settings = settings_with(
        DATABASE_URL=database_url,
        AUTH_PROVIDER="custom",
        OIDC_ISSUER=provider.issuer,
        OIDC_AUDIENCE="plinth",
        OPERATOR_ROLE="operator",
        OPS_ENABLED=True,
        OPS_CLIENT_ID=CLIENT_ID,
        OPS_CLIENT_SECRET=CLIENT_SECRET,
    )
    with serving(create_app(settings)) as url:
        yield url.replace("127.0.0.1", "localhost")  # another site than the provider's


@pytest.fixture
def problems() -> list[str]:
    """What the browser complains of."""
    return []


@pytest.fixture
async def page(problems: list[str]) -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            chromium_sandbox=os.geteuid() != 0,  # root has none
            args=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"],
        )
        page = await browser.new_page()
        page.set_default_timeout(TIMEOUT)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        yield page
        await browser.close()


async def test_operator_signs_in_at_the_provider_and_out_again(
    page: Page, url: str, provider: IdentityProvider, problems: list[str]
) -> None:
    await page.goto(f"{url}/ops")
    await page.get_by_role("link", name="Sign in at 127.0.0.1").click()
    await page.wait_for_url(f"{url}/ops")
    await expect(page.locator("header")).to_contain_text("olga", timeout=TIMEOUT)
    (cookie,) = await page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("plinth-ops-session", True, "Lax")

    await page.get_by_role("button", name="Sign out").click()

    await page.wait_for_url(f"{url}/ops/sign-in")  # from the provider's page
    assert [path.partition("?")[0] for path in provider.fetched if path.startswith("/logout")] == ["/logout"]
    assert await page.context.cookies() == []
    assert [problem for problem in problems if "404" not in problem] == []  # a page without an icon


async def test_page_of_another_site_signs_no_operator_out(page: Page, url: str, provider: IdentityProvider) -> None:
    await page.goto(f"{url}/ops/sign-in/start")
    await page.wait_for_url(f"{url}/ops")
    await page.goto(f"{provider.url}/jwks.json")  # a page of the other site
    form = f'<form method="post" action="{url}/ops/sign-out"><button>Go</button></form>'
    await page.evaluate("form => { document.body.innerHTML = form; document.forms[0].submit() }", form)
    await page.wait_for_url(f"{url}/ops/sign-out")
    await expect(page.get_by_role("alert")).to_contain_text("another origin", timeout=TIMEOUT)
    await page.goto(f"{url}/ops")
    await expect(page.locator("header")).to_contain_text("olga", timeout=TIMEOUT)
