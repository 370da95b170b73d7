"""One caller's connection: its requests read head by head, handed to who answers them, and kept within limits.

What is not the data plane's goes to the ASGI application of the same process, over the same connection.
"""

import asyncio
import time
from typing import TYPE_CHECKING, Protocol, cast

import structlog
from starlette.responses import Response

from gateway.client.connection import HIGH_WATER, LOW_WATER, lend, reset
from gateway.client.exchange import Exchange
from gateway.client.framing import Malformed
from gateway.client.guest import Visit
from gateway.client.http1 import END, UNSEEN, Heads, RequestHead, TooManyHeaders, answer
from gateway.errors import HeadTooLarge, Invalid, SluiceError, TooSlow
from gateway.network.agents import notice_dead_peers
from gateway.web import errors
from gateway.web.app import Server
from gateway.web.door import SECURITY_HEADERS
from gateway.web.peers import uid_of

if TYPE_CHECKING:
    from gateway.client.plane import Plane, Service
    from gateway.model.principal import Principal

log = structlog.get_logger(__name__)

LINGER_SECONDS = 2.0
#: Bytes of the next requests that a caller may send before it has its answer; then it is not read any more.
MOST_AHEAD = 1 << 16
_NEVER = float("inf")
_BAD_REQUEST = 400
_GONE = 499
_SECURITY = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


class Taker(Protocol):
    """Who answers the request that is under way, and gets what the caller sends meanwhile."""

    @property
    def read(self) -> bool:
        """The request is whole: nothing more of it will come."""

    @property
    def tunnel(self) -> bool:
        """The connection carries something other than requests."""

    @property
    def until(self) -> float:
        """By when the answer to a whole request must begin; infinity: any time."""

    @property
    def passes_on(self) -> bool:
        """Nothing of the body is kept here."""

    def overdue(self) -> None:
        """It has not begun by then."""

    def received(self, data: bytes) -> None: ...

    def lost(self) -> None:
        """The caller is gone."""

    def choke(self) -> None:
        """The caller reads too slowly: write nothing more for now."""

    def unchoke(self) -> None: ...

    def shutdown(self) -> None:
        """The gateway stops: end what would not end by itself."""


class Front(asyncio.Protocol):
    """The protocol of one connection."""

    __slots__ = (
        "_ahead",
        "_answering",
        "_began",
        "_body",
        "_early",
        "_heads",
        "_known",
        "_made",
        "_paused",
        "_service",
        "_taker",
        "_visit",
        "caller",
        "choked",
        "closing",
        "deadline",
        "head",
        "peer",
        "plane",
        "scheme",
        "server",
        "transport",
        "uid",
    )

    def __init__(self, plane: "Plane", server: Server) -> None:
        self.plane, self.server = plane, server
        self.transport: asyncio.Transport
        self._heads = Heads(RequestHead)
        self._ahead = b""
        self._made: dict[str, bytes] | None = None
        self._known: Service | None = None
        self._early = b""  # what came with the head, until somebody takes the request
        self._taker: Taker | None = None
        self._service: Service
        self._visit: Visit | None = None
        self._began = 0.0
        self._body = (0.0, 0)  # when it began, and how much of it has come
        self.scheme = "http"
        self._paused = self._answering = False
        self.choked = self.closing = False
        self.deadline = _NEVER
        self.head: RequestHead | None = None
        self.peer = b"unknown"
        self.caller: Principal | None = None
        self.uid: int | None = None

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = "https"
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = str(peer[0]).encode()
            notice_dead_peers(transport.get_extra_info("socket").fileno())
        else:
            self.uid = uid_of(transport)
        self.server.connections.add(self)
        self.plane.fronts.add(self)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        taker = self._taker
        if taker is None:
            self._ahead = self._ahead + data if self._ahead else data
            self._next()
        elif taker.read:
            self.keep(data)
        else:
            if not isinstance(taker, Linger):
                self._came(taker, len(data))
            try:
                taker.received(data)
            except Malformed as error:
                self.malformed(Invalid(str(error)))
            if taker is self._taker and (taker.read or taker.tunnel):
                self.deadline = taker.until

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.leave()
        taker, self._taker = self._taker, None
        if taker is not None:
            taker.lost()
            if self.head is not None and not isinstance(taker, Visit):
                self._account(_GONE)
        if self._visit is not None:
            self._visit.left()

    def pause_writing(self) -> None:
        self.choked = True
        if self._taker is not None:
            self.deadline = self.plane.now() + self.plane.bounds.stuck_seconds
            self._taker.choke()

    def resume_writing(self) -> None:
        self.choked = False
        taker = self._taker
        if taker is not None:
            # A WebSocket whose caller has nothing to say is no body that does not come.
            silent = taker.read or taker.tunnel
            self.deadline = taker.until if silent else self.plane.now() + self.plane.bounds.body_seconds
            taker.unchoke()

    @property
    def serving(self) -> str:
        """The service that answers a request now."""
        return self._service.name if self.head is not None else ""

    # What the server says

    def shutdown(self) -> None:
        """Take no new requests; an answer that is under way goes on, a WebSocket ends."""
        self.closing = True
        if self._taker is None:
            self.transport.close()
        else:
            self._taker.shutdown()

    def expired(self) -> None:
        """The deadline has passed."""
        self.deadline = _NEVER
        if self._paused and not self.choked:
            self.deadline = self.plane.now() + self.plane.bounds.body_seconds  # it is we who do not read
            self._body = (self._body[0] + self.plane.bounds.body_seconds, self._body[1])
        elif self.choked or isinstance(self._taker, Linger) or (isinstance(self._taker, Visit) and self._taker.begun):
            self.transport.abort()
        elif self._taker is not None and self._taker.read:
            if self._taker.until <= self.plane.now():
                self._taker.overdue()
            else:
                self.deadline = self._taker.until
        elif self._taker is not None:
            self.malformed(TooSlow("the body did not come in time"))
        elif self._ahead:
            self.malformed(TooSlow("the request did not come in time"))
        else:
            self.transport.close()

    @property
    def going_on(self) -> "Exchange | None":
        """The answer that a session gives now."""
        return self._taker if isinstance(self._taker, Exchange) else None

    def cut(self, error: SluiceError) -> None:
        """The caller may not have the answer any more that a session gives: it ends, and must not look whole."""
        if self.going_on is not None and self.head is not None:
            log.info("answer ended", path=self.head.path.decode("latin-1"), code=error.code, why=error.message)
            self.going_on.forbid()

    # What those who answer do

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def pass_on(self, data: memoryview) -> None:
        """Write what a service sent, and is written over afterwards."""
        lend(self.transport, data)

    def pause_reading(self) -> None:
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    def keep(self, data: bytes) -> None:
        """These bytes belong to the next request."""
        self._ahead += data
        if len(self._ahead) > MOST_AHEAD:
            self.pause_reading()

    def unkeep(self) -> bytes:
        """The bytes that came ahead belong to this request after all: it is none, but a WebSocket."""
        data, self._ahead = self._ahead, b""
        self.resume_reading()
        return data

    def hand(self, taker: Taker) -> None:
        """From here on this one answers."""
        self._taker = taker

    def welcome(self, head: RequestHead) -> None:
        """The body may come: some callers ask before they send it."""
        if b"expect" in head.fields and head.version == "1.1":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def begin_answer(self) -> None:
        """The answer begins: from here on it can only be ended well, or cut off."""
        self._answering = True
        self.plane.first_byte(self._service, time.perf_counter() - self._began)

    def done(self, status: int, *, keep: bool, session: str = "") -> None:
        """The answer is written. Without `keep` the connection ends with it."""
        whole = self._taker is None or self._taker.read or self._taker.tunnel
        self._taker, self._answering = None, False
        self._account(status, session=session)
        if keep and whole and not self.closing:
            self.resume_reading()
            self._wait_for_head()
            if self._ahead:
                asyncio.get_running_loop().call_soon(self._next)
        else:
            self._end(whole=whole)

    def refuse(self, error: SluiceError, *, session: str = "") -> None:
        """Answer the request with an error."""
        self.respond(self.rendered(error), session=session)

    def rendered(self, error: SluiceError) -> Response:
        """An error as callers of this part expect it; the audit log is told if it is a denial."""
        head = self.head
        where = {"instance": head.path.decode("latin-1"), "request_id": head.id.decode()} if head else {}
        if head is not None:
            self.plane.refused(error, self.caller, head)
        return self._service.render(error, where, head)

    def drop(self, *, endless: bool = False) -> None:
        """An answer that cannot be ended well is cut off; by a reset if it is one that the connection's end ends."""
        if endless:
            reset(self.transport)
        self.transport.abort()

    def respond(self, response: Response, *, session: str = "") -> None:
        """Answer the request with what is at hand. Nothing of an answer may have been written."""
        head = self.head
        if head is None:
            return
        if self._taker is None and not self._came_whole(head):
            self._taker = Linger()
        keep = head.keeps_alive and not self.closing and (self._taker is None or self._taker.read)
        headers = [*response.raw_headers, *self.plane.own(self._service, head, response)]
        headers.append((b"x-request-id", head.id))
        if not keep:
            headers.append((b"connection", b"close"))
        body = b"" if head.method == b"HEAD" else bytes(response.body)
        self.begin_answer()
        self.write(answer(response.status_code, headers, body))
        self.done(response.status_code, keep=keep, session=session)

    def malformed(self, error: SluiceError) -> None:
        """What came is no request: say so, if nothing else has been said, and close."""
        taker, self._taker = self._taker, None
        if taker is not None:
            taker.lost()
        if self._answering:
            self.transport.abort()
            return
        status = _BAD_REQUEST if type(error) is Invalid else errors.status_of(type(error))
        response = errors.respond(errors.problem(status, error.code, error.message))
        lines = [*response.raw_headers, *_SECURITY, (b"connection", b"close")]
        self.write(answer(status, lines, bytes(response.body)))
        self._account(status)
        self._end(whole=False)

    def fault(self) -> None:
        """A fault of ours; the log has it."""
        self.refuse(SluiceError(errors.FAULT))

    def leave(self) -> None:
        """Somebody else has the transport now, or nobody."""
        self.server.connections.discard(self)
        self.plane.fronts.discard(self)

    # Within

    def _came(self, taker: Taker, size: int) -> None:
        """More of a body. How slowly one may come that is passed on as it comes is its service's business."""
        now, (began, before) = self.plane.now(), self._body
        self._body = began, before + size
        bounds = self.plane.bounds
        self.deadline = (
            now + bounds.body_seconds if taker.passes_on else bounds.body_deadline(now, began, before + size)
        )

    def _came_whole(self, head: RequestHead) -> bool:
        """Whether all of a body is here that nobody took: what is still to come of it would pass for a request."""
        frame, data, self._early = head.frame(), self._early, b""
        size = frame.take(data) if data else 0
        if size < len(data):
            self.keep(data[size:])
        return frame.done

    def _wait_for_head(self) -> None:
        self.deadline = self.plane.now() + self.plane.bounds.idle_seconds

    def _next(self) -> None:
        """Read the next head, if it is here, and find who answers."""
        if self._taker is not None or self.transport.is_closing():
            return
        ahead, bounds = self._ahead, self.plane.bounds
        while ahead.startswith(b"\r\n"):
            ahead = ahead[2:]
        end = ahead.find(END)
        if end < 0 or end > bounds.head_bytes:
            self._ahead = ahead
            if len(ahead) > bounds.head_bytes:
                self.malformed(HeadTooLarge(f"the request's head is longer than {bounds.head_bytes >> 10} KiB"))
            elif ahead and self.deadline > self.plane.now() + bounds.head_seconds:
                self.deadline = self.plane.now() + bounds.head_seconds
            return
        data, self._ahead = ahead[end + 4 :], b""
        try:
            text = ahead[: end + 4]
            self._begin(self._heads.read(text), text, data)
        except TooManyHeaders as error:
            self.malformed(HeadTooLarge(str(error)))
        except Malformed as error:
            self.malformed(Invalid(str(error)))

    def _begin(self, head: RequestHead, text: bytes, data: bytes) -> None:
        if head.made is not self._made:  # else it is like the one before, but for its body's length
            self._made, self._known = head.made, self.plane.service(head)
        service, now = self._known, self.plane.now()
        self.deadline, self._body = now + self.plane.bounds.body_seconds, (now, len(data))
        if service is None:
            if self._visit is None:
                self._visit = Visit(self, self.transport)
            self._taker = self._visit
            self._visit.begin(head, text, data)
        else:
            self.head, self._service, self._began = head, service, time.perf_counter()
            if head.seen is UNSEEN:
                host = head.fields.get(b"host", b"").decode("latin-1")
                head.seen = self.plane.door.proxies.seen(self.peer.decode(), self.scheme, host, head.headers)
            self._early = data
            self.plane.begin(self, service, head, data)
            self._early = b""
        if self._taker is not None and (self._taker.read or self._taker.tunnel):
            self.deadline = self._taker.until

    def _account(self, status: int, *, session: str = "") -> None:
        head, self.head = self.head, None
        if head is not None:
            self.plane.account(self._service, head, status, time.perf_counter() - self._began, session)

    def _end(self, *, whole: bool) -> None:
        """Close. A caller that still sends is read for a moment: a connection reset could cost it the answer."""
        if whole:
            self.transport.close()
            return
        self._taker = Linger()
        self._ahead = b""
        self.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.deadline = self.plane.now() + LINGER_SECONDS


class Linger:
    """Reads and forgets."""

    read = tunnel = passes_on = False
    until = _NEVER

    def overdue(self) -> None:
        return

    def received(self, data: bytes) -> None:
        del data

    def lost(self) -> None:
        return

    def choke(self) -> None:
        return

    def unchoke(self) -> None:
        return

    def shutdown(self) -> None:
        return
