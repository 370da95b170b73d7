"""A request of ours to a session: through the same limits, choice of replica and connections as those of callers.

What is different: nobody waits at the other end, so an answer is taken whole, and whoever asks hears whether a request
that failed may have reached a server.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from gateway.agent.landing import Bytes
from gateway.client.asked import as_model
from gateway.client.choice import Kin
from gateway.client.connection import DRAINING, REFUSAL, Connection
from gateway.client.framing import Chunked, Frame, Malformed, UntilClose, dechunked
from gateway.client.http1 import END, ResponseHead
from gateway.client.openai import CALLS
from gateway.client.routes import Route
from gateway.client.upstream import Upstream
from gateway.client.usage import Tail
from gateway.errors import EndpointUnavailable
from gateway.model.principal import Principal
from gateway.web.limits import LONGEST_HEAD

if TYPE_CHECKING:
    from gateway.client.plane import Plane

LONGEST_ANSWER = 64 << 20
_OK, _BAD, _NOT_FOUND_HERE = 200, 500, -1


class Question(NamedTuple):
    """What is asked. `endpoint` as callers name it, `body` with whatever model it names."""

    endpoint: str
    body: bytes
    id: str


class Told(NamedTuple):
    """The answer of a session's server. `after`: seconds until it wants to be asked again, if it said so."""

    status: int
    body: bytes
    after: float = 0.0


class Broken(Exception):
    """No answer, though the request may have reached a server. `begun`: an answer had begun."""

    def __init__(self, message: str, *, begun: bool = False) -> None:
        super().__init__(message)
        self.message, self.begun = message, begun


async def ask(
    plane: "Plane", caller: Principal, routes: Sequence[Route], question: Question, kin: Kin | None = None
) -> Told:
    """The answer of one of the sessions, `kin` says which replica's. One that sleeps is started, and waited for.

    Broken if it may have reached a server; TooMany, Overloaded, NotReady or EndpointUnavailable if it has not.
    """
    ticket = plane.limits.enter(caller, routes, asyncio.get_running_loop().time())
    try:
        while (choice := ticket.choose((), kin)) is None:
            if not await ticket.wait():
                await plane.awaken(routes, _nobody_listens)
        route, member = choice
        patience = plane.limits.settings.first_byte_seconds or None
        connection = member.take()
        member.begin()
        try:
            async with asyncio.timeout(patience):
                told = await _of(plane, route, member, connection, question)
        except TimeoutError as error:
            member.unanswered("no answer in time")
            raise Broken(f"session {route.name} did not answer within {patience:g} seconds") from error
        finally:
            member.end()
        return told
    finally:
        ticket.done()


def _nobody_listens(text: str) -> None:
    del text


async def _of(
    plane: "Plane", route: Route, member: Upstream, connection: Connection | None, question: Question
) -> Told:
    """The answer of this endpoint. A kept connection that had died unseen is not its fault: it is asked once more."""
    data = _request(route, question)
    if connection is not None and connection.used:
        try:
            return await _over(plane, route, member, connection, data)
        except Broken as error:
            if error.begun:
                raise
        connection = None
    if connection is None:
        connection = await member.open()
    try:
        return await _over(plane, route, member, connection, data)
    except Broken as error:
        member.unanswered(error.message)
        plane.doubt()
        raise


async def _over(plane: "Plane", route: Route, member: Upstream, connection: Connection, data: bytes) -> Told:
    listener = Listener(route.name)
    connection.user = listener
    try:
        connection.write(data)
        status = await listener.answer
    except BaseException:
        connection.abort()
        raise
    if status == _NOT_FOUND_HERE:
        connection.abort()
        _refused(member, listener.said)
    if listener.clean:
        member.give_back(connection)
    else:
        connection.abort()
    if status >= _BAD or member.health.doubtful:
        member.answered(status)
    body = listener.body
    tail = Tail(stream=False)
    tail.add(body)
    plane.count(route, tail.usage())
    return Told(status, body, listener.after)


def _request(route: Route, question: Question) -> bytes:
    body = as_model(question.body, route.model or "")
    return b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nx-request-id: %b\r\n" % (
        CALLS[question.endpoint.encode()],
        question.id.encode(),
    ) + b"content-length: %d\r\n\r\n%b" % (len(body), body)


def _refused(member: Upstream, said: bytes) -> None:
    """The agent says that the service got nothing of it."""
    if said.startswith(DRAINING):
        member.refuses()
    else:
        member.unanswered("its agent does not reach it")
    raise EndpointUnavailable("the session's service takes no requests now")


class Listener:
    """Takes one answer from a connection. `answer`: its status, when it is whole; Broken if it never will be."""

    def __init__(self, name: str) -> None:
        self.answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.said = b""
        self.clean = False
        self.after = 0.0
        self._name = name
        self._head: ResponseHead | None = None
        self._frame: Frame
        self._pieces: list[bytes] = []
        self._size = 0

    @property
    def body(self) -> bytes:
        data = b"".join(self._pieces)
        return dechunked(data) if isinstance(self._frame, Chunked) else data

    def answered(self, data: Bytes) -> None:
        data = bytes(data)  # it is kept
        if self.answer.done():
            self.clean = False
            return
        try:
            if self._head is None:
                self._head_came(data)
            else:
                self._body_came(data)
        except Malformed as error:
            self._fail(f"its answer is no HTTP/1.1: {error}")

    def broke(self, why: str, *, whole: bool) -> None:
        if whole and self._head is not None and isinstance(self._frame, UntilClose):
            self._done()
        else:
            self._fail(why)

    def congested(self) -> None:
        return

    def relieved(self) -> None:
        return

    def _head_came(self, data: bytes) -> None:
        self.said += data
        if self.said.startswith(REFUSAL) and self.said.endswith(END):
            self.answer.set_result(_NOT_FOUND_HERE)
            return
        while (end := self.said.find(END)) >= 0:
            head, self.said = ResponseHead(self.said[: end + 4]), self.said[end + 4 :]
            if head.status >= _OK:
                self._head, self._frame = head, head.frame(b"POST")
                after = head.fields.get(b"retry-after", b"")
                self.after = float(after) if after.isdigit() else 0.0
                rest, self.said = self.said, b""
                self._body_came(rest)
                return
        if len(self.said) > LONGEST_HEAD:
            raise Malformed("its head is too long")

    def _body_came(self, data: bytes) -> None:
        size = self._frame.take(data) if data else 0
        self.clean = size == len(data) and self._head is not None and self._head.keeps_alive
        self._pieces.append(data[:size])
        self._size += size
        if self._size > LONGEST_ANSWER:
            raise Malformed(f"it is longer than {LONGEST_ANSWER >> 20} MiB")
        if self._frame.done:
            self._done()

    def _done(self) -> None:
        if not self.answer.done() and self._head is not None:
            self.answer.set_result(self._head.status)

    def _fail(self, why: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(Broken(f"session {self._name}: {why}", begun=self._head is not None))
