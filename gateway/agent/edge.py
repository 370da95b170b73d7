"""One client's TLS connection on a plain asyncio transport.

Not asyncio's own TLS, because that knows no half-close (a client that has sent everything could get no answer) and
behaves differently in every Python from 3.8 on. Here a handshake has a limit, back-pressure reaches both ways, and
`close_notify` of one side leaves the other side open.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Optional, Protocol, cast

from .landing import RECORD, Bytes, Landing

HIGH_WATER = 256 * 1024
LINGER_SECONDS = 10.0


class Handler(Protocol):
    """What happens with a connection after its handshake. All calls come from the event loop."""

    def received(self, data: Bytes) -> None:
        """The client sent this: bytes, or a memoryview that holds until this returns."""

    def ended(self) -> None:
        """The client will send nothing more, and may still read."""

    def lost(self) -> None:
        """The connection is gone."""

    def choke(self) -> None:
        """The client reads too slowly: write nothing more for now."""

    def unchoke(self) -> None: ...


class Host(Protocol):
    """Who accepts connections: admits them, and picks the handler of those that have shown their certificate."""

    landing: Landing

    def begun(self, edge: Edge) -> None: ...

    def established(self, edge: Edge, alpn: Optional[str]) -> Optional[Handler]:
        """The handler, or None to close the connection."""

    def refused(self, _edge: Edge, reason: str) -> None: ...

    def gone(self, edge: Edge) -> None: ...


class Edge(asyncio.BufferedProtocol):
    __slots__ = ("_handler", "_host", "_in", "_landing", "_out", "_said_bye", "_tls", "_transport")

    def __init__(self, context: ssl.SSLContext, host: Host) -> None:
        self._host = host
        self._landing = host.landing
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._handler: Optional[Handler] = None
        self._said_bye = False
        self._transport: asyncio.Transport

    # From the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a gateway that vanished is noticed
        self._host.begun(self)

    def get_buffer(self, _hint: int) -> memoryview:
        return self._landing.view

    def buffer_updated(self, size: int) -> None:
        self._in.write(self._landing.view[:size])
        if self._handler is not None or self._shake():
            self._read()

    def eof_received(self) -> bool:
        # A bare FIN without close_notify may be an attacker's: not a half-close, an end.
        return self._tls_closed()

    def connection_lost(self, _exc: Optional[Exception]) -> None:
        self._host.gone(self)
        if self._handler is not None:
            self._handler.lost()

    def pause_writing(self) -> None:
        if self._handler is not None:
            self._handler.choke()

    def resume_writing(self) -> None:
        if self._handler is not None:
            self._handler.unchoke()

    # From the handler.

    def write(self, data: Bytes) -> None:
        """Send to the client: bytes, or a memoryview, which is done with then. Nothing after `write_eof`."""
        if self._said_bye:
            return
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
        self._transport.write(self._out.read())

    def write_eof(self) -> None:
        """Say that nothing more will come; the client may still send."""
        if self._said_bye:
            return
        self._said_bye = True
        with contextlib.suppress(ssl.SSLError):  # it wants the client's close_notify: that may come late or never
            self._tls.unwrap()
        self._flush()

    def pause_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Send what is left, say good-bye, close. A client that does not read cannot hold the connection."""
        self.write_eof()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.abort)

    def abort(self) -> None:
        self._transport.abort()

    # Within.

    def _shake(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            self._flush()  # the alert tells the client why
            self._host.refused(self, error.reason or str(error))
            self._transport.close()
            return False
        self._flush()
        self._handler = self._host.established(self, self._tls.selected_alpn_protocol())
        if self._handler is None:
            self.close()
            return False
        return True

    def _read(self) -> None:
        """What came is in the BIO by now, so the place where it landed is free for what it says."""
        landing = self._landing
        got, ended = 0, False
        try:
            while True:
                if len(landing.view) - got < RECORD:
                    self._hand_on(got)
                    got = 0
                    if self._transport.is_closing():
                        return
                size = cast("int", self._tls.read(len(landing.view) - got, landing.view[got:]))
                if not size:
                    ended = True
                    break
                got += size
                if not (self._in.pending or self._tls.pending()):
                    break  # saves the exception that one more read would raise
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            ended = True
        except ssl.SSLError:
            self._transport.abort()
            return
        self._flush()
        if got:
            self._hand_on(got)
        if ended:
            cast("Handler", self._handler).ended()

    def _hand_on(self, size: int) -> None:
        cast("Handler", self._handler).received(self._landing.taken(size))

    def _tls_closed(self) -> bool:
        try:
            return not self._tls.read(1)
        except ssl.SSLZeroReturnError:
            return True
        except (ssl.SSLError, ValueError):
            return False

    def _flush(self) -> None:
        if self._out.pending:
            self._transport.write(self._out.read())
