"""`/api/v1/sessions/{ref}/logs`: what the program wrote and what the agent did."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.model.api import LogChunk
from gateway.server.api import examples
from gateway.web import logtail
from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.openapi import problems

router = APIRouter(tags=["sessions"])


@router.get(
    "/sessions/{ref}/logs",
    operation_id="readLog",
    summary="Read or follow a session's log",
    response_model=LogChunk,
    responses={
        200: {
            "description": "A piece; with `follow` text as it comes, or events (`Accept: text/event-stream`).",
            "content": {"application/json": {"example": examples.LOG}, "text/plain": {}, "text/event-stream": {}},
        },
        **problems(404, 422, 503),
    },
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
    """The last 64 KiB unless `offset` says otherwise. Ask again with `offset` set to `next` to go on."""
    return await logtail.answer(request, gateway, caller, ref, query, accept=accept, last=last)
