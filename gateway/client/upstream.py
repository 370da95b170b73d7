"""Connections to one endpoint, kept warm, and requests over them that survive a connection closed behind our back.

llama-server, for one, closes after each stream without announcing it, so a kept connection may be dead when it is
used. A request is sent again, once and on a fresh connection, only if not one byte of an answer came, the connection
was a kept one, the body is still there, and the caller said that the request may reach the service twice.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from gateway.client.http1 import Connection, Request, Response, UpstreamClosed
from gateway.model.announcement import Endpoint
from gateway.network.agents import unavailable

MOST_IDLE = 256
IDLE_SECONDS = 50.0
P = TypeVar("P", bound=asyncio.BaseProtocol)


class Path(Protocol):
    """A way to endpoints: `gateway.network.agents.AgentPath`."""

    async def connect(self, endpoint: Endpoint, factory: Callable[[], P]) -> P: ...

    def context(self, endpoint: Endpoint) -> ssl.SSLContext: ...


class Upstream:
    """One endpoint. `in_flight` counts requests that are being answered."""

    def __init__(self, endpoint: Endpoint, path: Path) -> None:
        self._endpoint = endpoint
        self._path = path
        self._idle: list[Connection] = []
        self._closed = False
        self.in_flight = 0
        self.last_used = 0.0

    @asynccontextmanager
    async def exchange(self, request: Request, *, repeatable: bool) -> AsyncIterator[Response]:
        """Send a request; its answer. `repeatable`: it does no harm if it reaches the service twice.

        EndpointUnavailable if there is no answer. What is left of the answer when the block is left is not read.
        """
        self.in_flight += 1
        response: Response | None = None
        try:
            response = await self._send(request, reuse=repeatable and request.replayable)
            yield response
        finally:
            self.in_flight -= 1
            self.last_used = asyncio.get_running_loop().time()
            if response is not None:
                self._release(response)

    def tls(self) -> ssl.SSLContext:
        """For those who bring their own connections."""
        return self._path.context(self._endpoint)

    async def _send(self, request: Request, *, reuse: bool) -> Response:
        kept = self._kept() if reuse else None
        if kept is not None:
            try:
                return await kept.send(request)
            except UpstreamClosed as error:
                kept.finish()
                if error.touched:
                    raise unavailable(self._endpoint, str(error)) from error
        fresh = await self._path.connect(self._endpoint, lambda: Connection(self._forget))
        try:
            return await fresh.send(request)
        except UpstreamClosed as error:
            fresh.finish()
            raise unavailable(self._endpoint, str(error)) from error

    def close(self) -> None:
        """Let go of the connections that wait; those in use end with their requests."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.abort()

    def prune(self, now: float) -> None:
        """Close what has been idle for long, oldest first."""
        while self._idle and self._idle[0].idle_since < now - IDLE_SECONDS:
            self._idle.pop(0).abort()

    def _kept(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.alive:
                return connection
        return None

    def _release(self, response: Response) -> None:
        connection = response.connection
        if response.finish():
            if self._closed or len(self._idle) >= MOST_IDLE:
                connection.abort()
            else:
                self._idle.append(connection)

    def _forget(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
