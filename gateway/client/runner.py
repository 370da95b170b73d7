"""Works on tasks, beside the requests of callers: takes those that nobody holds, and those whose holder is gone.

Several client services on one database share the tasks. A holder gives signs of life; one that gave none for a while,
by the clock of who watches, loses the task to another, and can write nothing of it any more.
"""

import asyncio
import secrets
import time
from collections import Counter as Tally
from collections.abc import Collection
from typing import TYPE_CHECKING

import structlog
from prometheus_client import Counter, Gauge

from gateway.client.batch import Batch
from gateway.core import files
from gateway.core.context import Gateway
from gateway.errors import SluiceError
from gateway.store import tasks as store
from gateway.store.tasks import Grip, Held
from gateway.web.metrics import LINES, WORKING

if TYPE_CHECKING:
    from gateway.client.plane import Plane

log = structlog.get_logger(__name__)

LOOK = 1.0
SHORTEST = 0.05
SWEEP = 600.0


class Watch:
    """Which holders have lapsed: no sign of life for so many seconds. Pure: the times are given."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: dict[str, tuple[Held, float]] = {}

    def free(self, held: Collection[Held], now: float) -> list[Held]:
        """Those that may be taken."""
        before, self._seen = self._seen, {}
        found = []
        for one in held:
            known = before.get(one.task)
            since = known[1] if known is not None and known[0] == one else now
            self._seen[one.task] = one, since
            if not one.holder or now - since >= self._seconds:
                found.append(one)
        return found


class Runner:
    """The tasks of one process."""

    def __init__(self, gateway: Gateway, plane: "Plane") -> None:
        self._gateway, self._plane = gateway, plane
        self._settings = gateway.settings.tasks
        self._me = secrets.token_hex(8)
        self._watch = Watch(self._settings.lease_seconds)
        self._running: dict[Grip, asyncio.Task[None]] = {}
        self._owners: dict[str, str] = {}
        self._beaten = float("-inf")
        self._swept = time.monotonic() - SWEEP * secrets.randbelow(100) / 100  # not all processes at once
        self._outcomes = Counter(LINES.name, LINES.help, LINES.labels, registry=None)
        working = Gauge(WORKING.name, WORKING.help, registry=None)
        working.set_function(lambda: len(self._running))
        plane.collectors += [self._outcomes, working]

    async def run(self) -> None:
        """Until cancelled; then what is held is let go, so that another may go on at once."""
        await self._plane.opened.wait()
        try:
            while True:
                heard = self._gateway.news.listen()
                try:
                    await self._turn()
                except SluiceError as error:
                    log.warning("tasks are not looked at", error=error.message)
                await asyncio.sleep(SHORTEST)
                await self._gateway.news.wait(LOOK, heard)
        finally:
            await self._leave()

    async def _turn(self) -> None:
        now = time.monotonic()
        self._collect()
        if self._running and now - self._beaten >= self._settings.lease_seconds / 4:
            still = await self._gateway.db.write(store.beat, list(self._running))
            self._beaten = now
            for grip in self._running.keys() - still:
                self._running[grip].cancel()
        await self._take(now)
        if now - self._swept >= SWEEP:
            self._swept = now if await files.sweep(self._gateway) == 0 else now - SWEEP

    async def _take(self, now: float) -> None:
        """Take what is free, as long as there is room: of those who have least under way first."""
        mine = {grip.task for grip in self._running}
        held = await self._gateway.db.read(store.live)
        self._owners = {one.task: one.owner for one in held}
        free = self._watch.free([one for one in held if one.task not in mine], now)
        while free and len(self._running) < self._settings.at_once:
            busy = Tally(self._owners.get(grip.task, "") for grip in self._running)
            one = min(free, key=lambda seen: (busy[seen.owner], seen.task))
            free.remove(one)
            grip = await self._gateway.db.write(store.take, one, self._me)
            if grip is not None:
                log.info("task taken", task=grip.task, term=grip.term, after=one.holder)
                batch = Batch(self._gateway, self._plane, grip, self._outcomes)
                self._running[grip] = asyncio.create_task(batch.run(), name=grip.task)

    def _collect(self) -> None:
        for grip, task in list(self._running.items()):
            if task.done():
                del self._running[grip]
                if not task.cancelled() and (error := task.exception()) is not None:
                    log.error("a task broke off", task=grip.task, exc_info=error)

    async def _leave(self) -> None:
        for task in self._running.values():
            task.cancel()
        if self._running:
            await asyncio.wait(self._running.values())
            try:
                await self._gateway.db.write(store.give, list(self._running))
            except SluiceError as error:
                log.warning("tasks are not given back", error=error.message)
