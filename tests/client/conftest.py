"""A running client service over a gateway with its loop, and nodes that serve sessions."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.client import inside
from gateway.client.app import part, paths_of, plane_of
from gateway.client.plane import Plane as DataPlane
from gateway.identity.opening import open_callers
from gateway.model.announcement import Endpoint
from gateway.model.session import Session
from gateway.network.way import Way
from gateway.web.app import Web
from gateway.web.serving import running
from tests.login_node import LoginNode, a_login_node
from tests.services import Handler, Site, a_node, a_site, reconciling


class SlowLink:
    """Implements `core.ports.Tunnel`: a link that takes this many bytes of each connection, and then no more."""

    TAKES = 1 << 16

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, host: str, port: int) -> socket.socket:
        far = await asyncio.open_connection(host, port)
        here, there = socket.socketpair()
        here.setblocking(False)  # noqa: FBT003 - the socket's own word
        near = await asyncio.open_connection(sock=there)
        self._tasks += [
            asyncio.create_task(self._carry(near[0], far[1], self.TAKES)),
            asyncio.create_task(self._carry(far[0], near[1], 1 << 40)),
        ]
        return here

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int) -> None:
        try:
            while most > 0 and (data := await reader.read(min(most, 1 << 16))):
                writer.write(data)
                most -= len(data)
            if not most:
                await asyncio.Event().wait()
        finally:
            writer.close()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@dataclass
class Plane:
    """The data plane of a test."""

    site: Site
    url: str
    http: httpx.AsyncClient
    folder: Path
    data: DataPlane
    web: Web
    policies: Path
    login_node: LoginNode | None = None
    nodes: dict[Endpoint, AsyncExitStack] = field(default_factory=dict)

    async def node(self, service: Handler) -> Endpoint:
        stack = AsyncExitStack()
        endpoint = await stack.enter_async_context(a_node(self.folder, self.site.pki.ca_pem, service))
        self.nodes[endpoint] = stack
        return endpoint

    async def drop(self, endpoint: Endpoint) -> None:
        """The node is gone, without anybody being told."""
        await self.nodes.pop(endpoint).aclose()

    async def serve(self, service: Handler, recipe: str = "chat", **values: Any) -> Session:
        """A ready session whose service is this."""
        return await self.site.ready(await self.node(service), recipe, **values)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What is moved through `/s` is moved on both ways to the nodes, if the test does not say which."""
    there = metafunc.module.__name__.endswith(("test_sessions", "test_websockets")) and "way" in metafunc.fixturenames
    if there and "way" not in [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]:
        metafunc.parametrize("way", ["direct", "ssh"])


@pytest.fixture
def way() -> str:
    """How the nodes are reached."""
    return "direct"


@pytest.fixture
async def plane(tmp_path: Path, request: pytest.FixtureRequest, way: str) -> AsyncIterator[Plane]:
    """A data plane; a test that parametrizes it indirectly gives its `proxy` settings."""
    async with AsyncExitStack() as stack:
        policies = tmp_path / "policies"
        policies.mkdir()
        proxy = getattr(request, "param", None)
        around = login_node = None
        if way == "ssh":
            login_node = await stack.enter_async_context(a_login_node(tmp_path / "login"))
            around = Way("ssh", login_node.tunnel())
        elif way == "slow":
            around = Way("ssh", SlowLink())
        site = await stack.enter_async_context(a_site(tmp_path, proxy=proxy, policies=[policies], way=around))
        await stack.enter_async_context(reconciling(site))
        data = plane_of(site.gateway)
        parts = [part(data), inside.part(site.gateway, paths_of(site.gateway))]
        web = Web(parts, open_callers(site.gateway))
        url = await stack.enter_async_context(running(web, grace=2))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, headers=site.auth, timeout=60))
        made = Plane(site, url, http, tmp_path, data, web, policies, login_node)
        yield made
        for endpoint in list(made.nodes):
            await made.drop(endpoint)
