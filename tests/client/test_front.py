"""The door of the data plane, knocked at with raw bytes: what could be read in two ways, never ends, or is huge."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from gateway.client import front
from gateway.client.later import MOST_CHUNKS
from gateway.model.connection_limits import ConnectionLimits
from tests.services import Asked, answer, chunk, read_request

LIMITS = ConnectionLimits()


class Raw:
    """One connection to the gateway, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(60):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split(" ")[1]), headers, body

    async def closed(self) -> bool:
        async with asyncio.timeout(60):
            return await self.reader.read() == b""


@asynccontextmanager
async def raw(plane: Any, text: bytes = b"") -> AsyncIterator[Raw]:
    host, _, port = plane.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(text)
        yield Raw(reader, writer)
    finally:
        writer.close()


def request(plane: Any, line: str, *headers: str, body: bytes = b"", token: bool = True) -> bytes:
    lines = [f"{line} HTTP/1.1", "Host: gate", *headers]
    if token:
        lines.append(f"Authorization: Bearer {plane.site.token}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Echo:
    """Answers with the request's target, and remembers all it was asked."""

    def __init__(self) -> None:
        self.seen: list[Asked] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (asked := await read_request(reader)) is not None:
            self.seen.append(asked)
            writer.write(answer({"target": asked.target, "body": asked.body.decode("latin-1")}))


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 4", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 4"),
        ("Content-Length: 0", "Content-Length: 36"),
        ("Content-Length: 36, 36",),
        ("Content-Length: +0",),
        ("Content-Length: 0x0",),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding:\x0bchunked",),
        ("X: a\r\n Transfer-Encoding: chunked",),
        ("X: a\nTransfer-Encoding: chunked",),
        ("X: a\x00b",),
        ("Host: other",),
        ("X y: z",),
    ],
)
async def test_a_request_that_two_programs_could_read_differently_reaches_nobody(plane: Any, headers: Any) -> None:
    service = Echo()
    await plane.serve(service, "app", name="web")
    for path in ("/s/web/", "/v1/completions", "/health/live"):
        async with raw(plane, request(plane, f"POST {path}", *headers, body=b"0\r\n\r\n" + SMUGGLED)) as caller:
            status, told, body = await caller.answer()
            assert (status, told["connection"], json.loads(body)["status"]) == (400, "close", 400)
            assert await caller.closed()
    assert service.seen == []


async def test_what_stands_behind_a_body_is_the_next_request(plane: Any) -> None:
    service = Echo()
    await plane.serve(service, "app", name="web")
    first = request(plane, "POST /s/web/1", "Content-Length: 5", body=b"hello")
    second = request(plane, "POST /s/web/2", "Transfer-Encoding: chunked", body=chunk(b"a") + b"0\r\n\r\n")
    third = request(plane, "GET /health/live")
    async with raw(plane, first + second + third + request(plane, "GET /s/web/4")) as caller:
        answers = [await caller.answer() for _ in range(4)]
    assert [status for status, _, _ in answers] == [200] * 4
    assert [asked.target for asked in service.seen] == ["/1", "/2", "/4"]
    assert [asked.body for asked in service.seen] == [b"hello", b"a", b""]
    assert json.loads(answers[2][2]) == {"status": "ok"}


async def test_requests_may_come_byte_by_byte(plane: Any) -> None:
    service = Echo()
    await plane.serve(service, "app", name="web")
    text = request(plane, "POST /s/web/slow", "Transfer-Encoding: chunked", body=chunk(b"abc") * 2 + b"0\r\n\r\n")
    async with raw(plane) as caller:
        for at in range(len(text)):
            caller.writer.write(text[at : at + 1])
            await caller.writer.drain()
            await asyncio.sleep(0)
        assert json.loads((await caller.answer())[2]) == {"target": "/slow", "body": "abcabc"}


async def test_a_head_that_is_too_long_is_refused(plane: Any) -> None:
    async with raw(plane, b"GET /s/web/ HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000) as caller:
        status, _, _ = await caller.answer()
        assert status == 431
        assert await caller.closed()


async def test_a_body_that_is_too_long_is_refused_before_it_comes(plane: Any) -> None:
    async with raw(plane, request(plane, "POST /v1/completions", f"Content-Length: {1 << 30}")) as caller:
        status, _, body = await caller.answer()
        assert (status, json.loads(body)["error"]["code"]) == (413, "too_large")


async def test_a_question_in_too_many_chunks_is_refused(plane: Any) -> None:
    for more, code in ((0, 400), (1, 413)):  # what is in the first is no JSON
        body = chunk(b"x") * (MOST_CHUNKS + more) + b"0\r\n\r\n"
        text = request(plane, "POST /v1/completions", "Transfer-Encoding: chunked", body=body)
        async with raw(plane, text) as caller:
            assert (await caller.answer())[0] == code


async def test_who_sends_nothing_or_too_slowly_is_let_go(plane: Any) -> None:
    """The clock is the loop's; here it is the connection's own deadline that is moved up once its bytes have come."""

    async def until_overdue(within: float) -> None:
        def is_due(one: front.Front) -> bool:
            return bool(one.deadline < plane.data.now() + within)

        async def moved() -> bool:
            if len(plane.data.fronts) != 1:  # one that was let go before may still be there
                return False
            for one in filter(is_due, plane.data.fronts):
                one.deadline = 0.0
                return True
            return False

        await plane.site.until(moved, "a connection with a deadline")

    async with raw(plane, b"GET /s/web/ HT") as caller:
        await until_overdue(LIMITS.head_seconds)
        assert (await caller.answer())[0] == 408
    async with raw(plane, request(plane, "POST /v1/completions", "Content-Length: 9", body=b"{")) as caller:
        await until_overdue(LIMITS.body_seconds)
        assert (await caller.answer())[0] == 408
    async with raw(plane) as caller:
        await until_overdue(LIMITS.idle_seconds)
        assert await caller.closed()
    assert LIMITS.head_seconds < LIMITS.body_seconds


async def test_who_takes_nothing_of_its_answer_is_let_go(plane: Any) -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (1 << 40))
        with suppress(ConnectionError):
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()

    await plane.serve(flood, "app", name="web")
    async with raw(plane, request(plane, "GET /s/web/")) as caller:

        async def moved() -> bool:
            stuck = [one for one in plane.data.fronts if one.choked]
            for one in stuck:
                assert one.deadline <= plane.data.now() + LIMITS.stuck_seconds
                one.deadline = 0.0
            return bool(stuck)

        async def gone() -> bool:
            return not plane.data.fronts

        await plane.site.until(moved, "an answer that nobody takes")
        await plane.site.until(gone, "the end of the connection")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await caller.reader.readexactly(1 << 26)


async def test_a_caller_who_asks_first_is_told_to_go_on(plane: Any) -> None:
    service = Echo()
    await plane.serve(service, "app", name="web")
    ask = request(plane, "PUT /s/web/x", "Content-Length: 3", "Expect: 100-continue")
    async with raw(plane, ask) as caller:
        assert (await caller.answer())[0] == 100
        caller.writer.write(b"abc")
        assert json.loads((await caller.answer())[2])["body"] == "abc"
    assert "expect" not in service.seen[0].headers


async def test_an_answer_of_two_answers_gives_only_the_first(plane: Any) -> None:
    async def double(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader) is not None:
            writer.write(answer({"n": 1}) + answer({"n": 2}))

    await plane.serve(double, "app", name="web")
    async with raw(plane, request(plane, "GET /s/web/") * 2) as caller:
        for _ in range(2):
            assert json.loads((await caller.answer())[2]) == {"n": 1}


async def test_an_old_client_gets_an_answer_that_it_understands(plane: Any) -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"GET /x HTTP/1.0\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")

    await plane.serve(old, "app", name="web")
    text = f"GET /s/web/x HTTP/1.0\r\nAuthorization: Bearer {plane.site.token}\r\n\r\n".encode()
    async with raw(plane, text) as caller:
        assert (await caller.reader.read()).endswith(b"\r\n\r\nuntil the end")


async def test_a_switch_that_nobody_asked_for_is_no_answer(plane: Any) -> None:
    async def switch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")
        await reader.read()

    await plane.serve(switch, "app", name="web")
    async with raw(plane, request(plane, "GET /s/web/")) as caller:
        assert (await caller.answer())[0] == 502


async def test_a_body_that_comes_after_its_answer_is_no_part_of_the_next_request(plane: Any) -> None:
    """What is not the data plane's is answered by another parser, which must hear of the whole body, too."""
    body = b"GET /smuggled HTTP/1.1\r\nHost: gate\r\n\r\n"
    async with raw(plane, request(plane, "POST /api/v1/x", f"Content-Length: {len(body)}", token=False)) as told:
        assert (await told.answer())[0] in {401, 404}
        told.writer.write(body)
        for path in ("/api/v1/y", "/api/v1/z"):
            told.writer.write(request(plane, f"GET {path}"))
            assert (await told.answer())[0] == 404


REFUSED = ("POST /v1/nothing", "PUT /v1/completions", "OPTIONS /v1/completions", "POST /s/none/", "POST /s/web")


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("line", REFUSED)
async def test_the_body_of_a_request_that_is_refused_is_no_request(plane: Any, line: str, known: bool) -> None:
    """Whether it came before the answer, after it, or both. A proxy in front may send others' requests behind it."""
    async with raw(plane, request(plane, "GET /v1/models") if known else b"") as first:
        if known:
            await first.answer()
    for came in (0, 10):
        text = request(plane, line, f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED[:came])
        async with raw(plane, text) as caller:
            status, told, _ = await caller.answer()
            assert (status in {308, 404, 405}, told["connection"]) == (True, "close")
            caller.writer.write(SMUGGLED[came:] + request(plane, "GET /health/live"))
            assert await caller.closed()


@pytest.mark.parametrize("line", ["POST /v1/completions", "POST /s/web/"])
async def test_chunks_that_cannot_be_read_are_refused_while_it_is_asked_who_calls(plane: Any, line: str) -> None:
    text = request(plane, line, "Transfer-Encoding: chunked", body=b"no chunk\r\n" + SMUGGLED)
    async with raw(plane, text) as caller:
        assert (await caller.answer())[0] == 400
        assert await caller.closed()


@pytest.mark.parametrize("line", REFUSED)
async def test_what_stands_behind_the_body_of_a_refused_request_is_the_next_one(plane: Any, line: str) -> None:
    for framed in (f"Content-Length: {len(SMUGGLED)}", "Transfer-Encoding: chunked"):
        body = chunk(SMUGGLED) + b"0\r\n\r\n" if "chunked" in framed else SMUGGLED
        async with raw(plane, request(plane, line, framed, body=body) + request(plane, "GET /health/live")) as caller:
            assert (await caller.answer())[0] in {308, 404, 405}
            assert json.loads((await caller.answer())[2]) == {"status": "ok"}
