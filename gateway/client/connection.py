"""One connection to a session's agent. It moves bytes; what they mean is its user's business."""

import asyncio
import errno
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast

from gateway.agent.landing import SMALL, Bytes, Landing

#: What an agent says in place of its service, which got nothing of the request (`gateway.agent.refusal`).
REFUSAL = b"HTTP/1.1 503 Not Taken\r\n"
DRAINING = REFUSAL + b"x-sluice-agent: draining\r\n"
HIGH_WATER = 1 << 18
LOW_WATER = 1 << 16
#: How a connection asks the node's own kernel whether it is there: every second, and twice in vain is no. Streams are
#: given longer (`gateway.network.agents`), as a link may come back.
_WATCH = ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 2), (socket.TCP_USER_TIMEOUT, 0))
_WAIT = (
    (socket.TCP_KEEPIDLE, 10),
    (socket.TCP_KEEPINTVL, 5),
    (socket.TCP_KEEPCNT, 3),
    (socket.TCP_USER_TIMEOUT, 25_000),
)
_NO_ANSWER = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH})


class _Landings(threading.local):
    """One for each thread that runs a loop."""

    def __init__(self) -> None:
        self.here = Landing()


LANDINGS = _Landings()


class User(Protocol):
    """Who has the connection now."""

    def answered(self, data: Bytes) -> None:
        """The service sent this: bytes, or a memoryview that holds until this returns."""

    def broke(self, why: str, *, whole: bool) -> None:
        """The connection is gone, or the service sends nothing more: `whole`, it said so, and all that it sent came."""

    def congested(self) -> None:
        """The service reads too slowly: write nothing more for now."""

    def relieved(self) -> None: ...


class Connection(asyncio.BufferedProtocol):
    """The protocol of one connection. `on_lost` is called when it ends while nobody uses it.

    `trunk`: what carries it, if it shares a connection with others (`gateway.client.trunk`).
    `told`: the agent said, unasked, that it takes nothing more. `watchable`: it can find out within three seconds that
    the node is gone; `vanished`: it did.
    """

    __slots__ = (
        "_landing",
        "_on_lost",
        "_paused",
        "_transport",
        "alive",
        "idle_since",
        "told",
        "trunk",
        "used",
        "user",
        "vanished",
        "watchable",
    )

    def __init__(self, on_lost: Callable[["Connection"], None]) -> None:
        self._on_lost = on_lost
        self._landing = LANDINGS.here
        self._transport: asyncio.Transport
        self._paused = False
        self.user: User | None = None
        self.alive = False
        self.used = self.told = self.watchable = self.vanished = False
        self.idle_since = 0.0
        self.trunk: object = None

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        plain = transport.get_extra_info("socket")
        self.watchable = plain is not None and plain.family in {socket.AF_INET, socket.AF_INET6}
        self.alive = True

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._landing.view

    def buffer_updated(self, nbytes: int) -> None:
        piece = self._landing.view[:nbytes]
        self.came(bytes(piece) if nbytes < SMALL else piece)  # as `taken` does, for every event of streams

    def came(self, data: Bytes) -> None:
        """The agent sent this: bytes, or a memoryview that holds until this returns."""
        if self.user is not None:
            self.user.answered(data)
        else:
            self.told = not self.used and bytes(data).startswith(DRAINING)
            self.abort()  # nobody asked: this connection is out of step

    def eof_received(self) -> None:
        self._ended("the service closed the connection", whole=self._is_told())

    def connection_lost(self, exc: Exception | None) -> None:
        self.vanished = isinstance(exc, OSError) and exc.errno in _NO_ANSWER
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

    def watch(self, *, on: bool) -> None:
        """Watch over the node while it waits, or (for an answer that goes on) no more."""
        plain = self._transport.get_extra_info("socket")
        # It may be closing; and uvloop's own object takes no options.
        with suppress(OSError), socket.socket(fileno=os.dup(plain.fileno())) as connection:
            for option, value in _WATCH if on else _WAIT:
                connection.setsockopt(socket.IPPROTO_TCP, option, value)

    def abort(self) -> None:
        """Close at once; the agent sees it, and so does the service."""
        self.alive, self.user = False, None
        self._transport.abort()

    def _is_told(self) -> bool:
        """Whether the agent has said that nothing more comes, in a way that nobody else can: TLS's `close_notify`."""
        tls = cast("ssl.SSLObject | None", self._transport.get_extra_info("ssl_object"))
        try:
            return tls is None or not tls.read(1)
        except ssl.SSLZeroReturnError:
            return True
        except (ssl.SSLError, ValueError):
            return False

    def _ended(self, why: str, *, whole: bool = False) -> None:
        self.alive = False
        user, self.user = self.user, None
        if user is not None:
            user.broke(why, whole=whole)
        else:
            self._on_lost(self)


def lend(transport: asyncio.WriteTransport, data: memoryview) -> None:
    """Write what a service sent, without a copy of it if it can be written at once."""
    if transport.get_write_buffer_size():
        transport.write(bytes(data))
        return
    transport.write(data)
    if transport.get_write_buffer_size():
        LANDINGS.here.renew()


def reset(transport: asyncio.Transport) -> None:
    """When it is closed, let the other side see that it was not meant to end there."""
    plain = transport.get_extra_info("socket")
    with suppress(OSError), socket.socket(fileno=os.dup(plain.fileno())) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
