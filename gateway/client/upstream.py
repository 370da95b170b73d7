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

from gateway.agent.certificate import MUX
from gateway.client.connection import Connection
from gateway.client.health import Health
from gateway.client.http1 import Heads, ResponseHead
from gateway.client.probing import Question
from gateway.client.trunk import Trunk
from gateway.errors import EndpointUnavailable
from gateway.model.announcement import Endpoint
from gateway.network.agents import unavailable

log = structlog.get_logger(__name__)

MOST_IDLE = 2048
IDLE_SECONDS = 50.0
#: Connections beyond those in use that are open already: while the endpoint is being used, and while it is not.
SPARE_LEAST, SPARE_MOST, SPARE_UNUSED = 4, 64, 1
BUSY_SECONDS = 60.0
AT_ONCE = 8
#: Handshakes at once; more wait their turn. They are work for a processor: many at once all take long, and the agent
#: lets go of those that it cannot get to.
MOST_SHAKING = 16
#: An endpoint that is asked and has ended no answer for so long is tried: some ways show no node that vanished.
SILENT_SECONDS = 2.0
#: So long new connections share one that carries them; then another one does.
TRUNK_SECONDS = 3600.0
#: A connection that the agent closes so soon, unused, was not wanted.
UNWANTED_SECONDS = 1.0
P = TypeVar("P", bound=asyncio.BaseProtocol)


class Path(Protocol):
    """A way to endpoints: `gateway.network.agents.AgentPath`."""

    async def connect(self, endpoint: Endpoint, factory: Callable[[], P], *, alpn: str | None = None) -> P: ...

    def context(self, endpoint: Endpoint) -> ssl.SSLContext: ...


class Upstream:
    """One endpoint. `on_doubt` is told when it cannot be reached, `question` is how one that answers badly is tried.

    With `shared` its connections go over one that all of them share: better for many short requests and streams of
    small events, not for bulk.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        path: Path,
        on_doubt: Callable[[], None],
        question: Question | None,
        *,
        shared: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self.tag = f"{endpoint.host}:{endpoint.port} {endpoint.fingerprint}".encode()
        self._path = path
        self._on_doubt = on_doubt
        self._question = question
        self._idle: list[Connection] = []  # those that have carried requests, the one used last at the end
        self._fresh: list[Connection] = []  # those that have carried nothing yet
        self._watcher: Connection | None = None  # one that waits all the time, and asks whether the node is there
        self._shared = shared
        self._shows_nothing = False  # whether the node is there, on this way to it
        self._trunk: Trunk | None = None
        self._trunk_opens = asyncio.Lock()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._shaking = asyncio.Semaphore(MOST_SHAKING)
        self._warming: asyncio.Task[None] | None = None
        self.heads = Heads(ResponseHead)  # of its answers
        self.health = Health(self._loop.time())
        self.attempt = 0  # of the session's job, as the table says
        self.vanished = False  # its node does not answer at all
        self._heard_at = float("-inf")  # when an answer ended, or the first of those under way was asked for
        self._asking: asyncio.Task[None] | None = None

    # Connections

    def take(self) -> Connection | None:
        """A connection that is open, the one used last; while others are busy not the one that watches."""
        found = self._idle.pop() if self._idle else self._fresh.pop() if self._fresh else None
        if found is None and self._watcher is not None and not self.health.in_flight and not self._shared:
            found, self._watcher = self._watcher, None
            found.watch(on=False)  # an answer may go on while its link is away for some seconds
        if not self._idle and not self._fresh:
            self._warm()
        return found

    async def open(self, *, fresh: bool = True, alone: bool = False) -> Connection:
        """A new connection; without `fresh` also one that came free meanwhile. EndpointUnavailable.

        `alone`: one that shares nothing, and so shows that somebody is there.
        """
        waited = self._shaking.locked()
        async with self._shaking:
            if waited and self.vanished:
                raise unavailable(self.endpoint, "its node has vanished")  # those before have tried for all
            if self._idle and not fresh and (found := self.take()) is not None:
                return found
            try:
                connection = await self._connect(alone=alone)
            except EndpointUnavailable:
                self.failed()
                raise
        connection.idle_since = self._loop.time()
        if self.health.failing and not self.health.ill:
            self._back()
        return connection

    def give_back(self, connection: Connection) -> None:
        """The connection can carry another request."""
        outdated = connection.trunk is not None and connection.trunk is not self._trunk
        if self._closed or outdated or not connection.alive or len(self._idle) >= MOST_IDLE:
            connection.abort()
            return
        connection.resume()
        connection.user = None
        connection.idle_since = self._loop.time()
        (self._idle if connection.used else self._fresh).append(connection)

    # How it does

    def begin(self) -> None:
        """It is chosen for a request: before there is a connection, else many at once would choose the same."""
        now = self._loop.time()
        if not self.health.in_flight:
            self._heard_at = now
        self.health.in_flight += 1
        self.health.last_used = now

    def end(self) -> None:
        self.health.in_flight -= 1
        self.health.last_used = self._heard_at = self._loop.time()

    def failed(self) -> None:
        """It could not be reached, or broke off: nothing new goes there until it has been tried and is there."""
        if not self.health.failing:
            self.health.failing = True
            self._on_doubt()
        self._retire_trunk()  # what is new must find out anew
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
        for task in (self._warming, self._asking):
            if task is not None:
                task.cancel()
        waiting = [*self._idle, *self._fresh, *([self._watcher] if self._watcher is not None else [])]
        self._idle, self._fresh, self._watcher = [], [], None
        for connection in waiting:
            connection.abort()
        self._retire_trunk()

    def tend(self, now: float) -> None:
        """Close what has been idle for long, oldest first, and open what should be there."""
        spare = self._wanted(now)
        for waiting in (self._idle, self._fresh):
            while self._open > spare and waiting and waiting[0].idle_since < now - IDLE_SECONDS:
                waiting.pop(0).abort()
        # One that has carried requests is for the next one, as long as others are on their way.
        for waiting in (self._fresh, self._idle) if self._warming is None else (self._fresh,):
            first = next((connection for connection in waiting if connection.watchable), None)
            if self._watcher is None and first is not None:
                waiting.remove(first)
                self._let_watch(first)
        if self._trunk is not None and self._trunk.since < now - TRUNK_SECONDS:
            self._retire_trunk()
        if self.health.in_flight and not self.vanished and now > self._heard_at + SILENT_SECONDS:
            self._ask(now)
        self._warm()

    # Within

    async def _connect(self, *, alone: bool) -> Connection:
        if self._shared and not alone and (trunk := self._trunk or await self._open_trunk()) is not None:
            return trunk.connection(Connection(self._lost))
        return await self._path.connect(self.endpoint, lambda: Connection(self._lost))

    async def _open_trunk(self) -> Trunk | None:
        """What carries the connections; None if the agent is one of before, which knows none."""
        waited = self._trunk_opens.locked()
        async with self._trunk_opens:
            if self._trunk is None and self._shared:
                if waited and self.health.failing:
                    raise unavailable(self.endpoint, "others have just tried")
                trunk = await self._path.connect(self.endpoint, lambda: Trunk(self._trunk_lost), alpn=MUX)
                self._shared = trunk.carries
                if trunk.carries and trunk.alive and not self._closed:
                    self._trunk = trunk
                else:
                    trunk.retire()
            return self._trunk

    def _retire_trunk(self) -> None:
        """Let nothing new go over it."""
        trunk, self._trunk = self._trunk, None
        if trunk is None:
            return
        for waiting in (self._idle, self._fresh):
            carried = [connection for connection in waiting if connection.trunk is trunk]
            waiting[:] = [connection for connection in waiting if connection.trunk is not trunk]
            for connection in carried:
                connection.abort()
        trunk.retire()

    def _trunk_lost(self, trunk: Trunk) -> None:
        if self._trunk is trunk:
            self._trunk = None

    @property
    def _open(self) -> int:
        """Those that the next requests can have."""
        return len(self._idle) + len(self._fresh) + (self._watcher is not None and not self._shared)

    def _wanted(self, now: float) -> int:
        health = self.health
        if health.refusing:
            return 0
        if not health.in_flight and health.last_used < now - BUSY_SECONDS:
            return SPARE_UNUSED
        return min(max(SPARE_LEAST, health.in_flight // 4), SPARE_MOST)

    @property
    def _unwatched(self) -> bool:
        """Nothing would show that the node is gone, and something could."""
        watched = self._watcher is not None or any(one.watchable for one in self._fresh)
        return self._shared and not watched and not self._shows_nothing and not self.health.refusing

    def _warm(self) -> None:
        short = (
            self.health.failing or self.health.ill or self._open < self._wanted(self._loop.time()) or self._unwatched
        )
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
            if self._unwatched:  # what shares a connection with others cannot watch
                with suppress(EndpointUnavailable):
                    self._let_watch(await self.open(alone=True))
                continue
            if missing <= 0:
                return
            opened = (self._open_spare() for _ in range(min(missing, AT_ONCE)))
            for error in await asyncio.gather(*opened, return_exceptions=True):
                if error is not None and not isinstance(error, EndpointUnavailable):
                    raise error

    def _let_watch(self, connection: Connection) -> None:
        self._shows_nothing = not connection.watchable
        if self._closed or self._shows_nothing or not connection.alive:
            self.give_back(connection)
        else:
            connection.watch(on=True)
            self._watcher = connection

    async def _open_spare(self) -> None:
        """At once with the others and none's: one that is open is not lost when those that are not are given up."""
        self.give_back(await self.open())

    def _ask(self, now: float) -> None:
        """Beside the answers under way, whether anybody is there."""
        if self._asking is None:
            self._heard_at = now
            self._asking = self._loop.create_task(self._look(now))
            self._asking.add_done_callback(self._asked)

    async def _look(self, since: float) -> None:
        try:
            self.give_back(await self.open(alone=True))
        except EndpointUnavailable:
            self.vanished = self._heard_at == since  # else an answer came meanwhile

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an endpoint that is silent is not tried", exc_info=error)

    async def _try(self) -> None:
        """Whether it is there again; and well, if it was not."""
        with suppress(EndpointUnavailable):
            connection = await self.open(alone=True)
            if not self.health.ill:
                self.give_back(connection)
            elif self._question is None or await self._question.ask(connection):
                self._back()

    def _back(self) -> None:
        log.info("endpoint is back", host=self.endpoint.host, port=self.endpoint.port)
        self.vanished = False
        self.health.back(self._loop.time())

    def _ill(self, why: str) -> None:
        log.warning("endpoint answers badly", host=self.endpoint.host, port=self.endpoint.port, error=why)
        self._warm()

    def _lost(self, connection: Connection) -> None:
        """A connection ended while it waited: often just so, but it is also how the end of a job looks."""
        self.vanished = self.vanished or connection.vanished
        if connection.told:
            self.refuses()
        elif connection.vanished or (
            (connection in self._fresh or connection is self._watcher)
            and connection.idle_since > self._loop.time() - UNWANTED_SECONDS
        ):
            self.failed()
        if connection.vanished:  # and so have the others: a request that took one would wait for nothing
            waiting, self._idle, self._fresh = [*self._idle, *self._fresh], [], []
            for other in waiting:
                other.abort()
        waiting = self._idle if connection.used else self._fresh
        if connection is self._watcher:
            self._watcher = None
            self._warm()
        elif connection in waiting:
            waiting.remove(connection)
            self._warm()
