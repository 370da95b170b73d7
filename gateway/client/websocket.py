"""A WebSocket passed on to a session's service: the same subprotocol, messages both ways, the end told to both."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from starlette.types import Message, Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from gateway.client.head import forwarded, passed_on
from gateway.client.routes import Route, Routes
from gateway.network.agents import unavailable

log = structlog.get_logger(__name__)

#: The handshake is made anew on our side, extensions and all.
_HANDSHAKE = frozenset(
    {
        *(b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions", b"sec-websocket-protocol"),
        b"connection",
        b"upgrade",
    }
)
_OPEN_TIMEOUT = 10
_GOING_AWAY = 1001
_ABNORMAL = 1006


async def pass_on(
    scope: Scope, receive: Receive, send: Send, route: Route, table: Routes, target: bytes, prefix: str
) -> None:
    """Pass one WebSocket on until either side ends it. EndpointUnavailable if the service takes none."""
    await receive()
    scope["state"]["log"] = {"session": route.id}
    try:
        async with _connected(scope, route, target, prefix) as service:
            accepted: dict[str, Any] = {"type": "websocket.accept", "subprotocol": service.subprotocol}
            if service.response is not None:
                cookies = service.response.headers.get_all("set-cookie")
                accepted["headers"] = [(b"set-cookie", cookie.encode("latin-1")) for cookie in cookies]
            await send(accepted)
            route.upstream.in_flight += 1
            try:
                await _pump(receive, send, service, scope["state"]["closing"])
            finally:
                route.upstream.in_flight -= 1
    except InvalidStatus as error:  # the service's own refusal
        answer = error.response
        headers = [(b"content-type", answer.headers.get("content-type", "text/plain").encode("latin-1"))]
        start = {"type": "websocket.http.response.start", "status": answer.status_code, "headers": headers}
        await send(start)
        await send({"type": "websocket.http.response.body", "body": bytes(answer.body or b"")})
    except (OSError, InvalidHandshake) as error:
        table.doubt()
        raise unavailable(route.endpoint, str(error) or type(error).__name__) from error


@asynccontextmanager
async def _connected(scope: Scope, route: Route, target: bytes, prefix: str) -> AsyncIterator[ClientConnection]:
    given = [*forwarded(scope, prefix), *passed_on(scope["headers"], _HANDSHAKE)]
    host = next(value for name, value in given if name == b"host").decode("latin-1")
    headers = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in given if name != b"host")
    async with connect(
        f"wss://{host}{target.decode('latin-1')}",
        host=route.endpoint.host,
        port=route.endpoint.port,
        ssl=route.upstream.tls(),
        server_hostname=route.endpoint.host,
        additional_headers=headers,
        user_agent_header=None,
        subprotocols=[Subprotocol(word) for word in scope.get("subprotocols", ())] or None,
        compression=None,
        proxy=None,
        max_size=None,
        open_timeout=_OPEN_TIMEOUT,
        close_timeout=1,
    ) as service:
        yield service


async def _pump(receive: Receive, send: Send, service: ClientConnection, closing: asyncio.Event) -> None:
    """Both directions until one ends; the service is told by the block around us, the caller here."""
    up = asyncio.create_task(_up(receive, service))
    down = asyncio.create_task(_down(send, service))
    stop = asyncio.create_task(closing.wait())
    try:
        await asyncio.wait({up, down, stop}, return_when=asyncio.FIRST_COMPLETED)
        if up.done() and not up.exception():
            return  # the caller ended it
        code, reason = _GOING_AWAY, "the gateway stops" if stop.done() else "the service is gone"
        if down.done() and service.close_code not in {None, _ABNORMAL}:
            code, reason = service.close_code or code, service.close_reason or ""
        await send({"type": "websocket.close", "code": code, "reason": reason})
    finally:
        for task in (up, down, stop):
            task.cancel()
        await asyncio.wait({up, down, stop})


async def _up(receive: Receive, service: ClientConnection) -> None:
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            await service.close(*_close_words(message))
            return
        data = message.get("bytes")
        await service.send(data if data is not None else message["text"])


async def _down(send: Send, service: ClientConnection) -> None:
    try:
        while True:
            data = await service.recv()
            await send({"type": "websocket.send", "text" if isinstance(data, str) else "bytes": data})
    except ConnectionClosed:
        return


def _close_words(message: Message) -> tuple[int, str]:
    code = message.get("code") or 1000
    sendable = code in {1000, 1001, 1002, 1003} or 1007 <= code <= 1014 or 3000 <= code <= 4999  # noqa: PLR2004
    return (code if sendable else _GOING_AWAY, message.get("reason") or "")
