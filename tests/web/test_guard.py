"""The door of every service, knocked at with raw bytes: endless heads, drips, and pages of other sites."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import Request
from starlette.responses import StreamingResponse

from gateway.core.bell import Bell
from gateway.errors import Unauthenticated
from gateway.model.connection_limits import ConnectionLimits
from gateway.model.principal import Opened, Origin, Principal
from gateway.settings import ServeSettings
from gateway.web.app import Part, Web, api
from gateway.web.guard import GuardedProtocol
from gateway.web.serving import Serving, listen

AUTH = "Authorization: Bearer t0ken\r\n"
LIMITS = ConnectionLimits()
PORTAL = "https://portal.hpc.edu"


class OneToken:
    """Knows one caller."""

    def recall(self, text: str) -> Principal | None:
        return Principal(name="ada") if text == "t0ken" else None

    async def authenticate(self, text: str, origin: Origin = "api") -> Principal:
        if text != "t0ken":
            raise Unauthenticated("not valid here")
        return Principal(name="ada", origin=origin)

    async def by_cookie(self, value: str) -> Principal:
        return await self.authenticate(value, "browser")

    def recall_opened(self, opened: Opened) -> Principal | None:
        return self.recall(opened.owner)

    async def by_opened(self, opened: Opened) -> Principal:
        raise Unauthenticated(opened.owner)

    async def by_peer(self, uid: int) -> Principal:
        raise Unauthenticated(str(uid))


def part() -> Part:
    app = api(title="Things", prefix="/things")

    @app.post("/things")
    async def take(request: Request) -> dict[str, Any]:
        client = request.client.host if request.client is not None else ""
        return {"size": len(await request.body()), "client": client, "url": str(request.url)}

    @app.get("/things/flood")
    async def flood() -> StreamingResponse:
        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65536
                await asyncio.sleep(0)  # nothing waits any more once the caller is gone

        return StreamingResponse(endless())

    return Part(name="things", prefixes=("/things",), app=app, max_body=1 << 10)


class Door:
    """A service, and a way to be its next connection."""

    def __init__(self, serving: Serving, port: int) -> None:
        self._serving, self.port = serving, port
        self.url = f"http://127.0.0.1:{port}"

    @asynccontextmanager
    async def knock(self, text: str = "") -> AsyncIterator["Raw"]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(text.encode("latin-1"))
            yield Raw(reader, writer)
        finally:
            writer.close()

    async def later(self, seconds: float, ready: Callable[[GuardedProtocol], bool]) -> None:
        """Let every connection that is `ready` see the time in so many seconds, as soon as there is one."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60):
            while not (found := [one for one in self._guarded() if ready(one)]):
                await Bell().wait(0.02)
        for one in found:
            one.look(loop.time() + seconds)

    def _guarded(self) -> list[GuardedProtocol]:
        return [one for one in self._serving.server_state.connections if isinstance(one, GuardedProtocol)]


class Raw:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> tuple[int, dict[str, Any]]:
        async with asyncio.timeout(60):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            assert headers["content-security-policy"].startswith("default-src 'none'")
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(first.split(" ")[1]), json.loads(body)

    async def closed(self) -> bool:
        async with asyncio.timeout(60):
            return await self.reader.read() == b""


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    settings = ServeSettings(
        cors_origins=(PORTAL,), trusted_proxies=("127.0.0.1",), failed_sign_ins_per_minute=3, hsts_seconds=60
    )
    listener = listen("127.0.0.1", 0)
    serving = Serving(Web([part()], OneToken(), settings), listener, grace=1)
    task = asyncio.create_task(serving.run_until_stopped())
    await serving.ready.wait()
    yield Door(serving, listener.getsockname()[1])
    serving.stop()
    await task


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        ("GET /things HTTP/1.1\r\nHost: x\r\n" + "X: y\r\n" * 200, 431, "head_too_large"),
        ("GET /things HTTP/1.1\r\nHost: x\r\nX: " + "y" * 100_000, 431, "head_too_large"),
        ("GET /things?" + "y" * 100_000, 431, "head_too_large"),
        ("GET /things HTTP/1.1\r\nHost: x\r\n" + f"X: {'y' * 1000}\r\n" * 70 + "\r\n", 431, "head_too_large"),
        ("no request at all\r\n\r\n", 400, "invalid"),
        (f"POST /things HTTP/1.1\r\nHost: x\r\n{AUTH}Content-Length: 9999\r\n\r\n", 413, "too_large"),
        ("POST /things HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\n\r\n", 401, "unauthenticated"),
    ],
)
async def test_what_is_too_much_is_refused(door: Door, head: str, status: int, code: str) -> None:
    async with door.knock(head) as caller:
        found, told = await caller.answer()
        assert (found, told["code"], told["status"]) == (status, code, status)


async def test_who_sends_nothing_or_too_slowly_is_let_go(door: Door) -> None:
    async with door.knock("GET /thi") as caller:
        await door.later(LIMITS.head_seconds + 1, lambda one: one.coming == "head")
        status, told = await caller.answer()
        assert (status, told["code"]) == (408, "too_slow")
        assert await caller.closed()
    async with door.knock(f"POST /things HTTP/1.1\r\nHost: x\r\n{AUTH}Content-Length: 99\r\n\r\nab") as caller:
        await door.later(LIMITS.body_seconds + 1, lambda one: one.coming == "body")
        status, told = await caller.answer()
        assert (status, told["code"]) == (408, "too_slow")
    async with door.knock() as caller:
        await door.later(LIMITS.idle_seconds + 1, lambda one: one.cycle is None)
        assert await caller.closed()
    async with door.knock(f"POST /things HTTP/1.1\r\nHost: x\r\n{AUTH}Content-Length: 2\r\n\r\nab") as caller:
        assert (await caller.answer())[1]["size"] == 2
        await door.later(LIMITS.head_seconds, lambda one: not one.coming)
        caller.writer.write(f"POST /things HTTP/1.1\r\nHost: x\r\n{AUTH}Content-Length: 1\r\n\r\na".encode())
        assert (await caller.answer())[1]["size"] == 1


async def test_who_takes_nothing_of_its_answer_is_let_go(door: Door) -> None:
    async with door.knock(f"GET /things/flood HTTP/1.1\r\nHost: x\r\n{AUTH}\r\n") as caller:
        await door.later(LIMITS.stuck_seconds + 1, lambda one: one.flow.write_paused)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await caller.reader.readexactly(1 << 26)


@pytest.mark.parametrize(
    ("now", "received", "deadline"),
    [(0, 0, 60), (59, 59, 60 + 59 / 512), (59, 1 << 20, 119), (1000, 512 * 1000, 1060), (1000, 1000, 60 + 1000 / 512)],
)
def test_a_body_must_not_drip(now: float, received: int, deadline: float) -> None:
    assert LIMITS.body_deadline(now, 0, received) == deadline
    any_pace = ConnectionLimits(body_bytes_per_second=0)
    assert any_pace.body_deadline(now, 0, received) == now + 60


async def test_proxies_are_believed_where_the_site_says_so(door: Door) -> None:
    said = {"X-Forwarded-For": "6.6.6.6, 198.51.100.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "hpc.edu"}
    async with httpx.AsyncClient(base_url=door.url, headers={"Authorization": "Bearer t0ken"}, timeout=60) as http:
        there = await http.post("/things", headers=said)
        assert there.json() == {"size": 0, "client": "198.51.100.7", "url": "https://hpc.edu/things"}
        assert there.headers["strict-transport-security"] == "max-age=60"
        plain = await http.post("/things")
        assert plain.json() == {"size": 0, "client": "127.0.0.1", "url": f"{door.url}/things"}
        assert "strict-transport-security" not in plain.headers


async def test_pages_of_named_origins_may_ask_with_a_token_and_no_others(door: Door) -> None:
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with httpx.AsyncClient(base_url=door.url, timeout=60) as http:
        may = await http.options("/things", headers={"Origin": PORTAL, **ask})
        assert (may.status_code, may.headers["access-control-allow-origin"]) == (204, PORTAL)
        assert "authorization" in may.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in may.headers
        done = await http.post("/things", headers={"Origin": PORTAL, "Authorization": "Bearer t0ken"})
        assert (done.status_code, done.headers["access-control-allow-origin"], done.headers["vary"]) == (
            200,
            PORTAL,
            "Origin",
        )
        for origin in ("https://evil.example", "null", f"{PORTAL}.evil.example"):
            refused = await http.options("/things", headers={"Origin": origin, **ask})
            assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (401, False)


async def test_who_fails_too_often_to_say_who_they_are_waits(door: Door) -> None:
    async with httpx.AsyncClient(base_url=door.url, timeout=60) as http:

        async def status(token: str | None, address: str) -> int:
            headers = {"X-Forwarded-For": address} | ({"Authorization": f"Bearer {token}"} if token else {})
            answer = await http.post("/things", headers=headers)
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["code"] == "too_many_requests"
            return answer.status_code

        assert [await status("wrong", "198.51.100.7") for _ in range(4)] == [401, 401, 401, 429]
        assert await status("t0ken", "198.51.100.7") == 200, "who is known goes on"
        assert await status("wrong", "198.51.100.8") == 401, "others are others"
        assert [await status(None, "198.51.100.9") for _ in range(5)] == [401] * 5, "bringing nothing is no try"
