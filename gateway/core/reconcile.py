"""The reconcile loop: load, look, decide, record, act, record. Any turn may be the last; the next process goes on.

A turn loads the live sessions of a cluster, asks Slurm ONE question about all their jobs, lets the pure `step` decide,
records what it decided in one guarded transaction, and only then acts, outside of any transaction. What an act found
is recorded the same way. A session whose act is still under way is left out of the turns until it is done.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection

from gateway.core import audit, pace
from gateway.core.acts import ACTS, Age, Change
from gateway.core.context import Cluster, Gateway
from gateway.core.groups import Groups, Succession, successions
from gateway.core.intents import Intents
from gateway.core.leases import Hold, Keeper
from gateway.core.sweep import Sweep
from gateway.errors import DatabaseUnavailable, LeaseLost, SchedulerUnavailable, SluiceError, StorageFull
from gateway.model import intent
from gateway.model import session as life
from gateway.model.job import SeenJob
from gateway.model.orphan import Orphan, OrphanKind
from gateway.model.session import Act, Session, Step
from gateway.store import clusters as seen_clusters
from gateway.store import leases, orphans
from gateway.store import sessions as store
from gateway.store.clusters import SeenCluster

log = structlog.get_logger(__name__)

BUSY_FOR = 30.0
SEEN_EVERY = 15.0
INVENTORY_EVERY = 15.0
ERROR_PAUSE = 5.0
#: States of nodes that an operator empties.
_NODE_LEFT = frozenset({"DRAIN", "DRAINING", "DRAINED"})
_STOCK = "stock"

T = TypeVar("T")


class Reconciler:
    """Runs a loop for every cluster whose lease this server holds, until cancelled.

    `run` returns only after the acts under way are done.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._loops: dict[str, ClusterLoop] = {}
        self.leases = Keeper(gateway, self._work)

    async def run(self) -> None:
        await self.leases.run()

    def age(self) -> dict[str, float | None]:
        """Seconds since a poll of this server was answered, by cluster that it works for; None before the first."""
        now, held = self._gateway.clock(), self.leases.held
        loops = [loop for name, loop in self._loops.items() if name in held]
        return {loop.name: (now - loop.answered).total_seconds() if loop.answered else None for loop in loops}

    async def _work(self, hold: Hold) -> None:
        loop = ClusterLoop(self._gateway, self._gateway.clusters[hold.grip.cluster], hold)
        self._loops[loop.name] = loop
        await loop.run()


class ClusterLoop:
    """The loop of one cluster: it asks, writes and acts only while `hold` is held."""

    def __init__(self, gateway: Gateway, cluster: Cluster, hold: Hold) -> None:
        self._gateway, self._cluster, self._hold = gateway, cluster, hold
        self._slots = asyncio.Semaphore(gateway.settings.reconcile.submit_concurrency)
        self._acting: dict[str, asyncio.Task[None]] = {}
        self._sweep, self._intents = Sweep(gateway, cluster, self._write, hold.sure), Intents(gateway.moment)
        self._groups = Groups(gateway, cluster, self._write)
        self._database_away = ""
        self._busy_until = 0.0
        self._seen_due = self._inventory_due = 0.0
        self._looked = self._turned = self._counted = 0.0  # what a look, a turn, an inventory are believed to take
        self._saving = asyncio.Lock()
        self._seen: SeenCluster = SeenCluster(
            name=cluster.name, backend=cluster.settings.backend, reachable=False, message="not asked yet"
        )
        self._failures = 0
        self._live: Mapping[str, Session] = {}
        self._next_look = 0.0
        self.name = cluster.name
        self.answered: datetime | None = None

    async def run(self) -> None:
        """Turn after turn, and between two of them what was asked since. A fault of ours is logged, no more."""
        now = asyncio.get_running_loop().time
        work, due = self._gateway.work, now()
        try:
            while await self._hold.sure():
                rung = work.listen()
                try:
                    if now() >= due:
                        due = now() + ERROR_PAUSE
                        due = now() + await self.turn()
                    elif await self.between():
                        due = min(due, self._next_look)
                    self._database("")
                except LeaseLost:
                    self._hold.lose()
                except Exception as error:  # noqa: BLE001 - whatever it is, the loop goes on
                    self._failed(error, "turn failed")
                await work.wait(max(0.0, due - now()), rung)
        finally:
            if (stock := self._acting.get(_STOCK)) is not None:
                stock.cancel()  # nothing is lost with it
            await asyncio.gather(*self._acting.values(), return_exceptions=True)

    async def between(self) -> bool:
        """Submit what was asked for since the last turn, without a question to Slurm; whether a stop waits for one."""
        if not self._seen.reachable:
            return False
        acting = set(self._acting)
        asked = [s for s in await self._gateway.db.read(store.asked, self.name) if s.id not in acting]
        new = [session for session in asked if session.job.intent_at is None]
        await _whole(self._steps(new, {}, self._gateway.clock()))
        return any(session.job.job_id is not None for session in asked)

    async def turn(self) -> float:
        """One turn; the seconds until the next."""
        gateway, now = self._gateway, self._gateway.clock()
        loop = asyncio.get_running_loop()
        began = loop.time()
        acting = set(self._acting)  # before the read: what an act records while we read is not news to us
        live = await gateway.db.read(store.live, self.name, self._live)
        self._live = {session.id: session for session in live}
        idle = [session for session in live if session.id not in acting]
        self._intents.keep({session.id for session in live if session.job.job_id is None})
        seen = await self._look(idle)
        if seen is None:
            why = self._seen.message
            await self._record([(session, life.unreachable(session, why, now)) for session in idle])
        else:
            await _whole(self._steps(idle, seen, now))
            self._do("tend", self._tend())
            if self._sweep.due(now):
                self._do("sweep", self._sweep.run())
        if any((one.job.job_id is None and one.asleep_at is None) or one.stop_requested_at for one in live):
            self._busy_until = loop.time() + BUSY_FOR
        busy = loop.time() < self._busy_until
        settings = gateway.settings.reconcile
        usual = settings.busy_poll_seconds if busy else settings.poll_seconds
        if seen is None:
            self._failures += 1
            return pace.after_silence(self._failures, usual, random.random())  # noqa: S311 - spreads, hides nothing
        self._failures = 0
        self._turned = pace.believed(loop.time() - began, self._turned)
        rest = pace.after_answer(self._looked, self._turned)
        self._next_look = loop.time() + rest
        return max(usual, rest)

    async def _tend(self) -> None:
        try:
            await self._steer()
        except Exception as error:  # noqa: BLE001 - whatever it is, the loop goes on
            self._failed(error, "jobs of sessions not seen to")

    async def _steer(self) -> None:
        """See to sessions that have, or should have, several jobs; and to those that nobody uses."""
        now = self._gateway.clock()
        live = await self._gateway.db.read(store.live, self.name, self._live)
        nodes = self._seen.inventory.nodes if self._seen.inventory is not None else ()
        drained = frozenset(node.name for node in nodes if _NODE_LEFT & set(node.states))
        changed, unused = await self._groups.turn(live, set(self._acting), drained, now)
        for session, after, why in unused:
            others = [one for one in live if one.parent == session.id]
            self._do(f"settle {session.id}", self._settle(self._groups.settle(session, others, after, why)))
        if changed:
            self._busy_until = asyncio.get_running_loop().time() + BUSY_FOR
            self._gateway.work.ring()

    async def _settle(self, settling: Coroutine[Any, Any, bool]) -> None:
        try:
            if await settling:
                self._gateway.news.ring()
                self._gateway.work.ring()
        except Exception as error:  # noqa: BLE001 - whatever it is, the loop goes on
            self._failed(error, "session not settled")

    async def settle(self) -> None:
        """Wait until no act is under way."""
        while self._acting:
            await asyncio.gather(*self._acting.values(), return_exceptions=True)

    async def _look(self, sessions: list[Session]) -> Mapping[int, SeenJob] | None:
        """Ask Slurm about all jobs at once; None if it could not be asked."""
        clock, loop = self._gateway.clock, asyncio.get_running_loop()
        job_ids = [session.job.job_id for session in sessions if session.job.job_id is not None]
        now, began = clock(), loop.time()
        awaited = [s.job.job_id for s in sessions if s.job.job_id is not None and life.awaits_news(s, now)]
        due = began >= self._seen_due or not self._seen.reachable
        if not due and not job_ids:
            return {}  # nothing to ask
        cost = self._cluster.cost
        try:
            with cost.tally() as tally:
                seen = await self._cluster.scheduler.look(job_ids, awaited) if job_ids else {}
            took = loop.time() - began
            if job_ids:
                cost.looked(took, tally.received, len(job_ids))
                self._looked = pace.believed(took, self._looked)
            else:
                await self._cluster.scheduler.info()  # no other question shows that Slurm answers
        except SchedulerUnavailable as error:
            if self._seen.reachable or self._seen.message != error.message:
                log.warning("slurm unreachable", cluster=self.name, error=error.message)
            await self._see({"reachable": False, "message": error.message})
            return None
        self.answered = now
        news: dict[str, Any] = {"reachable": True, "message": "", "polled_at": now, "poll_seconds": took}
        if due:
            self._seen_due = began + SEEN_EVERY
            await self._see(news)
        else:
            self._seen = self._seen.model_copy(update=news)
        if began >= self._inventory_due:
            self._do(_STOCK, self._take_stock())
        return seen

    async def _take_stock(self) -> None:
        """Version and inventory, beside the turns: while slurmdbd hangs, slurmrestd tells no partitions for a minute.

        Without an answer the last one is kept: jobs go on, and are submitted, all the same.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            try:
                info, inventory = await self._cluster.scheduler.info(), await self._cluster.scheduler.inventory()
            finally:  # also of one that hangs: each question keeps a thread of slurmrestd from answering others
                self._counted = pace.believed(loop.time() - began, self._counted)
                self._inventory_due = loop.time() + pace.between_lists(self._counted, INVENTORY_EVERY)
            await self._see({"slurm_version": info.version, "backend": info.backend, "inventory": inventory})
        except SchedulerUnavailable as error:
            log.warning("no inventory", cluster=self.name, error=error.message)
        except Exception as error:  # noqa: BLE001 - whatever it is, the loop goes on
            self._failed(error, "inventory not taken")

    async def _see(self, news: dict[str, Any]) -> None:
        self._seen = self._seen.model_copy(update=news)
        async with self._saving:  # the newest is written last
            await self._write(partial(seen_clusters.save, seen=self._seen))

    async def _steps(self, sessions: list[Session], seen: Mapping[int, SeenJob], now: datetime) -> None:
        decided: list[tuple[Session, Step]] = []
        for session in sessions:
            job_id = session.job.job_id
            if session.asleep_at is not None and session.stop_requested_at is None:
                continue  # it has no job, and shall have none
            if (found := life.step(session, seen.get(job_id) if job_id is not None else None, now)) is not None:
                decided.append((session, found))
                if found.act is Act.SUBMIT:
                    self._intents.see(found.session, now)  # counts from before it is recorded
        following = successions(decided, self._live, self._acting.keys(), now)
        recorded = await self._record([(session, found.session) for session, found in decided], following)
        acts = [(session.id, found.act) for session, found in decided] + [(one.before.id, one.act) for one in following]
        for session_id, act in acts:
            if act is not None and (current := recorded.get(session_id)) is not None:
                self._do(current.id, self._act(current, act, self._intents.see(current, now)))
                if act is Act.FIND:
                    self._sweep.soon(now)
        if ended := [session for session in recorded.values() if session.phase.ended]:
            await self._count_lost(ended, now)
            self._groups.ended(ended, now)
            # what waits for a limit is tried at once, before anybody else's next try
            if woken := intent.make_room(recorded.values(), ended):
                await self._steps(woken, {}, now)

    async def _count_lost(self, ended: list[Session], now: datetime) -> None:
        lost = [
            Orphan(
                cluster=self.name,
                kind=OrphanKind.LOST,
                job_id=session.job.job_id,
                name=session.job.name,
                unix_user=session.unix_user,
                at=now,
            )
            for session in ended
            if session.job.job_id is not None and session.job.misses > life.LOST_AFTER
        ]
        if lost:
            log.warning("jobs lost", cluster=self.name, jobs=[orphan.job_id for orphan in lost])
            await self._write(partial(orphans.add, found=lost))

    def _do(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        """Do it beside the turns, one of a key at a time."""
        if key in self._acting:
            work.close()
            return
        task = asyncio.create_task(work, name=key)
        self._acting[key] = task
        task.add_done_callback(partial(self._acted, key))

    def _acted(self, key: str, _: asyncio.Task[None]) -> None:
        self._acting.pop(key, None)

    def _failed(self, error: Exception, what: str, **about: Any) -> None:
        """Say it: shortly if we know it, once if it is the database that is away."""
        if isinstance(error, DatabaseUnavailable | StorageFull):
            self._database(error.message)
        elif isinstance(error, SluiceError):
            log.warning(what, cluster=self.name, code=error.code, error=error.message, **about)
        else:
            log.error(what, cluster=self.name, exc_info=error, **about)

    def _database(self, away: str) -> None:
        if away and not self._database_away:
            log.warning("database away", cluster=self.name, error=away)
        elif self._database_away and not away:
            log.info("database back", cluster=self.name)
        self._database_away = away

    async def _record(
        self, changes: list[tuple[Session, Session]], following: Sequence[Succession] = ()
    ) -> dict[str, Session]:
        """Write the changed ones in one transaction. A session that somebody else changed meanwhile is left out."""
        now = self._gateway.clock()
        changed = [(before, after) for before, after in changes if before != after]
        recorded = {after.id: after for before, after in changes if before == after}
        if changed or following:

            def write(connection: Connection) -> list[Session]:
                saved = [(before, store.save(connection, before, after, now)) for before, after in changed]
                kept = [(before, session) for before, session in saved if session is not None]
                followed = [pair for one in following for pair in one.record(connection, now)]
                audit.record_saved(connection, kept, now)
                return [session for _, session in [*kept, *followed]]

            recorded |= {session.id: session for session in await self._write(write)}
            self._gateway.news.ring()
        return recorded

    async def _write(self, work: Callable[[Connection], T]) -> T:
        """Write, unless another server works for the cluster now (LeaseLost)."""
        return await self._gateway.db.write(leases.fenced, self._hold.grip, work)

    async def _act(self, session: Session, act: Act, age: Age) -> None:
        try:
            async with self._slots:
                if not await self._hold.sure():
                    return  # the server that has the lease now finds what is to do
                change = await ACTS[act](self._gateway, self._cluster, session, age)
            await self._amend(session, change)
        except Exception as error:  # noqa: BLE001 - whatever it is, the loop goes on
            self._failed(error, "act failed", act=act, session=session.id)

    async def _amend(self, session: Session, change: Change) -> None:
        """Record what an act found. A stop that was asked meanwhile must not undo it: read again and apply it anew."""

        def write(connection: Any) -> None:
            now = self._gateway.clock()
            current = store.reread(connection, session.id)
            if current is not None and current.job.attempt == session.job.attempt:
                after = change(current, now)
                if after != current and store.save(connection, current, after, now) is not None:
                    audit.record_saved(connection, [(current, after)], now)

        await self._write(write)
        self._gateway.news.ring()


async def _whole(steps: Coroutine[Any, Any, None]) -> None:
    """Not cut in two when the loop is told to end: an intent that is recorded gets its act."""
    task = asyncio.create_task(steps)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise
