"""Telling the servers how busy this process is with each session: they start and stop replicas by it."""

import asyncio
import secrets
from datetime import datetime, timedelta

import structlog

from gateway.client.limits import Limits
from gateway.client.routes import Route, Routes
from gateway.core.bell import Bell
from gateway.core.context import Gateway
from gateway.errors import SluiceError
from gateway.store import loads as store
from gateway.store.loads import Load

log = structlog.get_logger(__name__)

EVERY = 2.0
SHORTEST = 0.1


class Loads:
    """What this process has to do with each session. `bell` rings when that should be told at once."""

    def __init__(self, gateway: Gateway, routes: Routes, limits: Limits, bell: Bell) -> None:
        self._gateway, self._routes, self._limits, self._bell = gateway, routes, limits, bell
        self._writer = secrets.token_hex(8)
        self._told: dict[str, Load] = {}

    async def run(self) -> None:
        """Report until cancelled: every two seconds what is used or has changed, and at once who begins to wait."""
        while True:
            heard = self._bell.listen()
            try:
                await self.report()
            except SluiceError as error:
                log.warning("loads are not reported", error=error.message)
            await asyncio.sleep(SHORTEST)
            await self._bell.wait(EVERY - SHORTEST, heard)

    async def report(self) -> None:
        """Write down what is not known yet, or holds still."""
        in_line = self._limits.waiting()
        now = {route.id: self._load(route, in_line.get(route.id, 0)) for route in self._routes.all()}
        rows = [load for load in now.values() if load.used or self._is_news(load)]
        if rows:
            await self._gateway.db.write(store.report, rows)
        self._told = now

    def _is_news(self, load: Load) -> bool:
        before = self._told.get(load.session_id)
        return (before is not None and before.used) or load.last_request_at != (before and before.last_request_at)

    def _load(self, route: Route, in_line: int) -> Load:
        healths = [(member.attempt, member.health) for member in route.members]
        waiting = route.waiting + in_line + route.backlog
        busy = {attempt: health.in_flight - health.websockets for attempt, health in healths}
        return Load(
            session_id=route.id,
            writer=self._writer,
            in_flight=sum(busy.values()),
            waiting=waiting,
            websockets=sum(health.websockets for _, health in healths),
            last_request_at=self._last(route, waits=waiting > 0),
            at=self._gateway.clock(),
            by_attempt={attempt: number for attempt, number in busy.items() if number},
        )

    def _last(self, route: Route, *, waits: bool) -> datetime | None:
        """When it was last used, by the clock that the database uses; to the second, which is enough."""
        used = max((member.health.last_used for member in route.members), default=float("-inf"))
        ago = 0.0 if waits else asyncio.get_running_loop().time() - used
        before = self._told.get(route.id)
        told = before.last_request_at if before is not None else None
        if ago == float("inf"):
            return told
        last = (self._gateway.clock() - timedelta(seconds=ago)).replace(microsecond=0)
        return last if told is None or last > told + timedelta(seconds=1) else told
