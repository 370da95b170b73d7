"""The logs service: what sessions write, read and followed where they write it, under /logs."""

from fastapi import Request
from starlette.responses import Response

from gateway.core.context import Gateway
from gateway.identity.opening import open_callers
from gateway.model.api import LogChunk
from gateway.web import context, logtail, refusals
from gateway.web.app import Part, Web, api
from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.openapi import Api, problems

PREFIX = "/logs"
MAX_BODY = 1 << 14


def rest(gateway: Gateway) -> Api:
    """The FastAPI app of /logs."""
    app = api(title="Sluice logs", prefix=PREFIX)
    context.hold(app, gateway)

    @app.get(
        f"{PREFIX}/sessions/{{ref}}",
        operation_id="readSessionLog",
        summary="Read or follow a session's log",
        response_model=LogChunk,
        responses=problems(404, 422, 503),
    )
    async def read(
        gateway: Gw,
        caller: Caller,
        request: Request,
        ref: str,
        query: logtail.Asked,
        accept: logtail.Accept = "*/*",
        last: logtail.LastEventId = None,
    ) -> Response | LogChunk:
        """As `/api/v1/sessions/{ref}/logs`, on a service of its own: long followers do not weigh on the API."""
        return await logtail.answer(request, gateway, caller, ref, query, accept=accept, last=last)

    return app


def part(gateway: Gateway) -> Part:
    """The logs service as a part of a frame."""
    return Part(name="logs", prefixes=(PREFIX,), app=rest(gateway), max_body=MAX_BODY, refused=refusals.teller(gateway))


def app(gateway: Gateway) -> Web:
    """The logs service on a port of its own."""
    return Web([part(gateway)], open_callers(gateway), gateway.settings.serve)
