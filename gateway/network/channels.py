"""Channels to agents that carry messages: terminals and tunnels. The format is that of gateway.agent.frames."""

import asyncio
import json
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from gateway.errors import EndpointUnavailable
from gateway.model.announcement import Endpoint
from gateway.network.agents import unavailable

if TYPE_CHECKING:
    import ssl

TERMINAL, FORWARD = "sluice-terminal", "sluice-forward"
INPUT, OUTPUT, ERRORS, WORDS = range(4)
LONGEST = 1 << 20
_HEAD = struct.Struct(">BI")
_BUFFER = 1 << 18
P = TypeVar("P", bound=asyncio.BaseProtocol)


class Path(Protocol):
    """A way to agents: `gateway.network.agents.AgentPath`."""

    async def connect(self, endpoint: Endpoint, factory: Callable[[], P], *, alpn: str | None = None) -> P: ...


class Channel:
    """One open channel. `send` waits while the agent does not read; who does not `receive` holds the agent back."""

    def __init__(self, endpoint: Endpoint, reader: asyncio.StreamReader, protocol: "_Stream") -> None:
        self._endpoint, self._reader, self._protocol = endpoint, reader, protocol
        loop = asyncio.get_running_loop()
        self._writer = asyncio.StreamWriter(protocol.transport, protocol, reader, loop)

    async def send(self, kind: int, content: bytes) -> None:
        """EndpointUnavailable if the channel is gone."""
        try:
            self._writer.write(_HEAD.pack(kind, len(content)) + content)
            await self._writer.drain()
        except OSError as error:
            raise unavailable(self._endpoint, str(error) or type(error).__name__) from error

    async def say(self, **words: Any) -> None:
        await self.send(WORDS, json.dumps(words).encode())

    async def receive(self) -> tuple[int, bytes] | None:
        """The next message; None at the end. EndpointUnavailable if the connection breaks in the middle of one."""
        try:
            kind, size = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
            if size > LONGEST:
                raise unavailable(self._endpoint, "its agent sends what no agent sends")
            return kind, await self._reader.readexactly(size)
        except asyncio.IncompleteReadError as error:
            if error.partial or error.expected != _HEAD.size:
                raise unavailable(self._endpoint, "the connection broke") from error
            return None
        except OSError as error:
            raise unavailable(self._endpoint, str(error) or type(error).__name__) from error

    def close(self) -> None:
        """At once; the agent sees it."""
        self._protocol.transport.abort()


async def open_channel(path: Path, endpoint: Endpoint, alpn: str) -> Channel:
    """A channel of this kind. EndpointUnavailable if the agent is not there, or does not know the kind."""
    reader = asyncio.StreamReader(_BUFFER)
    protocol = await path.connect(endpoint, lambda: _Stream(reader), alpn=alpn)
    tls = cast("ssl.SSLObject | None", protocol.transport.get_extra_info("ssl_object"))
    if tls is None or tls.selected_alpn_protocol() != alpn:
        protocol.transport.abort()
        raise EndpointUnavailable(
            "the agent in the job is older than this gateway and has no terminals",
            hint="Start the session again: sluice stop, then sluice launch.",
        )
    return Channel(endpoint, reader, protocol)


class _Stream(asyncio.StreamReaderProtocol):
    """A stream whose transport is known."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        super().connection_made(transport)
