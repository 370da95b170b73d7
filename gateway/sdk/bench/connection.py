"""Connections to the gateway, and the requests that go over them: as little work a piece as there can be.

httptools (llhttp, as in Node.js) reads the answers, in the protocol of asyncio itself: with httpx between, a piece
costs many times as much, and the generator would be what is measured.
"""

import asyncio
import ssl
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import httptools
import httpx

from gateway.sdk import defaults
from gateway.sdk.bench.answer import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

_IDLE = 30.0
"""Seconds after which a connection is not used again: servers close idle ones, and that shall not look like a fault."""


@dataclass(frozen=True)
class Target:
    """Where the gateway is."""

    host: str
    port: int
    uds: str | None
    tls: ssl.SSLContext | None
    prefix: str
    authority: str

    @classmethod
    def of(cls, url: str, verify: ssl.SSLContext | bool) -> "Target":
        """From the SDK's address and what it verifies a gateway by."""
        place = urlsplit(defaults.base(url))
        secure = place.scheme == "https"
        tls = (verify if isinstance(verify, ssl.SSLContext) else httpx.create_ssl_context()) if secure else None
        port = place.port or (443 if secure else 80)
        return cls(place.hostname or "", port, defaults.socket_of(url), tls, place.path.rstrip("/"), place.netloc)

    def request(self, path: str, token: str | None, body: bytes) -> bytes:
        """A whole POST."""
        lines = [
            f"POST {self.prefix}{path} HTTP/1.1",
            f"Host: {self.authority}",
            "User-Agent: sluice-bench",
            "Accept: text/event-stream",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *([f"Authorization: Bearer {token}"] if token else ()),
        ]
        return "\r\n".join([*lines, "", ""]).encode() + body


class Connection(asyncio.Protocol):
    """One connection; `ask` sends a request and is done when the answer is whole or has failed."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._answer: Answer | None = None
        self._ended: asyncio.Future[None] | None = None
        self._type = b""
        self._now = 0.0
        self.open = True
        self.rested = 0.0

    @property
    def busy(self) -> bool:
        return self._answer is not None

    async def ask(self, message: bytes, answer: Answer) -> None:
        self._answer, self._type = answer, b""
        self._ended = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        await self._ended

    def close(self) -> None:
        self.open = False
        self._answer = None
        self._transport.abort()

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._now = perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._done("an answer that is no HTTP")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.open, self._now = False, perf_counter()
        self._done("broke off")

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._type = value.lower()

    def on_headers_complete(self) -> None:
        if self._answer is not None:
            self._answer.began(self._parser.get_status_code(), self._type)

    def on_body(self, body: bytes) -> None:
        if self._answer is not None and (pieces := self._answer.feed(body, self._now)):
            self._pool.came(self._now, pieces)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.open = False
        self._done(None)

    def _done(self, fault: str | None) -> None:
        answer, ended = self._answer, self._ended
        self._answer = self._ended = None
        if answer is not None and ended is not None and not ended.done():
            answer.ended(self._now, fault)
            ended.set_result(None)


class Pool:
    """Connections that wait for the next request. `came` is told of pieces: when they came, and how many."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.came: Callable[[float, int], None] = lambda _now, _pieces: None
        self._idle: list[Connection] = []
        self.opened = 0

    async def take(self) -> Connection:
        """One that is open. OSError if there can be none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.open and perf_counter() - connection.rested < _IDLE:
                return connection
            connection.close()
        self.opened += 1
        loop, target = asyncio.get_running_loop(), self._target
        if target.uds is not None:
            _, made = await loop.create_unix_connection(lambda: Connection(self), target.uds)
        else:
            _, made = await loop.create_connection(lambda: Connection(self), target.host, target.port, ssl=target.tls)
        return made

    def give(self, connection: Connection) -> None:
        """It is kept for the next request, unless the answer to this one is still to come, or it is closed."""
        connection.rested = perf_counter()
        if connection.open and not connection.busy:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()
