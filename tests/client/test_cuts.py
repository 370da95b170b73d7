"""A link that is cut while something is under way: who hears of it, and that nothing that was cut looks whole."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.services import STREAM_HEAD, answer, chunk, read_request
from tests.waiting import until_so

#: How an answer says where it ends: by a length, by its last piece, by the end of the connection.
HEADS = {
    "length": b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n",
    "pieces": STREAM_HEAD,
    "close": b"HTTP/1.0 200 OK\r\ncontent-type: application/octet-stream\r\n\r\n",
}


class Service:
    """Begins an answer, and goes on when it is let; what is asked for at `/whole` it ends."""

    def __init__(self, head: bytes) -> None:
        self.head = head
        self.answering: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (request := await read_request(reader)) is not None:
            if request.target == "/":
                writer.write(answer({}))
                continue
            writer.write(self.head + (chunk(b"begun") if self.head == STREAM_HEAD else b"begun"))
            await writer.drain()
            self.answering.append(writer)
            if request.target == "/whole":
                writer.write(chunk(b"") if self.head == STREAM_HEAD else b"")
                return
            await reader.read()


@pytest.fixture
async def http(plane: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=plane.url, headers=plane.site.auth, timeout=120) as client:
        yield client


@pytest.mark.parametrize("way", ["direct", "ssh"])
@pytest.mark.parametrize("ends", HEADS)
async def test_an_answer_whose_link_is_cut_does_not_look_whole_and_the_next_request_is_answered(
    plane: Any, http: httpx.AsyncClient, way: str, ends: str
) -> None:
    service = Service(HEADS[ends])
    await plane.serve(service.serve, "app", name="web")
    if ends != "length":
        assert (await http.get("/s/web/whole")).text == "begun", "what the service ends is whole"
    async with http.stream("GET", "/s/web/cut") as response:
        pieces = response.aiter_bytes()
        assert await anext(pieces) == b"begun"
        if way == "ssh":
            await plane.login_node.cut()
        else:
            service.answering[-1].transport.abort()
        with pytest.raises(httpx.TransportError):
            async for _ in pieces:
                pass
    await until_so(lambda: answered(http), what="it comes back by itself")


async def answered(http: httpx.AsyncClient) -> bool:
    return (await http.get("/s/web/")).is_success
