"""Going into a running job, by a terminal or to one of its ports: who may, where its agent is, what is written down."""

import asyncio
import time
from collections.abc import Mapping
from typing import Literal

from pydantic import JsonValue
from sqlalchemy import Connection

from gateway.core import audit, sessions
from gateway.core.context import Gateway
from gateway.errors import NotReady
from gateway.model.announcement import Endpoint, Running, parse
from gateway.model.fixed import forbidden
from gateway.model.principal import Principal
from gateway.model.session import Phase, Session

#: How long a session that runs may keep us waiting for its agent's first word.
PATIENCE = 20.0
#: A port that is in use all the time is written down so often (seconds), and not for each connection.
TOLD_EVERY = 3600.0

Way = Literal["session.exec", "session.forward"]


async def enter(gateway: Gateway, caller: Principal, ref: str) -> tuple[Session, Endpoint]:
    """The session, and where the agent of its job answers.

    Forbidden for all but its owner, PolicyDenied; SessionNotFound; NotReady while there is no job that runs.
    """
    until = time.monotonic() + PATIENCE
    while True:
        session = await sessions.looked_at(gateway, caller, ref, "enter")
        if not caller.enters(session):  # whatever a site's policies permit: who goes in acts as the owner
            raise forbidden(
                "fixed-enter", f"only its owner goes into session {session.name}: whoever does acts as {session.owner}"
            )
        told = parse(session.job.comment)
        endpoint = told.endpoint if isinstance(told, Running) else told
        running = session.phase in {Phase.STARTING, Phase.READY}
        if running and isinstance(endpoint, Endpoint):
            return session, endpoint
        if not running or time.monotonic() > until:
            raise _not_running(session)
        await gateway.news.wait(1.0)


async def tell(
    gateway: Gateway, caller: Principal, session: Session, way: Way, details: Mapping[str, JsonValue]
) -> None:
    """Write down who went in, and how."""
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> None:
        audit.record_session(connection, told, way, session, details)

    await gateway.db.write(write)


class Told:
    """Which ports were written down lately: a browser makes a hundred connections to one."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str, int], float] = {}
        self._writing = asyncio.Lock()

    async def forward(self, gateway: Gateway, caller: Principal, session: Session, port: int) -> None:
        key = (caller.name, session.id, port)
        async with self._writing:
            now = time.monotonic()
            self._until = {one: until for one, until in self._until.items() if until > now}
            if key not in self._until:
                await tell(gateway, caller, session, "session.forward", {"port": port})
                self._until[key] = now + TOLD_EVERY


def _not_running(session: Session) -> NotReady:
    if session.phase.ended:
        return NotReady(
            f"session {session.name} has ended ({session.word}): {session.message}",
            hint=f"`sluice logs {session.name}` shows what it wrote.",
            phase=session.word,
        )
    return NotReady(
        f"session {session.name} has no job that runs now: it is {session.word}",
        hint=f"Wait for it: sluice wait {session.name}",
        phase=session.word,
    )
