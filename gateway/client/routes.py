"""Where ready sessions are: a table in memory, fed from the database, so that a request costs no query.

It is read again when something rings, once a second if anything has happened, and every ten seconds anyway. While
the database is away the last table is served; `age` says how old it is.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from sqlalchemy import Connection

from gateway.client.probing import Question
from gateway.client.upstream import Path, Upstream
from gateway.core.bell import Bell
from gateway.core.context import Gateway
from gateway.core.openings import own_prefix
from gateway.core.policies import denial, require
from gateway.core.verdicts import KEPT, Verdicts
from gateway.core.witness import Witness
from gateway.errors import DatabaseUnavailable, NotReady, SessionNotFound
from gateway.model.fixed import forbidden
from gateway.model.plan import PlannedService
from gateway.model.policy import Action, Subject, subject_of
from gateway.model.principal import Principal
from gateway.model.session import Session
from gateway.render.job import below
from gateway.store import events, projects
from gateway.store import sessions as store
from gateway.store.serving import Place, Serving, serving

if TYPE_CHECKING:
    from gateway.model.announcement import Endpoint

log = structlog.get_logger(__name__)

LOOK_AGAIN = 1.0
READ_ANYWAY = 10.0
SHORTEST = 0.02


@dataclass(eq=False)
class Route:
    """One session that can be called. `model` is what its server calls the model; None for other services.

    `members` are the endpoints that answer for it, one a replica; who holds the route sees them come and go. With
    `wakes` there may be none, and then a request starts one; so many are `waiting` for that. `backlog`: lines of
    batches that further replicas would be asked.
    `subject` is the session as policies see it. `own_prefix` is what every path that its service is asked for begins
    with, if it is one that must know where it is.
    """

    id: str
    name: str
    owner: str
    project: str
    recipe: str
    model: str | None
    ready_at: float
    service: PlannedService
    id_bytes: bytes
    subject: Subject = field(repr=False)
    members: tuple[Upstream, ...] = field(default=(), repr=False)
    wakes: bool = False
    waiting: int = 0
    backlog: int = 0
    own_prefix: bytes = b""

    @property
    def reachable(self) -> bool:
        """Whether there is a point in asking."""
        return self.wakes or any(member.health.reachable for member in self.members)

    def seen_by(self, caller: Principal) -> bool:
        """Whether the caller may use it: a model is its project's, anything else its owner's alone."""
        return caller.calls(self) if self.model is not None else caller.enters(self)


class _Served(NamedTuple):
    """Who may answer a caller, by the table and the policies. It holds on to the caller, whose id it is kept by."""

    caller: Principal
    era: object
    routes: tuple[Route, ...]


class Routes:
    """The table. Everything that is asked of it starts from the caller."""

    def __init__(self, gateway: Gateway, paths: Callable[[str], Path]) -> None:
        self._gateway, self._paths = gateway, paths
        self._verdicts = Verdicts(gateway.policies, gateway.clock, gateway.settings.policy.timezone)
        self._routes: dict[str, Route] = {}
        self._by_name: dict[tuple[str, str], Route] = {}
        self._by_model: dict[str, list[Route]] = {}
        self._served: dict[tuple[int, str], _Served] = {}
        self._upstreams: dict[Endpoint, Upstream] = {}
        self._newest = -1
        self._read_at = float("-inf")
        self._doubted = False
        self._reading = asyncio.Lock()
        self.changed = Bell()

    @property
    def age(self) -> float:
        """Seconds since the table was known to be right."""
        return time.monotonic() - self._read_at

    @property
    def witness(self) -> Witness:
        """Who writes down what was refused here."""
        return self._gateway.witness

    async def run(self) -> None:
        """Keep the table true until cancelled; then the kept connections are closed."""
        full_at = float("-inf")
        try:
            while True:
                try:
                    now = time.monotonic()
                    if await self.refresh(whole=self._doubted or now > full_at + READ_ANYWAY):
                        full_at = now
                except DatabaseUnavailable as error:
                    log.warning("routes are not read", age=round(self.age, 1), error=error.message)
                await asyncio.sleep(SHORTEST)  # many changes at once are one reading
                await self._gateway.news.wait(LOOK_AGAIN)
        finally:
            for upstream in self._upstreams.values():
                upstream.close()

    async def refresh(self, *, whole: bool = True) -> bool:
        """Read the table again, if anything has happened or `whole`; whether it was read."""
        async with self._reading:  # else an older reading could replace a newer one
            self._doubted, began = False, time.monotonic()
            newest = await self._gateway.db.read(events.newest)
            changed = whole or newest != self._newest
            if changed:
                self.replace(*await self._gateway.db.read(_serving))
            self._newest, self._read_at = newest, began
        return changed

    def doubt(self) -> None:
        """An endpoint did not answer: read the whole table soon."""
        self._doubted = True
        self._gateway.news.ring()

    def all(self) -> Iterable[Route]:
        """Every session that can be called: asked for nobody."""
        return self._routes.values()

    def visible(self, caller: Principal) -> Iterable[Route]:
        """The caller's ready sessions that can be reached, newest first."""
        reached = [route for route in self._routes.values() if route.seen_by(caller) and route.reachable]
        return [route for route in reached if self._permits(caller, route)]

    def serving(self, caller: Principal, model: str) -> tuple[Route, ...]:
        """The caller's model servers by session id, else session name, else model or what a project calls it.

        PolicyDenied if there are any, and the policies let the caller call none of them.
        """
        era, known = self._verdicts.era(), self._served.get((id(caller), model))
        if known is not None and known.caller is caller and known.era is era:
            return known.routes
        routes = self._find_serving(caller, model)
        if routes:
            if len(self._served) >= KEPT:
                self._served.clear()
            self._served[id(caller), model] = _Served(caller, era, routes)
        return routes

    def _find_serving(self, caller: Principal, model: str) -> tuple[Route, ...]:
        exact = self.at(caller, model)
        if exact is not None and exact.model is not None:
            self.require(caller, "call", exact)
            return (exact,)
        found = [route for route in self._by_model.get(model, ()) if route.seen_by(caller)]
        allowed = tuple(route for route in found if self._permits(caller, route))
        if found and not allowed:
            self.require(caller, "call", found[0])
        return allowed

    def require(self, caller: Principal, action: Action, route: Route) -> None:
        """PolicyDenied unless the policies let the caller do this."""
        require(self._verdicts.of(caller, action, route.subject))

    def permits(self, caller: Principal, action: Action, route: Route) -> bool:
        """Whether the policies let the caller do this now."""
        return self._verdicts.of(caller, action, route.subject).allowed

    def _permits(self, caller: Principal, route: Route) -> bool:
        return self.permits(caller, "call" if route.model is not None else "open", route)

    async def again(self) -> None:
        """Look once more before saying no: the caller may have heard of a session before we did."""
        with suppress(DatabaseUnavailable):
            await self.refresh(whole=False)

    async def session(self, caller: Principal, ref: str) -> Route:
        """A ready session by id or name. NotReady if it has no endpoint now; SessionNotFound."""
        await self.again()
        route = self.at(caller, ref)
        if route is None:
            raise _not_usable(self._gateway, caller, await self._gateway.db.read(store.get, caller, ref))
        return route

    async def pages(self, caller: Principal, ref: str) -> Route:
        """The same, for who opens its pages. Forbidden for all but its owner, as whom they would act; PolicyDenied."""
        route = await self.session(caller, ref)
        self.require(caller, "open", route)
        if not caller.enters(route):  # whatever a site's policies permit
            raise forbidden(
                "fixed-pages",
                f"the pages of session {route.name} are its owner's alone: whoever opens them acts as {route.owner}",
                "A model is asked through /v1.",
            )
        return route

    def at(self, caller: Principal, ref: str) -> Route | None:
        """A ready session by id or name, as far as is known."""
        route = self._routes.get(ref.upper())
        if route is not None and route.seen_by(caller):
            return route
        route = self._by_name.get((caller.name, ref))
        return route if route is not None and route.seen_by(caller) else None

    async def coming(self, caller: Principal, model: str) -> Session | None:
        """A model server of the caller's that is not ready yet and would serve this model."""
        query = store.SessionQuery(ended=False, limit=500)
        found, _ = await self._gateway.db.read(store.find, caller, query)
        for session in found:
            if not caller.calls(session):
                continue
            service = session.plan.service
            names = {session.id, session.name, service.model if service else None}
            if service is not None and service.protocol == "openai" and names & {model, model.upper()}:
                return session
        return None

    def replace(self, servings: Sequence[Serving], labels: Mapping[str, Mapping[str, str]]) -> None:
        """Take this for who can be called now, and where. Who holds a route or waits for a member sees it at once."""
        routes: dict[str, Route] = {}
        for one in sorted(servings, key=lambda one: one.session.id, reverse=True):
            service = one.session.plan.service
            if service is not None:
                labelled = labels.get(one.session.project, {})
                routes[one.session.id] = self._route(one, service, subject_of(one.session, labelled))
        for gone in [route for route in self._routes.values() if route.id not in routes]:
            gone.members, gone.wakes = (), False
        used = {member.endpoint for route in routes.values() for member in route.members}
        for endpoint in [endpoint for endpoint in self._upstreams if endpoint not in used]:
            self._upstreams.pop(endpoint).close()
        self._served.clear()
        self._routes = routes
        self._by_name = {(route.owner, route.name): route for route in routes.values()}
        self._by_model = {}
        for route in routes.values():
            for name in self._names(route):
                self._by_model.setdefault(name, []).append(route)
        self.tend()
        self.changed.ring()

    def tend(self) -> None:
        """Keep connections to every endpoint, and find out who has vanished: to be called every second."""
        now = asyncio.get_running_loop().time()
        for upstream in self._upstreams.values():
            upstream.tend(now)

    def _names(self, route: Route) -> set[str]:
        """Under which names a model server is asked for: its model's, and what its project calls that."""
        if route.model is None:
            return set()
        aliases = self._gateway.settings.proxy.aliases.get(route.project, {})
        return {route.model, *(alias for alias, model in aliases.items() if model in {route.model, route.name})}

    def _route(self, one: Serving, service: PlannedService, subject: Subject) -> Route:
        """The session's route as it is now: the one that there was, if there was one."""
        session = one.session
        values: dict[str, Any] = {
            "name": session.name,
            "project": session.project,
            "recipe": session.plan.recipe,
            "model": service.model if service.protocol == "openai" else None,
            "ready_at": (session.ready_at or session.created_at).timestamp(),
            "service": service,
            "members": tuple(self._member(place, session, service) for place in one.places),
            "wakes": one.wakes,
            "own_prefix": own_prefix(session).encode(),
        }
        route = self._routes.get(session.id)
        if route is None:
            return Route(id=session.id, owner=session.owner, id_bytes=session.id.encode(), subject=subject, **values)
        if route.subject != subject:
            route.subject = subject
        for name, value in values.items():
            setattr(route, name, value)
        return route

    def _member(self, place: Place, session: Session, service: PlannedService) -> Upstream:
        found = self._upstreams.get(place.endpoint)
        if found is None:
            path, question = self._paths(session.cluster), Question(below(own_prefix(session), service.probe))
            found = self._upstreams[place.endpoint] = Upstream(
                place.endpoint, path, self.doubt, question, shared=service.protocol == "openai"
            )
        found.attempt, found.health.draining = place.attempt, place.draining
        return found


def _serving(connection: Connection) -> tuple[Sequence[Serving], Mapping[str, Mapping[str, str]]]:
    """What can be called, and the labels of the projects that it belongs to."""
    found = serving(connection)
    return found, {name: projects.labels(connection, name) for name in {one.session.project for one in found}}


def _not_usable(gateway: Gateway, caller: Principal, session: Session) -> Exception:
    service = session.plan.service
    model = service is not None and service.protocol == "openai"
    if not (caller.calls(session) if model else caller.enters(session)):
        said = f"session {session.name} is {session.owner}'s: you may read about it, and not use it"
        return denial(gateway.policies.lacking("call" if model else "open"), said)
    if session.phase.ended:
        return SessionNotFound(
            f"session {session.name} has ended ({session.word}): {session.message}",
            hint=f"`sluice logs {session.name}` shows what it wrote.",
        )
    if session.plan.kind == "batch":
        return SessionNotFound(f"session {session.name} is a batch job: it has no service to talk to")
    return NotReady(
        f"session {session.name} is not ready yet: it is {session.word}",
        hint="Try again in a moment.",
        phase=session.word,
    )
