"""TCP as this machine sees it: names, and whether a port is reached."""

import asyncio
import socket

CONNECT_SECONDS = 4.0


class TcpNet:
    """The Net port on this machine's own network."""

    async def resolve(self, name: str) -> str | None:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except OSError:
            return None
        addresses = [str(entry[4][0]) for entry in sorted(found, key=lambda entry: entry[0] != socket.AF_INET)]
        return next(iter(addresses), None)

    async def dial(self, address: str, port: int, *, read: int = 0) -> bytes:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                return await reader.readexactly(read) if read else b""
            except asyncio.IncompleteReadError as error:
                raise ConnectionResetError(f"closed after {len(error.partial)} bytes") from error
            finally:
                writer.close()
