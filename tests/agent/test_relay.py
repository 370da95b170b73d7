"""The relay alone, against services with all the manners that sockets allow."""

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.agent import certificate, limits
from gateway.agent.control import ControlChannel
from gateway.agent.refusal import refusal
from gateway.agent.relay import MAX_SHAKING, Relay
from gateway.client.connection import DRAINING, REFUSAL
from tests.waiting import until_so

Service = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class TlsClient:
    """A TLS client that can say that it has sent everything and still read: Python's sockets cannot."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.raw = socket.create_connection(("127.0.0.1", port), 60)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)
        self._step(self.tls.do_handshake)

    def _step(self, action: Callable[[], Any]) -> Any:
        while True:
            try:
                result = action()
            except ssl.SSLWantReadError:
                self._flush()
                data = self.raw.recv(65536)
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        if self.outgoing.pending:
            self.raw.sendall(self.outgoing.read())

    def send(self, data: bytes) -> None:
        self.tls.write(data)
        self._flush()

    def read(self) -> bytes:
        """Some bytes; none once the other side has said good-bye."""
        with contextlib.suppress(ssl.SSLZeroReturnError):
            data: bytes = self._step(lambda: self.tls.read(65536))
            return data
        return b""

    def read_all(self) -> bytes:
        return b"".join(iter(self.read, b""))

    def end(self) -> None:
        """Nothing more will be sent."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self._flush()

    def close(self) -> None:
        self.raw.close()


class Site:
    """A relay with a service behind it."""

    def __init__(self, folder: Path, authority: Any) -> None:
        self.folder = folder
        self.authority = authority
        self.said: list[str] = []
        self.relay: Relay
        self.clients: list[TlsClient] = []
        self.serving = 0

    async def open(self, **options: Any) -> None:
        cert, key = await certificate.make(_tool, str(self.folder), "test")
        context = certificate.server_context(cert, key, self.authority.pem)
        self.relay = Relay(context, {certificate.CONTROL: self._control}, self.said.append, **options)
        await self.relay.listen()

    async def serve(self, service: Service) -> None:
        path = str(self.folder / "s.sock")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.serving += 1
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    await service(reader, writer)
            finally:
                writer.close()
                self.serving -= 1

        self.server = await asyncio.start_unix_server(serve, path)
        self.relay.target = path

    async def client(self) -> TlsClient:
        made = await asyncio.to_thread(TlsClient, self.relay.port, self.authority.context())
        self.clients.append(made)
        return made

    async def close(self) -> None:
        for client in self.clients:
            client.close()
        self.relay.close()
        await until_so(lambda: not self.relay.splices)
        await until_so(lambda: not self.serving)
        if hasattr(self, "server"):
            self.server.close()
            await self.server.wait_closed()

    def _control(self, edge: Any) -> ControlChannel:
        return ControlChannel(edge, lambda _request: {"ok": True})


async def _tool(argv: Any, within: float) -> tuple[int, str]:
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=within, check=False)
    return done.returncode, done.stderr


@pytest.fixture
async def site(tmp_path: Path, authority: Any) -> AsyncIterator[Site]:
    made = Site(tmp_path, authority)
    await made.open()
    yield made
    await made.close()


async def until_still(count: Callable[[], int], quiet: float = 0.3) -> None:
    """Until something has begun and moves no more."""
    seen = 0
    while not seen or seen != count():
        seen = count()
        await asyncio.sleep(quiet)


async def count_then_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    data = await reader.read()
    writer.write(b"%d bytes" % len(data))
    writer.close()


async def test_a_client_that_has_sent_everything_still_gets_its_answer(site: Site) -> None:
    await site.serve(count_then_answer)
    client = await site.client()

    def talk() -> bytes:
        for _ in range(50):
            client.send(b"x" * 40_000)
        client.end()
        return client.read_all()

    assert await asyncio.to_thread(talk) == b"2000000 bytes"


async def test_a_service_that_has_sent_everything_still_hears_the_client(site: Site) -> None:
    heard = asyncio.get_running_loop().create_future()

    async def speak_then_listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"that is all")
        writer.write_eof()
        heard.set_result(await reader.read())
        writer.close()

    await site.serve(speak_then_listen)
    client = await site.client()
    await asyncio.to_thread(client.send, b"first and ")
    assert await asyncio.to_thread(client.read_all) == b"that is all"
    await asyncio.to_thread(client.send, b"late words")
    await asyncio.to_thread(client.end)
    assert await asyncio.wait_for(heard, 60) == b"first and late words"


async def test_a_client_that_does_not_read_stops_the_service_not_the_memory(site: Site) -> None:
    written = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readexactly(1)
        while written < 200 << 20:
            writer.write(b"x" * 65536)
            written += 65536
            await writer.drain()

    await site.serve(flood)
    client = await site.client()
    await asyncio.to_thread(client.send, b"!")
    await until_still(lambda: written)
    assert written < 32 << 20
    assert len(await asyncio.to_thread(client.read)) > 0  # and it goes on once the client reads
    before = written
    await asyncio.to_thread(lambda: [client.read() for _ in range(2000)])
    assert written > before


async def test_a_service_that_does_not_read_stops_the_client(site: Site) -> None:
    go_on = asyncio.Event()

    async def sleep_then_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        await count_then_answer(reader, writer)

    await site.serve(sleep_then_read)
    client = await site.client()
    client.raw.settimeout(1)
    sent = 0

    def push() -> None:
        nonlocal sent
        while sent < 200 << 20:
            client.send(b"x" * 65536)
            sent += 65536

    with pytest.raises(TimeoutError):
        await asyncio.to_thread(push)
    assert sent < 32 << 20
    go_on.set()


async def test_connections_wait_their_turn_at_a_service_with_a_short_queue(site: Site) -> None:
    path = str(site.folder / "slow.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        site.relay.target = path
        clients = [await site.client() for _ in range(12)]
        for client in clients:
            await asyncio.to_thread(client.send, b"hello")

        def serve() -> None:
            for _ in clients:
                sock, _address = listener.accept()
                with sock:
                    sock.sendall(sock.recv(5) + b" yourself")

        await asyncio.to_thread(serve)
        for client in clients:
            assert await asyncio.to_thread(client.read_all) == b"hello yourself"
            client.close()
        await until_so(lambda: not site.relay.splices)


async def test_a_service_that_is_gone_got_nothing_and_that_is_told(site: Site) -> None:
    site.relay.target = str(site.folder / "nothing.sock")
    client = await site.client()
    await asyncio.to_thread(client.send, b"GET / HTTP/1.1\r\n\r\n")
    assert await asyncio.to_thread(client.read_all) == refusal("unreachable")
    assert any("does not accept" in line for line in site.said)


async def test_a_vanished_client_ends_the_connection_to_the_service(site: Site) -> None:
    ended = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            ended.set()

    await site.serve(listen)
    client = await site.client()
    await asyncio.to_thread(client.send, b"x")
    client.close()  # no good-bye
    await asyncio.wait_for(ended.wait(), 60)


async def test_more_connections_than_the_limit_are_closed(tmp_path: Path, authority: Any) -> None:
    site = Site(tmp_path, authority)
    await site.open(limit=2)
    await site.serve(count_then_answer)
    kept = [await site.client() for _ in range(2)]
    await until_so(lambda: len(site.relay.splices) == 2)
    refused = await site.client()
    assert await asyncio.to_thread(refused.read_all) == refusal("busy")
    await asyncio.to_thread(kept[0].end)
    assert await asyncio.to_thread(kept[0].read_all) == b"0 bytes"
    await site.close()


async def test_strangers_that_never_shake_hands_keep_nobody_out(site: Site) -> None:
    limits.raise_file_limit()
    await site.serve(count_then_answer)
    strangers = [socket.create_connection(("127.0.0.1", site.relay.port), 60) for _ in range(MAX_SHAKING + 20)]
    try:
        client = await site.client()
        await asyncio.to_thread(client.end)
        assert await asyncio.to_thread(client.read_all) == b"0 bytes"
    finally:
        for stranger in strangers:
            stranger.close()


async def test_what_is_in_flight_is_known(site: Site) -> None:
    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n")
            await reader.readexactly(1)
            writer.write(b"0\r\n\r\n")

    await site.serve(stream)
    client = await site.client()
    assert site.relay.in_flight == 0
    await asyncio.to_thread(client.send, b"GET / HTTP/1.1\r\n\r\n")
    assert b"200" in await asyncio.to_thread(client.read)
    assert (site.relay.in_flight, site.relay.requests, site.relay.idle_seconds) == (1, 1, 0.0)
    assert not await site.relay.drained(0.2)
    await asyncio.to_thread(client.send, b"!")
    while not (await asyncio.to_thread(client.read)).endswith(b"0\r\n\r\n"):
        pass
    assert site.relay.in_flight == 1  # the byte "!" began something new, which is no HTTP
    client.close()
    assert await site.relay.drained(60)
    assert site.relay.requests == 1


async def test_who_drains_says_on_each_connection_that_it_took_nothing_more(site: Site) -> None:
    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            await done.wait()
            writer.write(b"0\r\n\r\n")

    done = asyncio.Event()
    await site.serve(stream)
    busy, idle = await site.client(), await site.client()
    await asyncio.to_thread(busy.send, b"GET / HTTP/1.1\r\n\r\n")
    assert (await asyncio.to_thread(busy.read)).startswith(b"HTTP/1.1 200 OK")
    await until_so(lambda: len(site.relay.splices) == 2)
    site.relay.drain()
    assert await asyncio.to_thread(idle.read_all) == refusal("draining")
    late = await site.client()
    assert await asyncio.to_thread(late.read_all) == refusal("draining")
    done.set()
    assert await asyncio.to_thread(busy.read_all) == b"0\r\n\r\n" + refusal("draining")
    assert refusal("draining").startswith(DRAINING)
    assert refusal("busy").startswith(REFUSAL)


async def test_other_protocols_are_relayed_and_count_while_they_talk(site: Site) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    await site.serve(echo)
    client = await site.client()
    await asyncio.to_thread(client.send, b"\x00SSH-like\r\n\r\nbinary \xff")
    assert await asyncio.to_thread(client.read) == b"\x00SSH-like\r\n\r\nbinary \xff"
    assert (site.relay.in_flight, site.relay.requests) == (1, 1)
    await asyncio.to_thread(client.end)
    assert await asyncio.to_thread(client.read) == b""


ASK = b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.mark.parametrize("by_port", [False, True])
async def test_a_service_that_closes_between_requests_is_connected_to_again(site: Site, by_port: bool) -> None:
    asked = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readexactly(len(ASK))
        asked += 1
        writer.write(OK)
        await writer.drain()
        writer.close()

    await site.serve(once)
    server = None
    if by_port:
        server = await asyncio.start_server(once, "127.0.0.1", 0)
        site.relay.target = server.sockets[0].getsockname()[1]
    client = await site.client()
    for number in range(1, 51):
        await asyncio.to_thread(client.send, ASK)
        assert await asyncio.to_thread(client.read) == OK
        assert asked == number
    if server is not None:
        server.close()


@pytest.mark.parametrize("by_port", [False, True])
async def test_a_request_that_the_service_did_not_read_is_sent_again_and_one_that_it_read_is_not(
    site: Site, by_port: bool
) -> None:
    turn = asyncio.Event()
    connections = 0

    async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers; waits until another request is there; closes, on its first connection without having read it."""
        nonlocal connections
        connections += 1
        first = connections == 1
        await reader.readexactly(len(ASK))
        if first:
            cast("asyncio.Transport", writer.transport).pause_reading()
        writer.write(OK)
        await writer.drain()
        if first:
            await turn.wait()
        else:
            await reader.readexactly(len(ASK))
        writer.transport.abort() if first else writer.close()

    await site.serve(twice)
    server = None
    if by_port:
        server = await asyncio.start_server(twice, "127.0.0.1", 0)
        site.relay.target = server.sockets[0].getsockname()[1]
    client = await site.client()
    await asyncio.to_thread(client.send, ASK)
    assert await asyncio.to_thread(client.read) == OK
    await asyncio.to_thread(client.send, ASK)
    await until_so(lambda: site.relay.requests == 2)
    turn.set()
    assert await asyncio.to_thread(client.read) == OK
    assert connections == 2
    await asyncio.to_thread(client.send, ASK)
    assert await asyncio.to_thread(client.read) == b""
    assert connections == 2
    if server is not None:
        server.close()
