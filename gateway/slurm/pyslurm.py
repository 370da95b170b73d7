"""Slurm through libslurm, by pyslurm in a process of its own: on a login node, for the person who runs the gateway.

libslurm acts as the user of its process and as nobody else, so this does too: what is asked for another user is
refused, and root is never used. A look costs two messages for each live job of ours, and accounting is asked once
for those that left the queue. Only `find`, after a doubt, reads the whole queue: libslurm cannot ask it by name.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

from gateway.core.ports import Clock, SchedulerInfo
from gateway.errors import Forbidden, SchedulerUnavailable, SubmitRefused, SubmitUnknown
from gateway.model.doctor import Association
from gateway.model.inventory import Inventory
from gateway.model.job import JOB_NAME_PREFIX, JobScript, SeenJob, is_ours
from gateway.slurm import libslurm_parse
from gateway.slurm.left import WINDOW, Left
from gateway.slurm.libslurm import Libslurm, Lost, Refused
from gateway.slurm.memory import Memory, left_queue
from gateway.slurm.problems import ALREADY_OVER, after_question, after_submit

FIND_WINDOW: Final = timedelta(days=14)
_RECENTLY: Final = timedelta(minutes=1)
_AT_ONCE: Final = 100  # ids in one question: a submit does not wait for longer than these


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class _Listing:
    """One reading of the queue, for all who wait for it to begin."""

    names: set[str] = field(default_factory=set)
    task: "asyncio.Task[list[SeenJob]] | None" = None


class PyslurmScheduler:
    """The Scheduler port over libslurm. `user` is whom its process runs as."""

    def __init__(
        self,
        libslurm: Libslurm,
        *,
        cluster: str,
        user: str,
        comment_field: str = "comment",
        clock: Clock = _now,
        monotonic: Callable[[], float] = time.monotonic,
        memory: Memory | None = None,
    ) -> None:
        self._libslurm = libslurm
        self._cluster = cluster
        self._user = user
        self._comment_field = comment_field
        self._clock = clock
        self._monotonic = monotonic
        self._memory = memory or Memory()
        self._left = Left(self._memory, self._accounting)
        self._listings: dict[str, _Listing] = {}
        self._one_listing = asyncio.Lock()

    async def close(self) -> None:
        await self._left.close()
        await self._libslurm.close()

    async def submit(self, script: JobScript, user: str) -> int:
        self._only(user)
        try:
            job_id = await self._libslurm.ask("submit", **libslurm_parse.submission(script))
        except Lost as lost:
            raise SubmitUnknown(f"the answer to the submit was lost: {lost}") from lost
        except Refused as refused:
            if refused.unsent:
                raise SubmitRefused(f"pyslurm refused the job: {refused}") from refused
            raise after_submit(refused.problem) from refused
        if not isinstance(job_id, int) or job_id <= 0:
            raise SubmitUnknown(f"libslurm took the job but names no job id: {job_id!r}")
        self._memory.forget(job_id)
        return job_id

    async def look(self, job_ids: Collection[int], awaited: Collection[int] = ()) -> Mapping[int, SeenJob]:
        """In full, all of them: libslurm tells no states alone, so that nothing would be saved. `awaited` go first."""
        first = frozenset(awaited)
        wanted = sorted(dict.fromkeys(job_ids), key=lambda job_id: job_id not in first)
        at = self._monotonic()
        seen: dict[int, SeenJob] = {}
        for some in _batches([job_id for job_id in wanted if not self._over(job_id)]):
            rows = await self._ask("jobs", "show jobs", ids=some)
            for row in rows.values():
                job = self._read(row)
                seen[job.job_id] = job
                self._memory.put(job, at)
        return seen | await self._left.tell([job_id for job_id in wanted if job_id not in seen], at)

    def _over(self, job_id: int) -> bool:
        entry = self._memory.get(job_id)
        return entry is not None and entry.from_accounting and entry.job.state.ended

    async def _accounting(self, job_ids: Sequence[int]) -> list[SeenJob]:
        since = int((self._clock() - WINDOW).timestamp())
        rows = await self._ask("accounting", "show jobs in accounting", ids=list(job_ids), since=since)
        return [self._read(row) for row in rows]

    async def find(self, name: str, user: str) -> SeenJob | None:
        found = await self._in_queue(name, user)
        if not found and (await self._ask("outbox", "tell whether there is accounting"))["storage"]:
            since = int((self._clock() - FIND_WINDOW).timestamp())
            rows = await self._ask(
                "accounting", f"look for job {name} in accounting", names=[name], users=[user], since=since
            )
            found = [left_queue(job) for job in map(self._read, rows) if (job.name, job.user) == (name, user)]
        return max(found, key=lambda job: job.job_id, default=None)

    async def _in_queue(self, name: str, user: str) -> list[SeenJob]:
        """Many may be in doubt at once: those who come before a reading begins share it."""
        listing = self._listings.setdefault(user, _Listing())
        listing.names.add(name)
        if listing.task is None:
            listing.task = asyncio.create_task(self._list(user))
        return [job for job in await asyncio.shield(listing.task) if (job.name, job.user) == (name, user)]

    async def _list(self, user: str) -> list[SeenJob]:
        async with self._one_listing:
            names = sorted(self._listings.pop(user).names)
            rows = await self._ask("queue", "look for jobs by name", users=[user], names=names)
            return [self._read(row) for row in rows]

    async def mine(self, users: Collection[str]) -> Sequence[SeenJob]:
        """From accounting; where there is none, the queue is read."""
        if not users:
            return []
        what = "list the live jobs of our users"
        if (await self._ask("outbox", "tell whether there is accounting"))["storage"]:
            since = int((self._clock() - _RECENTLY).timestamp())
            rows = await self._ask("accounting", what, users=list(users), since=since)
        else:
            rows = await self._ask("queue", what, users=list(users), prefix=JOB_NAME_PREFIX)
        return [job for job in map(self._read, rows) if is_ours(job.name) and not job.state.ended]

    async def terminate(self, job_id: int, user: str) -> None:
        await self._stop(job_id, user, batch=True)

    async def cancel(self, job_id: int, user: str) -> None:
        await self._stop(job_id, user, batch=False)

    async def _stop(self, job_id: int, user: str, *, batch: bool) -> None:
        self._only(user)
        try:
            await self._libslurm.ask("end", number=job_id, batch=batch)
        except Lost as lost:
            raise SchedulerUnavailable(
                f"the answer to the cancel of job {job_id} was lost: {lost}", hint="Cancel it again."
            ) from lost
        except Refused as refused:
            if refused.problem.number not in ALREADY_OVER:
                raise after_question(refused.problem, f"cancel job {job_id} of {user}") from refused

    async def inventory(self) -> Inventory:
        return libslurm_parse.inventory(await self._ask("inventory", "list its nodes"))

    async def info(self) -> SchedulerInfo:
        told = await self._ask("info", "show its configuration")
        ready = self._libslurm.ready
        return SchedulerInfo(
            cluster=told["cluster"] or self._cluster,
            version=told["version"] or ready.get("libslurm", ""),
            backend=f"pyslurm {ready.get('pyslurm', '?')} with libslurm {ready.get('libslurm', '?')}",
        )

    async def _ask(self, kind: str, what: str, **arguments: Any) -> Any:
        return await ask(self._libslurm, kind, what, **arguments)

    def _read(self, row: Mapping[str, Any]) -> SeenJob:
        return libslurm_parse.job(row, self._comment_field)

    def _only(self, user: str) -> None:
        if user != self._user:
            _refuse(self._user, user)


class PyslurmInspection:
    """The Inspection port over libslurm."""

    by_shell = False

    def __init__(self, libslurm: Libslurm) -> None:
        self._libslurm = libslurm

    def __str__(self) -> str:
        return "libslurm"

    async def configuration(self) -> Mapping[str, str]:
        return libslurm_parse.configuration(await ask(self._libslurm, "configuration", "show its configuration"))

    async def associations(self, user: str) -> Sequence[Association]:
        rows = await ask(self._libslurm, "associations", "show associations", user=user)
        return [Association.model_validate({**row, "partition": row["partition"] or ""}) for row in rows]

    async def now(self) -> datetime:
        return datetime.fromtimestamp((await ask(self._libslurm, "configuration", "tell the time"))["now"], UTC)


async def ask(libslurm: Libslurm, kind: str, what: str, **arguments: Any) -> Any:
    """A question that changes nothing. SchedulerUnavailable, or Forbidden."""
    try:
        return await libslurm.ask(kind, **arguments)
    except Lost as lost:
        raise SchedulerUnavailable(f"Slurm could not {what}: {lost}") from lost
    except Refused as refused:
        raise after_question(refused.problem, what) from refused


def _refuse(here: str, user: str) -> NoReturn:
    raise Forbidden(
        f"libslurm runs as {here} here, and does nothing as {user}",
        hint='With backend = "pyslurm" unix_user is who runs the gateway; for other users set backend = "rest".',
    )


def _batches(job_ids: Sequence[int]) -> list[Sequence[int]]:
    return [job_ids[start : start + _AT_ONCE] for start in range(0, len(job_ids), _AT_ONCE)]
