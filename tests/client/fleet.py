"""Sessions with several jobs, put into the database as the servers would: who serves, who drains, who is gone."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from gateway.client import batches
from gateway.client.app import part, plane_of
from gateway.client.plane import Plane
from gateway.client.routes import Route
from gateway.client.upstream import Upstream
from gateway.identity.opening import open_callers
from gateway.model.announcement import Endpoint
from gateway.model.job import Job, JobRole, job_name
from gateway.model.jobspec import HttpProbe
from gateway.model.load import Load
from gateway.model.plan import PinnedImage, Plan, PlannedReplicas, PlannedService
from gateway.model.policy import Subject
from gateway.model.session import Phase, Session
from gateway.network.agents import AgentPath
from gateway.store import events, loads, sessions
from gateway.store.events import Event
from gateway.web.app import Web
from gateway.web.serving import running
from tests.services import ADMIN, Handler, Site, a_node, a_site


@dataclass
class Fleet:
    """A data plane without a reconcile loop: what the database says is what the test put there."""

    site: Site
    url: str
    http: httpx.AsyncClient
    folder: Path
    data: Plane
    web: Web
    nodes: dict[tuple[str, int], AsyncExitStack] = field(default_factory=dict)

    async def serve(self, *services: Handler, name: str = "demo", recipe: str = "chat", **service: Any) -> Session:
        """A session with a job for each of these; without any it sleeps."""
        created = await self.site.create(recipe, name=name)
        planned = created.plan.service
        assert planned is not None
        least = {} if services else {"replicas": PlannedReplicas(min=0)}
        plan = created.plan.model_copy(update={"service": planned.model_copy(update={**least, **service})})
        session = created.model_copy(update={"plan": plan})
        if not services:
            asleep = {"asleep_at": datetime.now(UTC), "phase": Phase.QUEUED}
            session = await self._save(created, session.model_copy(update=asleep))
        for number, one in enumerate(services, start=1):
            if number == 1:
                session = await self._save(created, await self._ready(session, one, 1))
            else:
                await self.add(session, one, number)
        route = await self.known(session, len(services))
        for member in route.members:
            member.health.back(float("-inf"))  # they have been there for long
        return session

    async def add(self, session: Session, service: Handler, number: int) -> Session:
        """One more job of the session."""
        row, name = f"{session.id[:-4]}{number:04d}", job_name(session.id, number)
        job = Job(session_id=row, attempt=number, name=name, role=JobRole.REPLICA)
        one = session.model_copy(update={"id": row, "name": name, "parent": session.id, "job": job})
        one = await self._ready(one, service, number)
        await self.site.gateway.db.write(sessions.add, one)
        self.site.gateway.news.ring()
        return one

    async def wakes(self, session: Session, service: Handler) -> None:
        """The session that slept has a job."""
        now = await self.site.get(session.id)
        await self._save(now, await self._ready(now, service, 1))

    async def change(self, session: Session, number: int, **changes: Any) -> None:
        """The row of one of the session's jobs is another now."""
        row = session.id if number == 1 else f"{session.id[:-4]}{number:04d}"
        before = await self.site.gateway.db.read(sessions.reread, row)
        assert before is not None
        await self._save(before, before.model_copy(update=changes))

    async def drop(self, session: Session, number: int) -> None:
        """The node of one of the session's jobs is gone, without anybody being told."""
        await self.nodes.pop((session.id, number)).aclose()

    async def known(self, session: Session, members: int, *, draining: int = 0) -> Route:
        """The route, once it has so many endpoints."""
        found: list[Route] = []

        async def there() -> bool:
            found[:] = [one for one in self.data.routes.all() if one.id == session.id and len(one.members) == members]
            return bool(found) and sum(one.health.draining for one in found[0].members) == draining

        await self.site.until(there, f"{session.name} has {members} endpoints")
        return found[0]

    def member(self, route: Route, number: int) -> Upstream:
        """The endpoint of one of its jobs."""
        return next(one for one in route.members if one.attempt == number)

    async def ask(self, **body: Any) -> httpx.Response:
        return await self.http.post("/v1/completions", json={"model": "tiny", "prompt": "hi", **body})

    async def loads(self) -> Mapping[str, Load]:
        """What the data plane reported, by session id."""
        return await self.site.gateway.db.read(loads.loads, datetime.now(UTC))

    async def events(self) -> list[Event]:
        return await self.site.gateway.db.read(events.after, ADMIN, 0)

    async def _ready(self, session: Session, service: Handler, number: int) -> Session:
        stack = AsyncExitStack()
        endpoint = await stack.enter_async_context(a_node(self.folder, self.site.pki.ca_pem, service))
        self.nodes[session.root, number] = stack
        job = session.job.model_copy(update={"job_id": 1000 + number})
        told = {"phase": Phase.READY, "ready_at": datetime.now(UTC), "endpoint": endpoint, "job": job}
        return session.model_copy(update=told)

    async def _save(self, before: Session, after: Session) -> Session:
        saved = await self.site.gateway.db.write(sessions.save, before, after, datetime.now(UTC))
        assert saved is not None
        self.site.gateway.news.ring()
        return saved


@asynccontextmanager
async def a_fleet(
    folder: Path,
    proxy: Mapping[str, Any] | None = None,
    tasks: Mapping[str, Any] | None = None,
    *,
    database: str | None = None,
    policies: Sequence[Path] = (),
    works: bool = True,
) -> AsyncIterator[Fleet]:
    """Without `works` it leaves the tasks to others."""
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(
            a_site(folder, proxy=proxy, tasks=tasks, database=database, policies=policies)
        )
        data = plane_of(site.gateway)
        parts = [part(data), batches.part(site.gateway, data)] if works else [part(data)]
        web = Web(parts, open_callers(site.gateway))
        url = await stack.enter_async_context(running(web, grace=2))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, headers=site.auth, timeout=60))
        made = Fleet(site, url, http, folder, data, web)
        yield made
        for node in made.nodes.values():
            await node.aclose()


def a_route(name: str, members: int = 1, *, project: str = "default", **service: Any) -> Route:
    """A route of a table that nobody reads; its endpoints are nowhere."""
    planned = PlannedService(probe=HttpProbe(), **service)
    image = PinnedImage(name="base", path="/base.sif", sha256="b" * 64)
    plan = Plan(recipe="chat", version="1", digest="0" * 64, kind="service", image=image, service=planned)
    return Route(
        id=name,
        name=name,
        owner="ada",
        project=project,
        recipe="chat",
        model="tiny",
        ready_at=0.0,
        service=planned,
        id_bytes=name.encode(),
        subject=Subject(id=name, owner="ada", project=project, cluster="c", plan=plan),
        members=tuple(an_endpoint(f"{name}-{number}") for number in range(members)),
    )


def an_endpoint(host: str, told: Callable[[], None] = lambda: None) -> Upstream:
    """An endpoint that nobody connects to; it has been there for long."""
    one = Upstream(Endpoint(host=host, port=1, fingerprint="0" * 64), AgentPath(lambda: Path("none")), told, None)
    one.health.back(float("-inf"))
    return one
