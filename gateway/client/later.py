"""Requests that have to wait before it is known where they go: for a body that must be whole, or for the database."""

import asyncio
from collections.abc import Callable, Coroutine
from itertools import islice
from typing import TYPE_CHECKING, Any

import structlog

from gateway.client.body import Body
from gateway.client.connection import HIGH_WATER
from gateway.client.framing import Chunked, Frame, Malformed, chunks
from gateway.errors import SluiceError, TooLarge

if TYPE_CHECKING:
    from gateway.client.front import Front

log = structlog.get_logger(__name__)

#: A body that must be whole comes in no more chunks than these: to take it out of them is work, however short they are.
MOST_CHUNKS = 1 << 16


class Whole:
    """Collects a body of at most `limit` bytes, and hands on what is in it."""

    tunnel = passes_on = False
    until = float("inf")

    def __init__(self, front: "Front", frame: Frame, limit: int, then: Callable[[bytes], None]) -> None:
        self._front, self._frame, self._limit, self._then = front, frame, limit, then
        self._pieces: list[bytes] = []
        self._size = 0

    def start(self, data: bytes) -> None:
        self._front.hand(self)
        self.received(data)

    def received(self, data: bytes) -> None:
        size = self._frame.take(data) if data and not self._frame.done else 0
        if size < len(data):
            self._front.keep(data[size:])
            data = data[:size]
        self._pieces.append(data)
        self._size += size
        try:
            if self._size > self._limit:
                raise TooLarge(f"the request is longer than {self._limit >> 20} MiB")
            if self._frame.done:
                body = data if len(self._pieces) == 1 else b"".join(self._pieces)
                self._then(_content(body) if isinstance(self._frame, Chunked) else body)
        except SluiceError as error:
            self._front.refuse(error)

    @property
    def read(self) -> bool:
        return self._frame.done

    def overdue(self) -> None:
        return

    def lost(self) -> None:
        self._pieces.clear()

    def choke(self) -> None:
        return

    def unchoke(self) -> None:
        return

    def shutdown(self) -> None:
        return


class Later:
    """Keeps what comes of the body until `work` is done, and hands it to what that gives."""

    tunnel = passes_on = False
    until = float("inf")

    def __init__(
        self, front: "Front", frame: Frame, work: Coroutine[Any, Any, Callable[[bytes], None]], data: bytes
    ) -> None:
        self._front, self._body = front, Body(frame)
        try:
            self.received(data)
        except Malformed:
            work.close()
            raise
        self._task = asyncio.get_running_loop().create_task(self._do(work))

    def received(self, data: bytes) -> None:
        piece, rest = self._body.take(data)
        if rest:
            self._front.keep(rest)
        self._body.keep(piece, sent=False)
        if self._body.size > HIGH_WATER:
            self._front.pause_reading()

    @property
    def read(self) -> bool:
        return self._body.whole

    async def _do(self, work: Coroutine[Any, Any, Callable[[bytes], None]]) -> None:
        try:
            then = await work
            self._front.resume_reading()
            then(self._body.text)
        except SluiceError as error:
            self._front.refuse(error)
        except Exception:
            log.exception("request failed")
            self._front.fault()

    def overdue(self) -> None:
        return

    def lost(self) -> None:
        self._task.cancel()

    def choke(self) -> None:
        return

    def unchoke(self) -> None:
        return

    def shutdown(self) -> None:
        return


def _content(body: bytes) -> bytes:
    """What is in the chunks. TooLarge."""
    pieces = list(islice(chunks(body), MOST_CHUNKS + 1))
    if len(pieces) > MOST_CHUNKS:
        raise TooLarge(f"the request comes in more than {MOST_CHUNKS} chunks")
    return b"".join(pieces)
