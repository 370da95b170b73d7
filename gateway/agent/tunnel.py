"""A tunnel: one connection of the caller's to a loopback port of the node, whoever speaks first on it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Callable, List, Optional, cast

from . import frames
from .dial import connect
from .edge import HIGH_WATER

if TYPE_CHECKING:
    from .edge import Edge
    from .landing import Bytes

CONNECT_SECONDS = 10.0
#: The caller closes when it has read the end: who closes first may cost the other its last bytes.
LINGER_SECONDS = 60.0
_CHUNK = 1 << 18
_MAX_PORT = 65535


class Tunnel:
    """The handler of one connection. The first message names the port: {"port": 5432}."""

    def __init__(self, edge: Edge, touch: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._edge = edge
        self._touch = touch
        self._frames = frames.Frames()
        self._leg: Optional[asyncio.Transport] = None
        self._early: List[bytes] = []
        self._opening: Optional[asyncio.Task[None]] = None
        self._ends = 0
        self._lingering: Optional[asyncio.TimerHandle] = None

    # From the edge.

    def received(self, data: Bytes) -> None:
        self._touch()
        try:
            for kind, content in self._frames.feed(data):
                if self._opening is None:
                    self._begin(kind, content)
                elif kind == frames.INPUT:
                    self._pass_on(content)
        except (ValueError, TypeError, KeyError) as error:
            self._finish(error=str(error))

    def ended(self) -> None:
        self._edge.close()

    def lost(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
        if self._opening is not None:
            self._opening.cancel()
        if self._leg is not None:
            self._leg.abort()

    def choke(self) -> None:
        if self._leg is not None and not self._leg.is_closing():
            self._leg.pause_reading()

    def unchoke(self) -> None:
        if self._leg is not None and not self._leg.is_closing():
            self._leg.resume_reading()

    # From the port.

    def port_open(self, leg: asyncio.Transport) -> None:
        self._leg = leg
        leg.set_write_buffer_limits(high=HIGH_WATER)
        self._edge.write(frames.words(open=True))
        early, self._early = self._early, []
        for data in early:
            self._pass_on(data)
        self._edge.resume_reading()

    def answered(self, data: bytes) -> None:
        self._touch()
        self._edge.write(frames.pack(frames.OUTPUT, data))

    def port_ended(self) -> bool:
        """The other side has sent everything; whether it may still be sent to."""
        self._edge.write(frames.pack(frames.OUTPUT, b""))
        return self._half()

    def port_lost(self) -> None:
        """Both directions are over, in good order or not."""
        self._finish(**({"closed": True} if self._ends else {"error": "the connection to the port broke"}))

    def slow(self) -> None:
        self._edge.pause_reading()

    def fast(self) -> None:
        self._edge.resume_reading()

    # Within.

    def _begin(self, kind: int, content: bytes) -> None:
        if kind != frames.WORDS:
            raise ValueError('the first message is {"port": …}')
        port = int(frames.read_words(content)["port"])
        if not 0 < port <= _MAX_PORT:
            raise ValueError(f"no port: {port}")
        self._edge.pause_reading()
        self._opening = self._loop.create_task(self._open(port))

    async def _open(self, port: int) -> None:
        try:
            sock = await connect(port, CONNECT_SECONDS)
            await self._loop.create_connection(lambda: _Leg(self), sock=sock)
        except OSError as error:
            refused = isinstance(error, ConnectionRefusedError)
            self._finish(error=f"nothing listens on port {port} of 127.0.0.1 there" if refused else str(error))

    def _pass_on(self, data: bytes) -> None:
        if self._leg is None:
            self._early.append(data)
        elif self._leg.is_closing():
            return
        elif data:
            self._leg.write(data)
        elif self._half():
            self._leg.write_eof()
        else:
            self._leg.close()

    def _half(self) -> bool:
        """One direction has ended; whether the other goes on."""
        self._ends += 1
        return self._ends == 1

    def _finish(self, **words: Any) -> None:
        if self._lingering is None:
            self._edge.write(frames.words(**words))
            self._edge.resume_reading()  # else we would not see that the caller closes
            self._lingering = self._loop.call_later(LINGER_SECONDS, self._edge.close)


class _Leg(asyncio.Protocol):
    """The connection to the port."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tunnel.port_open(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        for at in range(0, len(data), _CHUNK):
            self._tunnel.answered(data[at : at + _CHUNK])

    def eof_received(self) -> bool:
        return self._tunnel.port_ended()

    def connection_lost(self, _exc: Optional[Exception]) -> None:
        self._tunnel.port_lost()

    def pause_writing(self) -> None:
        self._tunnel.slow()

    def resume_writing(self) -> None:
        self._tunnel.fast()
