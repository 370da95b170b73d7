"""A session's log as an answer: a piece in JSON, plain text, text that follows, or events that resume."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Header, Query, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from gateway.core import logs
from gateway.core.context import Gateway
from gateway.core.logs import CHUNK, LogFile
from gateway.errors import Invalid
from gateway.model.api import LogChunk
from gateway.model.principal import Principal
from gateway.web import streams

TAIL = -65536


class LogQuery(BaseModel):
    """Which part of which log."""

    model_config = ConfigDict(extra="forbid")

    file: LogFile = Field("service", description="`service`: what the program wrote. `job`: what the agent did.")
    attempt: int | None = Field(
        None, ge=1, le=streams.MOST, description="Attempt of the session; unset: the current one."
    )
    offset: int = Field(
        TAIL, ge=-streams.MOST, le=streams.MOST, description="First byte; negative counts from the end."
    )
    limit: int = Field(CHUNK, ge=1, le=CHUNK, description="Most bytes of a piece.")
    follow: bool = Field(default=False, description="Go on as the log grows, until the session has ended.")


Asked = Annotated[LogQuery, Query()]
Accept = Annotated[str, Header(include_in_schema=False)]
LastEventId = Annotated[
    int | None,
    Header(alias="Last-Event-ID", ge=0, le=streams.MOST, description="Where a stream of events goes on."),
]


async def answer(
    request: Request,
    gateway: Gateway,
    caller: Principal,
    ref: str,
    query: LogQuery,
    *,
    accept: str,
    last: int | None,
) -> Response | LogChunk:
    """Read once, or follow: as text, or as events (`Accept: text/event-stream`) whose ids are offsets."""
    if query.follow and query.attempt is not None:
        raise Invalid("an earlier attempt does not grow", hint="Leave out `follow` or `attempt`.")
    offset = last if last is not None else query.offset
    first = await logs.read(
        gateway, caller, ref, file=query.file, attempt=query.attempt, offset=offset, limit=query.limit
    )
    if not query.follow:
        return PlainTextResponse(first.text) if accept.startswith("text/plain") else first
    source = _from(first, gateway, caller, ref, query.file)
    if accept.startswith("text/event-stream"):
        return streams.events(request, _sent(source))
    return streams.text(request, _text(source))


async def _from(
    first: LogChunk, gateway: Gateway, caller: Principal, ref: str, file: LogFile
) -> AsyncIterator[LogChunk]:
    if first.text:
        yield first
    async for chunk in logs.follow(gateway, caller, ref, file=file, offset=first.next):
        yield chunk


async def _text(source: AsyncIterator[LogChunk]) -> AsyncIterator[str]:
    async for chunk in source:
        yield chunk.text


async def _sent(source: AsyncIterator[LogChunk]) -> AsyncIterator[streams.Sent]:
    async for chunk in source:
        yield streams.Sent(data=chunk.model_dump(mode="json"), event="log", id=str(chunk.next))
