"""A gateway on two replicas, and the people who use it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gateway.client.app import parts
from gateway.identity.opening import open_callers
from gateway.server.app import part
from gateway.web.app import Web
from gateway.web.serving import running
from tests.people import Somebody, a_person, a_project
from tests.services import Site, a_site


@dataclass
class Town:
    """A gateway on two replicas, and the people who use it."""

    site: Site
    http: httpx.AsyncClient
    other: httpx.AsyncClient
    people: dict[str, Somebody]

    async def ask(self, who: str | Somebody, method: str, path: str, body: Any = None) -> httpx.Response:
        auth = (self.people[who] if isinstance(who, str) else who).auth
        return await self.http.request(method, path, headers=auth, json=body)

    async def status(self, who: str | Somebody, method: str, path: str, body: Any = None) -> int:
        return (await self.ask(who, method, path, body)).status_code

    async def start(self, who: str, **values: Any) -> dict[str, Any]:
        answer = await self.ask(who, "POST", "/api/v1/sessions", {"recipe": "count", **values})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())


@asynccontextmanager
async def a_town(folder: Path, **values: Any) -> AsyncIterator[Town]:
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(a_site(folder, **values))
        web = Web([part(site.gateway), *parts(site.gateway)], open_callers(site.gateway))
        url = await stack.enter_async_context(running(web))
        replica = Web(parts(site.gateway), open_callers(site.gateway))
        other = await stack.enter_async_context(running(replica))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=60))
        second = await stack.enter_async_context(httpx.AsyncClient(base_url=other, timeout=60))
        share = {"cluster": "c", "account": "research", "qos": ["normal"], "partitions": ["cpu", "gpu"]}
        await a_project(site, "alpha", shares=[share])
        await a_project(site, "beta")
        people = {
            "ann": await a_person(site, "ann", {"alpha": "member"}),
            "may": await a_person(site, "may", {"alpha": "manager"}),
            "vic": await a_person(site, "vic", {"alpha": "viewer"}),
            "ben": await a_person(site, "ben", {"beta": "manager"}),
            "ola": await a_person(site, "ola", {}, operator=True),
        }
        yield Town(site, http, second, people)
