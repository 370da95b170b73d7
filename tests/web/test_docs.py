"""The API's documentation pages in a real browser, as strict as they are: they work, and nothing is refused to them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright, expect

from gateway.server.app import app
from gateway.web.serving import running
from tests.services import a_site

CHROMIUM = "/usr/bin/chromium"
WITHIN = 120_000.0


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[tuple[Page, str, list[str]]]:
    """A page of a browser that shows the token, the gateway's address, and what the page is refused."""
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(a_site(tmp_path))
        url = await stack.enter_async_context(running(app(site.gateway)))
        playwright = await stack.enter_async_context(async_playwright())
        arguments = ["--no-sandbox", "--disable-gpu"]
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=WITHIN)
        stack.push_async_callback(browser.close)
        context = await browser.new_context(extra_http_headers=site.auth)
        made, refused = await context.new_page(), list[str]()
        made.set_default_timeout(WITHIN)
        made.on("console", lambda said: refused.append(said.text) if said.type == "error" else None)
        made.on("pageerror", lambda error: refused.append(str(error)))
        yield made, url, refused


async def test_the_page_to_try_things_out(page: tuple[Page, str, list[str]], tmp_path: Path) -> None:
    made, url, refused = page
    answer = await made.goto(f"{url}/api/v1/docs")
    assert answer is not None
    policy = answer.headers["content-security-policy"]
    assert ("unsafe" in policy, "style-src 'self' 'sha256-" in policy) == (False, True)
    await made.get_by_role("button", name="GET /api/v1/me").first.click()
    await made.get_by_role("button", name="Try it out").first.click()
    await made.get_by_role("button", name="Execute").first.click()
    status = made.locator(".live-responses-table td.response-col_status", has_text="200")
    await expect(status.first).to_be_visible(timeout=WITHIN)
    await made.get_by_role("button", name="Authorize").first.click()
    await expect(made.locator(".modal-ux")).to_be_visible(timeout=WITHIN)
    await made.screenshot(path=tmp_path / "docs.png")
    assert "\n".join(refused) == ""


async def test_the_page_to_read(page: tuple[Page, str, list[str]], tmp_path: Path) -> None:
    made, url, refused = page
    answer = await made.goto(f"{url}/api/v1/redoc")
    assert answer is not None
    assert "unsafe" not in answer.headers["content-security-policy"]
    await expect(made.locator("h1").first).to_be_visible(timeout=WITHIN)
    await expect(made.get_by_text("List the secrets that you may use").first).to_be_attached(timeout=WITHIN)
    width = await made.locator(".menu-content").first.evaluate("menu => menu.getBoundingClientRect().width")
    assert 100 < width < 500, "its styles hold: else the menu is as wide as the page"
    await made.screenshot(path=tmp_path / "redoc.png")
    await expect(made.locator("img[alt='redocly logo']")).to_be_attached(timeout=WITHIN)
    assert refused == [], "nothing is asked of anybody else"
