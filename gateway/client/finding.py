"""Who answers the lines of a batch: the sessions that serve a model now, or why nobody does."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gateway.client.routes import Route
from gateway.core.context import Gateway
from gateway.errors import DatabaseUnavailable, NotReady, SessionNotFound
from gateway.model.principal import Principal
from gateway.store import sessions

if TYPE_CHECKING:
    from gateway.client.plane import Plane

ASK_AGAIN = 1.0


class Gone(Exception):
    """Nobody answers, and nobody will."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Finding:
    """The sessions of one task. `session`: the one that answers every line; None: each line's model says."""

    def __init__(self, gateway: Gateway, plane: "Plane", session: str | None) -> None:
        self._gateway, self._plane, self._session = gateway, plane, session
        self._found: dict[str, Sequence[Route]] = {}
        self._away: dict[str, float] = {}  # since when nobody serves a model
        self._said: dict[str, tuple[float, NotReady]] = {}
        self._looking = asyncio.Lock()

    @property
    def known(self) -> Iterable[Route]:
        """The sessions that answered of late."""
        return {route.id: route for routes in self._found.values() for route in routes}.values()

    async def serving(self, caller: Principal, model: str) -> Sequence[Route]:
        """Who answers now. NotReady, saying what is waited for; Gone; PolicyDenied if the caller may not ask them."""
        wanted = self._session or model
        routes: Sequence[Route] = self._plane.routes.serving(caller, wanted)
        if not routes:
            async with self._looking:  # many lines wait for the same
                routes = self._plane.routes.serving(caller, wanted) or await self._look(caller, wanted)
        self._found[wanted] = routes
        self._away.pop(wanted, None)
        return routes

    async def _look(self, caller: Principal, wanted: str) -> Sequence[Route]:
        now = time.monotonic()
        at, said = self._said.get(wanted, (float("-inf"), None))
        if said is not None and now < at + ASK_AGAIN:
            raise said
        self._found.pop(wanted, None)
        await self._plane.routes.again()
        if routes := self._plane.routes.serving(caller, wanted):
            return routes
        try:
            why = NotReady(await (self._of_session(caller) if self._session else self._of_model(caller, wanted, now)))
        except DatabaseUnavailable:
            why = NotReady("the gateway's database does not answer")
        self._said[wanted] = now, why
        raise why

    async def _of_session(self, caller: Principal) -> str:
        """What the session is waited for. Gone if it has ended."""
        try:
            session = await self._gateway.db.read(sessions.get, caller, self._session or "")
        except SessionNotFound as error:
            raise Gone("its session was deleted") from error
        if session.phase.ended:
            raise Gone(f"session {session.name} has ended ({session.word}): {session.message}".rstrip(": "))
        if not caller.calls(session):
            raise Gone(f"{caller.name} may not ask session {session.name} any more")
        return f"session {session.name} is {session.word}"

    async def _of_model(self, caller: Principal, model: str, now: float) -> str:
        coming = await self._plane.routes.coming(caller, model)
        if coming is not None:
            self._away.pop(model, None)
            return f"session {coming.name} is {coming.word}"
        if now - self._away.setdefault(model, now) > self._gateway.settings.tasks.model_seconds:
            raise Gone(f"nobody serves the model {model!r}")
        return f"nobody serves the model {model!r} now"
