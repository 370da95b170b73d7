"""Tokens of a real provider: which are taken and which are not, over a change of its keys and while it is away."""

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from playwright.async_api import async_playwright

from gateway.core import users
from gateway.identity.opening import open_callers
from gateway.model.principal import LOCAL_ADMIN
from gateway.model.user import Identity, NewUser, UserRequest
from gateway.sdk import AsyncSluice, credentials
from gateway.server.app import part
from gateway.web.app import Web
from gateway.web.serving import running
from tests.oidc import AUDIENCE, Provider, a_key, a_provider
from tests.services import Site, a_site

CHROMIUM = "/usr/bin/chromium"
WITHIN = 120_000.0  # ms, for what a browser does
ACCOUNTS: dict[str, dict[str, Any]] = {"s-1": {"preferred_username": "ann", "name": "Ann", "groups": ["staff"]}}


@dataclass
class Post:
    """A gateway that takes a provider's tokens."""

    site: Site
    provider: Provider
    url: str
    http: httpx.AsyncClient

    async def ask(self, token: str) -> httpx.Response:
        return await self.http.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"})

    async def admit(self, name: str) -> None:
        await users.change(self.site.gateway, LOCAL_ADMIN, name, UserRequest(state="active"))


@pytest.fixture
async def post(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Post]:
    lifetime = getattr(request, "param", 600)
    async with AsyncExitStack() as stack:
        provider = stack.enter_context(
            a_provider(tmp_path / "provider", ACCOUNTS, "http://localhost:1", lifetime=lifetime)
        )
        oidc = {
            "issuer": provider.issuer,
            "cli_client_id": "sluice-cli",
            "audience": AUDIENCE,
            "keys_seconds": 1,
            "admin_groups": ["staff"],
        }
        site = await stack.enter_async_context(a_site(tmp_path, identity={"oidc": oidc}))
        url = await stack.enter_async_context(running(Web([part(site.gateway)], open_callers(site.gateway))))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=60))
        known = Identity(issuer=provider.issuer, subject="s-9")
        await users.create(site.gateway, LOCAL_ADMIN, NewUser(name="zoe", identity=known))
        yield Post(site, provider, url, http)


async def test_a_good_token_is_taken_and_a_bad_one_says_why(post: Post) -> None:
    assert (await post.ask(post.provider.token("s-9"))).json()["name"] == "zoe"
    now = int(time.time())
    bad: dict[str, dict[str, Any]] = {
        "expired": {"exp": now - 100},
        "aud": {"aud": "https://another.example"},
        "iss": {"iss": "https://another.example"},
        "nbf": {"nbf": now + 1000},
        "iat": {"iat": now + 1000, "exp": now + 2000},
        "sub": {"sub": None},
        "exp": {"exp": None},
        "logout": {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
    }
    for why, claims in bad.items():
        refused = await post.ask(post.provider.token("s-9", **claims))
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated"), why
    within_skew = post.provider.token("s-9", exp=int(time.time()) - 30)
    assert (await post.ask(within_skew)).status_code == 200


async def test_only_what_the_provider_signed_counts(post: Post) -> None:
    good = post.provider.token("s-9")
    head, body, signature = good.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    public = json.dumps(post.provider.keys[0].as_dict(private=False))
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    kid = post.provider.keys[0].kid
    confused = jwt.encode({"alg": "HS256", "kid": str(kid)}, claims, OctKey.import_key(public), algorithms=["HS256"])
    other = base64.urlsafe_b64encode(json.dumps({**claims, "sub": "s-1"}).encode()).decode().rstrip("=")
    for forged in (
        f"{none}.{body}.",
        f"{none}.{body}.{signature}",
        f"{head}.{other}.{signature}",
        f"{head}.{body}.{signature[:-8]}AAAAAAAA",
        confused,
        post.provider.token("s-9", key=a_key()),
    ):
        assert (await post.ask(forged)).status_code == 401


async def test_a_change_of_keys_fails_no_request_and_the_old_key_is_no_good(post: Post) -> None:
    """The provider signs with a new key while requests go on; tokens come from whatever key is in force."""
    failed: list[int] = []
    done = asyncio.Event()

    async def load() -> None:
        while not done.is_set():
            answer = await post.ask(post.provider.token("s-9"))
            if answer.status_code != 200:
                failed.append(answer.status_code)

    callers = [asyncio.create_task(load()) for _ in range(4)]
    for _ in range(20):
        assert (await post.ask(post.provider.token("s-9"))).status_code == 200
    new, old = a_key(), post.provider.keys[0]
    await asyncio.to_thread(republish, post.provider, [old, new])
    await until_new_keys(post, new)
    post.provider.keys = [new, old]
    for _ in range(20):
        assert (await post.ask(post.provider.token("s-9"))).status_code == 200
    done.set()
    await asyncio.gather(*callers)
    assert failed == []
    await asyncio.to_thread(republish, post.provider, [new])
    taken = post.provider.token("s-9", key=old)
    third = a_key()
    await asyncio.to_thread(republish, post.provider, [new, third])
    await until_new_keys(post, third)
    assert (await post.ask(taken)).status_code == 401, "what is not published any more is not believed"
    assert (await post.ask(post.provider.token("s-9", key=new))).status_code == 200


def republish(provider: Provider, keys: list[Any]) -> None:
    provider.stop()
    provider.keys = keys
    provider.start()


async def until_new_keys(post: Post, key: Any) -> None:
    """The floor under asking for keys is a second here."""
    async with asyncio.timeout(60):
        while (await post.ask(post.provider.token("s-9", key=key))).status_code != 200:
            await post.site.gateway.news.wait(0.1)


async def test_while_the_provider_is_away_its_tokens_go_on(post: Post) -> None:
    token = post.provider.token("s-9")
    assert (await post.ask(token)).status_code == 200
    post.provider.stop()
    assert (await post.ask(token)).status_code == 200
    assert (await post.ask(post.provider.token("s-9", exp=int(time.time()) + 250))).status_code == 200


async def test_who_is_unknown_waits_and_an_operator_sees_them(post: Post) -> None:
    refused = await post.ask(post.provider.token("s-77"))
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    waiting = await users.list_users(post.site.gateway, LOCAL_ADMIN, state="pending")
    assert [view.identities[0].subject for view in waiting] == ["s-77"]
    await post.admit(waiting[0].name)
    assert (await post.ask(post.provider.token("s-77"))).status_code == 200


@pytest.mark.parametrize("post", [33], indirect=True)
async def test_the_command_line_signs_in_by_code_and_outlives_its_token(
    post: Post, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sluice login`, confirmed in a browser; then the SDK, over the end of a token that lives for seconds."""
    home = tmp_path / "config"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    monkeypatch.delenv("SLUICE_TOKEN", raising=False)
    refused = await login(post, tmp_path)
    assert refused[0] == 4
    assert "nobody has let you in yet" in refused[1]
    await post.admit("ann")
    code, said = await login(post, tmp_path)
    assert (code, "signed in as ann" in said) == (0, True), said
    first = credentials.load(post.url)
    assert first is not None
    assert (credentials.file().stat().st_mode & 0o777) == 0o600
    assert first.expires_at - time.time() < 35
    async with AsyncSluice(post.url) as sluice:
        me = await sluice.me()
        assert (me.name, me.admin, me.groups) == ("ann", True, ("staff",))
        await until_renewed(sluice, first.bearer)
    renewed = credentials.load(post.url)
    assert renewed is not None
    assert renewed.refresh_token != first.refresh_token
    async with AsyncSluice(post.url) as one, AsyncSluice(post.url) as other:
        answers = await asyncio.gather(*(each.me() for each in (one, other) for _ in range(5)))
    assert {answer.name for answer in answers} == {"ann"}
    assert (await run("logout", post, tmp_path))[0] == 0
    assert credentials.load(post.url) is None


async def until_renewed(sluice: AsyncSluice, first: str) -> None:
    """It is renewed before it ends, so no call fails on the way."""
    async with asyncio.timeout(120):
        while sluice.token == first:
            assert (await sluice.me()).name == "ann"
            await asyncio.sleep(0.2)


async def run(command: str, post: Post, tmp_path: Path, *more: str) -> tuple[int, str]:
    environment = {**os.environ, "SLUICE_URL": post.url, "XDG_CONFIG_HOME": str(tmp_path / "config")}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "gateway.cli.main", command, *more],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stderr


async def login(post: Post, tmp_path: Path) -> tuple[int, str]:
    """`sluice login`, and a person who confirms the code."""
    environment = {**os.environ, "SLUICE_URL": post.url, "XDG_CONFIG_HOME": str(tmp_path / "config")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli.main", "login", env=environment, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    address = (await process.stderr.readline()).decode().split()[-1]
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=WITHIN)
        page = await browser.new_page()
        page.set_default_timeout(WITHIN)
        await page.goto(address)
        await page.click("button[type=submit]")
        await page.fill("input[name=login]", "s-1")
        await page.fill("input[name=password]", "any")
        await page.get_by_role("button", name="Sign-in").click()
        await page.get_by_role("button", name="Continue").click()
        await page.wait_for_selector("text=/success/i")
        await browser.close()
    said = (await process.stderr.read()).decode()
    return await process.wait(), said


async def test_a_service_signs_in_with_its_own_secret(post: Post, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the robot\n")
    asked = ("--client-id", "robot", "--client-secret-file", str(secret))
    code, said = await run("login", post, tmp_path, *asked)
    assert (code, "nobody has let you in yet" in said) == (4, True), said
    await post.admit("robot")
    code, said = await run("login", post, tmp_path, *asked)
    assert (code, "signed in as robot" in said) == (0, True), said
