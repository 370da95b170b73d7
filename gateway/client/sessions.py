"""The session proxy: `/s/<session>/…` reaches the session's service, any method, any size, WebSockets, too."""

import re
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from starlette.responses import RedirectResponse, Response

from gateway.client import outgoing
from gateway.client.affinity import kin
from gateway.client.cookies import Cookies
from gateway.client.exchange import Exchange
from gateway.client.http1 import RequestHead, lines
from gateway.client.later import Later
from gateway.client.moving import moved
from gateway.client.plan import Plan
from gateway.client.routes import Route
from gateway.core import openings
from gateway.core.context import Gateway
from gateway.errors import NotFound, SluiceError, Unauthenticated
from gateway.model.principal import Opened, Principal, Scope
from gateway.web import errors
from gateway.web.caller import BROWSER_CHALLENGE

if TYPE_CHECKING:
    from gateway.client.front import Front
    from gateway.client.plane import Plane

PREFIX = b"/s"
_CODE = openings.CODE.encode()
_PATH = re.compile(rb"/s/([A-Za-z0-9-]{1,63})(/.*)?", re.DOTALL)
_LABEL = re.compile(r"[a-z0-9-]{1,63}")
_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})


class Place:
    """Where a request points: the session, what is asked of its service, and the prefix that was cut off."""

    __slots__ = ("prefix", "ref", "target")

    def __init__(self, ref: str, target: bytes, prefix: bytes) -> None:
        self.ref, self.target, self.prefix = ref, target, prefix


class SessionProxy:
    """The service of `/s`; with a `domain` also of `<session>.<domain>`, where each session is an origin of its own."""

    name = "sessions"
    shared = False
    scope = Scope.WRITE
    browser = True

    def __init__(self, gateway: Gateway, cookies: Cookies) -> None:
        domain = gateway.settings.proxy.session_domain
        self._gateway, self._cookies = gateway, cookies
        self._domain = f".{domain.lower()}" if domain else None

    def owns(self, head: RequestHead) -> bool:
        path = head.path
        return path.startswith(b"/s/") or path == PREFIX or (self._domain is not None and self._label(head) is not None)

    def route(self, head: RequestHead) -> str:
        del head
        return "/s/{session}"

    def render(self, error: SluiceError, where: Mapping[str, str], head: RequestHead | None) -> Response:
        del head
        response = errors.respond(errors.problem_of(error, **where))
        if isinstance(error, Unauthenticated):
            response.headers["WWW-Authenticate"] = BROWSER_CHALLENGE
        return response

    def opened(self, head: RequestHead) -> Opened | None:
        if b"authorization" in head.fields:
            return None
        return self._cookies.opened(head, self._gateway.clock().timestamp())

    def redeem(
        self, plane: "Plane", front: "Front", head: RequestHead
    ) -> Coroutine[Any, Any, Callable[[bytes], None]] | None:
        """A link of `sluice open`: the code becomes a cookie, and vanishes from the address."""
        if head.method != b"GET" or _CODE not in head.query:
            return None
        pairs = parse_qsl(head.query.decode("latin-1"), keep_blank_values=True)
        code, place = dict(pairs).get(openings.CODE), self._place(head)
        if code is None or place is None or not place.target:
            return None

        async def enter() -> Callable[[bytes], None]:
            opened = await openings.take(self._gateway, code)
            caller = await plane.identity.by_opened(opened)
            route = await plane.routes.pages(caller, place.ref)
            cookie = self._cookies.make(head, opened, place.prefix, self._gateway.clock().timestamp())
            rest = urlencode([pair for pair in pairs if pair[0] != openings.CODE])
            address = head.path.decode("latin-1") + (f"?{rest}" if rest else "")
            headers = {"Set-Cookie": cookie, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
            return lambda _: front.respond(RedirectResponse(address, 303, headers=headers), session=route.id)

        return enter()

    def begin(self, plane: "Plane", front: "Front", caller: Principal, head: RequestHead, data: bytes) -> None:
        place = self._place(head)
        if place is None:
            raise NotFound(
                f"there is no session at {head.path.decode('latin-1')}", hint="Sessions are at /s/<name or id>/."
            )
        if not place.target:  # relative links of the page need the slash
            query = b"?" + head.query if head.query else b""
            front.respond(RedirectResponse((place.prefix + b"/" + query).decode("latin-1"), 308))
            return
        route = plane.routes.at(caller, place.ref)
        if route is not None and caller.enters(route):
            plane.routes.require(caller, "open", route)
            _pass_on(plane, front, head, place, caller, route, data)
            return

        async def look() -> Callable[[bytes], None]:
            found = await plane.routes.pages(caller, place.ref)
            return partial(_pass_on, plane, front, head, place, caller, found)

        front.hand(Later(front, head.frame(), look(), data))

    def allows(self, plane: "Plane", caller: Principal, route: Route) -> bool:
        return caller.enters(route) and plane.routes.permits(caller, "open", route)

    def _place(self, head: RequestHead) -> Place | None:
        label = self._label(head) if self._domain is not None else None
        if label is not None:
            return Place(label, head.target, b"")
        found = _PATH.fullmatch(head.path)
        if found is None:
            return None
        ref, rest = found[1], found[2] or b""
        target = rest + b"?" + head.query if rest and head.query else rest
        return Place(ref.decode(), target, b"/s/" + ref)

    def _label(self, head: RequestHead) -> str | None:
        """The session that the host names."""
        host = head.fields.get(b"host", b"").decode("latin-1").lower().partition(":")[0]
        if self._domain is None or not host.endswith(self._domain):
            return None
        label = host.removesuffix(self._domain)
        return label if _LABEL.fullmatch(label) else None


def _pass_on(
    plane: "Plane",
    front: "Front",
    head: RequestHead,
    place: Place,
    caller: Principal,
    route: Route,
    data: bytes,
) -> None:
    own = route.own_prefix
    target, prefix = (_below(own, place.target), b"") if own else (place.target, place.prefix)
    told = outgoing.headers(head, prefix=prefix)
    if head.is_websocket:
        told += [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    text = head.lines(target, told) + outgoing.closing(head)
    plan = Plan(
        routes=(route,),
        begin=lambda _: text,
        repeatable=head.method in _IDEMPOTENT and not head.is_websocket,
        rewrite=lambda answer: lines(moved(answer.end_to_end(), place.prefix, head.fields.get(b"host", b""))),
        kin=kin(route.service.affinity, head, caller.name),
    )
    ticket = plane.limits.enter(caller, (route,), plane.now())
    frame = head.frame()
    exchange = Exchange(front, head, frame, plan, ticket)
    front.hand(exchange)
    if not frame.done and not data:
        front.welcome(head)
    exchange.start(data)


def _below(own: bytes, target: bytes) -> bytes:
    """The target as a service that must know where it is expects it: in links that it made itself it stands so."""
    return target if target.startswith(own + b"/") else own + target
