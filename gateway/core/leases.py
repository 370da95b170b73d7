"""Leases: which clusters this server works for, kept while it lives and taken over from servers that do not.

A holder renews its lease four times in the time that it lasts. Who waits for one to lapse watches it by its own
monotonic clock, and the holder counts from before it asked, so that the holder always stops first; no clock that
somebody may set has a part in it. A server that was killed on this very machine is seen to be gone at once.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict
from ulid import ULID

from gateway.core import processes
from gateway.core.context import Gateway
from gateway.errors import SluiceError
from gateway.model.lease import Lease, Server, decide
from gateway.store import leases as store
from gateway.store.leases import Grip

log = structlog.get_logger(__name__)

BEATS = 4
MARGIN = 0.2
FORGET_AFTER = 10
GOODBYE = 5.0


def moment() -> float:
    """Seconds on a clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Hold:
    """A lease in the hands of this server, until it is lost. `seconds` is how long it lasts after a renewal."""

    def __init__(self, grip: Grip, seconds: float, asked_at: float) -> None:
        self.grip = grip
        self.lost = False
        self._seconds = seconds
        self._until = asked_at + seconds
        self._changed = asyncio.Event()

    @property
    def certain(self) -> bool:
        """Whether an act that is begun now is begun while nobody else can hold the lease."""
        return not self.lost and moment() < self._until - MARGIN * self._seconds

    async def sure(self) -> bool:
        """Wait until it is certain that the lease is held; False if it is lost.

        Renewed under the same term, it was nobody else's in between: what was decided before is still right.
        """
        while not self.certain:
            if self.lost:
                return False
            changed = self._changed
            await changed.wait()
        return True

    def renewed(self, asked_at: float) -> None:
        self._until = max(self._until, asked_at + self._seconds)
        self._tell()

    def lose(self) -> None:
        self.lost = True
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Standing(BaseModel):
    """Who works for a cluster, for people. `age`: seconds since the last renewal, by the database's clock."""

    model_config = ConfigDict(frozen=True)

    cluster: str
    holder: str = ""
    here: bool = False
    term: int = 0
    age: float | None = None


class Keeper:
    """Holds leases for this server. `work` runs for each while it is held, and is cancelled when it is not."""

    def __init__(self, gateway: Gateway, work: Callable[[Hold], Coroutine[Any, Any, None]]) -> None:
        self._gateway, self._work = gateway, work
        self._seconds = gateway.settings.reconcile.lease_seconds
        self._me = Server(
            name=str(ULID()),
            host=socket.gethostname(),
            pid=os.getpid(),
            started=processes.started(),
            place=processes.place(),
            clusters=tuple(sorted(gateway.clusters)),
            seconds=self._seconds,
        )
        self._holds: dict[str, Hold] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._giving: set[str] = set()
        self._seen: dict[str, tuple[Any, float]] = {}
        self._trouble = ""

    @property
    def held(self) -> frozenset[str]:
        """The clusters that this server works for now."""
        return frozenset(name for name, hold in self._holds.items() if hold.certain)

    async def run(self) -> None:
        """Until cancelled; then the work is ended, and every lease is given back."""
        try:
            while True:
                began = moment()
                try:
                    await self.beat()
                    self._trouble = ""
                except SluiceError as error:
                    if self._trouble != error.code:
                        log.warning("leases are not renewed", code=error.code, error=error.message)
                    self._trouble = error.code
                except Exception as error:  # the database's own (a full disk, a lock) or a fault of ours: go on trying
                    if self._trouble != (kind := type(error).__name__):
                        log.exception("leases are not renewed")
                    self._trouble = kind
                await asyncio.sleep(max(0.0, self._seconds / BEATS - (moment() - began)))
        finally:
            await self._end(list(self._tasks))
            with suppress(SluiceError, TimeoutError):
                async with asyncio.timeout(GOODBYE):
                    await self._gateway.db.write(store.leave, self._me.name)

    async def beat(self) -> None:
        """One sign of life: look at the others, decide, renew and take."""
        others = await self._gateway.db.read(store.look)
        now = moment()
        leases = {lease.cluster: lease for lease in others.leases}
        live = {server.name: server for server in others.servers if self._lives(server, now)}
        killed = frozenset(server.name for server in others.servers if self._killed(server))
        free = frozenset(name for name in self._gateway.clusters if self._free(leases.get(name), killed, now))
        decision = decide(self._me, live, leases, free)
        keep = {Grip(one.cluster, one.holder, one.term) for one in others.leases if one.holder == self._me.name}
        holders = {lease.holder for lease in others.leases}
        gone = [server for server in others.servers if server.name not in holders and self._ended_long_ago(server, now)]
        asked_at = moment()
        terms = await self._gateway.db.write(store.beat, self._me, keep, decision.take, gone)
        self._hold(terms, asked_at)
        for cluster in decision.give:
            if cluster in self._holds and cluster not in self._giving:
                self._giving.add(cluster)
                task = asyncio.create_task(self._give(cluster), name=f"give-{cluster}")
                self._tasks[task.get_name()] = task
                task.add_done_callback(partial(self._given, task.get_name()))

    async def standings(self) -> list[Standing]:
        """Who holds what, as the database has it."""
        others = await self._gateway.db.read(store.look)
        servers = {server.name: server for server in others.servers}
        leases = {lease.cluster: lease for lease in others.leases if lease.holder}
        found = []
        for cluster in sorted(self._gateway.clusters):
            if (lease := leases.get(cluster)) is None:
                found.append(Standing(cluster=cluster))
                continue
            age = (others.now - lease.renewed_at).total_seconds() if lease.renewed_at else None
            holder = servers.get(lease.holder)
            found.append(
                Standing(
                    cluster=cluster,
                    holder=holder.shown if holder else lease.holder,
                    here=lease.holder == self._me.name,
                    term=lease.term,
                    age=age,
                )
            )
        return found

    def _hold(self, terms: Mapping[str, int], asked_at: float) -> None:
        for cluster, hold in list(self._holds.items()):
            if terms.get(cluster) == hold.grip.term:
                hold.renewed(asked_at)
                continue
            log.warning("lease lost", cluster=cluster, term=hold.grip.term)
            hold.lose()
            del self._holds[cluster]
            if (task := self._tasks.get(cluster)) is not None:
                task.cancel()
        for cluster, term in terms.items():
            if cluster in self._gateway.clusters and cluster not in {*self._holds, *self._tasks, *self._giving}:
                log.info("lease taken", cluster=cluster, term=term)
                hold = Hold(Grip(cluster, self._me.name, term), self._seconds, asked_at)
                self._holds[cluster] = hold
                task = asyncio.create_task(self._work(hold), name=f"reconcile-{cluster}")
                self._tasks[cluster] = task
                task.add_done_callback(partial(self._ended, cluster))

    def _ended(self, cluster: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(cluster, None)
        hold = self._holds.get(cluster)
        if hold is None or cluster in self._giving:
            return
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("work ended", cluster=cluster, exc_info=error)
        del self._holds[cluster]  # the next beat finds that it is still ours, and begins anew

    async def _give(self, cluster: str) -> None:
        """Give a lease away, after the acts under way; it is renewed until then."""
        hold = self._holds[cluster]
        log.info("lease given away", cluster=cluster, term=hold.grip.term)
        try:
            await self._end([cluster])
            hold.lose()
            self._holds.pop(cluster, None)
            with suppress(SluiceError):
                await self._gateway.db.write(store.give, hold.grip)
        finally:
            self._giving.discard(cluster)

    def _given(self, name: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(name, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("lease not given away", task=name, exc_info=error)

    async def _end(self, names: list[str]) -> None:
        tasks = [self._tasks[name] for name in names if name in self._tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _lives(self, server: Server, now: float) -> bool:
        if server.name == self._me.name:
            return True
        return self._since(server.name, server.beats, now) < server.seconds and not self._killed(server)

    def _killed(self, server: Server) -> bool:
        """Its process was on this machine, and is no more."""
        here = server.place == self._me.place != ""
        return here and processes.started(server.pid) != server.started

    def _ended_long_ago(self, server: Server, now: float) -> bool:
        return self._killed(server) or self._since(server.name, server.beats, now) > FORGET_AFTER * server.seconds

    def _free(self, lease: Lease | None, killed: frozenset[str], now: float) -> bool:
        if lease is None or not lease.holder or lease.holder in killed:
            return True
        if lease.holder == self._me.name:
            return False
        return self._since(f"lease {lease.cluster}", (lease.term, lease.renewals), now) >= lease.seconds

    def _since(self, name: str, key: Any, now: float) -> float:
        """Seconds since this was first seen as it is."""
        before = self._seen.get(name)
        if before is None or before[0] != key:
            self._seen[name] = key, now
            return 0.0
        return now - before[1]
