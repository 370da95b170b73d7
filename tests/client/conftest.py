"""A running client service over a gateway with its loop, and nodes that serve sessions."""

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
from tests.login_node import a_login_node
from tests.services import Handler, Site, a_node, a_site, reconciling


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
    """What is moved through `/s` is moved on both ways to the nodes. Gigabytes take too long through two ciphers."""
    there = metafunc.module.__name__.endswith("test_sessions") and "way" in metafunc.fixturenames
    if there and "big_bodies" not in metafunc.function.__name__:
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
        around = None
        if way == "ssh":
            login_node = await stack.enter_async_context(a_login_node(tmp_path / "login"))
            around = Way("ssh", login_node.tunnel())
        site = await stack.enter_async_context(a_site(tmp_path, proxy=proxy, policies=[policies], way=around))
        await stack.enter_async_context(reconciling(site))
        data = plane_of(site.gateway)
        parts = [part(data), inside.part(site.gateway, paths_of(site.gateway))]
        web = Web(parts, open_callers(site.gateway))
        url = await stack.enter_async_context(running(web, grace=2))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, headers=site.auth, timeout=20))
        made = Plane(site, url, http, tmp_path, data, web, policies)
        yield made
        for endpoint in list(made.nodes):
            await made.drop(endpoint)
