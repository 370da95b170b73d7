"""What every connection of the data plane shares: who answers which path, what is counted, what has expired."""

import asyncio
import itertools
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import structlog
from prometheus_client import Gauge
from starlette.responses import Response

from gateway.client.front import Front
from gateway.client.health import RANKS
from gateway.client.http1 import RequestHead
from gateway.client.later import Later
from gateway.client.limits import Limits
from gateway.client.loads import Loads
from gateway.client.routes import Route, Routes
from gateway.client.usage import Usage
from gateway.client.waking import Waking
from gateway.errors import Forbidden, SluiceError, Unauthenticated
from gateway.model.principal import Opened, Principal, Scope
from gateway.web.app import REQUEST_ID, Server, Web
from gateway.web.caller import authenticate, shows_something
from gateway.web.door import SECURITY_HEADERS, Door
from gateway.web.metrics import CONNECTIONS, ENDPOINTS, TOKENS, Tally
from gateway.web.refusals import Wanted

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from gateway.model.connection_limits import ConnectionLimits
    from gateway.web.caller import Identity

log = structlog.get_logger(__name__)

SWEEP_SECONDS = 1.0
_SERVER_FAULT = 500
Answer = Callable[[bytes], None]
SECURITY = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
T = TypeVar("T")
_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}


class Service(Protocol):
    """A part of the data plane: `/v1` or `/s`. `shared`: whether pages of allowed origins may read its answers."""

    name: str
    shared: bool
    scope: Scope
    browser: bool

    def owns(self, head: RequestHead) -> bool: ...

    def redeem(self, plane: "Plane", front: Front, head: RequestHead) -> Coroutine[Any, Any, Answer] | None:
        """The answer to a request that brings what lets its caller in from now on; None if it brings no such thing."""

    def opened(self, head: RequestHead) -> Opened | None:
        """What this service itself let a browser in by, before. Forbidden."""

    def allows(self, plane: "Plane", caller: Principal, route: Route) -> bool:
        """Whether a session's answer may be this caller's, as roles and policies are now."""

    def begin(self, plane: "Plane", front: Front, caller: Principal, head: RequestHead, data: bytes) -> None:
        """Answer a caller's request, of whose body `data` has come. SluiceError."""

    def render(self, error: SluiceError, where: Mapping[str, str], head: RequestHead | None) -> Response:
        """An error as this part's callers expect it."""

    def route(self, head: RequestHead) -> str:
        """The path's template, so that ids do not become labels."""


#: Who is told of a denial: the caller if known, what they wanted, why not, from where, and in which request.
Told = Callable[[Principal | None, Wanted, SluiceError, str, str], None]


def _untold(caller: Principal | None, wanted: Wanted, error: SluiceError, peer: str, request_id: str) -> None:
    del caller, wanted, error, peer, request_id


class Plane:
    """The data plane of one process."""

    def __init__(
        self,
        routes: Routes,
        limits: Limits,
        waking: Waking,
        loads: Loads,
        services: Sequence[Service],
        told: Told = _untold,
    ) -> None:
        self.routes, self.limits, self._waking, self.loads, self._told = routes, limits, waking, loads, told
        self.identity: Identity
        self.door: Door
        self.bounds: ConnectionLimits
        self.fronts: set[Front] = set()
        self.opened = asyncio.Event()  # its connections are accepted
        self.collectors: list[Collector] = []  # what others in this process count
        self._services = services
        prefix = secrets.token_hex(6).encode()
        self._ids = (b"%b-%x" % (prefix, number) for number in itertools.count(1))
        self.now: Callable[[], float]  # the loop's clock

    def entrance(self, web: Web) -> Callable[[Server], asyncio.Protocol]:
        """How connections are accepted for this process; its ASGI application answers what is not the data plane's."""
        self.now = asyncio.get_running_loop().time
        self.identity, self.door, self.bounds = web.identity, web.door, web.door.limits
        self._requests, self._first = web.metrics.requests, web.metrics.seconds
        registry = web.metrics.registry
        self._tokens = Tally(TOKENS)
        registry.register(self._tokens)
        self._open = Gauge(CONNECTIONS.name, CONNECTIONS.help, registry=registry)
        self._open.set_function(lambda: len(self.fronts))
        endpoints = Gauge(ENDPOINTS.name, ENDPOINTS.help, ENDPOINTS.labels, registry=registry)
        for rank, state in enumerate(RANKS):
            endpoints.labels(state).set_function(partial(self._ranked, rank))
        for service in self._services:
            web.metrics.in_flight.labels(service.name).set_function(partial(self._in_flight, service.name))
        for collector in self.collectors:
            registry.register(collector)
        self.opened.set()
        return lambda server: Front(self, server)

    def _in_flight(self, name: str) -> int:
        return sum(front.serving == name for front in self.fronts)

    def _ranked(self, rank: int) -> int:
        return sum(member.health.rank == rank for route in self.routes.all() for member in route.members)

    async def sweep(self) -> None:
        """Close what has expired, look after the endpoints, let nobody wait for one that vanished, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = self.now()
            for front in [front for front in self.fronts if front.deadline < now]:
                front.expired()
            self.routes.tend()
            self.limits.gates.forget()
            if any(member.vanished for route in self.routes.all() for member in route.members):
                for exchange in [front.going_on for front in self.fronts]:
                    if exchange is not None:
                        exchange.forsaken()

    # Requests

    def refused(self, error: SluiceError, caller: Principal | None, head: RequestHead) -> None:
        """Tell the audit log of a denial; what merely cannot be done here changes nothing."""
        service = self.service(head)
        if service is not None and isinstance(error, Forbidden | Unauthenticated):
            path = head.path.decode("latin-1").partition("?")[0]
            wanted = Wanted(f"{head.method.decode()} {service.route(head)}", "path", path)
            self._told(caller, wanted, error, head.seen.address, head.id.decode())

    def service(self, head: RequestHead) -> Service | None:
        """Who answers; None if it is not the data plane."""
        for service in self._services:
            if service.owns(head):
                return service
        return None

    def begin(self, front: Front, service: Service, head: RequestHead, data: bytes) -> None:
        """Let the service answer. What it raises becomes the answer."""
        given = head.fields.get(b"x-request-id")
        head.id = given if given is not None and REQUEST_ID.fullmatch(given.decode("latin-1")) else next(self._ids)
        front.caller = None
        if head.method == b"OPTIONS" and service.shared and (answer := self.door.preflight(head.headers)) is not None:
            front.respond(answer)
            return
        try:
            if (redeeming := service.redeem(self, front, head)) is not None:
                self.door.failures.check(head.seen.address)
                front.hand(Later(front, head.frame(), self._counted(head, redeeming), data))
                return
            opened = service.opened(head)
            front.caller = caller = self._recall(head) if opened is None else self.identity.recall_opened(opened)
            if caller is not None:
                caller.require(service.scope)
                service.begin(self, front, caller, head, data)
            else:
                front.hand(Later(front, head.frame(), self._ask(front, service, head), data))
        except SluiceError as error:
            front.refuse(error)

    def _recall(self, head: RequestHead) -> Principal | None:
        """The caller, if the token is one that is remembered, and nothing is said of the way in which it came."""
        if b"x-sluice-origin" in head.fields:
            return None
        scheme, _, token = head.fields.get(b"authorization", b"").partition(b" ")
        return self.identity.recall(token.decode("latin-1")) if scheme == b"Bearer" else None

    async def _ask(self, front: Front, service: Service, head: RequestHead) -> Answer:
        """Find out who calls; then let the service answer."""
        failures, tried = self.door.failures, front.uid is None and shows_something(head.headers)
        if tried:
            failures.check(head.seen.address)
        asking = self.who(front, service, head)
        front.caller = caller = await (self._counted(head, asking) if tried else asking)
        caller.require(service.scope)
        return lambda data: service.begin(self, front, caller, head, data)

    async def _counted(self, head: RequestHead, work: Coroutine[Any, Any, T]) -> T:
        """Somebody says who they are; that it failed is noted."""
        try:
            return await work
        except Unauthenticated:
            self.door.failures.note(head.seen.address)
            raise

    async def who(self, front: Front, service: Service, head: RequestHead) -> Principal:
        """Who calls, as things are now. Unauthenticated, Forbidden."""
        opened = service.opened(head)
        if opened is not None:
            return await self.identity.by_opened(opened)
        method = head.method.decode()
        return await authenticate(self.identity, head.said, method=method, browser=service.browser, peer=front.uid)

    def around(self, head: RequestHead, *, shared: bool) -> list[tuple[bytes, bytes]]:
        """What the answer to a request says to browsers besides, for how and from which page it was asked."""
        more = self.door.shared(head.fields.get(b"origin")) if shared else []
        return self.door.strict(head.seen.scheme) + more

    def own(self, service: Service, head: RequestHead, response: Response) -> list[tuple[bytes, bytes]]:
        """What stands in every answer of our own, unless the answer says otherwise itself."""
        said = [pair for pair in SECURITY if pair[0].decode() not in response.headers]
        return said + self.around(head, shared=service.shared)

    async def awaken(self, routes: Sequence[Route], say: Callable[[str], None]) -> None:
        """Return when one of the sessions has an endpoint; one that sleeps is started. NotReady, Overloaded."""
        await self._waking.member(routes, self.routes.changed.wait, say)

    def doubt(self) -> None:
        """Something did not answer as it should: look again at what is known."""
        self.routes.doubt()

    # What is counted

    def first_byte(self, service: Service, seconds: float) -> None:
        self._first.add((service.name, service.name), seconds)

    def account(self, service: Service, head: RequestHead, status: int, seconds: float, session: str) -> None:
        """A request is over. `status` 499: the caller left."""
        self._requests.add((service.name, service.route(head), _METHODS.get(head.method, "other"), status))
        if status >= _SERVER_FAULT:
            log.warning(
                "request",
                method=head.method.decode(),
                path=head.path.decode("latin-1"),
                status=status,
                ms=round(seconds * 1000, 2),
                session=session,
                request_id=head.id.decode(),
            )

    def count(self, route: Route, usage: Usage | None) -> None:
        """The tokens of one answer."""
        if usage is None or route.model is None:
            return
        self._tokens.add((route.model, "prompt"), usage.prompt)
        self._tokens.add((route.model, "completion"), usage.completion)
