"""The way to the nodes: straight, through a login node, and which of them is taken."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.network.way import Way
from gateway.slurm.tunnel import SshTunnel
from tests.login_node import ME, LoginNode, a_login_node

#: An address that no machine has (RFC 5737): the login node takes it for its own.
NOWHERE = "192.0.2.1"
WITHIN = 240


@pytest.fixture
async def login_node(tmp_path: Path) -> AsyncIterator[LoginNode]:
    async with a_login_node(tmp_path / "login") as node:
        yield node


@asynccontextmanager
async def a_way(node: LoginNode, mode: Any, **options: Any) -> AsyncIterator[Way]:
    way = Way(mode, node.tunnel(), **options)
    try:
        yield way
    finally:
        await way.close()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speaks first, then says how much it was sent, twice over."""
    writer.write(b"hello\n")
    size = 0
    while data := await reader.read(1 << 16):
        size += len(data)
    writer.write(b"%d\n" % size + b"x" * size)
    await writer.drain()
    writer.close()


@asynccontextmanager
async def a_server() -> AsyncIterator[int]:
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def talk(sock: socket.socket, size: int) -> bytes:
    """The answer to so many bytes."""
    reader, writer = await asyncio.open_connection(sock=sock)
    assert await reader.readline() == b"hello\n"
    writer.write(b"y" * size)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("mode", ["direct", "ssh", "auto"])
async def test_bytes_go_both_ways_and_each_direction_ends_by_itself(login_node: LoginNode, mode: str) -> None:
    size = 3 << 20
    async with asyncio.timeout(WITHIN), a_server() as port, a_way(login_node, mode) as way:
        answers = await asyncio.gather(*[talk(await way.open("127.0.0.1", port), size) for _ in range(6)])
    assert all(answer == b"%d\n" % size + b"x" * size for answer in answers)
    assert bool(login_node.asked) is (mode == "ssh")


@pytest.mark.parametrize("mode", ["direct", "ssh", "auto"])
async def test_a_closed_port_is_one_on_every_way(login_node: LoginNode, mode: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but it does not listen
        port = taken.getsockname()[1]
        async with asyncio.timeout(WITHIN), a_way(login_node, mode) as way:
            with pytest.raises(OSError, match=r"[Rr]efused|Connect call failed"):
                await way.open("127.0.0.1", port)
            assert way.words == ("directly" if mode != "ssh" else f"through the login node {login_node.target}")


async def test_a_few_connections_carry_all(login_node: LoginNode) -> None:
    async with asyncio.timeout(WITHIN), a_server() as port, a_way(login_node, "ssh") as way:
        opened = [await way.open(NOWHERE, port) for _ in range(20)]
        assert len(login_node.connections) == 4
        assert login_node.asked == [(NOWHERE, port)] * 20
        await asyncio.gather(*(talk(sock, 10) for sock in opened))


async def test_auto_goes_round_where_the_straight_way_leads_nowhere_and_comes_back(login_node: LoginNode) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(WITHIN))
        port = await stack.enter_async_context(a_server())
        way = await stack.enter_async_context(a_way(login_node, "auto", straight_seconds=2.0, look_again=0))
        await talk(await way.open(NOWHERE, port), 10)
        assert way.words.startswith("through the login node")
        assert login_node.asked == [(NOWHERE, port)]
        await talk(await way.open("127.0.0.1", port), 10)  # goes round, and sees beside that it need not
        while way.words != "directly":
            await talk(await way.open("127.0.0.1", port), 10)
        before = len(login_node.asked)
        await talk(await way.open("127.0.0.1", port), 10)
        assert len(login_node.asked) == before


async def test_a_login_node_that_cuts_us_off_is_connected_to_again(login_node: LoginNode) -> None:
    async with asyncio.timeout(WITHIN), a_server() as port, a_way(login_node, "ssh") as way:
        reader, writer = await asyncio.open_connection(sock=await way.open(NOWHERE, port))
        assert await reader.readline() == b"hello\n"
        await login_node.cut()
        assert await reader.read() == b"", "who uses the connection is told"
        writer.close()
        assert await talk(await way.open(NOWHERE, port), 10) == b"10\n" + b"x" * 10


class Late(SshTunnel):
    """Its connections come in the very moment in which who asked for one gives up."""

    asking: asyncio.Task[socket.socket]
    came: socket.socket

    async def _carry(self, host: str, port: int, ours: "asyncio.Future[socket.socket]") -> None:
        del host, port
        self.came, far = socket.socketpair()
        far.close()
        ours.set_result(self.came)
        self.asking.cancel()


async def test_a_connection_for_which_nobody_waits_any_more_is_closed(login_node: LoginNode) -> None:
    tunnel = Late(login_node.target, ME, lambda: 0.0)
    tunnel.asking = asyncio.create_task(tunnel.open(NOWHERE, 80))
    with pytest.raises(asyncio.CancelledError):
        await tunnel.asking
    assert tunnel.came.fileno() == -1
    await tunnel.close()


async def test_a_login_node_that_is_not_there_is_told(login_node: LoginNode) -> None:
    login_node.server.close()
    await login_node.server.wait_closed()
    async with asyncio.timeout(WITHIN), a_way(login_node, "ssh") as way:
        with pytest.raises(OSError, match="cannot be reached"):
            await way.open(NOWHERE, 80)
