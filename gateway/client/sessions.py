"""The session proxy: `/s/<session>/…` reaches the session's service, any method, any size, WebSockets, too."""

import re
from urllib.parse import urlsplit

from starlette.responses import RedirectResponse
from starlette.types import Receive, Scope, Send

from gateway.client import websocket
from gateway.client.downstream import Downstream
from gateway.client.head import content_length, request_head
from gateway.client.http1 import Headers, Request
from gateway.client.relay import Manner, pass_on
from gateway.client.routes import Route, Routes
from gateway.errors import NotFound

PREFIX = "/s"
_PATH = re.compile(rb"/s/([A-Za-z0-9-]{1,63})(/.*)?", re.DOTALL)
_COOKIE_PATH = re.compile(rb";\s*path=([^;]*)", re.IGNORECASE)
#: What speaks for the whole origin, which is the gateway's and not one session's.
_FOR_THE_ORIGIN = frozenset({b"service-worker-allowed", b"clear-site-data", b"strict-transport-security", b"alt-svc"})
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})


class SessionProxy:
    """The ASGI app of /s."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["route"] = "/s/{session}"
        found = _PATH.fullmatch(scope["raw_path"])
        if found is None:
            raise NotFound(f"there is no session at {scope['path']}", hint="Sessions are at /s/<name or id>/.")
        ref, rest = found[1].decode(), found[2]
        route = await self._routes.pages(scope["state"]["caller"], ref)
        query: bytes = scope["query_string"]
        if rest is None:  # relative links of the page need the slash
            location = f"{PREFIX}/{ref}/" + (f"?{query.decode()}" if query else "")
            await RedirectResponse(location, 308)(scope, receive, send)
            return
        target, prefix = rest + (b"?" + query if query else b""), f"{PREFIX}/{ref}"
        if scope["type"] == "websocket":
            await websocket.pass_on(scope, receive, send, route, self._routes, target, prefix)
        else:
            await self._http(scope, receive, send, route, target, prefix)

    async def _http(self, scope: Scope, receive: Receive, send: Send, route: Route, target: bytes, prefix: str) -> None:
        down, length = Downstream(receive), content_length(scope)
        head = request_head(scope, target, length=length, prefix=prefix)
        body = down.pieces() if length != 0 else b""
        if length == 0:
            await down.whole(0)
        request = Request(scope["method"], head, body, chunked=length is None)
        host = dict(scope["headers"]).get(b"host", b"")
        manner = Manner(
            repeatable=scope["method"] in _IDEMPOTENT,
            rewrite=lambda headers: moved(headers, prefix.encode(), host),
        )
        await pass_on(scope, down, send, self._routes, [route], lambda _: request, manner)


def moved(headers: Headers, prefix: bytes, host: bytes) -> Headers:
    """An answer's headers with redirects and cookies of the service put under its prefix, unless it did so itself."""
    return [(name, _moved(name, value, prefix, host)) for name, value in headers if name not in _FOR_THE_ORIGIN]


def _moved(name: bytes, value: bytes, prefix: bytes, host: bytes) -> bytes:
    if name in {b"location", b"content-location"}:
        return _moved_location(value, prefix, host)
    if name == b"set-cookie":
        return _moved_cookie(value, prefix)
    return value


def _moved_location(value: bytes, prefix: bytes, host: bytes) -> bytes:
    parts = urlsplit(value)
    ours = not parts.netloc or parts.netloc == host
    if not ours or not parts.path.startswith(b"/") or _below(parts.path, prefix):
        return value
    return parts._replace(scheme=b"", netloc=b"", path=prefix + parts.path).geturl()


def _moved_cookie(value: bytes, prefix: bytes) -> bytes:
    """A cookie belongs to its session: without a path, or with one outside, a browser would show it to others."""
    found = _COOKIE_PATH.search(value)
    path = found[1].strip() if found else b"/"
    if _below(path, prefix):
        return value
    kept = _COOKIE_PATH.sub(b"", value)
    return kept + b"; Path=" + prefix + (path if path.startswith(b"/") else b"/")


def _below(path: bytes, prefix: bytes) -> bool:
    return path == prefix or path.startswith(prefix + b"/")
