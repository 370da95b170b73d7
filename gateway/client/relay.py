"""One proxied request: to the first endpoint that takes it, and its answer back, while the caller is there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from starlette.types import Scope, Send

from gateway.client.downstream import CallerGone, Downstream, end_to_end
from gateway.client.http1 import Headers, Request, Response, UpstreamClosed
from gateway.client.routes import Route, Routes
from gateway.errors import EndpointUnavailable

log = structlog.get_logger(__name__)

_STREAM = b"text/event-stream"


def _same(headers: Headers) -> Headers:
    return headers


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a front wants its requests passed on.

    `repeatable`: it does no harm if one reaches a service twice. `rewrite`: what becomes of an answer's headers.
    `last_words`: put at the end of an event stream that breaks off.
    """

    repeatable: bool
    rewrite: Callable[[Headers], Headers] = _same
    last_words: bytes = b""


async def pass_on(
    scope: Scope,
    down: Downstream,
    send: Send,
    table: Routes,
    routes: Sequence[Route],
    request: Callable[[Route], Request],
    manner: Manner,
) -> None:
    """Try the routes in order until one answers. EndpointUnavailable if none does.

    Another one is tried only if the request is repeatable and its body still there. An answer that breaks off is cut
    off here, too: it must not look whole.
    """
    for route in routes:
        asked = request(route)
        scope["state"]["log"] = {"session": route.id}
        try:
            async with down.present(), route.upstream.exchange(asked, repeatable=manner.repeatable) as response:
                await _answer(route, response, send, table, manner)
        except EndpointUnavailable as error:
            if down.gone:
                return
            table.doubt()
            log.warning("endpoint does not answer", session=route.id, error=error.message)
            if route is routes[-1] or not (asked.replayable and manner.repeatable):
                raise
        except CallerGone:
            log.info("caller left", session=route.id)
            return
        else:
            return


async def _answer(route: Route, response: Response, send: Send, table: Routes, manner: Manner) -> None:
    headers = [*manner.rewrite(end_to_end(response.headers)), (b"x-sluice-session", route.id.encode())]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    try:
        async for piece in response.pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    except UpstreamClosed as error:
        table.doubt()
        log.warning("answer broke off", session=route.id, error=str(error))
        if not (manner.last_words and _is_stream(response)):
            raise ConnectionAbortedError(str(error)) from error
        await send({"type": "http.response.body", "body": manner.last_words, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _is_stream(response: Response) -> bool:
    return any(name == b"content-type" and value.startswith(_STREAM) for name, value in response.headers)
