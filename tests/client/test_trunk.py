"""Connections that share one: what is under way at once, what breaks together, and agents that know nothing of it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.agent.certificate import MUX
from gateway.agent.mux import WINDOW
from gateway.client.upstream import TRUNK_SECONDS, Upstream
from gateway.network.agents import AgentPath
from tests.client.fleet import Fleet, a_fleet
from tests.client.test_replicas import Replica
from tests.services import STREAM_HEAD, a_node, answer, chunk, read_request
from tests.waiting import until_so

#: By the windows of streams, the gateway's buffers and the kernel's, together.
MOST_KEPT_ON_THE_WAY = 64 << 20


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with a_fleet(tmp_path) as made:
        yield made


@pytest.fixture
def opened(monkeypatch: Any) -> list[tuple[str | None, asyncio.Transport]]:
    """The connections to agents: what each is for, and its transport."""
    found: list[tuple[str | None, asyncio.Transport]] = []
    connect = AgentPath.connect

    async def watched(self: AgentPath, endpoint: Any, factory: Any, *, alpn: str | None = None) -> Any:
        protocol = await connect(self, endpoint, factory, alpn=alpn)
        found.append((alpn, protocol._transport))
        return protocol

    monkeypatch.setattr(AgentPath, "connect", watched)
    return found


async def member(fleet: Fleet, session: Any) -> Upstream:
    return (await fleet.known(session, 1)).members[0]


async def test_a_hundred_streams_at_once_go_over_one_connection(fleet: Fleet, opened: Any) -> None:
    one = Replica("one")
    await fleet.serve(one)
    streams = [asyncio.create_task(fleet.ask(stream=True)) for _ in range(100)]
    try:
        await until_so(lambda: len(one.asked) == 100, what="every stream has begun")
    finally:
        one.go.set()
    assert {answer.text for answer in await asyncio.gather(*streams)} == {"data: one\n\ndata: [DONE]\n\n"}
    assert [alpn for alpn, _ in opened].count(MUX) == 1
    assert len(opened) == 2, "and one that watches over the node"


async def test_when_it_breaks_all_that_is_under_way_breaks_and_the_next_request_is_answered(
    fleet: Fleet, opened: Any
) -> None:
    one = Replica("one")
    await fleet.serve(one)
    streams = [asyncio.create_task(fleet.ask(stream=True)) for _ in range(3)]
    await until_so(lambda: len(one.asked) == 3, what="every stream has begun")
    next(transport for alpn, transport in opened if alpn == MUX).abort()
    for stream in streams:
        answer = await stream
        assert "upstream_closed" in answer.text, "the caller is told that this is not all"
        assert "[DONE]" not in answer.text
    one.go.set()
    assert (await fleet.ask(stream=True)).text == "data: one\n\ndata: [DONE]\n\n"
    assert [alpn for alpn, _ in opened].count(MUX) == 2


async def test_an_answer_under_way_goes_on_when_its_endpoint_is_withdrawn(fleet: Fleet, opened: Any) -> None:
    one, two = Replica("one"), Replica("two")
    session = await fleet.serve(one)
    stream = asyncio.create_task(fleet.ask(stream=True))
    await until_so(lambda: len(one.asked) == 1, what="the stream has begun")
    await fleet.add(session, two, 2)
    await fleet.known(session, 2)
    await fleet.change(session, 1, endpoint=None)
    route = await fleet.known(session, 1)
    assert route.members[0].attempt == 2
    shared = next(transport for alpn, transport in opened if alpn == MUX)
    assert not shared.is_closing()
    one.go.set()
    assert (await stream).text == "data: one\n\ndata: [DONE]\n\n"
    await until_so(shared.is_closing, what="nobody needs it any more")


async def test_an_agent_of_before_is_given_a_connection_for_each(fleet: Fleet, opened: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("tests.client.fleet.a_node", _of_before)
    one = Replica("one")
    await fleet.serve(one)
    one.go.set()
    for _ in range(3):
        assert (await fleet.ask(stream=True)).text == "data: one\n\ndata: [DONE]\n\n"
    assert [alpn for alpn, _ in opened].count(MUX) == 1, "it is asked once"
    assert [alpn for alpn, _ in opened].count(None) >= 1


def _of_before(*args: Any) -> Any:
    return a_node(*args, shares=False)


class Endless(Replica):
    """Answers who asks for a stream without end."""

    written = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (asked := await read_request(reader)) is not None:
            if b'"stream":true' not in asked.body:
                writer.write(answer({"name": self.name}))
                continue
            writer.write(STREAM_HEAD)
            while True:
                writer.write(chunk(b"data: " + b"x" * 8000 + b"\n\n"))
                await writer.drain()
                self.written += 8000


async def test_a_caller_who_takes_nothing_holds_up_nobody_else(fleet: Fleet) -> None:
    one = Endless("one")
    await fleet.serve(one)
    body = b'{"model":"tiny","prompt":"hi","stream":true}'
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {fleet.site.token}\r\n"
    host, _, port = fleet.url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1)
    try:
        writer.write(head.encode() + b"content-length: %d\r\n\r\n%b" % (len(body), body))
        await until_so(lambda: one.written > WINDOW, what="the stream flows")
        before = -1
        while before != one.written:  # until it stands still
            before = one.written
            assert (await fleet.ask()).json() == {"name": "one"}
        assert one.written < MOST_KEPT_ON_THE_WAY
    finally:
        writer.transport.abort()


async def test_after_an_hour_nothing_new_goes_over_it_and_what_is_under_way_ends_on_it(
    fleet: Fleet, opened: Any
) -> None:
    one = Replica("one")
    session = await fleet.serve(one)
    stream = asyncio.create_task(fleet.ask(stream=True))
    await until_so(lambda: len(one.asked) == 1, what="the stream has begun")
    old = next(transport for alpn, transport in opened if alpn == MUX)
    (await member(fleet, session)).tend(asyncio.get_running_loop().time() + TRUNK_SECONDS + 1)
    await until_so(lambda: [alpn for alpn, _ in opened].count(MUX) == 2, what="another one is open")
    assert not old.is_closing()
    one.go.set()
    assert (await stream).text == "data: one\n\ndata: [DONE]\n\n"
    await until_so(old.is_closing, what="nothing is under way on the old one any more")
    assert not (await member(fleet, session)).health.failing
    assert (await fleet.ask(stream=True)).text == "data: one\n\ndata: [DONE]\n\n"
    assert [alpn for alpn, _ in opened].count(MUX) == 2


async def test_it_is_open_before_anybody_asks(fleet: Fleet, opened: Any) -> None:
    await fleet.serve(Replica("one"))
    await until_so(lambda: {alpn for alpn, _ in opened} == {MUX, None}, what="it is open, and one that watches")
