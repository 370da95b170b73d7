"""Logs of a session, read where the job writes them: in the session directory, as the session's own user."""

import codecs
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Literal

from gateway.core import sessions
from gateway.core.context import Gateway
from gateway.core.staging import directory
from gateway.errors import NotFound
from gateway.model.api import LogChunk
from gateway.model.principal import Principal
from gateway.model.session import Session

LogFile = Literal["service", "job"]
CHUNK = 1 << 18
LOOK_AGAIN = 1.0


async def read(
    gateway: Gateway,
    caller: Principal,
    ref: str,
    *,
    file: LogFile = "service",
    attempt: int | None = None,
    offset: int = -65536,
    limit: int = CHUNK,
) -> LogChunk:
    """A piece of a log: `service` is what the program wrote, `job` what the agent did. Offsets in bytes.

    A negative offset counts from the end. An empty chunk while there is no log yet.
    """
    session = await sessions.looked_at(gateway, caller, ref, "logs")
    return await _read(gateway, session, file, attempt, offset, limit)


async def follow(
    gateway: Gateway, caller: Principal, ref: str, *, file: LogFile = "service", offset: int = -65536
) -> AsyncIterator[LogChunk]:
    """The log from `offset` on as it grows, until the session has ended and all of it is out.

    When the session goes on in another job, its log follows from the beginning.
    """
    attempt = 0
    while True:
        session = await sessions.looked_at(gateway, caller, ref, "logs")
        if session.job.attempt != attempt:
            offset, attempt = (0 if attempt else offset), session.job.attempt
        chunk = await _read(gateway, session, file, None, offset, CHUNK)
        if chunk.text:
            offset = chunk.next
            yield chunk
        elif session.phase.ended:
            return
        else:
            await gateway.news.wait(LOOK_AGAIN)


async def _read(
    gateway: Gateway, session: Session, file: LogFile, attempt: int | None, offset: int, limit: int
) -> LogChunk:
    cluster = gateway.cluster(session.cluster)
    name = f"{file}-{attempt or session.job.attempt}.log"
    path = f"{directory(cluster, session)}/{name}"
    found = await cluster.files.stat(session.unix_user, path)
    if found is None:
        return LogChunk(file=name, offset=0, next=0, size=0, text="")
    start = max(0, found.size + offset) if offset < 0 else offset
    data = b""
    if start < found.size:
        with suppress(NotFound):
            data = await cluster.files.read(session.unix_user, path, offset=start, limit=min(limit, CHUNK))
    text, used = _decode(data, final=session.phase.ended)
    return LogChunk(file=name, offset=start, next=start + used, size=found.size, text=text)


def _decode(data: bytes, *, final: bool) -> tuple[str, int]:
    """Text, and how many bytes it took: a character cut at the end is left for the next chunk."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, final=final)
    return text, len(data) - len(decoder.getstate()[0])
