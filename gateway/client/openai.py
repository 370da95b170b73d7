"""The OpenAI front: `/v1` over the caller's ready model servers. Only the paths named here reach a server."""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.responses import JSONResponse, Response

from gateway.client import outgoing
from gateway.client.affinity import kin
from gateway.client.asked import Asked, as_model
from gateway.client.exchange import Exchange
from gateway.client.framing import NOTHING
from gateway.client.http1 import Headers, RequestHead, ResponseHead, lines
from gateway.client.later import Later, Whole
from gateway.client.plan import Plan
from gateway.client.routes import Route
from gateway.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    NotReady,
    SluiceError,
    TooLarge,
    TooMany,
    Unauthenticated,
)
from gateway.model.principal import Principal, Scope
from gateway.web.caller import CHALLENGE
from gateway.web.door import SECURITY_HEADERS
from gateway.web.errors import status_of

if TYPE_CHECKING:
    from gateway.client.front import Front
    from gateway.client.plane import Plane

PREFIX = b"/v1"
MODELS = b"/v1/models"
#: These are answered by the ASGI application of the same process (`gateway.client.batches`).
FILES, BATCHES = "/v1/files", "/v1/batches"
_ELSEWHERE = (f"{FILES}/".encode(), f"{BATCHES}/".encode())
_EXACTLY = (FILES.encode(), BATCHES.encode())
#: The paths that reach a model server, and what it calls them.
CALLS: Mapping[bytes, bytes] = {
    b"/v1/chat/completions": b"/v1/chat/completions",
    b"/v1/completions": b"/v1/completions",
    b"/v1/embeddings": b"/v1/embeddings",
    b"/v1/responses": b"/v1/responses",
    b"/v1/tokenize": b"/tokenize",
    b"/v1/detokenize": b"/detokenize",
}
_CALLED_BY, _LISTED_BY = (b"POST",), (b"GET", b"HEAD")
_OF_MODELS = MODELS + b"/"
MAX_BODY = 64 << 20
RETRY_AFTER = 5
_TYPES: Mapping[type[SluiceError], str] = {
    Invalid: "invalid_request_error",
    NotFound: "invalid_request_error",
    NotReady: "service_unavailable_error",
    TooMany: "rate_limit_error",
    Unauthenticated: "authentication_error",
    Forbidden: "permission_error",
    Conflict: "invalid_request_error",
}
_STATUS: Mapping[type[SluiceError], int] = {TooLarge: 413, Invalid: 400}
_SECURITY: Headers = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
#: What a model server may not say in our name.
_OURS = frozenset(
    {name for name, _ in _SECURITY}
    | {b"strict-transport-security", b"access-control-allow-origin", b"access-control-allow-credentials"}
    | {b"content-length"}  # which is put behind the others
)
_NOT_FOR_SERVERS = outgoing.DROPPED | {b"cookie", b"content-length", b"transfer-encoding"}


class OpenAi:
    """The service of `/v1`."""

    name = "openai"
    shared = True
    scope = Scope.INFERENCE
    browser = False

    def owns(self, head: RequestHead) -> bool:
        path = head.path
        ours = path.startswith(b"/v1/") or path == PREFIX
        return ours and not (path in _EXACTLY or path.startswith(_ELSEWHERE))

    def route(self, head: RequestHead) -> str:
        if head.path in CALLS:
            return head.path.decode()
        return "/v1/models" if head.path.startswith(MODELS) else "unmatched"

    def render(self, error: SluiceError, where: Mapping[str, str], head: RequestHead | None) -> Response:
        """An error as OpenAI's clients expect it."""
        del head
        return render(error, where)

    def redeem(self, plane: "Plane", front: "Front", head: RequestHead) -> None:
        """Nobody is let in by a link here."""

    def opened(self, head: RequestHead) -> None:
        """Nobody is let in by a cookie of a session here."""

    def allows(self, plane: "Plane", caller: Principal, route: Route) -> bool:
        return caller.calls(route) and plane.routes.permits(caller, "call", route)

    def begin(self, plane: "Plane", front: "Front", caller: Principal, head: RequestHead, data: bytes) -> None:
        path = head.path
        listing = path not in CALLS and (path == MODELS or path.startswith(_OF_MODELS))
        if path not in CALLS and not listing:
            known = ", ".join(sorted(path.decode() for path in CALLS))
            raise NotFound(
                f"there is nothing at {path.decode('latin-1')} for {head.method.decode()}", hint=f"There are: {known}."
            )
        allowed = _LISTED_BY if listing else _CALLED_BY
        if head.method not in allowed:
            raise Invalid(
                f"{path.decode('latin-1')} takes {allowed[0].decode()}, not {head.method.decode()}",
                code="method_not_allowed",
                status=405,
                allow=b", ".join(allowed).decode(),
            )
        call = _Call(plane, front, head, caller)
        if listing:
            wanted = unquote(path[len(MODELS) + 1 :].decode("latin-1"))
            front.hand(Later(front, head.frame(), call.list(wanted), data))
            return
        if len(data) == head.length:  # nearly always
            call.decide(data)
            return
        if head.length is not None and head.length > MAX_BODY:
            raise TooLarge(f"the request is longer than {MAX_BODY >> 20} MiB")
        frame = head.frame()
        if not data:
            front.welcome(head)
        Whole(front, frame, MAX_BODY, call.decide).start(data)


def render(error: SluiceError, where: Mapping[str, str]) -> Response:
    """An error as OpenAI's clients expect it."""
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), status_of(type(error)))
    kind = next((word for parent, word in _TYPES.items() if isinstance(error, parent)), "server_error")
    said = {
        "message": f"{error.message}. {error.hint}" if error.hint else error.message,
        "type": kind,
        "param": error.details.get("param"),
        "code": error.details.get("code", error.code),
        "request_id": where.get("request_id", ""),
    }
    response = JSONResponse({"error": said}, error.details.get("status", status))
    if error.retryable:
        response.headers["Retry-After"] = str(error.details.get("retry_after", RETRY_AFTER))
    if isinstance(error, Unauthenticated):
        response.headers["WWW-Authenticate"] = CHALLENGE
    if allow := error.details.get("allow"):
        response.headers["Allow"] = allow
    return response


class _Call:
    """One request of a caller's."""

    __slots__ = ("_caller", "_front", "_head", "_plane")

    def __init__(self, plane: "Plane", front: "Front", head: RequestHead, caller: Principal) -> None:
        self._plane, self._front, self._head, self._caller = plane, front, head, caller

    def decide(self, body: bytes) -> None:
        """Find who answers, now that the whole body is here."""
        asked = Asked.read(body)
        if not asked.model:
            raise Invalid(f"you must provide a model. {self._offered()}", code="invalid_request", param="model")
        name = asked.model
        routes = self._plane.routes.serving(self._caller, name)
        if routes:
            self._go(body, asked, routes)
            return

        async def look() -> Callable[[bytes], None]:
            await self._plane.routes.again()
            found = self._plane.routes.serving(self._caller, name) or await self._refuse(name)
            return lambda _: self._go(body, asked, found)

        self._front.hand(Later(self._front, NOTHING, look(), b""))

    def _go(self, body: bytes, asked: Asked, routes: tuple[Route, ...]) -> None:
        head, front, plane = self._head, self._front, self._plane
        if not head.made:
            target = CALLS[head.path] + (b"?" + head.query if head.query else b"")
            head.made["lines"] = head.lines(target, outgoing.headers(head, without=_NOT_FOR_SERVERS))
            head.made["extra"] = lines([*_SECURITY, *plane.around(head, shared=True)])

        def begin(route: Route) -> bytes:
            text = body if route.model == asked.model else as_model(body, route.model or "")
            return b"%bcontent-length: %d\r\n%b%b" % (head.made["lines"], len(text), outgoing.closing(head), text)

        plan = Plan(
            routes=routes,
            begin=begin,
            repeatable=asked.repeatable,
            rewrite=_rewritten,
            extra=head.made["extra"],
            last_words=_LAST_WORDS,
            counts=True,
            kin=kin(routes[0].service.affinity, head, self._caller.name, body),
            stream=asked.stream is True,
        )
        ticket = plane.limits.enter(self._caller, routes, plane.now())
        exchange = Exchange(front, head, NOTHING, plan, ticket)
        front.hand(exchange)
        exchange.start(b"")

    async def list(self, wanted: str) -> Callable[[bytes], None]:
        """The caller's models, or one of them."""
        await self._plane.routes.again()
        models: dict[str, dict[str, Any]] = {}
        for route in self._plane.routes.visible(self._caller):
            if route.model is not None:
                entry = models.setdefault(route.model, _model(route))
                entry["sessions"].append({"id": route.id, "name": route.name, "recipe": route.recipe})
        if wanted and wanted not in models:
            raise self._unknown(wanted)
        found = models[wanted] if wanted else {"object": "list", "data": list(models.values())}
        return lambda _: self._front.respond(JSONResponse(found))

    async def _refuse(self, model: str) -> tuple[Route, ...]:
        coming = await self._plane.routes.coming(self._caller, model)
        if coming is None:
            raise self._unknown(model)
        raise NotReady(
            f"the model {model!r} is not ready yet: session {coming.name} is {coming.word}",
            hint="Try again in a moment.",
        )

    def _unknown(self, model: str) -> NotFound:
        return NotFound(
            f"the model {model!r} does not exist", code="model_not_found", param="model", hint=self._offered()
        )

    def _offered(self) -> str:
        names = sorted({route.model for route in self._plane.routes.visible(self._caller) if route.model is not None})
        return f"Available: {', '.join(names)}." if names else "No model is being served; `sluice launch` starts one."


def _rewritten(head: ResponseHead) -> bytes:
    """The headers of a model server's answer that go on to the caller."""
    made = head.made.get("lines")
    if made is None:
        made = head.made["lines"] = lines(head.end_to_end(_OURS))
    length = head.fields.get(b"content-length")
    return made if length is None else b"%bcontent-length: %b\r\n" % (made, length)


_LAST_WORDS = (
    b"data: "
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
    + b"\n\n"
)


def _model(route: Route) -> dict[str, Any]:
    return {
        "id": route.model,
        "object": "model",
        "created": int(route.ready_at),
        "owned_by": route.owner,
        "sessions": [],
    }
