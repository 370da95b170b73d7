"""Relays the gateway's TLS connections to the service, and knows which of them are in flight."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Set, cast

from .certificate import CONTROL
from .dial import Target, connect
from .edge import HIGH_WATER, LINGER_SECONDS, Edge, Handler
from .http_watch import HttpWatch

if TYPE_CHECKING:
    import ssl

HANDSHAKE_SECONDS = 10.0
CONNECT_SECONDS = 10.0
#: A connection that is no HTTP counts as in flight for so long after its last byte.
QUIET_SECONDS = 5.0
MAX_SHAKING = 512
_TOLD_REFUSALS = 20


class Relay:
    """Accepts connections. Until `target` is set, and while draining, only control connections are served."""

    def __init__(
        self,
        context: ssl.SSLContext,
        control: Callable[[Edge], Handler],
        say: Callable[[str], None],
        *,
        limit: int = 4096,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._context = context
        self._control = control
        self.say = say
        self._limit = limit
        self._server: Optional[asyncio.AbstractServer] = None
        self._shaking: Dict[Edge, asyncio.TimerHandle] = {}
        self._edges: Set[Edge] = set()
        self._refused = 0
        self._done_requests = 0
        self._started = self.loop.time()
        self._idle: List[asyncio.Future[None]] = []
        self.splices: Set[Splice] = set()
        self.last_byte = self._started
        self.target: Optional[Target] = None
        self.draining = False
        self.port = 0

    async def listen(self) -> int:
        """Listen on every address of the node; the port, which the system picks."""
        sock = _listening_socket()
        self._server = await self.loop.create_server(lambda: Edge(self._context, self), sock=sock, backlog=2048)
        self.port = sock.getsockname()[1]
        return self.port

    def close(self) -> None:
        """End every connection and listen no more."""
        if self._server is not None:
            self._server.close()
        for edge in list(self._edges) + list(self._shaking):
            edge.abort()

    # What is going on.

    @property
    def in_flight(self) -> int:
        """Requests that wait for (the rest of) their answer; connections that are no HTTP count while they are busy."""
        return sum(splice.in_flight for splice in self.splices)

    @property
    def requests(self) -> int:
        """HTTP requests seen since the start; a connection that is no HTTP counts as one."""
        return self._done_requests + sum(splice.requests for splice in self.splices)

    @property
    def idle_seconds(self) -> float:
        return 0.0 if self.in_flight else self.loop.time() - self.last_byte

    def drain(self) -> None:
        """Take no more work: idle connections close now, the others when their answer is complete."""
        self.draining = True
        for splice in list(self.splices):
            splice.close_if_idle()

    async def drained(self, within: float) -> bool:
        """Wait until nothing is in flight; False if something still is after so many seconds."""
        until = self.loop.time() + within
        while self.in_flight:
            left = until - self.loop.time()
            if left <= 0:
                return False
            waiter = self.loop.create_future()
            self._idle.append(waiter)
            # A connection that is no HTTP ends by the clock, not by an event.
            await asyncio.wait([waiter], timeout=min(left, 0.25))
        return True

    # As the host of edges.

    def begun(self, edge: Edge) -> None:
        if len(self._shaking) >= MAX_SHAKING:
            next(iter(self._shaking)).abort()  # the oldest: whoever floods us loses first
        self._shaking[edge] = self.loop.call_later(HANDSHAKE_SECONDS, edge.abort)

    def established(self, edge: Edge, alpn: Optional[str]) -> Optional[Handler]:
        self._shaking.pop(edge).cancel()
        self._edges.add(edge)
        if alpn == CONTROL:
            return self._control(edge)
        if self.target is None or self.draining or len(self.splices) >= self._limit:
            return None
        splice = Splice(self, edge, self.target)
        self.splices.add(splice)
        return splice

    def refused(self, _edge: Edge, reason: str) -> None:
        self._refused += 1
        if self._refused <= _TOLD_REFUSALS or self._refused % 1000 == 0:
            self.say(f"a connection was refused: {reason} ({self._refused} so far)")

    def gone(self, edge: Edge) -> None:
        timer = self._shaking.pop(edge, None)
        if timer is not None:
            timer.cancel()
        self._edges.discard(edge)

    def forget(self, splice: Splice) -> None:
        if splice in self.splices:
            self.splices.remove(splice)
            self._done_requests += splice.requests
        self.answered()

    def answered(self) -> None:
        """An answer is complete: wake who waits for it."""
        waiting, self._idle = self._idle, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


class Splice(asyncio.Protocol):
    """One client's connection and its connection to the service: handler of the one, protocol of the other."""

    __slots__ = (
        "_client_done",
        "_closing",
        "_connecting",
        "_edge",
        "_linger",
        "_relay",
        "_service",
        "_service_done",
        "_waiting",
        "_watch",
        "last_byte",
    )

    def __init__(self, relay: Relay, edge: Edge, target: Target) -> None:
        self._relay = relay
        self._edge = edge
        self._watch = HttpWatch()
        self._service: Optional[asyncio.Transport] = None
        self._waiting: List[bytes] = []
        self._client_done = False
        self._service_done = False
        self._closing = False
        self._linger: Optional[asyncio.TimerHandle] = None
        self.last_byte = relay.loop.time()
        edge.pause_reading()
        self._connecting: Optional[asyncio.Task[None]] = relay.loop.create_task(self._connect(target))

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
            self._close()

    # From the client.

    def received(self, data: bytes) -> None:
        self._touch()
        self._watch.sent(data)
        if self._service is None:
            self._waiting.append(data)
        elif not self._service.is_closing():
            self._service.write(data)

    def ended(self) -> None:
        self._client_done = True
        if self._service_done:
            self._close()
        elif self._service is not None and not self._service.is_closing():
            self._service.write_eof()

    def lost(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._linger is not None:
            self._linger.cancel()
        if self._service is not None:
            self._service.abort()
        self._relay.forget(self)

    def choke(self) -> None:
        if self._service is not None and not self._service.is_closing():
            self._service.pause_reading()

    def unchoke(self) -> None:
        if self._service is not None and not self._service.is_closing():
            self._service.resume_reading()

    # From the service.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._service = cast("asyncio.Transport", transport)
        self._service.set_write_buffer_limits(high=HIGH_WATER)
        for data in self._waiting:
            self._service.write(data)
        self._waiting.clear()
        if self._client_done:
            self._service.write_eof()
        self._edge.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._touch()
        watch = self._watch
        watch.answered(data)
        self._edge.write(data)
        if self._relay.draining and not self.in_flight:
            self._relay.answered()
            self._close()

    def eof_received(self) -> bool:
        self._service_done = True
        if self._client_done:
            self._close()
            return False
        self._edge.write_eof()
        # The client normally closes at once. One that does not has no use for the connection either.
        self._linger = self._relay.loop.call_later(LINGER_SECONDS, self._edge.abort)
        return True

    def connection_lost(self, _exc: Optional[Exception]) -> None:
        self._close()

    def pause_writing(self) -> None:
        self._edge.pause_reading()

    def resume_writing(self) -> None:
        self._edge.resume_reading()

    # Within.

    def _touch(self) -> None:
        self.last_byte = self._relay.last_byte = self._relay.loop.time()

    def _close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._edge.close()
        if self._service is not None:
            self._service.close()

    async def _connect(self, target: Target) -> None:
        try:
            sock = await connect(target, CONNECT_SECONDS)
        except OSError as error:
            self._relay.say(f"the service does not accept a connection: {error}")
            self._connecting = None
            self._close()
            return
        loop = self._relay.loop
        if isinstance(target, str):
            await loop.create_unix_connection(lambda: self, sock=sock)
        else:
            await loop.create_connection(lambda: self, sock=sock)
        self._connecting = None


def _listening_socket() -> socket.socket:
    """Every address of the node, IPv6 and IPv4 where it has both."""
    if socket.has_ipv6:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(("::", 0))
        except OSError:
            sock.close()
        else:
            return sock
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("0.0.0.0", 0))  # noqa: S104  # clients without our certificate are refused
    return sock
