"""WebSockets through `/s` and the relay of a job: under load, cut anywhere, stalled, closed and broken off."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, unix_serve
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.http11 import Request as WsRequest
from websockets.http11 import Response as WsResponse
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from gateway.agent import certificate
from gateway.agent.control import ControlChannel
from gateway.agent.relay import Relay
from gateway.model.announcement import Endpoint
from gateway.model.principal import LOCAL_ADMIN
from tests.client.test_sessions import PATIENT
from tests.services import Handler, node_certificate
from tests.waiting import until_so

Talk = Callable[[ServerConnection], Awaitable[None]]
_STATUS: dict[str, Any] = {"ok": True, "phase": "ready", "in_flight": 0, "idle_seconds": 0.0, "requests": 0}
#: Around where the length of a frame takes more bytes.
SIZES = (0, 1, 125, 126, 127, 65_535, 65_536, 65_537)


class Job:
    """A session whose service listens on a Unix socket behind the relay of its job."""

    def __init__(self, plane: Any, folder: Path, stack: AsyncExitStack) -> None:
        self._plane, self._folder, self._stack = plane, folder, stack
        self.socket = str(folder / "service.sock")
        self.relay: Relay
        self.ended: list[tuple[int | None, str]] = []
        self.url = f"{plane.url.replace('http', 'ws')}/s/lab/"

    async def serves(self, talk: Talk) -> None:
        """A WebSocket server in which this talks on each connection."""

        async def one(socket: ServerConnection) -> None:
            try:
                await talk(socket)
            except ConnectionClosed:
                pass
            finally:
                await socket.wait_closed()
                self.ended.append((socket.close_code, socket.close_reason or ""))

        server = unix_serve(one, self.socket, max_size=None, compression=None, **PATIENT)
        await self._stack.enter_async_context(server)
        await self._ready()

    async def answers(self, handler: Handler) -> None:
        """A server that says what it likes."""
        server = await asyncio.start_unix_server(handler, self.socket)
        self._stack.push_async_callback(server.wait_closed)
        self._stack.callback(server.close)
        await self._ready()

    async def _ready(self) -> None:
        key, shown, fingerprint = node_certificate(self._folder)
        context = certificate.server_context(str(shown), str(key), self._plane.site.pki.ca_pem)
        control = {certificate.CONTROL: lambda edge: ControlChannel(edge, lambda _: _STATUS)}
        self.relay = Relay(context, control, lambda _: None)
        self.relay.target = self.socket
        self._stack.callback(self.relay.close)
        endpoint = Endpoint(host="127.0.0.1", port=await self.relay.listen(), fingerprint=fingerprint)
        await self._plane.site.ready(endpoint, "app", name="lab")

    def open(self, **how: Any) -> Any:
        given = {"additional_headers": self._plane.site.auth, "proxy": None, "max_size": None}
        return connect(self.url, compression=None, **PATIENT, **{**given, **how})

    async def forgotten(self) -> None:
        """Nothing of it is left, neither at the gateway nor in the job."""

        def left() -> tuple[int, int, int]:
            routes = self._plane.data.routes.visible(LOCAL_ADMIN)
            open_ones = sum(member.health.websockets for route in routes for member in route.members)
            busy = sum(splice.in_flight for splice in self.relay.splices)
            return open_ones, busy, sum(one.going_on is not None for one in self._plane.data.fronts)

        await until_so(left, lambda found: found == (0, 0, 0), what="nothing is left of it")


@pytest.fixture
async def job(plane: Any, tmp_path: Path) -> AsyncIterator[Job]:
    async with AsyncExitStack() as stack:
        yield Job(plane, tmp_path, stack)


async def echo(socket: ServerConnection) -> None:
    async for message in socket:
        await socket.send(message)


def pieces(data: bytes, chance: random.Random) -> list[bytes]:
    """Cut anywhere, mostly into crumbs."""
    found = []
    while data:
        size = chance.choice((1, 2, 3, 7, 90, 1400, 20_000))
        found.append(data[:size])
        data = data[size:]
    return found


async def chopped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echoes, and writes what it says in pieces that have nothing to do with its frames."""
    chance = random.Random(2)  # noqa: S311 - the same at each run
    protocol = ServerProtocol(max_size=None)
    protocol.receive_data(await reader.readuntil(b"\r\n\r\n"))
    (request,) = protocol.events_received()
    assert isinstance(request, WsRequest)
    protocol.send_response(protocol.accept(request))
    while True:
        for piece in pieces(b"".join(protocol.data_to_send()), chance):
            writer.write(piece)
            await writer.drain()
        if protocol.close_expected() or not (data := await reader.read(65536)):
            writer.close()
            return
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                protocol.send_binary(event.data)


async def test_frames_come_whole_and_in_order_however_they_are_cut(plane: Any, job: Job) -> None:
    await job.answers(chopped)
    chance = random.Random(1)  # noqa: S311 - the same at each run
    messages = [chance.randbytes(chance.choice((*SIZES[:5], 20, 40, 300))) for _ in range(3000)]
    messages += [chance.randbytes(size) for size in (*SIZES, 3 << 20)]
    protocol = ClientProtocol(parse_uri(job.url), max_size=None)
    request = protocol.connect()
    request.headers.update(plane.site.auth)
    protocol.send_request(request)
    reader, writer = await asyncio.open_connection(*plane.url.removeprefix("http://").split(":"))
    writer.write(b"".join(protocol.data_to_send()))
    protocol.receive_data(await reader.readuntil(b"\r\n\r\n"))
    (response,) = protocol.events_received()
    assert isinstance(response, WsResponse)
    assert response.status_code == 101

    async def say() -> None:
        for message in messages:
            protocol.send_binary(message)
        for piece in pieces(b"".join(protocol.data_to_send()), chance):
            writer.write(piece)
            await writer.drain()

    got: list[bytes | bytearray | memoryview] = []

    async def hear() -> None:
        while len(got) < len(messages):
            protocol.receive_data(await reader.read(65536))
            got.extend(event.data for event in protocol.events_received() if isinstance(event, Frame))

    async with asyncio.timeout(120):
        await asyncio.gather(say(), hear())
    assert got == messages
    writer.close()
    await job.forgotten()


async def test_many_talk_at_once(job: Job) -> None:
    await job.serves(echo)

    async def one(number: int) -> list[str | bytes]:
        async with job.open() as socket:

            async def say() -> None:
                for turn in range(100):
                    await socket.send(f"{number} says {turn}")

            telling = asyncio.create_task(say())
            heard = [await socket.recv() for _ in range(100)]
            await telling
            return heard

    said = await asyncio.gather(*(one(number) for number in range(40)))
    assert said == [[f"{number} says {turn}" for turn in range(100)] for number in range(40)]
    await job.forgotten()


async def test_pings_are_answered_by_the_other_end(job: Job) -> None:
    asked = asyncio.Event()

    async def talk(socket: ServerConnection) -> None:
        await (await socket.ping(b"are you there?"))
        asked.set()
        await echo(socket)

    await job.serves(talk)
    async with asyncio.timeout(120), job.open() as socket:
        await (await socket.ping(b"and you?"))
        await asked.wait()


async def test_who_reads_slowly_slows_the_other_end_and_may_be_silent_afterwards(plane: Any, job: Job) -> None:
    sent, most = 0, 200  # of 256 KiB

    async def talk(socket: ServerConnection) -> None:
        nonlocal sent
        for _ in range(most):
            await socket.send(bytes(1 << 18))
            sent += 1
        await echo(socket)

    await job.serves(talk)
    async with job.open(max_queue=1) as socket:
        await until_so(lambda: any(one.choked for one in plane.data.fronts), what="nothing more is taken")
        seen = [-1]

        def still() -> bool:
            seen.append(sent)
            return len(seen) > 20 and len(set(seen[-20:])) == 1

        await until_so(still, what="the service writes no more")
        assert sent < most / 2
        for _ in range(most):
            assert len(await socket.recv()) == 1 << 18
        (front,) = (one for one in plane.data.fronts if one.going_on is not None)
        assert not front.choked
        assert front.deadline == float("inf"), "it is let go for saying nothing"
        await socket.send("there again")
        assert await socket.recv() == "there again"
    await job.forgotten()


async def test_a_service_that_reads_slowly_slows_the_caller(job: Job) -> None:
    go, got, sent, most = asyncio.Event(), 0, 0, 512  # of 256 KiB, several times what the kernel's buffers hold

    async def talk(socket: ServerConnection) -> None:
        nonlocal got
        await go.wait()
        async for message in socket:
            got += len(message)
            if got == most << 18:
                await socket.send("all")

    async def say(socket: ClientConnection) -> None:
        nonlocal sent
        for _ in range(most):
            await socket.send(bytes(1 << 18))
            sent += 1

    await job.serves(talk)
    async with job.open() as socket:
        telling = asyncio.create_task(say(socket))
        seen = [-1]

        def still() -> bool:
            seen.append(sent)
            return sent > 0 and len(seen) > 20 and len(set(seen[-20:])) == 1

        try:
            await until_so(still, what="the caller can write no more")
            assert sent < most / 2
        finally:
            go.set()
        assert await socket.recv() == "all"
        await telling
    await job.forgotten()


@asynccontextmanager
async def raw(plane: Any) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """An open WebSocket, byte for byte."""
    reader, writer = await asyncio.open_connection(*plane.url.removeprefix("http://").split(":"))
    words = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    token = f"Authorization: Bearer {plane.site.token}\r\n"
    writer.write(f"GET /s/lab/ HTTP/1.1\r\nHost: x\r\n{token}{words}{key}\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_close_of_the_service_is_the_last_that_a_caller_hears(plane: Any, job: Job) -> None:
    async def talk(socket: ServerConnection) -> None:
        await socket.send("last words")
        await socket.close(4001, "done")

    await job.serves(talk)
    async with raw(plane) as (reader, writer):
        words = b"\x81\x0alast words" + b"\x88\x06" + (4001).to_bytes(2) + b"done"
        assert await reader.readexactly(len(words)) == words
        writer.write(b"\x88\x82\0\0\0\0" + (4001).to_bytes(2))
        assert await reader.read() == b"", "a second close frame is an error to a browser"
    await until_so(lambda: job.ended == [(4001, "")], what="the service has heard it")
    await job.forgotten()


async def test_a_close_of_the_caller_reaches_the_service(job: Job) -> None:
    await job.serves(echo)
    async with job.open() as socket:
        await socket.send("one more")
        await socket.close(4002, "enough")
        assert socket.close_code == 4002
    await until_so(lambda: job.ended, what="the service has heard it")
    assert job.ended == [(4002, "enough")]
    await job.forgotten()


async def test_a_caller_who_vanishes_is_told_to_the_service(job: Job) -> None:
    await job.serves(echo)
    async with job.open() as socket:
        await socket.send("here")
        assert await socket.recv() == "here"
        socket.transport.abort()
    await until_so(lambda: job.ended, what="the service has heard it")
    assert job.ended == [(1006, "")]
    await job.forgotten()


async def test_a_service_that_vanishes_is_told_to_the_caller(job: Job) -> None:
    async def talk(socket: ServerConnection) -> None:
        await socket.recv()
        socket.transport.abort()

    await job.serves(talk)
    async with job.open() as socket:
        await socket.send("vanish")
        with pytest.raises(ConnectionClosed) as ended:
            await socket.recv()
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1001, "going away: come again"
    await job.forgotten()


async def test_a_service_that_vanishes_within_a_frame_leaves_no_whole_message(plane: Any, job: Job) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"sec-websocket-key" in head.lower()
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        writer.write(b"\x82\x7d" + b"x" * 100)
        await writer.drain()
        writer.close()

    await job.answers(half)
    async with raw(plane) as (reader, _):
        assert await reader.read() == b"\x82\x7d" + b"x" * 100
    await job.forgotten()
