"""One proxied request: to an endpoint that takes it, and its answer back, byte for byte, while the caller is there.

A request that got no answer, or one that says "not now", is sent again, to another replica if there is one: only before
anything of an answer went to the caller, only if it may reach a service twice or reached none for certain, and only
while its body is at hand. That a service closes between two requests is no matter here: the agent in the job connects
to it again.
"""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import structlog

from gateway.agent.landing import Bytes
from gateway.client.body import Body
from gateway.client.connection import DRAINING, HIGH_WATER, REFUSAL, Connection
from gateway.client.flow import Flow
from gateway.client.framing import Chunked, Frame, Malformed, UntilClose
from gateway.client.http1 import END, SWITCHING, RequestHead, ResponseHead, status_line
from gateway.client.limits import Ticket
from gateway.client.plan import Plan
from gateway.client.routes import Route
from gateway.client.upstream import Upstream
from gateway.client.usage import Tail
from gateway.client.waking import Preface
from gateway.client.websocket import FORBIDDEN, GOING_AWAY, Frames
from gateway.errors import EndpointUnavailable, SluiceError, TimedOut
from gateway.network.agents import unavailable
from gateway.web.limits import LONGEST_HEAD

if TYPE_CHECKING:
    from gateway.client.front import Front

log = structlog.get_logger(__name__)

MOST_ATTEMPTS = 3
_STREAM = b"text/event-stream"
_OK = 200
#: Answers that say that another replica may do better.
_NOT_NOW = frozenset({502, 503, 504})
_BAD = 500
_NEVER = float("inf")


class Exchange:
    """A request under way. The front hands it what the caller sends, a connection what the service sends."""

    passes_on = True

    __slots__ = (
        "_answer",
        "_attempts",
        "_body",
        "_chosen",
        "_connection",
        "_frame",
        "_front",
        "_head",
        "_head_data",
        "_kept",
        "_member",
        "_patience",
        "_plan",
        "_preface",
        "_route",
        "_tail",
        "_task",
        "_ticket",
        "_tried",
        "_tunnel",
        "_unclean",
        "status",
        "until",
    )

    def __init__(self, front: "Front", head: RequestHead, frame: Frame, plan: Plan, ticket: Ticket) -> None:
        self._front = front
        self._head, self._frame, self._plan, self._ticket = head, frame, plan, ticket
        self._body = Body(frame)
        self._connection: Connection | None = None
        self._kept = self._chosen = False
        self._route: Route = plan.routes[0]
        self._member: Upstream
        self._preface: Preface | None = None
        self._tried: set[Upstream] = set()
        self._attempts = 0
        self._task: asyncio.Task[None] | None = None
        self._head_data = b""
        self._answer: Frame | None = None
        self._tail: Tail | None = None
        self._tunnel: Frames | None = None
        self._unclean = False
        self.status = 0
        self.until = _NEVER
        self._patience = front.plane.limits.settings.first_byte_seconds

    def start(self, data: bytes) -> None:
        """Begin, with what has come of the body."""
        piece = self._take(data)
        if piece:
            self._body.keep(piece, sent=False)
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
        self._body.keep(piece, sent=self._connection is not None)
        if self._connection is not None:
            self._connection.write(piece)
        elif self._body.size > HIGH_WATER:
            self._front.pause_reading()

    def lost(self) -> None:
        """Nobody waits for the answer any more: the service is told at once."""
        if self._task is not None:
            self._task.cancel()
        self._abandon()
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

    @property
    def route(self) -> Route:
        """Where the answer comes from."""
        return self._route

    def forbid(self) -> None:
        """The caller may not have the answer any more."""
        if self._tunnel is not None:
            if self._tunnel.between:
                self._front.write(FORBIDDEN)
            self._done(keep=False)
        else:
            self._unclean = True
            self._front.drop(endless=isinstance(self._answer, UntilClose))

    def shutdown(self) -> None:
        """The gateway stops. A WebSocket would never end by itself; an answer may."""
        if self._tunnel is not None:
            self._say_goodbye(self._tunnel)
            self._done(keep=False)

    # What the service does

    def answered(self, data: Bytes) -> None:
        if self._tunnel is not None:
            data = bytes(data)
            self._tunnel.take(data)
            self._front.write(data)
            return
        try:
            if self._answer is None:
                self._head_came(bytes(data))
            else:
                self._body_came(self._answer, data)
        except Malformed as error:
            self._abandon()
            self._failed(f"the service's answer is no HTTP/1.1: {error}", again=False)

    def broke(self, why: str, *, whole: bool) -> None:
        self._release()
        if self._tunnel is not None:
            self._say_goodbye(self._tunnel)
            self._done(keep=False)
        elif self._answer is None:
            self._failed(why, again=True)
        elif isinstance(self._answer, UntilClose) and whole:
            self._done(keep=self._preface is not None)
        else:
            self._broke_off(self._answer, why)

    def congested(self) -> None:
        self._front.pause_reading()

    def relieved(self) -> None:
        self._front.resume_reading()

    def overdue(self) -> None:
        """The service has not begun to answer in time."""
        self._abandon()
        self._member.unanswered("no answer in time")
        self._next(TimedOut(f"the service did not begin to answer within {self._patience:g} seconds"))

    def forsaken(self) -> None:
        """Its endpoint's node may have vanished: who has nothing of an answer yet goes elsewhere, if it may."""
        waits = self._connection is not None and self._answer is None and self._tunnel is None
        if waits and self._member.vanished and self._replayable and self._others_than(self._member):
            self._abandon()
            self._next(unavailable(self._member.endpoint, "its node has vanished"))

    # The way to a service

    def _attempt(self) -> None:
        choice = self._ticket.choose(self._tried, self._plan.kin)
        if choice is None:
            self._spawn(self._wait())
            return
        self._attempts += 1
        self._route, self._member = choice
        # The caller may send more of the body before the connection is there, so the choice is made first.
        connection = self._member.take() if not self._kept else None
        self._member.begin()  # not when it is connected: those who choose meanwhile must know
        self._chosen = True
        if connection is not None:
            self._kept = connection.used
            self._send(connection)
        else:
            self._spawn(self._open(self._member, fresh=self._kept))

    async def _open(self, member: Upstream, *, fresh: bool) -> None:
        try:
            connection = await member.open(fresh=fresh)
        except EndpointUnavailable as error:
            self._release()
            self._next(error, reached=False)
        else:
            self._task, self._kept = None, connection.used
            self._send(connection)

    async def _wait(self) -> None:
        """In line, or until somebody answers for the session at all."""
        if not await self._ticket.wait(self._say, self._tried):
            await self._front.plane.awaken(self._plan.routes, self._say)
        self._task = None
        self._attempt()

    def _say(self, text: str) -> None:
        """Words for a caller who waits for a stream."""
        if not self._plan.stream or self._head.version != "1.1" or self._front.choked:
            return
        if self._preface is None:
            self._preface = Preface()
            self._front.begin_answer()
            self._front.write(Preface.HEAD + self._plan.extra + self._ids + b"\r\n")
        self._front.write(Preface.comment(text))

    def _send(self, connection: Connection) -> None:
        self._connection = connection
        connection.user = self
        first = self._plan.begin(self._route)
        if self._body.size:
            first += self._body.text
            self._body.shorten()
        connection.write(first)
        if self._patience:
            self._await(self._front.plane.now() + self._patience)
        if not self._frame.done:
            self._front.resume_reading()
        if self._front.choked:
            connection.pause()

    @property
    def _ids(self) -> bytes:
        """The lines that say which session answers, and which request this was."""
        return b"x-sluice-session: %b\r\nx-request-id: %b\r\n" % (self._route.id_bytes, self._head.id)

    def _await(self, until: float) -> None:
        """The answer must have begun by then."""
        self.until = until
        if self._frame.done:
            self._front.deadline = until

    def _failed(self, why: str, *, again: bool) -> None:
        """No answer, or not all of its head."""
        if again and self._kept and self._replayable and self._attempts < MOST_ATTEMPTS:
            self._head_data = b""
            self._await(_NEVER)  # until it has been sent again
            self._attempt()  # a connection that died unseen says nothing of the endpoint: a fresh one will tell
            return
        self._member.unanswered(why)
        self._front.plane.doubt()
        self._next(unavailable(self._member.endpoint, why))

    def _refused(self, said: bytes) -> None:
        """The agent says that the service got nothing of this request."""
        self._abandon()
        if said.startswith(DRAINING):
            self._member.refuses()
        else:
            self._member.unanswered("its agent does not reach it")
        self._next(unavailable(self._member.endpoint, "its service takes no requests now"), reached=False)

    def _next(self, error: SluiceError, *, reached: bool = True) -> None:
        """Another replica, if there is one and it may get the request; else the caller is told. `reached`: perhaps."""
        log.warning("endpoint does not answer", session=self._route.id, error=error.message)
        self._await(_NEVER)
        self._kept, self._head_data = False, b""
        self._tried.add(self._member)
        if self._others_than(self._member) and (self._replayable or (not reached and self._body.at_hand)):
            self._attempt()
        else:
            self._refuse(error)

    def _others_than(self, asked: Upstream) -> bool:
        """Whether somebody may be asked who was not asked yet."""
        if self._attempts >= MOST_ATTEMPTS:
            return False
        members = [member for route in self._plan.routes for member in route.members]
        return any(member not in {*self._tried, asked} for member in members) or (
            not members and any(route.wakes for route in self._plan.routes)
        )

    @property
    def _replayable(self) -> bool:
        return self._plan.repeatable and self._body.at_hand

    # The answer

    def _head_came(self, data: bytes) -> None:
        self._head_data += data
        if self._head_data.startswith(REFUSAL) and self._head_data.endswith(END):
            self._refused(self._head_data)
            return
        while (end := self._head_data.find(END)) >= 0:
            head, data = self._member.heads.read(self._head_data[: end + 4]), self._head_data[end + 4 :]
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
        if head.status >= _BAD or self._member.health.doubtful:
            self._member.answered(head.status)
        if head.status in _NOT_NOW and self._replayable and self._others_than(self._member):
            self._abandon()
            self._next(unavailable(self._member.endpoint, f"its service answers {head.status}"))
            return
        answer = head.frame(self._head.method)
        self._unclean = not head.keeps_alive
        stream = head.fields.get(b"content-type", b"").startswith(_STREAM)
        if plan.counts:
            self._tail = Tail(stream=stream)
        size = answer.take(data) if data else 0
        if size < len(data):
            self._unclean, data = True, data[:size]
        if self._tail is not None and data:
            self._tail.add(data)
        self._answer, self.status = answer, head.status
        self._body.drop()
        self._await(_NEVER)
        preface = self._preface
        if preface is not None:
            preface.begin(stream=stream and head.status == _OK, chunked=isinstance(answer, Chunked))
            front.write(preface.put(data))
            keep = self._keeps(framed=True)
        else:
            keep = self._keeps(framed=not isinstance(answer, UntilClose))
            lines = (status_line(head.status), plan.rewrite(head), plan.extra, self._ids)
            front.begin_answer()
            front.write(b"".join((*lines, b"\r\n" if keep else b"connection: close\r\n\r\n", data)))
        if answer.done:
            self._done(keep=keep)
        elif stream and preface is None and isinstance(answer, Chunked) and self._connection is not None:
            tail = self._tail or Tail(stream=True)
            self._connection.user = Flow(self, answer, tail, front.transport)

    def _keeps(self, *, framed: bool) -> bool:
        """Whether the caller's connection may carry another request after this answer."""
        return framed and self._head.keeps_alive and self._frame.done and not self._front.closing

    def _body_came(self, answer: Frame, data: Bytes) -> None:
        size = answer.take(data)
        if size < len(data):
            self._unclean, data = True, data[:size]
        if self._tail is not None:
            self._tail.add(data)
        if self._preface is not None:
            self._front.write(self._preface.put(bytes(data)))
        elif isinstance(data, bytes):
            self._front.write(data)
        else:
            self._front.pass_on(data)
        if answer.done:
            self._done(keep=self._keeps(framed=True))

    def _switch(self, head: ResponseHead, data: bytes) -> None:
        """The service takes the WebSocket: from here on, bytes go both ways as they come."""
        if not self._head.is_websocket or head.fields.get(b"upgrade", b"").lower() != b"websocket":
            raise Malformed("it switches to a protocol that nobody asked for")
        lines = (status_line(SWITCHING), b"connection: Upgrade\r\nupgrade: websocket\r\n", self._plan.rewrite(head))
        self._tunnel, self._unclean, self.status, self.until = Frames(), True, SWITCHING, _NEVER
        self._member.health.websockets += 1
        self._front.deadline = _NEVER
        self._tunnel.take(data)
        self._front.begin_answer()
        self._front.write(b"".join((*lines, self._ids, b"\r\n", data)))
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
        if isinstance(answer, UntilClose):
            self._front.drop(endless=True)
            return
        words = self._plan.last_words
        if words and answer.between and self._tail is not None and self._tail.stream:
            self._front.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(words), words))
        self._done(keep=False)

    # The end

    def _done(self, *, keep: bool) -> None:
        if (connection := self._release()) is not None:
            if self._unclean or not self._frame.done:
                connection.abort()
            else:
                self._member.give_back(connection)
        if self._preface is not None:
            self._front.write(self._preface.end())
        self._ticket.done()
        if self._tail is not None:
            self._front.plane.count(self._route, self._tail.usage())
        self._front.done(self.status, keep=keep, session=self._route.id)

    def _abandon(self) -> None:
        if (connection := self._release()) is not None:
            connection.abort()

    def _release(self) -> Connection | None:
        """The connection, if there is one, which is another one's from here on; the endpoint has this done."""
        connection, self._connection = self._connection, None
        if self._chosen:
            self._chosen = False
            self._member.end()
            self._member.health.websockets -= self._tunnel is not None
        return connection

    def _refuse(self, error: SluiceError) -> None:
        self._ticket.done()
        if self._preface is None:
            self._front.refuse(error, session=self._route.id)
            return
        said = self._front.rendered(error)
        self.status, self._tail = said.status_code, None
        self._front.write(Preface.error(bytes(said.body)))
        self._front.done(self.status, keep=self._keeps(framed=True), session=self._route.id)

    # The body

    def _take(self, data: bytes) -> bytes:
        """What of these bytes belongs to the request; the rest is another one's."""
        piece, rest = self._body.take(data)
        if rest:
            self._front.keep(rest)
        return piece

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
            if self._preface is None:
                self._front.fault()
            else:
                self._front.drop()
