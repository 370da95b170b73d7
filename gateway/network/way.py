"""The way to a cluster's nodes: straight, or through the login node; chosen by what works, and looked at again."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final, Literal

import structlog

from gateway.core.ports import Tunnel

log = structlog.get_logger(__name__)

#: How long a straight connection may take while there is another way.
STRAIGHT_SECONDS: Final = 2.0
#: After so many seconds on the way round it is tried whether the straight way is there again.
LOOK_AGAIN: Final = 30.0


class Way:
    """Implements `core.ports.Way`. `auto` goes straight, and through the tunnel where that leads nowhere."""

    def __init__(
        self,
        mode: Literal["auto", "direct", "ssh"],
        tunnel: Tunnel | None,
        *,
        straight_seconds: float = STRAIGHT_SECONDS,
        look_again: float = LOOK_AGAIN,
        moment: Callable[[], float] | None = None,
    ) -> None:
        self._mode, self._tunnel = mode, tunnel
        self._straight_seconds, self._look_again = straight_seconds, look_again
        self._moment = moment
        self._round = mode == "ssh"
        self._look_at = 0.0
        self._looking: asyncio.Task[None] | None = None

    @property
    def words(self) -> str:
        """How the nodes are reached now, for people."""
        return f"through the login node {self._tunnel}" if self._round else "directly"

    async def open(self, host: str, port: int) -> socket.socket:
        if self._tunnel is None or self._mode == "direct":
            return await straight(host, port)
        if self._mode == "ssh":
            return await self._tunnel.open(host, port)
        if self._round:
            self._look(host, port)
            return await self._tunnel.open(host, port)
        try:
            async with asyncio.timeout(self._straight_seconds):
                return await straight(host, port)
        except OSError as error:
            return await self._go_round(host, port, error)

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
        if self._tunnel is not None:
            await self._tunnel.close()

    async def _go_round(self, host: str, port: int, why: OSError) -> socket.socket:
        """The straight way failed. If the other one fails, too, it is the node, and nothing is learnt of the ways."""
        if self._tunnel is None:
            raise why
        try:
            found = await self._tunnel.open(host, port)
        except OSError as error:
            raise why from error
        if not self._round:
            log.warning("nodes are reached through the login node", login=str(self._tunnel), straight=str(why))
        self._round, self._look_at = True, self._now()
        self._look(host, port)  # at once: it may have been the node, which is back
        return found

    def _look(self, host: str, port: int) -> None:
        """Now and then, beside the work, whether the straight way leads there."""
        if self._looking is None and self._now() >= self._look_at:
            self._looking = asyncio.create_task(self._try(host, port))

    async def _try(self, host: str, port: int) -> None:
        try:
            async with asyncio.timeout(self._straight_seconds):
                (await straight(host, port)).close()
            log.info("nodes are reached directly again")
            self._round = False
        except OSError:
            self._look_at = self._now() + self._look_again
        finally:
            self._looking = None

    def _now(self) -> float:
        return self._moment() if self._moment is not None else asyncio.get_running_loop().time()


async def straight(host: str, port: int) -> socket.socket:
    """A TCP connection from here. OSError as the system says it."""
    loop = asyncio.get_running_loop()
    failed: OSError | None = None
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        found = socket.socket(family, kind, protocol)
        found.setblocking(False)  # noqa: FBT003 - the socket's own word
        try:
            await loop.sock_connect(found, address)
        except OSError as error:
            found.close()
            failed = error
        except BaseException:
            found.close()
            raise
        else:
            return found
    raise failed or OSError(f"{host} has no address")
