"""Sessions in a real browser: one that is an origin of its own, and the events that a page of one listens to."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from playwright.async_api import BrowserContext, async_playwright

from gateway.core import openings
from gateway.model.principal import LOCAL_ADMIN
from tests.client.test_sessions import echo
from tests.services import STREAM_HEAD, answer, chunk, read_request
from tests.waiting import until_so

CHROMIUM = "/usr/bin/chromium"
WITHIN = 120_000.0
#: Asks another session of the same person, as the page of a program that is not to be trusted would.
ASK = """async address => {
    try { return (await fetch(address, {credentials: "include"})).status } catch (error) { return error.name }
}"""


@pytest.fixture
async def context() -> AsyncIterator[BrowserContext]:
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu"]
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=WITHIN)
        made = await browser.new_context()
        made.set_default_timeout(WITHIN)
        yield made
        await browser.close()


async def shown(context: BrowserContext, address: str) -> tuple[Any, Any]:
    """A page of its own at this address, and what the service there says that it was asked."""
    page = await context.new_page()
    answer = await page.goto(address)
    assert answer is not None
    return page, json.loads(await answer.text())


@pytest.mark.parametrize("plane", [{"session_domain": "sessions.localhost"}], indirect=True)
async def test_a_session_is_an_origin_of_its_own_in_a_browser(plane: Any, context: BrowserContext) -> None:
    await plane.serve(echo, "app", name="web")
    await plane.serve(echo, "app", name="other")
    port = plane.url.rpartition(":")[2]
    for name in ("other", "web"):
        url = (await openings.make(plane.site.gateway, LOCAL_ADMIN, name)).url
        host, _, rest = url.removeprefix("//").partition("/")
        page, told = await shown(context, f"http://{host}:{port}/{rest}")
        assert page.url == f"http://{name}.sessions.localhost:{port}/", "the code is gone from the address"
        assert told["target"] == "/"
        assert "sluice-session" not in str(told), "the service does not see the cookie"
        assert await page.evaluate("document.cookie") == "", "nor does its page"
    assert await page.evaluate(ASK, f"http://web.sessions.localhost:{port}/more") == 200
    assert await page.evaluate(ASK, f"http://other.sessions.localhost:{port}/") == "TypeError", "of another origin"
    cookies = {(one.get("domain"), one.get("path"), one.get("httpOnly")) for one in await context.cookies()}
    assert cookies == {(f"{name}.sessions.localhost", "/", True) for name in ("web", "other")}


#: Keeps what it hears.
LISTENER = """<!doctype html><meta charset=utf-8><script>
const heard = [], source = new EventSource("events?of=ours");
source.onmessage = event => heard.push(`${event.lastEventId} ${event.data}`);
</script>"""


class Speaker:
    """A service with a page that listens. It says as many events as it is `let`, and then waits, or lets go."""

    def __init__(self) -> None:
        self.let = 0
        self.asked: list[tuple[str, str | None]] = []
        self.closes: set[int] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (request := await read_request(reader)) is not None:
            if not request.target.startswith("/events"):
                writer.write(answer(LISTENER, content_type="text/html"))
                continue
            last = request.headers.get("last-event-id")
            self.asked.append((request.target, last))
            writer.write(STREAM_HEAD + chunk(b"retry: 50\n\n"))
            await self._events(reader, writer, int(last or 0))

    async def _events(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, last: int) -> None:
        while last not in self.closes:
            last += 1
            await until_so(partial(self._may_say, reader, last))
            if reader.at_eof():
                return
            writer.write(chunk(f"id: {last}\ndata: n\u00b0{last}\n\n".encode()))
            await writer.drain()
        self.closes.discard(last)
        writer.write(chunk(b""))

    def _may_say(self, reader: asyncio.StreamReader, number: int) -> bool:
        return self.let >= number or reader.at_eof()


@pytest.mark.parametrize("way", ["direct", "ssh"])
async def test_a_page_hears_each_event_when_it_is_said_and_goes_on_where_it_was(
    plane: Any, context: BrowserContext, way: str
) -> None:
    speaker = Speaker()
    await plane.serve(speaker.serve, "app", name="web")
    page = await context.new_page()
    await page.goto(plane.url + (await openings.make(plane.site.gateway, LOCAL_ADMIN, "web")).url)

    async def hears(number: int) -> None:
        """Each is said only when the page has heard those before."""
        speaker.let = number
        expected = [f"{one} n\u00b0{one}" for one in range(1, number + 1)]
        await until_so(lambda: page.evaluate("heard"), lambda found: found == expected, what="the page hears it")

    await hears(1)
    speaker.closes.add(2)
    await hears(2)
    await hears(3)  # the service had let go behind the second
    assert speaker.asked == [("/events?of=ours", None), ("/events?of=ours", "2")]
    if way == "ssh":
        await plane.login_node.cut()
    else:
        for front in list(plane.data.fronts):
            front.drop()
    await hears(4)
    assert speaker.asked[-1] == ("/events?of=ours", "3"), "it goes on behind the last that came"
