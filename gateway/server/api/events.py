"""`/api/v1/events` and `/api/v1/sessions/{ref}/events`: what happens to sessions, as it happens."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import StreamingResponse

from gateway.core import events, sessions
from gateway.model.api import EventView
from gateway.server.api import examples
from gateway.store.events import Event
from gateway.web import streams
from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.openapi import Responses, problems

router = APIRouter(tags=["events"])

LastEventId = Annotated[
    int | None,
    Header(
        alias="Last-Event-ID",
        ge=0,
        le=streams.MOST,
        description="Id of the last event that you have; you get what followed it.",
    ),
]
After = Annotated[int | None, Query(ge=0, le=streams.MOST, description="The same for those who cannot set headers.")]
Follow = Annotated[bool, Query(description="Go on as things happen; else end when all that is known is out.")]
_STREAM: Responses = {
    200: {
        "description": "Server-sent events: `id`, `event` (the type) and `data` (JSON).",
        "content": {"text/event-stream": {"example": examples.EVENTS}},
    }
}


@router.get(
    "/sessions/{ref}/events",
    operation_id="followSession",
    summary="Follow a session",
    response_class=StreamingResponse,
    responses={**_STREAM, **problems(404, 422)},
)
async def of_one(
    gateway: Gw,
    caller: Caller,
    request: Request,
    ref: str,
    last: LastEventId = None,
    after: After = None,
    *,
    until_end: Annotated[bool, Query(description="End the stream when the session has ended.")] = False,
    follow: Follow = True,
) -> StreamingResponse:
    """From the session's first event on, or from where you left off. A comment every 15 s keeps the line alive."""
    session = await sessions.get(gateway, caller, ref)
    start = last if last is not None else after or 0
    source = events.follow(gateway, caller, session=session.id, after=start, until_end=until_end, wait=follow)
    return streams.events(request, _sent(source))


@router.get(
    "/events",
    operation_id="followAll",
    summary="Follow all of your sessions",
    response_class=StreamingResponse,
    responses={**_STREAM, **problems(422)},
)
async def of_all(
    gateway: Gw,
    caller: Caller,
    request: Request,
    last: LastEventId = None,
    after: After = None,
    *,
    follow: Follow = True,
) -> StreamingResponse:
    """From now on, or from where you left off; `after=0` tells everything that is still known."""
    start = last if last is not None else after
    begin = start if start is not None else await events.newest(gateway)
    return streams.events(request, _sent(events.follow(gateway, caller, after=begin, wait=follow)))


async def _sent(source: AsyncIterator[Event]) -> AsyncIterator[streams.Sent]:
    async for event in source:
        view = EventView(id=event.id, session=event.session_id, type=event.type, at=event.at, data=event.data)
        yield streams.Sent(data=view.model_dump(mode="json"), event=event.type, id=str(event.id))
