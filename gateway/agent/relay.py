"""Relays the gateway's TLS connections to the service, and knows which of them are in flight."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Callable, Dict, List, Mapping, Optional, Set, Union

from .certificate import MUX
from .edge import Edge, Handler
from .landing import Landing
from .mux import Mux
from .refusal import refusal
from .splice import Splice

if TYPE_CHECKING:
    import ssl

    from .dial import Target
    from .mux import Stream

HANDSHAKE_SECONDS = 10.0
MAX_SHAKING = 512
_TOLD_REFUSALS = 20


class Relay:
    """Accepts connections: those of an ALPN name of `handlers` for these, the others for the service.

    Until `target` is set, and while draining, none is relayed to the service.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        handlers: Mapping[str, Callable[[Edge], Handler]],
        say: Callable[[str], None],
        *,
        limit: int = 4096,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.landing = Landing()
        self._context = context
        self._handlers = handlers
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
        if alpn == MUX:
            return Mux(edge.write, edge.abort, self._relayed)
        return self._relayed(edge) if alpn is None else self._handlers[alpn](edge)

    def _relayed(self, edge: Union[Edge, Stream]) -> Optional[Handler]:
        """To the service; None if it is told that it cannot be."""
        if self.target is None or self.draining or len(self.splices) >= self._limit:
            edge.write(refusal("draining" if self.draining else "busy"))
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

    def touch(self) -> None:
        """Somebody is busy here."""
        self.last_byte = self.loop.time()

    def answered(self) -> None:
        """An answer is complete: wake who waits for it."""
        waiting, self._idle = self._idle, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


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
