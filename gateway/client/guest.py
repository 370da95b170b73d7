"""Requests that are not the data plane's, answered by the ASGI application over the same connection.

uvicorn's own protocol does it, one request at a time: between two of them the connection is the front's again.
"""

import asyncio
from typing import TYPE_CHECKING

from gateway.client.http1 import RequestHead
from gateway.web.peers import PeerProtocol

if TYPE_CHECKING:
    from gateway.client.framing import Frame
    from gateway.client.front import Front


class Visit:
    """The ASGI application's part of one connection."""

    until = float("inf")

    def __init__(self, front: "Front", transport: asyncio.Transport) -> None:
        self._front = front
        self._frame: Frame
        self._answered = self._away = False
        self._guest = _Guest(front, self)
        self._guest.connection_made(transport)
        front.server.connections.discard(self._guest)

    def begin(self, head: RequestHead, text: bytes, data: bytes) -> None:
        """A request begins: its head, and what has come of its body. Malformed."""
        self._answered = False
        self._frame = head.frame()
        if head.is_websocket:
            self._away = True
        size = self._frame.take(data) if data and not self._frame.done else 0
        if size < len(data):
            self._front.keep(data[size:])
        self._guest.data_received(text + data[:size])

    @property
    def read(self) -> bool:
        return self._frame.done

    @property
    def tunnel(self) -> bool:
        return False

    @property
    def passes_on(self) -> bool:
        return False

    @property
    def begun(self) -> bool:
        """Something of the answer is written."""
        cycle = self._guest.cycle
        return cycle is not None and cycle.response_started and not cycle.response_complete

    def received(self, data: bytes) -> None:
        size = self._frame.take(data)
        if size < len(data):
            self._front.keep(data[size:])
        answered = self._answered
        self._guest.data_received(data[:size])  # after the answer, too: the next request begins behind this body
        if answered and self._frame.done:
            self._front.done(0, keep=True)

    def answered(self) -> None:
        self._answered = True
        if self._frame.done:
            self._front.done(0, keep=True)

    def overdue(self) -> None:
        return

    def lost(self) -> None:
        return

    def left(self) -> None:
        """The connection is gone."""
        self._guest.connection_lost(None)

    def choke(self) -> None:
        self._guest.pause_writing()

    def unchoke(self) -> None:
        self._guest.resume_writing()

    def shutdown(self) -> None:
        self._guest.shutdown()


class _Guest(PeerProtocol):
    """uvicorn's protocol, telling when an answer is written and when it takes the connection for a WebSocket."""

    def __init__(self, front: "Front", visit: Visit) -> None:
        server = front.server
        super().__init__(server.config, server.state, server.app_state)
        self._front, self._visit = front, visit

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()  # waiting is the front's
        if not self.transport.is_closing():
            self._visit.answered()

    def handle_websocket_upgrade(self) -> None:
        self._front.leave()
        super().handle_websocket_upgrade()
