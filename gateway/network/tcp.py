"""TCP as this machine sees it: names, and whether a port is reached."""

import asyncio
import socket

from gateway.core.ports import Way

CONNECT_SECONDS = 4.0


class TcpNet:
    """The Net port on this machine's own network; nodes by their cluster's `way`, where it has one."""

    def __init__(self, way: Way | None = None) -> None:
        self._way = way

    @property
    def words(self) -> str:
        return self._way.words if self._way is not None else "directly"

    async def resolve(self, name: str) -> str | None:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except OSError:
            return None
        addresses = [str(entry[4][0]) for entry in sorted(found, key=lambda entry: entry[0] != socket.AF_INET)]
        return next(iter(addresses), None)

    async def dial(self, address: str, port: int, *, read: int = 0) -> bytes:
        async with asyncio.timeout(CONNECT_SECONDS):
            if self._way is None:
                reader, writer = await asyncio.open_connection(address, port)
            else:
                reader, writer = await asyncio.open_connection(sock=await self._way.open(address, port))
            try:
                return await reader.readexactly(read) if read else b""
            except asyncio.IncompleteReadError as error:
                raise ConnectionResetError(f"closed after {len(error.partial)} bytes") from error
            finally:
                writer.close()
