"""One endpoint's connections, where a whole data plane would show too little."""

import asyncio
import errno
import ssl
from collections.abc import Callable
from typing import TypeVar

from gateway.client.upstream import MOST_SHAKING, Upstream
from gateway.errors import EndpointUnavailable
from gateway.model.announcement import Endpoint
from tests.waiting import until_so

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Straight:
    """Plain TCP to whatever listens there."""

    async def connect(self, endpoint: Endpoint, factory: Callable[[], P], *, alpn: str | None = None) -> P:
        del alpn
        _, protocol = await asyncio.get_running_loop().create_connection(factory, endpoint.host, endpoint.port)
        return protocol

    def context(self, endpoint: Endpoint) -> ssl.SSLContext:
        raise AssertionError(endpoint)


class Nowhere:
    """A way to a node that does not answer: who tries is told so when `over` is set."""

    def __init__(self) -> None:
        self.tried, self.over = 0, asyncio.Event()

    async def connect(self, endpoint: Endpoint, factory: Callable[[], P], *, alpn: str | None = None) -> P:
        del factory, alpn
        self.tried += 1
        await self.over.wait()
        raise EndpointUnavailable(f"nobody is at {endpoint.host}")

    def context(self, endpoint: Endpoint) -> ssl.SSLContext:
        raise AssertionError(endpoint)


async def test_who_stands_in_line_for_a_node_that_vanished_does_not_try_it_too() -> None:
    way = Nowhere()
    upstream = Upstream(Endpoint(host="gone", port=1, fingerprint="0" * 64), way, lambda: None, None)
    try:
        wanted = [asyncio.create_task(upstream.open()) for _ in range(3 * MOST_SHAKING)]
        await until_so(lambda: way.tried == MOST_SHAKING, what="as many as may try")
        upstream.vanished = True
        upstream.health.refusing = True  # nobody tries whether it is back
        way.over.set()
        found = await asyncio.gather(*wanted, return_exceptions=True)
    finally:
        upstream.close()
    assert all(isinstance(one, EndpointUnavailable) for one in found)
    assert way.tried == MOST_SHAKING


async def test_when_one_connection_finds_that_the_node_has_vanished_no_other_is_taken() -> None:
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upstream = Upstream(Endpoint(host="127.0.0.1", port=port, fingerprint="0" * 64), Straight(), lambda: None, None)
    try:
        upstream.health.refusing = True  # it opens none by itself
        first, *others = await asyncio.gather(*(upstream.open() for _ in range(3)))
        for connection in (first, *others):
            upstream.give_back(connection)
        assert all(other.alive for other in others)
        first.connection_lost(TimeoutError(errno.ETIMEDOUT, "no answer"))
        assert upstream.vanished
        assert not any(other.alive for other in others)
        assert upstream.take() is None
    finally:
        upstream.close()
        server.close()


class Held(Straight):
    """The same; who comes later than the first is kept waiting until `go` is set."""

    def __init__(self) -> None:
        self.tried = self.made = 0
        self.go = asyncio.Event()

    async def connect(self, endpoint: Endpoint, factory: Callable[[], P], *, alpn: str | None = None) -> P:
        self.tried += 1
        if self.tried > 1:
            await self.go.wait()
        made = await super().connect(endpoint, factory, alpn=alpn)
        self.made += 1
        return made


async def test_what_carried_a_request_is_there_for_the_next_one_while_others_are_on_their_way() -> None:
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    port, way = server.sockets[0].getsockname()[1], Held()
    upstream = Upstream(Endpoint(host="127.0.0.1", port=port, fingerprint="0" * 64), way, lambda: None, None)
    first = await upstream.open()
    try:
        first.write(b"asked")
        assert upstream.take() is None
        await until_so(lambda: way.tried > 1, what="others are on their way")
        upstream.give_back(first)
        upstream.tend(asyncio.get_running_loop().time())
        upstream.begin()
        assert upstream.take() is first, "it does not watch over the node: one that is new will"
    finally:
        first.abort()
        upstream.close()
        server.close()


class Ended(asyncio.Protocol):
    """The other side of a connection, which tells its end."""

    def __init__(self, ended: asyncio.Event) -> None:
        self._ended = ended

    def connection_lost(self, _exc: Exception | None) -> None:
        self._ended.set()


async def test_what_is_open_is_closed_with_its_endpoint_while_others_are_on_their_way() -> None:
    ended, way = asyncio.Event(), Held()
    server = await asyncio.get_running_loop().create_server(lambda: Ended(ended), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upstream = Upstream(Endpoint(host="127.0.0.1", port=port, fingerprint="0" * 64), way, lambda: None, None)
    try:
        upstream.begin()  # while it is used there are several
        upstream.tend(asyncio.get_running_loop().time())
        await until_so(lambda: way.tried > 1 and way.made == 1, what="one is open, and others are on their way")
        upstream.close()
        await asyncio.wait_for(ended.wait(), 120)
    finally:
        upstream.close()
        server.close()


async def test_who_waits_for_a_shared_connection_that_cannot_be_had_does_not_try_it_too() -> None:
    way = Nowhere()
    upstream = Upstream(Endpoint(host="gone", port=1, fingerprint="0" * 64), way, lambda: None, None, shared=True)
    try:
        upstream.health.refusing = True  # nobody tries whether it is back
        wanted = [asyncio.create_task(upstream.open()) for _ in range(MOST_SHAKING)]
        await until_so(lambda: way.tried == 1, what="one tries")
        way.over.set()
        found = await asyncio.gather(*wanted, return_exceptions=True)
    finally:
        upstream.close()
    assert all(isinstance(one, EndpointUnavailable) for one in found)
    assert way.tried == 1
