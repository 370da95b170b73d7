"""Where pending jobs stand in the queue, and whether their reasons changed: one `squeue`, asked seldom."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import structlog

from gateway.core import pace
from gateway.core.ports import Scheduler, SchedulerInfo, Shell
from gateway.errors import SluiceError
from gateway.model.inventory import Inventory
from gateway.model.job import JobScript, JobState, SeenJob
from gateway.slurm import commands
from gateway.slurm.commands import Place, Unreadable

log = structlog.get_logger(__name__)

EVERY: Final = 30.0
NEW_EVERY: Final = 5.0  # while a job of ours waits that did not the last time
HINTS_A_LOOK: Final = 50
_TIMEOUT: Final = 30.0
_WAITED_FOR: Final = 0.1  # seconds; an answer that takes longer is told by a later look


class WithPlaces:
    """A Scheduler that also says at which place its pending jobs stand; everything else is the inner one's.

    Slurm gives priorities only with the whole list of jobs (82 MB from slurmrestd at 10,000 jobs), so this asks
    `squeue` on the login node for three fields of the pending ones (0.1 s, 25 ms of slurmctld), at most twice a
    minute, never more than a fiftieth of the time, and only while a job of ours waits. A job of ours that waits for
    another reason than before is asked about at the next look. Not knowing the place is no fault.
    """

    def __init__(
        self, inner: Scheduler, shell: Shell, *, viewer: str, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._inner, self._shell, self._viewer, self._monotonic = inner, shell, viewer, monotonic
        self._places: Mapping[int, Place] = {}
        self._asked_at = -EVERY
        self._asked_for: frozenset[int] = frozenset()
        self._took = 0.0
        self._hints: list[int] = []
        self._asking: asyncio.Task[Mapping[int, Place]] | None = None

    async def look(self, job_ids: Collection[int], awaited: Collection[int] = ()) -> Mapping[int, SeenJob]:
        hints, self._hints = self._hints[:HINTS_A_LOOK], self._hints[HINTS_A_LOOK:]
        seen = await self._inner.look(job_ids, {*awaited, *hints})
        waiting = [job.job_id for job in seen.values() if job.state is JobState.PENDING]
        if not waiting:
            return seen
        patience = EVERY if self._asked_for.issuperset(waiting) else NEW_EVERY
        if self._asking is None and self._monotonic() >= self._asked_at + pace.between_lists(self._took, patience):
            self._asked_for, self._asked_at = frozenset(waiting), self._monotonic()
            self._asking = asyncio.create_task(self._ask(), name="places")
        if self._asking is not None and (await asyncio.wait({self._asking}, timeout=_WAITED_FOR))[0]:
            before, self._places, self._asking = self._places, self._asking.result(), None
            self._hints = [i for i in waiting if i in before and i in self._places and self._moved(before, i)]
        return {job_id: self._placed(job) for job_id, job in seen.items()}

    def _moved(self, before: Mapping[int, Place], job_id: int) -> bool:
        return before[job_id].reason != self._places[job_id].reason

    def _placed(self, job: SeenJob) -> SeenJob:
        if job.state is not JobState.PENDING or job.job_id not in self._places:
            return job
        return job.model_copy(update={"position": roughly(self._places[job.job_id].position)})

    async def _ask(self) -> Mapping[int, Place]:
        began = self._monotonic()
        try:
            done = await self._shell.run(commands.pending().argv, user=self._viewer, timeout=_TIMEOUT)
            return commands.parse_pending(done.stdout) if done.returncode == 0 else {}
        except (SluiceError, Unreadable) as error:
            log.info("places in the queue unknown", error=str(error))
            return {}
        finally:
            self._took = pace.believed(self._monotonic() - began, self._took)

    async def submit(self, script: JobScript, user: str) -> int:
        return await self._inner.submit(script, user)

    async def find(self, name: str, user: str) -> SeenJob | None:
        return await self._inner.find(name, user)

    async def mine(self, users: Collection[str]) -> Sequence[SeenJob]:
        return await self._inner.mine(users)

    async def terminate(self, job_id: int, user: str) -> None:
        await self._inner.terminate(job_id, user)

    async def cancel(self, job_id: int, user: str) -> None:
        await self._inner.cancel(job_id, user)

    async def inventory(self) -> Inventory:
        return await self._inner.inventory()

    async def info(self) -> SchedulerInfo:
        return await self._inner.info()

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
        await self._inner.close()
        await self._shell.close()


def roughly(position: int) -> int:
    """A far place to two digits: else every job that starts would be news to all sessions that wait behind it."""
    digits = max(0, len(str(position)) - 2)
    return position if digits == 0 else round(position, -digits)
