"""One proxied request: to an endpoint that takes it, and its answer back, byte for byte, while the caller is there.

A request that got no answer is sent again only before anything of an answer went to the caller, only if it may reach a
service twice, and only while its body is at hand. That a service closes between two requests is no matter here: the
agent in the job connects to it again.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from gateway.client.connection import HIGH_WATER, Connection
from gateway.client.framing import Frame, Malformed, UntilClose
from gateway.client.http1 import END, LONGEST_HEAD, SWITCHING, Headers, RequestHead, ResponseHead, status_line
from gateway.client.limits import Ticket
from gateway.client.routes import Route
from gateway.client.usage import Tail
from gateway.client.websocket import GOING_AWAY, Frames
from gateway.errors import EndpointUnavailable, SluiceError
from gateway.network.agents import unavailable

if TYPE_CHECKING:
    from gateway.client.front import Front

log = structlog.get_logger(__name__)

MOST_ATTEMPTS = 3
#: A request whose body came in pieces can be sent again while it is not longer than this.
MOST_KEPT = 1 << 16
_STREAM = b"text/event-stream"
_OK = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a front wants done with a request.

    `routes`: the sessions that may answer it. `begin`: the bytes to send first to one of them. `repeatable`: it does no
    harm if it reaches a service twice. `rewrite`: what becomes of an answer's headers. `extra`: header lines put into
    every answer. `last_words`: put at the end of an event stream that breaks off. `counts`: whether the answer is
    searched for the tokens it used.
    """

    routes: Sequence[Route]
    begin: Callable[[Route], bytes]
    repeatable: bool
    rewrite: Callable[[ResponseHead], Headers]
    extra: bytes = b""
    last_words: bytes = b""
    counts: bool = False


class Exchange:
    """A request under way. The front hands it what the caller sends, a connection what the service sends."""

    __slots__ = (
        "_answer",
        "_attempts",
        "_body",
        "_body_size",
        "_connection",
        "_frame",
        "_front",
        "_head",
        "_head_data",
        "_kept",
        "_plan",
        "_route",
        "_tail",
        "_task",
        "_ticket",
        "_tried",
        "_tunnel",
        "_unclean",
        "status",
    )

    def __init__(self, front: "Front", head: RequestHead, frame: Frame, plan: Plan, ticket: Ticket) -> None:
        self._front = front
        self._head, self._frame, self._plan, self._ticket = head, frame, plan, ticket
        self._body: list[bytes] | None = []  # what has come of it; None once it is too long to be kept
        self._body_size = 0
        self._connection: Connection | None = None
        self._kept = False
        self._route: Route = plan.routes[0]
        self._tried: set[Route] = set()
        self._attempts = 0
        self._task: asyncio.Task[None] | None = None
        self._head_data = b""
        self._answer: Frame | None = None
        self._tail: Tail | None = None
        self._tunnel: Frames | None = None
        self._unclean = False
        self.status = 0

    def start(self, data: bytes) -> None:
        """Begin, with what has come of the body."""
        piece = self._take(data)
        if piece:
            self._keep(piece)
        if self._ticket.admitted:
            self._attempt()
        else:
            self._spawn(self._queued())

    async def _queued(self) -> None:
        await self._ticket.wait()
        self._attempt()

    # What the caller does

    def received(self, data: bytes) -> None:
        if self._tunnel is not None:
            if self._connection is not None:
                self._connection.write(data)
            return
        piece = self._take(data)
        if not piece:
            return
        if self._body is not None:
            self._keep(piece)
        if self._connection is not None:
            self._connection.write(piece)
        elif self._body_size > HIGH_WATER:
            self._front.pause_reading()

    def lost(self) -> None:
        """Nobody waits for the answer any more: the service is told at once."""
        connection, self._connection = self._connection, None
        if self._task is not None:
            self._task.cancel()
        if connection is not None:
            connection.abort()
            self._route.upstream.end()
        self._ticket.done()

    def choke(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def unchoke(self) -> None:
        if self._connection is not None:
            self._connection.resume()

    @property
    def read(self) -> bool:
        """The request is whole: what comes now is another one."""
        return self._frame.done and self._tunnel is None

    @property
    def tunnel(self) -> bool:
        return self._tunnel is not None

    def shutdown(self) -> None:
        """The gateway stops. A WebSocket would never end by itself; an answer may."""
        if self._tunnel is not None:
            self._say_goodbye(self._tunnel)
            self._done(keep=False)

    # What the service does

    def answered(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.take(data)
            self._front.write(data)
            return
        try:
            if self._answer is None:
                self._head_came(data)
            else:
                self._body_came(self._answer, data)
        except Malformed as error:
            self._abandon()
            self._failed(f"the service's answer is no HTTP/1.1: {error}", again=False)

    def broke(self, why: str) -> None:
        self._connection = None
        self._route.upstream.end()
        if self._tunnel is not None:
            self._say_goodbye(self._tunnel)
            self._done(keep=False)
        elif self._answer is None:
            self._failed(why, again=True)
        elif isinstance(self._answer, UntilClose):
            self._done(keep=False)
        else:
            self._broke_off(self._answer, why)

    def congested(self) -> None:
        self._front.pause_reading()

    def relieved(self) -> None:
        self._front.resume_reading()

    # The way to a service

    def _attempt(self) -> None:
        self._attempts += 1
        self._route = self._front.plane.choose(self._plan.routes, self._tried)
        # The caller may send more of the body before the connection is there, so the choice is made first.
        upstream = self._route.upstream
        connection = upstream.take() if not self._kept else None
        if connection is not None:
            self._kept = connection.used
            self._send(connection)
        else:
            self._spawn(self._open(self._route, fresh=self._kept))

    async def _open(self, route: Route, *, fresh: bool) -> None:
        try:
            connection = await route.upstream.open(fresh=fresh)
        except EndpointUnavailable as error:
            self._next(error)
        else:
            self._task, self._kept = None, connection.used
            self._send(connection)

    def _send(self, connection: Connection) -> None:
        self._connection = connection
        connection.user = self
        self._route.upstream.begin()
        first = self._plan.begin(self._route)
        if self._body:
            first += b"".join(self._body)
        if not self._replayable or self._body_size > MOST_KEPT:
            self._body = None
        connection.write(first)
        if not self._frame.done:
            self._front.resume_reading()
        if self._front.choked:
            connection.pause()

    def _failed(self, why: str, *, again: bool) -> None:
        """No answer, or not all of its head."""
        if again and self._kept and self._replayable and self._attempts < MOST_ATTEMPTS:
            self._head_data = b""
            self._attempt()  # a connection that died unseen says nothing of the endpoint: a fresh one will tell
            return
        error = unavailable(self._route.endpoint, why)
        self._front.plane.doubt()
        self._next(error, sent=True)

    def _next(self, error: EndpointUnavailable, *, sent: bool = False) -> None:
        """Another session, if there is one and it may get the request; else the caller is told."""
        log.warning("endpoint does not answer", session=self._route.id, error=error.message)
        self._kept, self._head_data = False, b""
        self._tried.add(self._route)
        others = len(self._tried) < len(self._plan.routes)
        if others and self._attempts < MOST_ATTEMPTS and (self._replayable or (not sent and self._body is not None)):
            self._attempt()
        else:
            self._refuse(error)

    @property
    def _replayable(self) -> bool:
        return self._plan.repeatable and self._body is not None

    # The answer

    def _head_came(self, data: bytes) -> None:
        self._head_data += data
        while (end := self._head_data.find(END)) >= 0:
            head, data = ResponseHead(self._head_data[: end + 4]), self._head_data[end + 4 :]
            if head.status >= _OK or head.status == SWITCHING:
                self._head_data = b""
                self._begin_answer(head, data)
                return
            self._head_data = data  # an interim answer: the real one comes
        if len(self._head_data) > LONGEST_HEAD:
            raise Malformed("its head is too long")

    def _begin_answer(self, head: ResponseHead, data: bytes) -> None:
        front, plan = self._front, self._plan
        if head.status == SWITCHING:
            self._switch(head, data)
            return
        answer = head.frame(self._head.method)
        self._unclean = not head.keeps_alive
        keep = self._head.keeps_alive and not front.closing and self._frame.done and not isinstance(answer, UntilClose)
        if plan.counts:
            self._tail = Tail(stream=head.fields.get(b"content-type", b"").startswith(_STREAM))
        lines = [status_line(head.status)]
        lines += [b"%b: %b\r\n" % pair for pair in plan.rewrite(head)]
        lines += (plan.extra, b"x-sluice-session: ", self._route.id_bytes, b"\r\nx-request-id: ", self._head.id)
        lines.append(END if keep else b"\r\nconnection: close\r\n\r\n")
        size = answer.take(data) if data else 0
        if size < len(data):
            self._unclean, data = True, data[:size]
        if self._tail is not None and data:
            self._tail.add(data)
        lines.append(data)
        self._answer, self.status = answer, head.status
        front.begin_answer()
        front.write(b"".join(lines))
        if answer.done:
            self._done(keep=keep)

    def _body_came(self, answer: Frame, data: bytes) -> None:
        size = answer.take(data)
        if size < len(data):
            self._unclean, data = True, data[:size]
        if self._tail is not None:
            self._tail.add(data)
        self._front.write(data)
        if answer.done:
            self._done(keep=self._head.keeps_alive and self._frame.done and not self._front.closing)

    def _switch(self, head: ResponseHead, data: bytes) -> None:
        """The service takes the WebSocket: from here on, bytes go both ways as they come."""
        if not self._head.is_websocket or head.fields.get(b"upgrade", b"").lower() != b"websocket":
            raise Malformed("it switches to a protocol that nobody asked for")
        lines = [status_line(SWITCHING), b"connection: Upgrade\r\nupgrade: websocket\r\n"]
        lines += [b"%b: %b\r\n" % pair for pair in self._plan.rewrite(head)]
        lines += (b"x-sluice-session: ", self._route.id_bytes, b"\r\nx-request-id: ", self._head.id, END, data)
        self._tunnel, self._unclean, self.status = Frames(), True, SWITCHING
        self._tunnel.take(data)
        self._front.begin_answer()
        self._front.write(b"".join(lines))
        if early := self._front.unkeep():
            self.received(early)

    def _say_goodbye(self, frames: Frames) -> None:
        """The caller learns that it may come back. A service that ended the WebSocket itself has said so before."""
        if frames.between:
            self._front.write(GOING_AWAY)

    def _broke_off(self, answer: Frame, why: str) -> None:
        """The answer ended too early: it must not look whole."""
        self._front.plane.doubt()
        log.warning("answer broke off", session=self._route.id, error=why)
        words = self._plan.last_words
        if words and answer.between and self._tail is not None and self._tail.stream:
            self._front.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(words), words))
        self._done(keep=False)

    # The end

    def _done(self, *, keep: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._route.upstream.end()
            if self._unclean or not self._frame.done:
                connection.abort()
            else:
                self._route.upstream.give_back(connection)
        self._ticket.done()
        if self._tail is not None:
            self._front.plane.count(self._route, self._tail.usage())
        self._front.done(self.status, keep=keep, session=self._route.id)

    def _abandon(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            self._route.upstream.end()

    def _refuse(self, error: SluiceError) -> None:
        self._ticket.done()
        self._front.refuse(error, session=self._route.id)

    # The body

    def _take(self, data: bytes) -> bytes:
        """What of these bytes belongs to the request; the rest is another one's."""
        size = self._frame.take(data) if data and not self._frame.done else 0
        if size < len(data):
            self._front.keep(data[size:])
            return data[:size]
        return data

    def _keep(self, piece: bytes) -> None:
        if self._body is not None:
            self._body.append(piece)
            self._body_size += len(piece)
            if self._connection is not None and self._body_size > MOST_KEPT:
                self._body = None

    # What takes time

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._guarded(work))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except SluiceError as error:
            self._refuse(error)
        except Exception:
            log.exception("request failed", session=self._route.id)
            self._ticket.done()
            self._front.fault()
