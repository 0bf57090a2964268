"""The page /docs in a browser that reaches no other machine."""

import json
from typing import Any

import pytest

from notes.config import Settings
from plinth.identity import sign_local_token

pytest.importorskip("playwright", reason="`make browser-test` installs it")
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Locator, Page, expect

from tests.plinth.browser.conftest import PICTURES, TIMEOUT, draws

pytestmark = pytest.mark.slow  # needs more than Python: `make browser-test`


@pytest.fixture
async def page(tab: Page, url: str) -> Page:
    await tab.goto(url)
    await tab.locator("#operations-notes-notes_create").wait_for()
    return tab


async def test_a_token_is_given_and_a_request_answered(page: Page, settings: Settings, problems: list[str]) -> None:
    assert page.url.endswith("/docs")  # / leads there

    answer = await answer_to_a_request(page, settings)
    await expect(answer.locator(".response-col_status")).to_contain_text("201", timeout=TIMEOUT)
    await expect(answer).to_contain_text('"text": "Buy milk"')

    await page.reload()
    await expect(page.locator(".auth-wrapper .authorize.locked")).to_be_visible(timeout=TIMEOUT)  # the token is kept
    assert problems == []


async def answer_to_a_request(page: Page, settings: Settings) -> Locator:
    """Give the page a token, and send the example of a new note."""
    await page.get_by_role("button", name="Authorize").click()
    dialog = page.locator(".modal-ux")
    await dialog.locator("input").fill(sign_local_token(settings, subject="alice", ttl=600))
    await dialog.get_by_role("button", name="Apply credentials").click()
    await dialog.get_by_role("button", name="Close").last.click()

    create = page.locator("#operations-notes-notes_create")
    await create.locator("button.opblock-summary-control").click()
    await create.get_by_role("button", name="Try it out").click()
    example = json.loads(await create.locator("textarea.body-param__text").input_value())
    assert example == {"text": "Buy milk", "tags": ["errand"]}
    await create.get_by_role("button", name="Execute").click()
    return create.locator(".live-responses-table .response")


ATTACK = """() => {
    const refused = [];
    document.addEventListener("securitypolicyviolation", event => refused.push(event.effectiveDirective));
    const script = document.createElement("script");
    script.textContent = "window.ran = true";
    document.body.append(script);
    const picture = document.createElement("div");
    picture.innerHTML = '<img src="nothing" onerror="window.ran = true">';
    document.body.append(picture);
    return fetch("http://127.0.0.1:9/token").catch(() => 0)
        .then(() => new Promise(done => setTimeout(() => done([window.ran, ...refused.sort()]), 500)));
}"""


async def test_a_script_in_the_page_does_not_run_and_sends_nothing(page: Page) -> None:
    ran, *refused = await page.evaluate(ATTACK)

    assert ran is None
    assert refused == ["connect-src", "script-src-attr", "script-src-elem"]


async def test_axe_finds_nothing_serious(page: Page) -> None:
    found: dict[str, Any] = (await Axe().run(page)).response

    serious = [rule["id"] for rule in found["violations"] if rule["impact"] in ("serious", "critical")]
    assert serious == []
    assert len(found["passes"]) > 10


@draws
class TestPicture:
    @pytest.fixture
    def context_options(self) -> dict[str, Any]:
        return {"viewport": {"width": 1000, "height": 1000}}

    async def test_picture_of_the_documentation(self, page: Page, settings: Settings) -> None:
        answer = await answer_to_a_request(page, settings)
        await answer.locator(".response-col_status").wait_for()
        await answer.evaluate("element => element.scrollIntoView({block: 'end'})")
        await page.screenshot(path=PICTURES / "docs-page.png")
