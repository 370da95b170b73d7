"""What a site sets in `serve.connection` holds on the ports of services as they are served, whoever reads there."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle
from pathlib import Path

import pytest

from gateway.cli.services import parts_of
from gateway.identity.opening import open_callers
from gateway.model.connection_limits import ConnectionLimits
from gateway.settings import ServeSettings
from gateway.web.app import Web
from gateway.web.serving import running
from tests.services import a_site

ASKED = {"server": "/api/v1/sessions", "client": "/v1/completions", "all": "/api/v1/sessions"}
WITHIN = 55.0
"""Seconds; less than silence may last where a site sets nothing."""


class Caller:
    """A connection over which bytes come as slowly as wished."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        self._reader, self._writer, self.token = reader, writer, token

    def send(self, text: str) -> None:
        self._writer.write(text.encode())

    async def drips(self, text: str) -> tuple[int, str]:
        """Send a text byte by byte, without an end, until there is an answer: its status and code."""
        answer = asyncio.ensure_future(self.answer())
        for letter in cycle(text):
            self.send(letter)
            if (await asyncio.wait({answer}, timeout=0.02))[0]:
                break
        return await answer

    async def answer(self) -> tuple[int, str]:
        async with asyncio.timeout(WITHIN):
            head = await self._reader.readuntil(b"\r\n\r\n")
            body = json.loads(await self._reader.read())
        return int(head.split(b" ")[1]), body["code"]

    async def ended(self) -> bool:
        async with asyncio.timeout(WITHIN):
            return await self._reader.read() == b""


@asynccontextmanager
async def a_caller(folder: Path, service: str, limits: ConnectionLimits) -> AsyncIterator[Caller]:
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(a_site(folder))
        settings = ServeSettings(connection=limits)
        web = Web(parts_of(service, site.gateway), open_callers(site.gateway), settings)
        url = await stack.enter_async_context(running(web, grace=1))
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        stack.callback(writer.close)
        yield Caller(reader, writer, site.token)


@pytest.mark.parametrize("service", ASKED)
async def test_a_head_that_drips_is_refused(tmp_path: Path, service: str) -> None:
    async with a_caller(tmp_path, service, ConnectionLimits(head_seconds=1)) as caller:
        caller.send(f"GET {ASKED[service]} HTTP/1.1\r\nHost: x\r\nX: ")
        assert await caller.drips("y") == (408, "too_slow")


@pytest.mark.parametrize("service", ASKED)
async def test_a_body_that_drips_is_refused(tmp_path: Path, service: str) -> None:
    limits = ConnectionLimits(body_seconds=1, body_bytes_per_second=1 << 20)
    async with a_caller(tmp_path, service, limits) as caller:
        caller.send(
            f"POST {ASKED[service]} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {caller.token}\r\n"
            "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n{"
        )
        assert await caller.drips(" ") == (408, "too_slow")


@pytest.mark.parametrize("service", ASKED)
async def test_a_head_is_as_long_as_the_site_says(tmp_path: Path, service: str) -> None:
    async with a_caller(tmp_path, service, ConnectionLimits(head_bytes=1 << 10)) as caller:
        caller.send(f"GET {ASKED[service]} HTTP/1.1\r\nHost: x\r\nX: {'y' * 1500}\r\n\r\n")
        assert await caller.answer() == (431, "head_too_large")


@pytest.mark.parametrize("service", ASKED)
async def test_who_says_nothing_is_let_go(tmp_path: Path, service: str) -> None:
    async with a_caller(tmp_path, service, ConnectionLimits(idle_seconds=1)) as caller:
        assert await caller.ended()
