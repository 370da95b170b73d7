"""The frame around every HTTP service: who calls, which request it is, what is logged and counted, how errors look.

One frame carries one service on its own port or all of them by path (`Part`). It is plain ASGI, because the data
plane goes through it, too. A request without a token ends here, before any route is looked at: nothing is open that
is not named in `Part.open`.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from math import ceil
from typing import Any, cast

import structlog
import uvicorn
from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, bound_contextvars
from ulid import ULID
from uvicorn.server import ServerState

from gateway.errors import NotFound, SluiceError, TooLarge, TooMany, Unauthenticated
from gateway.model import health
from gateway.model.health import Pulse
from gateway.model.principal import Principal
from gateway.model.principal import Scope as TokenScope
from gateway.settings import ServeSettings
from gateway.web import errors
from gateway.web.caller import (
    BROWSER_CHALLENGE,
    CHALLENGE,
    SAFE,
    Identity,
    authenticate,
    csrf_of,
    recalled,
    shows_something,
    signed_in_by,
    still,
)
from gateway.web.door import SECURITY_HEADERS, Door, Lines
from gateway.web.metrics import HttpMetrics
from gateway.web.openapi import Api
from gateway.web.peers import PEER, peer_of
from gateway.web.rate import Rate

log = structlog.get_logger(__name__)

MAX_BODY = 1 << 20
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECURITY = tuple((name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items())
Lifespan = Callable[[], AbstractAsyncContextManager[None]]
Renderer = Callable[[SluiceError, Mapping[str, str]], Response]
Check = Callable[[], Awaitable[Mapping[str, Pulse]]]
Needs = Callable[[str, str], TokenScope | None]
#: Given the frame: what makes the protocol of each connection, for a part that reads its requests itself.
Entrance = Callable[["Web"], Callable[["Server"], asyncio.Protocol]]
Refused = Callable[[Scope, SluiceError], None]
LIVE, READY = "/health/live", "/health/ready"


def product_version() -> str:
    """The version that is installed; in a checkout that was never installed it is 0."""
    try:
        return version("sluice")
    except PackageNotFoundError:
        return "0"


@dataclass(frozen=True)
class Server:
    """What uvicorn's own protocol is made of, for those who stand before it."""

    config: uvicorn.Config
    state: ServerState
    app_state: dict[str, Any]

    @property
    def connections(self) -> set[asyncio.Protocol]:
        """Those that are told, and waited for, when the service stops."""
        return cast("set[asyncio.Protocol]", self.state.connections)  # uvicorn names its own protocols only


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


def _no(path: str) -> bool:
    del path
    return False


def _untold(scope: Scope, error: SluiceError) -> None:
    del scope, error


async def _well() -> Mapping[str, Pulse]:
    return {}


def read_or_write(method: str, path: str) -> TokenScope | None:
    """Reading needs a token that reads, everything else one that writes."""
    del path
    return TokenScope.READ if method in SAFE else TokenScope.WRITE


def as_problem(error: SluiceError, where: Mapping[str, str]) -> Response:
    """Problem details: how errors look but where another protocol has a word in it."""
    return errors.respond(errors.problem_of(error, **where))


@dataclass(frozen=True, kw_only=True)
class Part:
    """One service in the frame: the paths that are its own, and what holds for them.

    `open`: paths that need no token; `guarded`: those among them where one says who one is. `browser`: paths where
    a browser may show the token as a password. `max_body`: bytes; None for services that stream; `streams`: paths whose
    bodies are read piece by piece, within bounds of their own. `headers`: whether
    the frame adds security headers. `shared`: whether pages of allowed origins may read its answers. `lifespan`:
    what runs beside the requests. `check`: how it does, name by name. `scope`: what a token must be good for, by method
    and path. `entrance`: it takes connections itself, and hands on to the frame what is not its own. `refused`: who is
    told which request was refused, and why.
    """

    name: str
    prefixes: tuple[str, ...]
    app: ASGIApp
    open: frozenset[str] = frozenset()
    guarded: frozenset[str] = frozenset()
    browser: Callable[[str], bool] = _no
    max_body: int | None = MAX_BODY
    streams: Callable[[str], bool] = _no
    headers: bool = True
    shared: bool = True
    render: Renderer = as_problem
    lifespan: Lifespan = _nothing
    check: Check = _well
    scope: Needs = read_or_write
    entrance: Entrance | None = None
    refused: Refused = _untold

    def owns(self, path: str) -> bool:
        return any(path == prefix or path.startswith(f"{prefix}/") for prefix in self.prefixes)


def api(
    *,
    title: str,
    prefix: str,
    description: str = "",
    tags: Sequence[dict[str, str]] = (),
    open_paths: frozenset[str] = frozenset(),
) -> Api:
    """A FastAPI app as a part holds it: our errors, OpenAPI under its prefix, no pages that load from elsewhere."""
    app = Api(
        open_paths=open_paths,
        title=title,
        version=product_version(),
        description=description,
        openapi_url=f"{prefix}/openapi.json",
        openapi_tags=list(tags),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    errors.install(app)
    return app


@dataclass
class _Exchange:
    """What is known of one request while it is answered."""

    part: Part
    scope: Scope
    request_id: str
    began: float = field(default_factory=time.perf_counter)
    status: int = 0
    first: float = 0.0

    def where(self) -> dict[str, str]:
        return {"instance": self.scope["path"], "request_id": self.request_id}

    @property
    def route(self) -> str:
        """The route's template, so that ids do not become labels."""
        route = self.scope.get("route")
        return str(self.scope["state"].get("route") or getattr(route, "path", None) or "unmatched")


class Web:
    """The frame, an ASGI app. `closing` is set when the service shall stop: streams end then.

    `settings`: those that hold at every entrance. What one caller may send is bounded for parts with bounded requests.
    """

    def __init__(self, parts: Sequence[Part], identity: Identity, settings: ServeSettings | None = None) -> None:
        settings = settings or ServeSettings()
        self._per_minute, self._rate = settings.requests_per_minute, Rate(settings.requests_per_minute)
        self.door = Door.of(settings)
        own = Part(name="health", prefixes=("/health",), app=self._health, open=frozenset({LIVE}))
        self.parts = (*parts, own)
        self.identity = identity
        self.closing = asyncio.Event()
        self.metrics = HttpMetrics()
        self._nowhere = Part(name="none", prefixes=(), app=_not_here)
        self._asgi = {"http": self._http, "websocket": self._websocket, "lifespan": self._lifespan}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._asgi[scope["type"]](scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = self._begin(scope)
        part = exchange.part
        in_flight = self.metrics.in_flight_of(part.name)
        in_flight.inc()
        bind_contextvars(request_id=exchange.request_id)  # every request is a task of its own, with its own context
        try:
            if scope["method"] == "OPTIONS" and part.shared and (answer := self.door.preflight(scope["headers"])):
                await answer(scope, receive, self._sending(exchange, send))
                return
            await self._admit(exchange)
            most = None if part.streams(scope["path"]) else part.max_body
            body = _bounded(scope, receive, most) if most is not None else receive
            await part.app(scope, body, self._sending(exchange, send))
        except SluiceError as error:
            scope["state"]["refused"] = error
            await self._refuse(exchange, error, receive, send)
        except (ConnectionAbortedError, HTTPException) as error:
            await self._broken(exchange, error, receive, send)
        except Exception:
            log.exception("request failed", path=scope["path"])
            await self._broken(exchange, None, receive, send)
        finally:
            in_flight.dec()
            if (refused := scope["state"].get("refused")) is not None:
                part.refused(scope, refused)
                if scope["path"] in part.guarded and isinstance(refused, Unauthenticated):
                    self.door.failures.note(scope["client"][0])
            self._account(exchange)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = self._begin(scope)
        connected = False

        async def wrapped() -> Message:
            nonlocal connected
            connected = True
            return await receive()

        with bound_contextvars(request_id=exchange.request_id):
            try:
                await self._admit(exchange)
                await exchange.part.app(scope, wrapped, send)
                log.info("websocket ended", path=scope["path"], **scope["state"].get("log", {}))
            except SluiceError as error:
                log.info("websocket refused", path=scope["path"], code=error.code)
                exchange.part.refused(scope, error)
                if not connected:
                    await receive()
                response = exchange.part.render(error, exchange.where())
                headers = [*response.raw_headers, *_challenge(exchange, error)]
                start = {"type": "websocket.http.response.start", "status": response.status_code, "headers": headers}
                await send(start)
                await send({"type": "websocket.http.response.body", "body": response.body})
            except Exception:
                log.exception("websocket failed", path=scope["path"])
                raise

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Liveness asks nobody; readiness asks every part."""
        match scope["path"]:
            case "/health/live":
                response = JSONResponse({"status": "ok"})
            case "/health/ready":
                pulses: dict[str, Pulse] = {}
                for part in self.parts:
                    pulses |= await part.check()
                told = health.view(pulses, product_version())
                response = JSONResponse(told.model_dump(mode="json"), 200 if told.status == "ok" else 503)
            case path:
                raise NotFound(f"there is nothing at {path}", hint=f"There are {LIVE} and {READY}.")
        await response(scope, receive, send)

    def _begin(self, scope: Scope) -> _Exchange:
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
        request_id = given if REQUEST_ID.fullmatch(given) else str(ULID())
        self.door.arrive(scope)
        path = scope["path"]
        part = next((part for part in self.parts if part.owns(path)), self._nowhere)
        state: dict[str, Any] = {"request_id": request_id, "closing": self.closing, "metrics": self.metrics}
        state |= {"identity": self.identity, "failures": self.door.failures}
        scope["state"] = state
        return _Exchange(part=part, scope=scope, request_id=request_id)

    async def _admit(self, exchange: _Exchange) -> None:
        scope, part = exchange.scope, exchange.part
        path = scope["path"]
        if path in part.open:
            if path in part.guarded:
                self.door.failures.check(scope["client"][0])
            return
        method = scope.get("method", "GET")
        ask = partial(
            authenticate,
            self.identity,
            scope["headers"],
            method=method,
            browser=part.browser(path),
            peer=peer_of(scope.get("client")),
            forms=True,
        )
        caller = await self._known(scope, ask)
        scope["state"] |= {"caller": caller, "again": partial(still, caller, ask)}
        if part.max_body is not None and (wait := self._rate.take(caller.id or caller.name, time.monotonic())):
            raise TooMany(f"you may send {self._per_minute} requests a minute", retry_after=max(1, ceil(wait)))
        if (needed := part.scope(method, path)) is not None:
            caller.require(needed)

    async def _known(self, scope: Scope, ask: Callable[[], Awaitable[Principal]]) -> Principal:
        """Who calls. Who failed too often to say so waits, unless what they bring is known to be good."""
        client, failures = scope.get("client"), self.door.failures
        if client is None or client[0] == PEER or not shows_something(scope["headers"]):
            return await ask()
        if failures.any and recalled(self.identity, scope["headers"]) is None:
            failures.check(client[0])
        try:
            return await ask()
        except Unauthenticated:
            failures.note(client[0])
            raise

    def _told_browsers(self, exchange: _Exchange) -> Lines:
        """What an answer says to browsers besides, for how and from which page it was asked."""
        scope, part = exchange.scope, exchange.part
        lines = self.door.strict(scope["scheme"])
        if part.shared and self.door.origins:
            lines += self.door.shared(next((value for name, value in scope["headers"] if name == b"origin"), None))
        if part.headers and (cookie := signed_in_by(scope["headers"])) is not None:
            lines.append((b"x-csrf-token", csrf_of(cookie).encode()))
        return lines

    def _sending(self, exchange: _Exchange, send: Send) -> Send:
        part, request_id = exchange.part, exchange.request_id.encode()
        add, more = _SECURITY if part.headers else (), self._told_browsers(exchange)

        async def wrapped(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status, exchange.first = message["status"], time.perf_counter()
                headers = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
                names = {name for name, _ in headers}
                headers += [(b"x-request-id", request_id), *(pair for pair in add if pair[0] not in names), *more]
                message = {**message, "headers": headers}
            await send(message)

        return wrapped

    async def _refuse(self, exchange: _Exchange, error: SluiceError, receive: Receive, send: Send) -> None:
        if exchange.status:
            await self._broken(exchange, error, receive, send)
            return
        response = exchange.part.render(error, exchange.where())
        response.raw_headers.extend(_challenge(exchange, error))
        await response(exchange.scope, receive, self._sending(exchange, send))

    async def _broken(self, exchange: _Exchange, error: Exception | None, receive: Receive, send: Send) -> None:
        """A fault of ours, or a body that is too long. An answer that has begun is cut off: it must not look whole."""
        if exchange.status:
            if error is not None:
                log.info("answer broke off", path=exchange.scope["path"], error=str(error))
            return
        status, code, text = 500, SluiceError.code, errors.FAULT
        if isinstance(error, HTTPException):
            status, code, text = error.status_code, TooLarge.code, error.detail
        response = errors.respond(errors.problem(status, code, text, **exchange.where()))
        await response(exchange.scope, receive, self._sending(exchange, send))

    def _account(self, exchange: _Exchange) -> None:
        now = time.perf_counter()
        scope, name, route = exchange.scope, exchange.part.name, exchange.route
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.metrics.requests.add((name, route, method, exchange.status or 499))
        if exchange.first:
            self.metrics.seconds.add((name, route), exchange.first - exchange.began)
        quiet = scope["path"] in exchange.part.open
        caller = scope["state"].get("caller")
        (log.debug if quiet else log.info)(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=exchange.status or 499,
            ms=round((now - exchange.began) * 1000, 2),
            caller=caller.name if caller else None,
            **scope["state"].get("log", {}),
        )

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        await receive()
        try:
            async with AsyncExitStack() as stack:
                for part in self.parts:
                    await stack.enter_async_context(part.lifespan())
                await send({"type": "lifespan.startup.complete"})
                await receive()
                self.closing.set()
        except Exception as error:
            log.exception("lifespan failed")
            stage = "shutdown" if self.closing.is_set() else "startup"
            await send({"type": f"lifespan.{stage}.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _challenge(exchange: _Exchange, error: SluiceError) -> list[tuple[bytes, bytes]]:
    if not isinstance(error, Unauthenticated):
        return []
    word = BROWSER_CHALLENGE if exchange.part.browser(exchange.scope["path"]) else CHALLENGE
    return [(b"www-authenticate", word.encode())]


async def _not_here(scope: Scope, receive: Receive, send: Send) -> None:
    del receive, send
    raise NotFound(f"there is nothing at {scope['path']}", hint="The API is at /api/v1, its pages at /api/v1/docs.")


def _bounded(scope: Scope, receive: Receive, limit: int) -> Receive:
    """The body of a request, cut off with 413 when it is longer than allowed, whatever its headers say."""
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if length.isdigit() and int(length) > limit:
        raise _too_long(limit)
    seen = 0

    async def wrapped() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise _too_long(limit)
        return message

    return wrapped


def _too_long(limit: int) -> HTTPException:
    return HTTPException(413, f"the request is longer than {limit >> 10} KiB")


def request_log(request: Request, **words: Any) -> None:
    """Say more in the log line of this request."""
    request.state.log = {**getattr(request.state, "log", {}), **words}


@asynccontextmanager
async def background(name: str, run: Callable[[], Any]) -> AsyncIterator[None]:
    """Run something beside the requests; on the way out it is cancelled and waited for, so that it can end cleanly."""
    task = asyncio.create_task(run(), name=name)
    task.add_done_callback(_tell)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


def _tell(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("background task ended", task=task.get_name(), exc_info=error)
