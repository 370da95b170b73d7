"""Jobs that left the queue: accounting is asked, some at a time and ever more seldom, until it knows how they ended."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.errors import SchedulerUnavailable
from gateway.model.job import SeenJob
from gateway.slurm.memory import KEPT, Memory, left_queue, not_told

AT_ONCE: Final = 200  # 4 kB each from slurmrestd
WINDOW: Final = timedelta(days=60)  # how long back a job may have ended

_WAITED_FOR: Final = 2.0  # seconds; an answer that takes longer is told by a later look
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0

Question = Callable[[Sequence[int]], Awaitable[Iterable[SeenJob]]]


@dataclass
class _Doubt:
    """A job whose end accounting does not tell yet: asked again at `due` (monotonic). `known`: it knows of the job."""

    due: float
    pause: float
    known: bool


class Left:
    """What is told of jobs that the queue has no more. slurmdbd may be late by minutes, or away."""

    def __init__(self, memory: Memory, question: Question) -> None:
        self._memory, self._question = memory, question
        self._doubts: dict[int, _Doubt] = {}
        self._away = _Doubt(due=0.0, pause=0.0, known=True)
        self._why = ""
        self._asking: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """End the question that is under way, if there is one."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})

    async def tell(self, job_ids: Collection[int], at: float) -> dict[int, SeenJob]:
        """What is known of them; one of which accounting says that it does not know it is left out."""
        due = [i for i in job_ids if not self._ended(i) and ((doubt := self._doubts.get(i)) is None or at >= doubt.due)]
        patience = 0.0
        if due and self._asking is None and at >= self._away.due:
            self._asking = asyncio.create_task(self._ask(due[:AT_ONCE], at), name="accounting")
            patience = _WAITED_FOR
        if self._asking is not None:  # what the queue says must not wait for an slurmdbd that is away
            done, _ = await asyncio.wait({self._asking}, timeout=patience)
            if done:
                self._asking = None
        told = {}
        for job_id in job_ids:
            entry, doubt = self._memory.get(job_id), self._doubts.get(job_id)
            if entry is not None and (self._ended(job_id) or (entry.from_accounting and not self._why)):
                told[job_id] = entry.job
            elif self._why or doubt is None or doubt.known:
                told[job_id] = not_told(job_id, entry, self._why)
        return told

    async def _ask(self, job_ids: Sequence[int], at: float) -> None:
        try:
            rows = await self._question(job_ids)
        except SchedulerUnavailable as error:  # it may take seconds to say so: the queue is looked at meanwhile
            self._why = error.message
            self._away = _later(self._away, at)
            return
        self._why, self._away = "", _Doubt(due=0.0, pause=0.0, known=True)
        lives = newest(rows)
        for job_id in job_ids:
            doubt = self._doubts.pop(job_id, _Doubt(due=at, pause=0.0, known=False))
            if job_id in lives:
                self._memory.put(left_queue(lives[job_id]), at, from_accounting=True)
            else:
                self._memory.forget(job_id)
            if not self._ended(job_id):
                self._doubts[job_id] = _later(doubt, at, known=job_id in lives)
        while len(self._doubts) > KEPT:
            self._doubts.pop(next(iter(self._doubts)))

    def _ended(self, job_id: int) -> bool:
        entry = self._memory.get(job_id)
        return entry is not None and entry.job.state.ended and "COMPLETING" not in entry.job.flags


def _later(doubt: _Doubt, at: float, *, known: bool = True) -> _Doubt:
    pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * doubt.pause))
    return _Doubt(due=at + pause, pause=pause, known=known)


def newest(rows: Iterable[SeenJob]) -> Mapping[int, SeenJob]:
    """Each job in its newest life: Slurm's ids begin again some day, and a requeue is another record."""
    found: dict[int, SeenJob] = {}
    for row in rows:
        before = found.get(row.job_id)
        if before is None or _submitted(row) >= _submitted(before):
            found[row.job_id] = row
    return found


def _submitted(job: SeenJob) -> datetime:
    return job.submit_time or datetime.min.replace(tzinfo=UTC)
