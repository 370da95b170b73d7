"""A browser that is let into one session by a link: once, by a cookie of its own, which the service never sees."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.client.cookies import Cookies
from gateway.client.http1 import RequestHead
from gateway.core import openings
from gateway.errors import Invalid, NotReady
from gateway.identity.seal import Seal
from gateway.model.principal import LOCAL_ADMIN, Opened
from gateway.web.seen import Seen
from tests.client.test_sessions import echo


@pytest.fixture
async def browser(plane: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=plane.url, timeout=60) as client:
        yield client


async def link(plane: Any, ref: str) -> str:
    return (await openings.make(plane.site.gateway, LOCAL_ADMIN, ref)).url


async def test_a_link_lets_a_browser_in_once(plane: Any, browser: httpx.AsyncClient) -> None:
    await plane.serve(echo, "app", name="web")
    assert (await browser.get("/s/web/")).status_code == 401
    url = await link(plane, "web")
    assert url.startswith("/s/web/?sluice-code=")
    entered = await browser.get(f"{url}&a=b%20c")
    assert (entered.status_code, entered.headers["location"]) == (303, "/s/web/?a=b+c")
    cookie = entered.headers["set-cookie"]
    assert "; Path=/s/web/; " in cookie
    assert "; HttpOnly; SameSite=Lax" in cookie
    told = (await browser.get("/s/web/lab", headers={"Cookie": f"{cookie.split(';')[0]}; app=1"})).json()
    assert told["target"] == "/lab"
    assert told["headers"]["cookie"] == "app=1"
    assert (await browser.get("/s/web/lab")).status_code == 200
    browser.cookies.clear()
    assert (await browser.get(url)).status_code == 401
    assert (await browser.get("/s/web/?sluice-code=none")).status_code == 401


async def test_the_cookie_is_good_for_its_session_and_for_pages_of_this_origin(
    plane: Any, browser: httpx.AsyncClient
) -> None:
    await plane.serve(echo, "app", name="web")
    await plane.serve(echo, "app", name="other")
    word = (await browser.get(await link(plane, "web"))).headers["set-cookie"].split(";")[0]
    browser.cookies.clear()
    given = {"Cookie": word}
    assert (await browser.get("/s/other/", headers=given)).status_code in {403, 404}
    assert (await browser.get("/v1/models", headers=given)).status_code == 401
    for origin, status in ((None, 403), ("https://elsewhere.example", 403), (plane.url, 200)):
        headers = given if origin is None else given | {"Origin": origin}
        assert (await browser.post("/s/web/", headers=headers, content=b"x")).status_code == status
    socket = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x", "Sec-WebSocket-Version": "13"}
    refused = await browser.get("/s/web/", headers={**given, **socket, "Origin": "https://elsewhere.example"})
    assert refused.status_code == 403
    for forged in (word[:-1] + ("0" if word[-1] != "0" else "1"), "sluice-session=", "sluice-session=a.b"):
        assert (await browser.get("/s/web/", headers={"Cookie": forged})).status_code == 401


async def test_a_service_cannot_set_the_cookie(plane: Any) -> None:
    async def sets(reader: Any, writer: Any) -> None:
        await reader.readuntil(b"\r\n\r\n")
        cookies = b"Set-Cookie: sluice-session=mine\r\nSet-Cookie: own=1\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\n" + cookies + b"content-length: 0\r\n\r\n")
        await reader.read()

    await plane.serve(sets, "app", name="web")
    assert (await plane.http.get("/s/web/")).headers.get_list("set-cookie") == ["own=1; Path=/s/web/"]


async def test_only_what_is_ready_can_be_opened(plane: Any) -> None:
    await plane.site.create("app", name="coming")
    with pytest.raises(NotReady, match="no pages now"):
        await link(plane, "coming")


async def test_what_is_no_service_never_has_pages(plane: Any) -> None:
    await plane.site.create("count", name="sum")
    with pytest.raises(Invalid, match="never has pages"):
        await link(plane, "sum")


@pytest.mark.parametrize("plane", [{"session_domain": "sessions.example.org"}], indirect=True)
async def test_a_session_with_an_origin_of_its_own_has_a_cookie_of_its_own(
    plane: Any, browser: httpx.AsyncClient
) -> None:
    await plane.serve(echo, "app", name="web")
    url = await link(plane, "web")
    host = {"Host": "web.sessions.example.org"}
    assert url.startswith("//web.sessions.example.org/?sluice-code=")
    entered = await browser.get(url.removeprefix("//web.sessions.example.org"), headers=host)
    cookie = entered.headers["set-cookie"]
    assert "; Path=/; " in cookie
    assert cookie.endswith("; Secure")
    browser.cookies.clear()
    told = await browser.get("/lab", headers=host | {"Cookie": cookie.split(";")[0]})
    assert (told.status_code, "cookie" in told.json()["headers"]) == (200, False)


ADA = Opened("S", "ada", "T", "B")


def test_a_cookie_ends() -> None:
    cookies = Cookies(Seal(b"k" * 32), 1)
    asked = RequestHead(b"GET / HTTP/1.1\r\nHost: localhost:8000\r\n\r\n")
    asked.seen = Seen("127.0.0.1", "http", "localhost:8000")
    made = cookies.make(asked, ADA, b"/s/web", 1000.0)
    word = made.split(";")[0].encode()
    head = RequestHead(b"GET /s/web/ HTTP/1.1\r\nHost: localhost:8000\r\nCookie: %b\r\n\r\n" % word)
    assert cookies.opened(head, 4599.0) == ADA
    assert cookies.opened(head, 4600.0) is None
    assert Cookies(Seal(b"other" * 8), 1).opened(head, 1000.0) is None
    assert "Secure" not in made


def test_a_seal_tells_its_own_words(tmp_path: Any) -> None:
    seal = Seal.of(tmp_path)
    assert Seal.of(tmp_path).open(seal.close("a", "b")) == ["a", "b"]
    assert seal.open(json.dumps(["a"])) is None
    assert (tmp_path / "seal.key").stat().st_mode & 0o777 == 0o600
