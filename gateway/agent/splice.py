"""One connection of the gateway's, and the connections to the service that carry its requests, one after another.

The service is connected to when the first byte comes, and again when it has closed between two requests, as some do
after each answer without saying so: the gateway's connection, which costs a handshake, stays. A request that the
service closed on without reading it is sent again; the kernel tells, because who closes with bytes unread resets the
connection.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, List, Optional, Union, cast

from .dial import Target, connect
from .edge import HIGH_WATER, LINGER_SECONDS
from .http_watch import HttpWatch
from .refusal import refusal

if TYPE_CHECKING:
    from .edge import Edge
    from .landing import Bytes, Landing
    from .mux import Stream
    from .relay import Relay

CONNECT_SECONDS = 10.0
#: A connection that is no HTTP counts as in flight for so long after its last byte.
QUIET_SECONDS = 5.0
#: A request longer than this cannot be sent again.
MOST_KEPT = 1 << 18
_TCP_CLOSED = 7  # TCP_CLOSE of the kernel's tcp_states.h: reset, where a peer that read all leaves CLOSE_WAIT


class Splice:
    """The handler of an edge."""

    __slots__ = (
        "_client_done",
        "_closing",
        "_connecting",
        "_edge",
        "_kept",
        "_kept_size",
        "_leg",
        "_linger",
        "_relay",
        "_service_done",
        "_target",
        "_waiting",
        "_watch",
        "last_byte",
    )

    def __init__(self, relay: Relay, edge: Union[Edge, Stream], target: Target) -> None:
        self._relay = relay
        self._edge = edge
        self._target = target
        self._watch = HttpWatch()
        self._leg: Optional[Leg] = None
        self._waiting: List[bytes] = []  # for the service, until it is connected to
        self._kept: Optional[List[bytes]] = None  # a request on a used connection, until its answer begins
        self._kept_size = 0
        self._client_done = False
        self._service_done = False
        self._closing = False
        self._linger: Optional[asyncio.TimerHandle] = None
        self._connecting: Optional[asyncio.Task[None]] = None
        self.last_byte = relay.loop.time()

    @property
    def landing(self) -> Landing:
        return self._relay.landing

    @property
    def in_flight(self) -> int:
        if self._watch.opaque:
            return 1 if self._relay.loop.time() - self.last_byte < QUIET_SECONDS else 0
        return self._watch.in_flight

    @property
    def requests(self) -> int:
        return self._watch.requests or int(self._watch.opaque)

    def close_if_idle(self) -> None:
        if not self.in_flight and not self._waiting:
            self._refuse("draining")

    # From the client.

    def received(self, data: Bytes) -> None:
        self._touch()
        leg = self._leg
        if leg is None:
            self._watch.sent(data)
            self._waiting.append(bytes(data))
            self._connect()
            return
        if leg.used and not self._watch.in_flight:
            self._kept, self._kept_size = [], 0
        self._watch.sent(data)
        if self._kept is not None:
            self._kept.append(bytes(data))
            self._kept_size += len(data)
            if self._kept_size > MOST_KEPT:
                self._kept = None
        leg.write(data)

    def ended(self) -> None:
        self._client_done = True
        if self._leg is not None and not self._service_done:
            self._leg.write_eof()
        elif self._service_done or self._watch.requests:
            self._close()
        else:
            self._connect()  # a client that has nothing to say may still be told something

    def lost(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._linger is not None:
            self._linger.cancel()
        if self._leg is not None:
            self._leg.transport.abort()
        self._relay.forget(self)

    def choke(self) -> None:
        if self._leg is not None:
            self._leg.pause()

    def unchoke(self) -> None:
        if self._leg is not None:
            self._leg.resume()

    # From the service.

    def connected(self, leg: Leg) -> None:
        self._leg = leg
        for data in self._waiting:
            leg.write(data)
        self._waiting.clear()
        if self._client_done:
            leg.write_eof()
        self._edge.resume_reading()

    def answered(self, data: Bytes) -> None:
        self._touch()
        self._kept = None
        self._watch.answered(data)
        self._edge.write(data)
        if self._relay.draining and not self.in_flight:
            self._relay.answered()
            self._refuse("draining")

    def service_ended(self, leg: Leg, exc: Optional[Exception], *, half: bool) -> bool:
        """The service sends nothing more; True if `half`, its other half may stay open."""
        if leg is not self._leg:
            return False
        told = self._watch.last or self._watch.opaque or self._client_done
        if not told and not self._watch.in_flight:
            self._leg = None  # between two requests: the next one gets a connection of its own
            self._edge.resume_reading()
            return False
        if self._kept is not None and (isinstance(exc, ConnectionError) or leg.was_reset()):
            self._waiting, self._kept, self._leg = self._kept, None, None
            self._connect()
            return False
        if not half or self._client_done:
            self._close()
            return False
        self._service_done = True
        self._edge.write_eof()
        # The client normally closes at once. One that does not has no use for the connection either.
        self._linger = self._relay.loop.call_later(LINGER_SECONDS, self._edge.abort)
        return True

    def pause(self) -> None:
        self._edge.pause_reading()

    def resume(self) -> None:
        self._edge.resume_reading()

    # Within.

    def _touch(self) -> None:
        self.last_byte = self._relay.last_byte = self._relay.loop.time()

    def _refuse(self, why: str) -> None:
        """Close between two requests. One that is on its way to us by now did not reach the service, so say it."""
        if not self._watch.opaque and not self._closing:
            self._edge.write(refusal(why))
        self._close()

    def _close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._edge.close()
        if self._leg is not None:
            self._leg.transport.close()

    def _connect(self) -> None:
        if self._connecting is None:
            self._edge.pause_reading()
            self._connecting = self._relay.loop.create_task(self._open())

    async def _open(self) -> None:
        loop = self._relay.loop
        try:
            sock = await connect(self._target, CONNECT_SECONDS)
        except OSError as error:
            self._relay.say(f"the service does not accept a connection: {error}")
            self._connecting = None
            if self._watch.requests:
                self._refuse("unreachable")
            else:
                self._close()
            return
        self._connecting = None
        if isinstance(self._target, str):
            await loop.create_unix_connection(lambda: Leg(self, sock), sock=sock)
        else:
            await loop.create_connection(lambda: Leg(self, sock), sock=sock)


class Leg(asyncio.BufferedProtocol):
    """One connection to the service. `used`: an answer has come over it."""

    __slots__ = ("_ended", "_landing", "_sock", "_splice", "transport", "used")

    def __init__(self, splice: Splice, sock: socket.socket) -> None:
        self._splice = splice
        self._landing = splice.landing
        self._sock = sock
        self._ended = False
        self.used = False
        self.transport: asyncio.Transport

    def write(self, data: Bytes) -> None:
        if not self.transport.is_closing():
            self._landing.lend(self.transport, data)

    def write_eof(self) -> None:
        if not self.transport.is_closing():
            self.transport.write_eof()

    def pause(self) -> None:
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def was_reset(self) -> bool:
        """Whether the service closed a TCP connection with bytes of ours unread."""
        if self._sock.family == socket.AF_UNIX or self._sock.fileno() < 0:
            return False
        return self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSED

    # From the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        self._splice.connected(self)

    def get_buffer(self, _hint: int) -> memoryview:
        return self._landing.view

    def buffer_updated(self, size: int) -> None:
        self.used = True
        self._splice.answered(self._landing.taken(size))

    def eof_received(self) -> bool:
        self._ended = True
        return self._splice.service_ended(self, None, half=True)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._splice.service_ended(self, exc, half=False)

    def pause_writing(self) -> None:
        self._splice.pause()

    def resume_writing(self) -> None:
        self._splice.resume()
