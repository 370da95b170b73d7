"""One TLS connection to an agent that carries many connections of ours: see `gateway.agent.mux`.

To a `Connection` its stream is the transport. So who has a connection does not know whether it is one of its own.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from gateway.agent.certificate import MUX
from gateway.agent.landing import Bytes
from gateway.agent.mux import Mux, Stream
from gateway.client.connection import HIGH_WATER, LANDINGS, LOW_WATER, Connection

if TYPE_CHECKING:
    import ssl


class Trunk(asyncio.BufferedProtocol):
    """The protocol of the TLS connection. `carries`: the agent knows streams; one of before does not."""

    def __init__(self, on_lost: Callable[["Trunk"], None]) -> None:
        self._on_lost = on_lost
        self._landing = LANDINGS.here
        self._transport: asyncio.Transport
        self._mux: Mux
        self._retired = False
        self.since = asyncio.get_running_loop().time()
        self.alive = self.carries = False
        self.broken: Exception | None = None  # why it is not alive any more, if it is known

    def connection(self, made: Connection) -> Connection:
        """Let this be a connection to the agent, which it is at once."""
        made.trunk = self
        made.connection_made(_Carried(self, self._mux.open(), made))
        return made

    def retire(self) -> None:
        """Close as soon as nothing is under way any more."""
        self._retired = True
        self.left()

    def left(self) -> None:
        """One connection less."""
        if self._retired and not len(self._mux):
            self._transport.abort()

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        self._mux = Mux(self._transport.write, self._transport.abort)
        tls = cast("ssl.SSLObject | None", transport.get_extra_info("ssl_object"))
        self.alive, self.carries = True, tls is not None and tls.selected_alpn_protocol() == MUX

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._landing.view

    def buffer_updated(self, nbytes: int) -> None:
        self._mux.received(self._landing.view[:nbytes])

    def eof_received(self) -> None:
        """Then it is closed."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive, self.broken = False, exc
        self._mux.lost()
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._mux.choke()

    def resume_writing(self) -> None:
        self._mux.unchoke()


class _Carried(asyncio.Transport):
    """The transport of a connection that is a stream, and that stream's handler."""

    __slots__ = ("_connection", "_stream", "_trunk")

    def __init__(self, trunk: Trunk, stream: Stream, connection: Connection) -> None:
        super().__init__()
        self._trunk, self._stream, self._connection = trunk, stream, connection
        stream.handler = self

    # For the connection

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._stream.write(cast("Bytes", data))

    def pause_reading(self) -> None:
        self._stream.pause_reading()

    def resume_reading(self) -> None:
        self._stream.resume_reading()

    def abort(self) -> None:
        self._stream.abort()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """A stream's window is its limit."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Nothing is known of its own: neither a socket nor TLS."""
        del name
        return default

    # From the stream

    def received(self, data: Bytes) -> None:
        self._connection.came(data)

    def ended(self) -> None:
        self._connection.eof_received()
        self._stream.abort()

    def lost(self) -> None:
        self._connection.connection_lost(self._trunk.broken)
        self._trunk.left()

    def choke(self) -> None:
        self._connection.pause_writing()

    def unchoke(self) -> None:
        self._connection.resume_writing()
