"""Plays a fault: clients before, during and after it, then the audit; and what came of it as one row of a table."""

import asyncio
import random
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.cluster import Cluster
from tests.faults import audit
from tests.faults.audit import Findings
from tests.faults.clients import Clients, Plan, Told
from tests.faults.fault import Fault, Size
from tests.faults.stage import Stage, staged

RESULTS = Path(".chaos")
AHEAD = 6
RECOVERS_WITHIN = 180.0
QUIET_WITHIN = 120.0

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row. `recovery`: seconds from the end of each fault until a session asked for then had a job."""

    name: str
    title: str
    times: int
    sessions: int
    jobs: int
    lost: int
    doubled: int
    falsely_ended: int
    orphans: int
    recovery: list[float]
    took: float
    problems: list[str]

    @property
    def good(self) -> bool:
        return not self.problems

    @property
    def median(self) -> float:
        return statistics.median(self.recovery) if self.recovery else 0.0

    def values(self) -> dict[str, object]:
        return asdict(self)


async def play(fault: Fault, size: Size, cluster: Cluster, tell: Tell, *, seed: int = 1) -> Result:
    """Inject the fault so often, under so many sessions, and audit what is left."""
    chance = random.Random(f"{fault.name}-{seed}")  # noqa: S311 - lots, not secrets
    began = time.time()
    async with staged(cluster, fault.setting) as stage:
        clients = Clients(stage.urls, stage.token, chance)
        asking = asyncio.create_task(clients.go_on())
        try:
            heals = await _faults(fault, size, stage, clients, chance, tell)
            clients.allowed = max(size.sessions, len(clients.told))
            while len(clients.told) < size.sessions:
                await asyncio.sleep(0.05)
            tell(f"healed; {clients.under_way} of {len(clients.told)} sessions still under way")
            await clients.until_done(fault.patience)
            found, jobs = await _audit(cluster, clients, began)
        finally:
            asking.cancel()
            await clients.close()
        recovery, slow = recoveries(clients.told, heals)
        problems = [*found, *slow]
        if problems:
            stage.keep_logs(RESULTS / fault.name)
            problems.append(f"the servers' last words:\n{stage.log_ends()}")
    result = Result(
        name=fault.name,
        title=fault.title,
        times=len(heals),
        sessions=len(clients.told),
        jobs=jobs,
        lost=len(found.lost),
        doubled=len(found.doubled),
        falsely_ended=len(found.falsely_ended),
        orphans=len(found.orphans),
        recovery=recovery,
        took=time.time() - began,
        problems=problems,
    )
    tell(
        f"{'ok' if result.good else 'NOT OK'}: {result.times} times, {result.sessions} sessions, {result.jobs} jobs; "
        f"lost {result.lost}, doubled {result.doubled}, falsely ended {result.falsely_ended}, "
        f"orphans {result.orphans}; recovered in {result.median:.1f} s, "
        f"{max(recovery, default=0.0):.1f} s at most; {result.took:.0f} s"
    )
    return result


async def _faults(
    fault: Fault, size: Size, stage: Stage, clients: Clients, chance: random.Random, tell: Tell
) -> list[float]:
    """Inject and heal, each time in the middle of requests; when each was over."""
    clients.allowed = AHEAD
    heals: list[float] = []
    for number in range(size.times):
        while len(clients.told) < min(clients.allowed, size.sessions) - AHEAD:
            await asyncio.sleep(0.02)
        await fault.until_next(stage, chance)
        # The next lot of sessions is asked for in this very moment.
        clients.allowed = AHEAD + size.sessions * (number + 1) // size.times
        await asyncio.sleep(chance.uniform(0.0, 0.6))
        await fault.inject(stage, chance)
        try:
            await asyncio.sleep(chance.uniform(*size.hold))
        finally:
            await fault.heal(stage)
        heals.append(time.time())
        if size.hold[1] > 0:
            await _recovered(clients, heals[-1])
        if number % max(1, size.times // 20) == 0 or number + 1 == size.times:
            tell(f"{number + 1} of {size.times}; {len(clients.told)} sessions, {clients.under_way} under way")
    if size.hold[1] == 0:
        await _recovered(clients, heals[-1])
    return heals


async def _recovered(clients: Clients, since: float) -> None:
    """Ask for a session now, and wait until it has a job."""
    told = Told(Plan("runs"))
    clients.begin(told)
    while told.job_at is None and told.ended_at is None and time.time() < since + RECOVERS_WITHIN:
        await asyncio.sleep(0.1)


def broken(fault: Fault, error: Exception, took: float) -> Result:
    """What is told of a fault that could not be played to its end."""
    words = "".join(traceback.format_exception(error))
    zero = dict.fromkeys(("times", "sessions", "jobs", "lost", "doubled", "falsely_ended", "orphans"), 0)
    return Result(name=fault.name, title=fault.title, **zero, recovery=[], took=took, problems=[words])


def recoveries(told: Sequence[Told], heals: Sequence[float]) -> tuple[list[float], list[str]]:
    """How long each heal took to show in a session asked for after it, and those that never showed."""
    times, never = [], []
    for heal in heals:
        later = [each.job_at - heal for each in told if each.job_at is not None and each.asked_at >= heal]
        if later:
            times.append(round(min(later), 2))
        else:
            never.append("no session that was asked for after a fault got a job")
    return times, never


async def _audit(cluster: Cluster, clients: Clients, began: float) -> tuple[Findings, int]:
    names = {told.job_name for told in clients.told if told.job_at is not None}
    jobs = await asyncio.to_thread(audit.until_quiet, cluster, began, names, QUIET_WITHIN)
    clients.give_up_at = time.time() + 60
    listed = [view["id"] for view in await clients.everything()]
    marks = await asyncio.to_thread(audit.marks, cluster, [told.id for told in clients.told if told.id])
    found = audit.judge(clients.told, jobs, marks, listed)
    left = await asyncio.to_thread(audit.in_queue, cluster, began)
    found.orphans += [f"still in the queue: {line}" for line in left]
    return found, len(jobs)
