"""Answers that go on: server-sent events that resume, and text that follows.

Both end when the service stops, and a few seconds after their reader may not read any more: a token that was revoked
or has expired, somebody who was switched off or lost a role.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from fastapi import Request
from starlette.responses import StreamingResponse

from gateway.errors import SluiceError
from gateway.web.errors import problem_of

log = structlog.get_logger(__name__)

T = TypeVar("T")
HEARTBEAT = 15.0
LOOK_SECONDS = 2.0
"""Between two looks whether the reader may read on."""

#: Ids and offsets beyond these are none that anybody was ever given, nor any that a database or a file takes.
MOST = 2**62
#: No proxy on the way may hold back what is to be seen at once.
LIVE_HEADERS: Mapping[str, str] = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@dataclass(frozen=True)
class Sent:
    """One server-sent event. A reader that comes back with `Last-Event-ID: <id>` gets what followed it."""

    data: Any
    event: str
    id: str | None = None

    def encode(self) -> bytes:
        lines = [f"id: {self.id}"] if self.id is not None else []
        lines += [f"event: {self.event}", f"data: {json.dumps(self.data, separators=(',', ':'), default=str)}"]
        return ("\n".join(lines) + "\n\n").encode()


def events(request: Request, source: AsyncIterator[Sent], *, heartbeat: float = HEARTBEAT) -> StreamingResponse:
    """A stream of events. It ends with the source, when the service stops, or when the reader may not read on.

    In the last two cases the reader comes back and resumes, if they may.

    A comment every `heartbeat` seconds keeps connections open and finds those that are gone. An error in the source
    comes out as a last event `error` with problem details.
    """

    async def body() -> AsyncIterator[bytes]:
        yield b"retry: 1000\n\n"
        try:
            async with aclosing(while_open(source, request, heartbeat)) as items:
                async for item in items:
                    yield item.encode() if item is not None else b": still here\n\n"
        except NotAllowed as error:
            log.info("stream ended", why=str(error))
        except SluiceError as error:
            found = problem_of(error, instance=request.url.path, request_id=request.state.request_id)
            yield Sent(data=found, event="error").encode()

    return StreamingResponse(body(), media_type="text/event-stream", headers=dict(LIVE_HEADERS))


def text(request: Request, source: AsyncIterator[str], *, kind: str = "text/plain; charset=utf-8") -> StreamingResponse:
    """A stream of text. One that breaks off does not look whole."""

    async def body() -> AsyncIterator[bytes]:
        try:
            async with aclosing(while_open(source, request, None)) as items:
                async for item in items:
                    if item is not None:
                        yield item.encode()
        except NotAllowed as error:
            log.info("stream ended", why=str(error))
            raise ConnectionAbortedError(str(error)) from error
        except SluiceError as error:
            log.warning("text stream broke off", code=error.code, error=error.message)
            raise ConnectionAbortedError(error.message) from error  # the reader must see that this is not the end

    return StreamingResponse(body(), media_type=kind, headers=dict(LIVE_HEADERS))


async def while_open(source: AsyncIterator[T], request: Request, idle: float | None) -> AsyncGenerator[T | None]:
    """The items of `source` until it ends or the service stops; None after every `idle` seconds without one.

    NotAllowed soon after the caller's token, sign-in or role is no longer what it was when they asked.
    """
    closing: asyncio.Event = request.state.closing
    stop = asyncio.ensure_future(closing.wait())
    over = asyncio.ensure_future(_until_over(request))
    coming: asyncio.Future[T] | None = None
    try:
        while not closing.is_set():
            coming = coming or asyncio.ensure_future(anext(source))
            waiting: set[asyncio.Future[Any]] = {coming, stop, over}
            await asyncio.wait(waiting, timeout=idle, return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                raise NotAllowed(str(over.result()))
            if coming.done():
                try:
                    item = coming.result()
                except StopAsyncIteration:
                    return
                coming = None
                yield item
            elif not stop.done():
                yield None
    finally:
        stop.cancel()
        over.cancel()
        if coming is not None:
            coming.cancel()
            await asyncio.wait({coming})
        if (close := getattr(source, "aclose", None)) is not None:
            await close()


class NotAllowed(Exception):
    """The reader may not read on. Whoever comes back is told why, or let in with what they bring then."""


async def _until_over(request: Request) -> SluiceError:
    """Why the caller may not go on, as soon as that is so."""
    again: Callable[[], Awaitable[None]] = request.state.again
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            await again()
        except SluiceError as error:
            return error
