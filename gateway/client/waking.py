"""Requests to a session that sleeps: one start for all of them, a bound on how long they wait, and words meanwhile.

A caller who asked for a stream is told from time to time, by comments of server-sent events, that its answer comes:
then nobody on the way takes the connection for dead.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from gateway.client.framing import dechunked
from gateway.client.routes import Route
from gateway.errors import DatabaseUnavailable, NotReady, Overloaded
from gateway.settings import ProxySettings

log = structlog.get_logger(__name__)

LOOK_AGAIN = 1.0
ASK_AGAIN = 10.0
Start = Callable[[str], Coroutine[Any, Any, bool]]


class Waking:
    """Those who wait. `start` starts a session, however often it is called; `reported` hears of who begins to wait."""

    def __init__(self, settings: ProxySettings, start: Start, reported: Callable[[], None]) -> None:
        self._settings, self._start, self._reported = settings, start, reported
        self._asked: dict[str, float] = {}  # when a start was last asked for

    async def member(
        self, routes: Sequence[Route], changed: Callable[[float], Coroutine[Any, Any, None]], say: Callable[[str], None]
    ) -> None:
        """Return once one of the sessions has somebody who answers. `say`: words for a caller who wants to hear them.

        Overloaded: too many wait already. NotReady: it took too long, or the session is gone.
        """
        loop, route = asyncio.get_running_loop(), next((one for one in routes if one.wakes), routes[0])
        most = self._settings.session_queue if route.service.max_queue is None else route.service.max_queue
        if route.waiting >= most:
            raise Overloaded(
                f"session {route.name} is starting, and {route.waiting} requests wait for it already",
                hint="Try again in a moment.",
            )
        began = loop.time()
        said, until = began, began + self._settings.wake_seconds
        route.waiting += 1
        self._reported()
        try:
            while not any(one.members for one in routes):
                now = loop.time()
                if now >= until:
                    raise NotReady(
                        f"session {route.name} has not started within {self._settings.wake_seconds:g} seconds",
                        hint=f"`sluice show {route.name}` tells what it waits for.",
                    )
                if not any(one.wakes for one in routes):
                    raise NotReady(f"session {route.name} ends, and nothing answers for it", hint="Try again later.")
                await self._ask(route, now)
                if now >= said + self._settings.progress_seconds:
                    said = now
                    say(f"session {route.name} is starting, since {now - began:.0f} s")
                await changed(min(LOOK_AGAIN, self._settings.progress_seconds, max(until - now, 0.01)))
        finally:
            route.waiting -= 1

    async def _ask(self, route: Route, now: float) -> None:
        """One start for all who wait; asked for again only in case that it was not heard."""
        if now < self._asked.get(route.id, float("-inf")) + ASK_AGAIN:
            return
        self._asked = {key: at for key, at in self._asked.items() if at > now - ASK_AGAIN} | {route.id: now}
        try:
            if await self._start(route.id):
                log.info("session wakes", session=route.id)
        except DatabaseUnavailable as error:
            del self._asked[route.id]
            log.warning("session is not woken", session=route.id, error=error.message)


class Preface:
    """An answer that began before anybody answered: the head of an event stream, and comments.

    What the service says is then put into that stream: its events as they are, or its error as an event.
    """

    __slots__ = ("_chunked", "_error", "_wraps")

    HEAD = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        b"transfer-encoding: chunked\r\ncache-control: no-cache\r\n"
    )

    def __init__(self) -> None:
        self._error: list[bytes] | None = None
        self._wraps = self._chunked = False

    @staticmethod
    def comment(text: str) -> bytes:
        return chunk(f": {text}\n\n".encode())

    @staticmethod
    def error(body: bytes) -> bytes:
        """The end of the stream: an event with an error as OpenAI's clients expect it."""
        return chunk(b"data: " + b" ".join(body.splitlines()) + b"\n\n") + LAST_CHUNK

    def begin(self, *, stream: bool, chunked: bool) -> None:
        """The service's answer begins."""
        self._error, self._chunked = None if stream else [], chunked
        self._wraps = stream and not chunked

    def put(self, data: bytes) -> bytes:
        """What of its body is written now."""
        if self._error is not None:
            self._error.append(data)
            return b""
        return chunk(data) if self._wraps and data else data

    def end(self) -> bytes:
        """What is written when its answer is whole."""
        if self._error is not None:
            body = b"".join(self._error)
            return self.error(dechunked(body) if self._chunked else body)
        return LAST_CHUNK if self._wraps else b""


LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
