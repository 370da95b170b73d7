"""Where pending jobs stand in the queue: one cheap `squeue`, asked seldom, and only while a job of ours waits."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import structlog

from gateway.core.ports import Scheduler, SchedulerInfo, Shell
from gateway.errors import SluiceError
from gateway.model.inventory import Inventory
from gateway.model.job import JobScript, JobState, SeenJob
from gateway.slurm import commands
from gateway.slurm.commands import Unreadable

log = structlog.get_logger(__name__)

EVERY: Final = 15.0
COST: Final = 50
_TIMEOUT: Final = 30.0


class WithPlaces:
    """A Scheduler that also says at which place its pending jobs stand; everything else is the inner one's.

    slurmrestd tells priorities only with the whole list (82 MB at 10,000 jobs), so this asks `squeue` on the login
    node, at most every 15 s and never more than a fiftieth of the time. Not knowing the place is no fault.
    """

    def __init__(
        self, inner: Scheduler, shell: Shell, *, viewer: str, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._inner, self._shell, self._viewer, self._monotonic = inner, shell, viewer, monotonic
        self._places: Mapping[int, int] = {}
        self._next = 0.0

    async def look(self, job_ids: Collection[int]) -> Mapping[int, SeenJob]:
        seen = await self._inner.look(job_ids)
        if not any(job.state is JobState.PENDING for job in seen.values()):
            return seen
        if self._monotonic() >= self._next:
            await self._ask()
        return {job_id: self._placed(job) for job_id, job in seen.items()}

    def _placed(self, job: SeenJob) -> SeenJob:
        if job.state is not JobState.PENDING or job.job_id not in self._places:
            return job
        return job.model_copy(update={"position": self._places[job.job_id]})

    async def _ask(self) -> None:
        began = self._monotonic()
        try:
            done = await self._shell.run(commands.pending().argv, user=self._viewer, timeout=_TIMEOUT)
            self._places = commands.parse_pending(done.stdout) if done.returncode == 0 else {}
        except (SluiceError, Unreadable) as error:
            log.info("places in the queue unknown", error=str(error))
            self._places = {}
        ended = self._monotonic()
        self._next = ended + max(EVERY, COST * (ended - began))

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
        await self._inner.close()
        await self._shell.close()
