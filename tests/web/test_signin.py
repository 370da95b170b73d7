"""Signing in with a real provider and a real browser: in, out, waiting, and who may not."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright
from sqlalchemy import text

from gateway.core import users
from gateway.identity.opening import open_callers
from gateway.model.principal import LOCAL_ADMIN
from gateway.model.token import digest
from gateway.model.user import Identity, UserRequest
from gateway.server.app import part
from gateway.store import signins
from gateway.web import audit, signin, start
from gateway.web.app import Web
from gateway.web.serving import running
from tests.oidc import AUDIENCE, Provider, a_key, a_provider
from tests.people import a_project
from tests.ports import free_port
from tests.services import Site, a_site

CHROMIUM = "/usr/bin/chromium"
WITHIN = 120_000.0  # ms, for what a browser does
ACCOUNTS: dict[str, dict[str, Any]] = {
    "s-1": {"preferred_username": "alice", "name": "Alice A.", "email": "alice@example.org", "groups": ["phys"]},
    "s-2": {"preferred_username": "alice", "name": "Another Alice", "email": "alice@example.org", "groups": []},
    "s-3": {"preferred_username": "admin", "name": "Mallory", "email": "root@example.org"},
}


@dataclass
class Desk:
    """A gateway with a provider, and a browser before it."""

    site: Site
    url: str
    provider: Provider
    browser: Browser
    http: httpx.AsyncClient

    async def context(self) -> BrowserContext:
        made = await self.browser.new_context()
        made.set_default_timeout(WITHIN)
        return made

    async def sign_in(self, context: BrowserContext, subject: str, to: str = "/api/v1/me") -> Page:
        """Through the provider's own pages, as a person does; where the browser is then."""
        page = await context.new_page()
        await page.goto(f"{self.url}/auth/login?to={to}")
        await page.fill("input[name=login]", subject)
        await page.fill("input[name=password]", "any")
        await page.get_by_role("button", name="Sign-in").click()
        await page.get_by_role("button", name="Continue").click()
        await page.wait_for_url(f"{self.url}/**")
        return page

    async def admit(self, name: str) -> None:
        await users.change(self.site.gateway, LOCAL_ADMIN, name, UserRequest(state="active"))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    port = free_port()
    url = f"http://localhost:{port}"
    secret = tmp_path / "client-secret"
    secret.write_text("of the gateway\n")
    async with AsyncExitStack() as stack:
        provider = stack.enter_context(a_provider(tmp_path / "provider", ACCOUNTS, url))
        oidc: dict[str, Any] = {
            "issuer": provider.issuer,
            "client_secret_file": secret,
            "cli_client_id": "sluice-cli",
            "audience": AUDIENCE,
            "public_url": url,
            "groups": {"phys": "physics:member"},
            "keys_seconds": 1,
        }
        site = await stack.enter_async_context(a_site(tmp_path, identity={"oidc": oidc}))
        await a_project(site, "physics", shares=[{"cluster": "c", "account": "phys"}])
        parts = [start.part(signs_in=True), part(site.gateway), signin.part(site.gateway), audit.part(site.gateway)]
        web = Web(parts, open_callers(site.gateway))
        await stack.enter_async_context(running(web, port=port))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=60))
        playwright = await stack.enter_async_context(async_playwright())
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=WITHIN)
        stack.push_async_callback(browser.close)
        yield Desk(site, url, provider, browser, http)


async def me(page: Page) -> dict[str, object]:
    return dict(json.loads(await page.inner_text("body")))


async def test_who_is_new_waits_and_then_is_let_in_with_what_the_groups_say(desk: Desk) -> None:
    context = await desk.context()
    page = await desk.sign_in(context, "s-1")
    assert "An operator sees you as alice" in await page.inner_text("body")
    assert not [cookie for cookie in await context.cookies() if cookie["name"] == "__Host-sluice"]
    [waiting] = await users.list_users(desk.site.gateway, LOCAL_ADMIN, state="pending")
    assert (waiting.name, waiting.title, waiting.email) == ("alice", "Alice A.", "alice@example.org")
    assert waiting.identities == (Identity(issuer=desk.provider.issuer, subject="s-1"),)
    await desk.admit("alice")
    await page.goto(f"{desk.url}/auth/login?to=/api/v1/me")
    await page.wait_for_url(f"{desk.url}/api/v1/me")
    told = await me(page)
    assert (told["name"], told["projects"], told["origin"]) == ("alice", {"physics": "member"}, "browser")
    [cookie] = [cookie for cookie in await context.cookies() if cookie["name"] == "__Host-sluice"]
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, True, "Lax", "/")
    kept = b"".join(path.read_bytes() for path in desk.site.gateway.settings.state_dir.glob("sluice.db*"))
    assert cookie["value"].encode() not in kept


async def test_a_name_or_an_address_of_somebody_else_gives_nothing_of_theirs(desk: Desk) -> None:
    for subject, name in (("s-1", "alice"), ("s-2", "alice-2"), ("s-3", "admin-2")):
        page = await desk.sign_in(await desk.context(), subject)
        assert f"sees you as {name}" in await page.inner_text("body")
    await desk.admit("alice")
    second = await desk.sign_in(await desk.context(), "s-2")
    assert "sees you as alice-2" in await second.inner_text("body")
    found = {view.name: view for view in await users.list_users(desk.site.gateway, LOCAL_ADMIN)}
    assert not found["admin-2"].admin
    assert {name: view.state for name, view in found.items()} == {
        "admin": "active",
        "alice": "active",
        "alice-2": "pending",
        "admin-2": "pending",
    }


async def signed_in(desk: Desk) -> tuple[BrowserContext, Page]:
    context = await desk.context()
    await desk.sign_in(context, "s-1")
    await desk.admit("alice")
    page = await context.new_page()
    await page.goto(f"{desk.url}/auth/login?to=/api/v1/me")
    await page.wait_for_url(f"{desk.url}/api/v1/me")
    return context, page


async def test_signing_out_ends_it_here_and_at_the_provider(desk: Desk) -> None:
    context, page = await signed_in(desk)
    [cookie] = [cookie for cookie in await context.cookies() if cookie["name"] == "__Host-sluice"]
    held = {"Cookie": f"__Host-sluice={cookie['value']}"}
    assert (await desk.http.get("/api/v1/me", headers=held)).status_code == 200
    await page.goto(f"{desk.url}/auth/logout")
    await page.click("button")
    await page.click("button[value=yes]")
    await page.wait_for_url(f"{desk.url}/auth/signed-out*")
    assert not [cookie for cookie in await context.cookies() if cookie["name"] == "__Host-sluice"]
    await until_out(desk, held)
    await page.goto(f"{desk.url}/auth/login")
    assert await page.is_visible("input[name=login]"), "the provider has forgotten them, too"


async def until_out(desk: Desk, held: dict[str, str]) -> None:
    """The cookie is looked after again within a fraction of a second."""
    async with asyncio.timeout(60):
        while (await desk.http.get("/api/v1/me", headers=held)).status_code != 401:
            await desk.site.gateway.news.wait(0.05)


async def test_signing_out_at_the_provider_ends_it_here(desk: Desk) -> None:
    """Back-channel: the provider calls the gateway, with a logout token that it signed."""
    context, page = await signed_in(desk)
    [cookie] = [cookie for cookie in await context.cookies() if cookie["name"] == "__Host-sluice"]
    held = {"Cookie": f"__Host-sluice={cookie['value']}"}
    assert (await desk.http.get("/api/v1/me", headers=held)).status_code == 200
    await page.goto(f"{desk.provider.issuer}/session/end")
    await page.click("button[value=yes]")
    await until_out(desk, held)


async def test_a_logout_that_the_provider_did_not_sign_ends_nothing(desk: Desk) -> None:
    context, _ = await signed_in(desk)
    [cookie] = [cookie for cookie in await context.cookies() if cookie["name"] == "__Host-sluice"]
    events: dict[str, Any] = {"http://schemas.openid.net/event/backchannel-logout": {}}
    good: dict[str, Any] = {"aud": "sluice", "events": events}
    for bad in (
        desk.provider.token("s-1", key=a_key(), **good),
        desk.provider.token("s-1", aud="another", events=events),
        desk.provider.token("s-1", aud="sluice"),
        desk.provider.token("s-1", nonce="n", **good),
        "x.y.z",
    ):
        answer = await desk.http.post("/auth/backchannel", data={"logout_token": bad})
        assert answer.status_code in {401, 503}, answer.text
    held = {"Cookie": f"__Host-sluice={cookie['value']}"}
    assert (await desk.http.get("/api/v1/me", headers=held)).status_code == 200
    said = await desk.http.post("/auth/backchannel", data={"logout_token": desk.provider.token("s-1", **good)})
    assert said.status_code == 200
    await until_out(desk, held)


async def test_front_channel_needs_the_session_id_of_the_provider(desk: Desk) -> None:
    context, _ = await signed_in(desk)
    [cookie] = [cookie for cookie in await context.cookies() if cookie["name"] == "__Host-sluice"]
    held = {"Cookie": f"__Host-sluice={cookie['value']}"}
    for params in ({"iss": desk.provider.issuer}, {"iss": "https://other", "sid": "x"}):
        assert (await desk.http.get("/auth/frontchannel", params=params)).status_code == 422
    kept = await desk.site.gateway.db.read(signins.by_cookie, digest(cookie["value"]))
    assert kept is not None
    assert kept.sid, "the provider names its session"
    told = await desk.http.get("/auth/frontchannel", params={"iss": desk.provider.issuer, "sid": kept.sid})
    assert told.status_code == 200
    await until_out(desk, held)


async def test_a_cookie_changes_nothing_for_a_page_of_another_site(desk: Desk) -> None:
    context, page = await signed_in(desk)
    [cookie] = [cookie for cookie in await context.cookies() if cookie["name"] == "__Host-sluice"]
    held = {"Cookie": f"__Host-sluice={cookie['value']}"}
    wanted = {"name": "mine"}
    shown = (await desk.http.get("/api/v1/me", headers=held)).headers["x-csrf-token"]
    ours, known, token = {"Origin": desk.url}, {"Sec-Fetch-Site": "same-origin"}, {"X-CSRF-Token": shown}
    for headers in (
        {},
        known | token,
        {"Origin": "https://evil.example"} | token,
        {"Origin": "null"} | token,
        ours,
        ours | {"X-CSRF-Token": "0" * 64},
        ours | token | {"Sec-Fetch-Site": "cross-site"},
        ours | token | {"Sec-Fetch-Site": "same-site"},
    ):
        assert (await desk.http.post("/api/v1/tokens", json=wanted, headers=held | headers)).status_code == 403, headers
        assert (await desk.http.post("/auth/logout", headers=held | headers)).status_code == 403, headers
    for headers in (ours | known, ours | token):
        made = await desk.http.post("/api/v1/tokens", json=wanted, headers=held | headers)
        assert made.status_code == 201, headers
    forged = {"Cookie": "__Host-sluice=" + "A" * 43}
    assert (await desk.http.get("/api/v1/me", headers=forged)).status_code == 401
    del page


async def test_a_sign_in_belongs_to_the_browser_that_began_it(desk: Desk) -> None:
    begun = await desk.http.get("/auth/login")
    assert begun.status_code == 303
    place = urlsplit(begun.headers["location"])
    asked = {name: values[0] for name, values in parse_qs(place.query).items()}
    assert asked["code_challenge_method"] == "S256"
    assert {"state", "nonce", "code_challenge"} <= set(asked)
    answer = await desk.http.get(
        "/auth/callback", params={"state": asked["state"], "code": "x"}, headers={"Cookie": ""}
    )
    assert answer.status_code == 401
    for state in (asked["state"], "made-up", ""):
        assert (await desk.http.get("/auth/callback", params={"state": state, "code": "x"})).status_code == 401


async def test_nobody_is_sent_elsewhere_after_signing_in(desk: Desk) -> None:
    for to in ("https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"):
        await desk.http.get("/auth/login", params={"to": to})
    rows = await desk.site.gateway.db.read(lambda c: c.execute(text('SELECT "to" FROM sign_ins')).scalars().all())
    assert set(rows) == {"/"}


async def until_told_so(desk: Desk) -> None:
    """That the provider answered a moment ago is believed for a second here."""
    async with asyncio.timeout(60):
        while (await desk.http.get("/auth/login")).status_code != 503:
            await desk.site.gateway.news.wait(0.1)


async def test_while_the_provider_is_away_sign_in_says_so_and_cookies_go_on(desk: Desk) -> None:
    context, page = await signed_in(desk)
    desk.provider.stop()
    await page.goto(f"{desk.url}/api/v1/me")
    assert (await me(page))["name"] == "alice"
    fresh = Web([part(desk.site.gateway), signin.part(desk.site.gateway)], open_callers(desk.site.gateway))
    async with running(fresh) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        token = desk.provider.token("s-1")
        auth = {"Authorization": f"Bearer {token}"}
        assert (await http.get("/api/v1/me", headers=auth)).status_code == 200, "its keys were kept"
    stranger = await (await desk.context()).new_page()
    await until_told_so(desk)
    await stranger.goto(f"{desk.url}/auth/login")
    told = await stranger.inner_text("body")
    assert "You cannot sign in now" in told
    assert desk.provider.issuer in told
    del context


async def test_the_audit_log_is_a_page_for_who_is_signed_in(desk: Desk) -> None:
    """Who is not is sent to sign in, and comes back; the browser takes the page as strict as it is."""
    context, _ = await signed_in(desk)
    page = await context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    await page.goto(f"{desk.url}/audit")
    assert "Rows of your own doing" in await page.inner_text("body")
    await page.fill("input[name=action]", "sign.in")
    await page.click("button")
    await page.wait_for_url(f"{desk.url}/audit?*action=sign.in*")
    assert "sign.in" in await page.inner_text("tbody")
    assert await page.evaluate("getComputedStyle(document.querySelector('table')).borderCollapse") == "collapse"
    assert said == []
    stranger = await (await desk.context()).new_page()
    await stranger.goto(f"{desk.url}/audit")
    assert await stranger.is_visible("input[name=login]")
    await stranger.goto(desk.url)
    assert await stranger.is_visible("input[name=login]"), "so is who comes to the first page"
