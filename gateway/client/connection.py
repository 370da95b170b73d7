"""One connection to a session's agent. It moves bytes; what they mean is its user's business."""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

#: What an agent says in place of its service, which got nothing of the request (`gateway.agent.refusal`).
REFUSAL = b"HTTP/1.1 503 Not Taken\r\n"
DRAINING = REFUSAL + b"x-sluice-agent: draining\r\n"
HIGH_WATER = 1 << 18
LOW_WATER = 1 << 16


class User(Protocol):
    """Who has the connection now."""

    def answered(self, data: bytes) -> None:
        """The service sent this."""

    def broke(self, why: str) -> None:
        """The connection is gone, or the service sends nothing more."""

    def congested(self) -> None:
        """The service reads too slowly: write nothing more for now."""

    def relieved(self) -> None: ...


class Connection(asyncio.Protocol):
    """The protocol of one connection. `on_lost` is called when it ends while nobody uses it.

    `told`: the agent said, unasked, that it takes nothing more.
    """

    __slots__ = ("_on_lost", "_paused", "_transport", "alive", "idle_since", "told", "used", "user")

    def __init__(self, on_lost: Callable[["Connection"], None]) -> None:
        self._on_lost = on_lost
        self._transport: asyncio.Transport
        self._paused = False
        self.user: User | None = None
        self.alive = False
        self.used = self.told = False
        self.idle_since = 0.0

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        self.alive = True

    def data_received(self, data: bytes) -> None:
        if self.user is not None:
            self.user.answered(data)
        else:
            self.told = not self.used and data.startswith(DRAINING)
            self.abort()  # nobody asked: this connection is out of step

    def eof_received(self) -> None:
        self._ended("the service closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(f"the connection broke: {exc}" if exc else "the service closed the connection")

    def pause_writing(self) -> None:
        if self.user is not None:
            self.user.congested()

    def resume_writing(self) -> None:
        if self.user is not None:
            self.user.relieved()

    # What its user does

    def write(self, data: bytes) -> None:
        self.used = True
        self._transport.write(data)

    def pause(self) -> None:
        """Read no more for now: the reader of the answer is slower than the service."""
        if self.alive and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self.alive and self._paused:
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once; the agent sees it, and so does the service."""
        self.alive, self.user = False, None
        self._transport.abort()

    def _ended(self, why: str) -> None:
        self.alive = False
        user, self.user = self.user, None
        if user is not None:
            user.broke(why)
        else:
            self._on_lost(self)
