"""The caller's side of a proxied request: its body as it comes, and its going away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive

from gateway.client.http1 import Headers
from gateway.errors import Invalid

#: Of one connection, not of the message (RFC 9110, 7.6.1), and what framing makes anew.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


class CallerGone(Exception):
    """The caller closed the connection: nobody waits for the answer any more."""


class Downstream:
    """The request of one ASGI call, read once."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._read = asyncio.Event()
        self.gone = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. CallerGone if it breaks off."""
        while not self._read.is_set():
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                self._read.set()
                raise CallerGone
            if not message.get("more_body", False):
                self._read.set()
            if body := message.get("body", b""):
                yield body

    async def whole(self, limit: int) -> bytes:
        """The whole body. Invalid if it is longer than `limit` bytes."""
        found, size = [], 0
        async for piece in self.pieces():
            found.append(piece)
            size += len(piece)
            if size > limit:
                raise Invalid(f"the request is longer than {limit >> 20} MiB")
        return b"".join(found)

    @asynccontextmanager
    async def present(self) -> AsyncIterator[None]:
        """The block ends with CallerGone as soon as the caller leaves, wherever it is waiting."""
        task, inside = asyncio.current_task(), True
        watch = asyncio.ensure_future(self._until_gone())

        def left(done: asyncio.Future[None]) -> None:
            if inside and task is not None and not done.cancelled():
                self.gone = True
                task.cancel()

        watch.add_done_callback(left)
        try:
            yield
        except asyncio.CancelledError:
            if self.gone and task is not None and task.uncancel() == 0:
                raise CallerGone from None
            raise
        finally:
            inside = False
            watch.cancel()

    async def _until_gone(self) -> None:
        """Only who has read the body may ask for more: then the next message is that the caller left."""
        await self._read.wait()
        while not self.gone and (await self._receive())["type"] != "http.disconnect":
            pass


def end_to_end(headers: Headers) -> Headers:
    """The headers that go on to the other side."""
    named = {
        word.strip().lower() for name, value in headers if name == b"connection" for word in value.split(b",")
    } | HOP_BY_HOP
    return [(name, value) for name, value in headers if name not in named]
