"""One HTTP/1.1 connection to a service: a request at a time, bytes moved on as they come, back-pressure both ways."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import cast

import httptools

HIGH_WATER = 1 << 18
LOW_WATER = 1 << 16
LONGEST_HEAD = 1 << 17

Headers = list[tuple[bytes, bytes]]


class UpstreamClosed(Exception):
    """The service closed the connection too early. `touched`: some of the answer had come."""

    def __init__(self, why: str, *, touched: bool) -> None:
        super().__init__(why)
        self.touched = touched


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it is put on the wire. `body` is all of it, or pieces as they come (`framed`: chunk them)."""

    method: str
    head: bytes
    body: bytes | AsyncIterator[bytes] = b""
    chunked: bool = False

    @property
    def replayable(self) -> bool:
        return isinstance(self.body, bytes)


class Connection(asyncio.Protocol):
    """The protocol of one connection. `on_lost` is called when it is closed while nobody uses it."""

    def __init__(self, on_lost: Callable[["Connection"], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._transport: asyncio.Transport
        self._writable: asyncio.Future[None] | None = None
        self._response: Response | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._upload: asyncio.Task[None] | None = None
        self._paused = False
        self.alive = False
        self.idle_since = 0.0

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        self.alive = True

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None or self._parser is None:
            self.abort()  # nobody asked: this connection is out of step
            return
        response.touched = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not response.complete:
                response.fail(f"the service's answer is no HTTP/1.1: {error}")
            self.abort()

    def eof_received(self) -> None:
        self._ended("the service closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        self._ended(f"the connection broke: {exc}" if exc else "the service closed the connection")
        self.resume_writing()

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # What users of the connection do

    async def send(self, request: Request) -> "Response":
        """Send a request; its answer, as soon as its head is here. UpstreamClosed if none comes."""
        response = self._response = Response(self, request.method)
        self._parser = httptools.HttpResponseParser(response)
        if not self.alive:
            raise UpstreamClosed("the service closed the connection", touched=False)
        if isinstance(request.body, bytes):
            self._transport.write(request.head + request.body)
        else:
            self._transport.write(request.head)
            self._upload = asyncio.create_task(self._send_body(request.body, chunked=request.chunked))
        try:
            await response.head
        except asyncio.CancelledError:
            self.abort()
            if self._upload is not None:
                self._upload.cancel()
            raise
        return response

    async def _send_body(self, body: AsyncIterator[bytes], *, chunked: bool) -> None:
        try:
            async for piece in body:
                if not piece:
                    continue
                self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                if self._writable is not None:
                    await self._writable
                if not self.alive:
                    return
        except Exception:
            self.abort()  # the sender is gone: half a request must not look whole
            raise
        if chunked:
            self._transport.write(b"0\r\n\r\n")

    def finish(self) -> bool:
        """The exchange is over. True if the connection can carry another one; else it is closed."""
        response, upload = self._response, self._upload
        sent = upload is None or (upload.done() and not upload.cancelled() and upload.exception() is None)
        clean = response is not None and response.complete and response.keep_alive and sent and self.alive
        self._response = self._parser = self._upload = None
        if upload is not None and not upload.done():
            upload.cancel()
        if clean:
            self.resume()
            self.idle_since = self._loop.time()
        else:
            self.abort()
        return clean

    def abort(self) -> None:
        """Close at once; the agent sees it, and so does the service."""
        self.alive = False
        self._transport.abort()

    def pause(self) -> None:
        """Read no more for now: the reader of the answer is slower than the service."""
        if self.alive and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self.alive and self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _ended(self, why: str) -> None:
        self.alive = False
        if self._response is not None:
            self._response.ended(why)
        else:
            self._on_lost(self)


class Response:
    """An answer while it comes in; the parser's callbacks are the `on_` methods."""

    def __init__(self, connection: Connection, method: str) -> None:
        self.connection = connection
        self._bodyless = method == "HEAD"
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._head_size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: UpstreamClosed | None = None
        self._interim = False
        self._framed = False
        self.head: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.headers: Headers = []
        self.keep_alive = False
        self.touched = False
        self.complete = False

    # The parser's callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        if self._head_size > LONGEST_HEAD:
            raise ValueError("its head is too long")
        name = name.lower()
        self._framed = self._framed or name in {b"content-length", b"transfer-encoding"}
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self.connection._parser  # noqa: SLF001 - these two classes are one thing
        if parser is None or self.complete:
            return
        self.status = parser.get_status_code()
        if self.status < 200:  # noqa: PLR2004
            self._interim = True
            return
        # asked here, because after the message the parser always says no
        self.keep_alive = parser.should_keep_alive() and not self._bodyless
        if not self.head.done():
            self.head.set_result(None)
        if self._bodyless:  # the parser cannot know that no body follows
            self._done()

    def on_body(self, body: bytes) -> None:
        if self.complete:
            return
        self._pieces.append(body)
        self._buffered += len(body)
        if self._buffered > HIGH_WATER:
            self.connection.pause()
        self._wake()

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim, self.headers, self._framed, self._head_size = False, [], False, 0
            return
        self._done()

    # What the connection says

    def ended(self, why: str) -> None:
        """The connection is closed: the end of an answer without a length, else an error."""
        if self.complete or self._error is not None:
            return
        if self.head.done() and not self._framed:
            self._done()
        else:
            self.fail(why)

    def fail(self, why: str) -> None:
        self._error = UpstreamClosed(why, touched=self.touched)
        if not self.head.done():
            self.head.set_exception(self._error)
        self._wake()

    # What the reader does

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, joined where more than one piece is waiting. UpstreamClosed if it breaks off."""
        while True:
            if self._pieces:
                data = self._pieces.popleft() if len(self._pieces) == 1 else b"".join(self._pieces)
                self._pieces.clear()
                self._buffered = 0
                yield data
                if self._buffered < LOW_WATER:
                    self.connection.resume()
            elif self._error is not None:
                raise self._error
            elif self.complete:
                return
            else:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter

    def abort(self) -> None:
        """The reader is gone."""
        self.connection.abort()

    def finish(self) -> bool:
        """The reader is done; see Connection.finish."""
        return self.connection.finish()

    def _done(self) -> None:
        self.complete = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
