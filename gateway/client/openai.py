"""The OpenAI front: `/v1` over the caller's ready model servers. Only the paths named here reach a server."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gateway.client.downstream import CallerGone, Downstream
from gateway.client.head import request_head
from gateway.client.http1 import Request
from gateway.client.relay import Manner, pass_on
from gateway.client.routes import Route, Routes
from gateway.errors import Forbidden, Invalid, NotFound, NotReady, SluiceError, Unauthenticated
from gateway.model.principal import Principal
from gateway.web.errors import status_of

PREFIX = "/v1"
CALLS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings"})
MAX_BODY = 64 << 20
RETRY_AFTER = "5"
_TYPES: Mapping[type[SluiceError], str] = {
    Invalid: "invalid_request_error",
    NotFound: "invalid_request_error",
    NotReady: "service_unavailable_error",
    Unauthenticated: "authentication_error",
    Forbidden: "permission_error",
}


def as_openai(error: SluiceError, where: Mapping[str, str]) -> Response:
    """An error as OpenAI's clients expect it."""
    status = 400 if isinstance(error, Invalid) else status_of(type(error))
    kind = next((word for parent, word in _TYPES.items() if isinstance(error, parent)), "server_error")
    said = {
        "message": f"{error.message}. {error.hint}" if error.hint else error.message,
        "type": kind,
        "param": error.details.get("param"),
        "code": error.details.get("code", error.code),
        "request_id": where["request_id"],
    }
    headers = {"Retry-After": RETRY_AFTER} if error.retryable else None
    return JSONResponse({"error": said}, status, headers)


class OpenAi:
    """The ASGI app of /v1."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotFound("there is no WebSocket here")
        path, method = scope["path"], scope["method"]
        listing = path == "/v1/models" or path.startswith("/v1/models/")
        allowed = ("POST",) if path in CALLS else ("GET", "HEAD") if listing else ()
        if allowed and method not in allowed:
            await _not_allowed(scope, allowed)(scope, receive, send)
        elif path in CALLS:
            await self._call(scope, receive, send)
        elif listing:
            await self._routes.again()
            response = self._models(scope["state"]["caller"], path.removeprefix("/v1/models").removeprefix("/"))
            scope["state"]["route"] = "/v1/models"
            await response(scope, receive, send)
        else:
            raise NotFound(f"there is nothing at {path} for {method}", hint=f"There are: {', '.join(sorted(CALLS))}.")

    def _models(self, caller: Principal, wanted: str) -> Response:
        models: dict[str, dict[str, Any]] = {}
        for route in self._routes.visible(caller):
            if route.model is not None:
                entry = models.setdefault(route.model, _model(route))
                entry["sessions"].append({"id": route.id, "name": route.name, "recipe": route.recipe})
        if not wanted:
            return JSONResponse({"object": "list", "data": list(models.values())})
        if wanted not in models:
            raise self._unknown(caller, wanted)
        return JSONResponse(models[wanted])

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["route"] = scope["path"]
        caller: Principal = scope["state"]["caller"]
        down = Downstream(receive)
        try:
            body = await down.whole(MAX_BODY)
        except CallerGone:
            return
        asked = _parsed(body)
        model = asked.get("model")
        if not isinstance(model, str) or not model:
            raise _bad("you must provide a model", param="model", hint=self._offered(caller))
        routes = await self._routes.serving(caller, model)
        if not routes:
            await self._refuse(caller, model)
        target = scope["path"].encode() + (b"?" + scope["query_string"] if scope["query_string"] else b"")

        def request(route: Route) -> Request:
            told = body if route.model == model else json.dumps(asked | {"model": route.model}).encode()
            head = request_head(scope, target, length=len(told), without=_NOT_FOR_SERVERS)
            return Request("POST", head, told)

        await pass_on(scope, down, send, self._routes, routes, request, _MANNER)

    async def _refuse(self, caller: Principal, model: str) -> None:
        coming = await self._routes.coming(caller, model)
        if coming is None:
            raise self._unknown(caller, model)
        raise NotReady(
            f"the model {model!r} is not ready yet: session {coming.name} is {coming.word}",
            hint="Try again in a moment.",
        )

    def _unknown(self, caller: Principal, model: str) -> NotFound:
        hint = self._offered(caller)
        return NotFound(f"the model {model!r} does not exist", code="model_not_found", param="model", hint=hint)

    def _offered(self, caller: Principal) -> str:
        names = sorted({route.model for route in self._routes.visible(caller) if route.model is not None})
        return f"Available: {', '.join(names)}." if names else "No model is being served; `sluice launch` starts one."


#: Inference may safely be asked twice, so a connection that died unseen costs nothing.
_MANNER = Manner(
    repeatable=True,
    last_words=b"data: "
    + json.dumps(
        {
            "error": {
                "message": "the model server closed the connection before the answer was complete",
                "type": "server_error",
                "param": None,
                "code": "upstream_closed",
            }
        }
    ).encode()
    + b"\n\n",
)
_NOT_FOR_SERVERS = frozenset({b"cookie"})


def _not_allowed(scope: Scope, allowed: tuple[str, ...]) -> Response:
    error = Invalid(f"{scope['path']} takes {allowed[0]}, not {scope['method']}", code="method_not_allowed")
    response = as_openai(error, {"request_id": scope["state"]["request_id"]})
    response.status_code = 405
    response.headers["Allow"] = ", ".join(allowed)
    return response


def _bad(message: str, **details: Any) -> Invalid:
    return Invalid(message, code="invalid_request", **details)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body)
    except ValueError as error:
        raise _bad(f"the body is not JSON: {error}") from error
    if not isinstance(asked, dict):
        raise _bad("the body must be a JSON object")
    return asked


def _model(route: Route) -> dict[str, Any]:
    return {
        "id": route.model,
        "object": "model",
        "created": int(route.ready_at),
        "owned_by": route.owner,
        "sessions": [],
    }
