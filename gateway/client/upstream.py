"""One endpoint: connections that are kept warm, how busy it is, and whether it can be trusted with more.

A few connections are open before anybody asks, because a handshake costs more than a request. They are also how the end
of a job is noticed: when its agent dies, they break at once, the endpoint is tried, and left alone if nobody is there.
"""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

import structlog

from gateway.client.connection import Connection
from gateway.client.health import Health
from gateway.client.probing import Question
from gateway.errors import EndpointUnavailable
from gateway.model.announcement import Endpoint

log = structlog.get_logger(__name__)

MOST_IDLE = 2048
IDLE_SECONDS = 50.0
#: Connections beyond those in use that are open already: while the endpoint is being used, and while it is not.
SPARE_LEAST, SPARE_MOST, SPARE_UNUSED = 4, 64, 1
BUSY_SECONDS = 60.0
AT_ONCE = 8
#: Handshakes at once; more wait their turn, because an agent lets go of those that it cannot get to.
MOST_SHAKING = 64
#: A connection that the agent closes so soon, unused, was not wanted.
UNWANTED_SECONDS = 1.0
P = TypeVar("P", bound=asyncio.BaseProtocol)


class Path(Protocol):
    """A way to endpoints: `gateway.network.agents.AgentPath`."""

    async def connect(self, endpoint: Endpoint, factory: Callable[[], P]) -> P: ...

    def context(self, endpoint: Endpoint) -> ssl.SSLContext: ...


class Upstream:
    """One endpoint. `on_doubt` is told when it cannot be reached, `question` is how one that answers badly is tried."""

    def __init__(self, endpoint: Endpoint, path: Path, on_doubt: Callable[[], None], question: Question | None) -> None:
        self.endpoint = endpoint
        self.tag = f"{endpoint.host}:{endpoint.port} {endpoint.fingerprint}".encode()
        self._path = path
        self._on_doubt = on_doubt
        self._question = question
        self._idle: list[Connection] = []  # those that have carried requests, the one used last at the end
        self._fresh: list[Connection] = []  # those that have carried nothing yet
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._shaking = asyncio.Semaphore(MOST_SHAKING)
        self._warming: asyncio.Task[None] | None = None
        self.health = Health(self._loop.time())
        self.attempt = 0  # of the session's job, as the table says

    # Connections

    def take(self) -> Connection | None:
        """A connection that is open, the one used last."""
        found = self._idle.pop() if self._idle else self._fresh.pop() if self._fresh else None
        if found is not None and found.watches:
            found.watch(on=False)  # an answer may go on while its link is away for some seconds
        if not self._idle:
            self._warm()
        return found

    async def open(self, *, fresh: bool = True) -> Connection:
        """A new connection; without `fresh` also one that came free meanwhile. EndpointUnavailable."""
        async with self._shaking:
            if self._idle and not fresh and (found := self.take()) is not None:
                return found
            try:
                connection = await self._path.connect(self.endpoint, lambda: Connection(self._lost))
            except EndpointUnavailable:
                self.failed()
                raise
        connection.idle_since = self._loop.time()
        if self.health.failing and not self.health.ill:
            self._back()
        return connection

    def give_back(self, connection: Connection) -> None:
        """The connection can carry another request."""
        if self._closed or not connection.alive or len(self._idle) >= MOST_IDLE:
            connection.abort()
            return
        connection.resume()
        connection.user = None
        connection.idle_since = self._loop.time()
        (self._idle if connection.used else self._fresh).append(connection)

    # How it does

    def begin(self) -> None:
        self.health.in_flight += 1
        self.health.last_used = self._loop.time()

    def end(self) -> None:
        self.health.in_flight -= 1
        self.health.last_used = self._loop.time()

    def failed(self) -> None:
        """It could not be reached, or broke off: nothing new goes there until it has been tried and is there."""
        if not self.health.failing:
            self.health.failing = True
            self._on_doubt()
        self._warm()

    def answered(self, status: int) -> None:
        """An answer began. After many bad ones in a row nothing new goes there until the probe says it is well."""
        if self.health.answered(status):
            self._ill(f"status {status}")

    def unanswered(self, why: str) -> None:
        """A request got no answer: the same."""
        if self.health.unanswered():
            self._ill(why)

    def refuses(self) -> None:
        """Its agent takes nothing new, and never will again."""
        if not self.health.refusing:
            self.health.refusing = True
            self._on_doubt()

    def close(self) -> None:
        """Let go of the connections that wait; those in use end with their requests."""
        self._closed = True
        if self._warming is not None:
            self._warming.cancel()
        waiting = [*self._idle, *self._fresh]
        self._idle, self._fresh = [], []
        for connection in waiting:
            connection.abort()

    def tend(self, now: float) -> None:
        """Close what has been idle for long, oldest first, and open what should be there."""
        spare = self._wanted(now)
        for waiting in (self._idle, self._fresh):
            while self._open > spare and waiting and waiting[0].idle_since < now - IDLE_SECONDS:
                waiting.pop(0).abort()
        first = next((connection for waiting in (self._fresh, self._idle) for connection in waiting), None)
        if first is not None and not first.watches:  # those that are taken last
            first.watch(on=True)
        self._warm()

    # Within

    @property
    def _open(self) -> int:
        return len(self._idle) + len(self._fresh)

    def _wanted(self, now: float) -> int:
        health = self.health
        if health.refusing:
            return 0
        if not health.in_flight and health.last_used < now - BUSY_SECONDS:
            return SPARE_UNUSED
        return min(max(SPARE_LEAST, health.in_flight // 4), SPARE_MOST)

    def _warm(self) -> None:
        short = self.health.failing or self.health.ill or self._open < self._wanted(self._loop.time())
        if short and not self._closed and not self.health.refusing and self._warming is None:
            self._warming = self._loop.create_task(self._open_spares())
            self._warming.add_done_callback(self._warmed)

    def _warmed(self, task: asyncio.Task[None]) -> None:
        self._warming = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("connections are not kept warm", exc_info=error)

    async def _open_spares(self) -> None:
        """Open what is missing; while the endpoint is not well, one try at a time with growing rests in between."""
        while not self._closed and not self.health.refusing:
            if self.health.failing or self.health.ill:
                await asyncio.sleep(self.health.rest())
                await self._try()
                continue
            missing = self._wanted(self._loop.time()) - self._open
            if missing <= 0:
                return
            opened = await asyncio.gather(*(self.open() for _ in range(min(missing, AT_ONCE))), return_exceptions=True)
            for connection in opened:
                if isinstance(connection, Connection):
                    self.give_back(connection)
                elif not isinstance(connection, EndpointUnavailable):
                    raise connection

    async def _try(self) -> None:
        """Whether it is there again; and well, if it was not."""
        with suppress(EndpointUnavailable):
            connection = await self.open()
            if not self.health.ill:
                self.give_back(connection)
            elif self._question is None or await self._question.ask(connection):
                self._back()

    def _back(self) -> None:
        log.info("endpoint is back", host=self.endpoint.host, port=self.endpoint.port)
        self.health.back(self._loop.time())

    def _ill(self, why: str) -> None:
        log.warning("endpoint answers badly", host=self.endpoint.host, port=self.endpoint.port, error=why)
        self._warm()

    def _lost(self, connection: Connection) -> None:
        """A connection ended while it waited: often just so, but it is also how the end of a job looks."""
        if connection.told:
            self.refuses()
        elif connection.vanished or (
            not connection.used and connection.idle_since > self._loop.time() - UNWANTED_SECONDS
        ):
            self.failed()
        waiting = self._idle if connection.used else self._fresh
        if connection in waiting:
            waiting.remove(connection)
            self._warm()
