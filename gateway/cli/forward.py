"""`sluice forward`: ports of a running job on this machine."""

from typing import TYPE_CHECKING, NamedTuple

import click

from gateway.cli import complete, output

if TYPE_CHECKING:
    import asyncio

    from websockets.asyncio.client import ClientConnection

    from gateway.sdk import Sluice

_MAX_PORT = 65535


class Mapping(NamedTuple):
    """A port here (0: any free one) and the port there."""

    local: int
    remote: int


def parse(text: str) -> Mapping:
    """`[LOCAL:]PORT`. BadParameter."""
    local, colon, remote = text.rpartition(":")
    words = (local or "0" if colon else remote), remote
    if not all(word.isascii() and word.isdigit() and int(word) <= _MAX_PORT for word in words) or not int(remote):
        raise click.BadParameter(f"{text!r} is not [LOCAL:]PORT, for example 8080 or 5433:5432")
    return Mapping(int(words[0]), int(words[1]))


@click.command()
@click.argument("session", shell_complete=complete.sessions)
@click.argument("ports", nargs=-1, required=True, metavar="[LOCAL:]PORT...")
@click.option("--address", default="127.0.0.1", show_default=True, help="Address to listen on here.")
def forward(*, session: str, ports: tuple[str, ...], address: str) -> None:
    """Reach PORT of 127.0.0.1 on the node of SESSION's job as LOCAL on this machine, until Ctrl-C.

    Any protocol over TCP: databases, debuggers, ssh. `:PORT` takes any free port here. Each connection goes to the
    job that the session has then, so new connections find it after it was renewed. Only the owner goes into a session.

    \b
    sluice forward demo 8080
    sluice forward demo 5433:5432 6006
    """
    import asyncio

    from gateway.cli.client import connect

    mappings = [parse(text) for text in ports]
    with connect() as sluice:
        asyncio.run(_forward(sluice, session, mappings, address))


async def _forward(sluice: "Sluice", session: str, mappings: list[Mapping], address: str) -> None:
    import asyncio

    from gateway.cli.inside import dial
    from gateway.errors import Conflict

    probe = await dial(sluice, session, "terminal")  # what is wrong is told now, not at the first connection
    await probe.close()
    servers: list[asyncio.Server] = []
    try:
        for mapping in mappings:
            tunnel = _Tunnels(sluice, session, mapping.remote)
            try:
                server = await asyncio.start_server(tunnel.carry, address, mapping.local)
            except OSError as error:
                raise Conflict(
                    f"cannot listen on {address}:{mapping.local}: {error.strerror}",
                    hint=f"Take another port here: sluice forward {session} :{mapping.remote}",
                ) from error
            servers.append(server)
            port = server.sockets[0].getsockname()[1]
            output.note(f"{address}:{port} is port {mapping.remote} of {session}. Ctrl-C ends it.")
        await asyncio.Event().wait()
    finally:
        for server in servers:
            server.close()


class _Tunnels:
    """The connections to one port."""

    def __init__(self, sluice: "Sluice", session: str, port: int) -> None:
        self._sluice, self._session, self._port = sluice, session, port

    async def carry(self, reader: "asyncio.StreamReader", writer: "asyncio.StreamWriter") -> None:
        """One connection, to its end."""
        from contextlib import suppress

        from websockets.exceptions import ConnectionClosed

        from gateway.cli.inside import dial
        from gateway.errors import SluiceError

        try:
            socket = await dial(self._sluice, self._session, f"ports/{self._port}")
            async with socket:
                await _splice(reader, writer, socket)
        except SluiceError as error:
            output.note(f"Port {self._port}: {error.message}")
        except ConnectionClosed:
            output.note(f"Port {self._port}: the connection ended with its job; new ones go to the next.")
        except OSError:
            pass  # who connected here has gone
        finally:
            with suppress(OSError):
                writer.close()


async def _splice(reader: "asyncio.StreamReader", writer: "asyncio.StreamWriter", socket: "ClientConnection") -> None:
    """Both ways, until the connection to the port is over."""
    import asyncio

    up, down = asyncio.create_task(_up(reader, socket)), asyncio.create_task(_down(writer, socket))
    try:
        await down
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.wait({up, down})


async def _up(reader: "asyncio.StreamReader", socket: "ClientConnection") -> None:
    from gateway.cli.inside import INPUT, PIECE

    while True:
        data = await reader.read(PIECE)
        await socket.send(bytes([INPUT]) + data)
        if not data:
            return


async def _down(writer: "asyncio.StreamWriter", socket: "ClientConnection") -> None:
    """What the port sends, until the connection to it is over. Raises what the other side tells."""
    from gateway.cli.inside import OUTPUT, error_of, read_words

    while True:
        data = await socket.recv(decode=False)
        kind, content = data[0], data[1:]
        if kind != OUTPUT:
            told = read_words(content)
            if "error" in told:
                raise error_of(told)
            if "closed" in told:
                return
        elif content:
            writer.write(content)
            await writer.drain()
        elif writer.can_write_eof():
            writer.write_eof()
