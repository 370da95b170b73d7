"""Slurm through its commands, run by a Shell: on this machine or over ssh.

A look is one `squeue` for the states of all the jobs, which slurmctld answers without touching the rest of the queue,
another for those of which there may be news, and one `sacct` for those that left the queue.
"""

import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final, NoReturn, TypeVar

from gateway.core.ports import Clock, CommandResult, SchedulerInfo, Shell
from gateway.errors import Forbidden, SchedulerUnavailable, SubmitUnknown, Unavailable
from gateway.model.inventory import Inventory
from gateway.model.job import JobScript, SeenJob, is_ours
from gateway.slurm import commands, sinfo, states
from gateway.slurm.commands import Command, Unreadable
from gateway.slurm.left import WINDOW, Left
from gateway.slurm.memory import Memory, left_queue
from gateway.slurm.problems import (
    ALREADY_OVER,
    UNKNOWN_JOB,
    after_question,
    after_sbatch,
    from_stderr,
)

FIND_DAYS: Final = 14

T = TypeVar("T")

_IDS_AT_ONCE: Final = 5_000  # one argument may have 128 KiB
_ONE_BY_ONE: Final = 10  # more at once, and squeue may as well fetch the whole queue
_NOT_FOUND: Final = 127


def _now() -> datetime:
    return datetime.now(UTC)


def _mark() -> str:
    return f"|{secrets.token_hex(6)}|"


class CliScheduler:
    """The Scheduler port over commands. `viewer` is the Unix user who asks about jobs and nodes."""

    def __init__(
        self,
        shell: Shell,
        *,
        cluster: str,
        viewer: str,
        timeout: float = 60.0,
        monotonic: Callable[[], float] = time.monotonic,
        mark: Callable[[], str] = _mark,
        memory: Memory | None = None,
        clock: Clock = _now,
    ) -> None:
        self._shell = shell
        self._cluster = cluster
        self._viewer = viewer
        self._timeout = timeout
        self._monotonic = monotonic
        self._mark = mark
        self._memory = memory or Memory()
        self._clock = clock
        self._left = Left(self._memory, self._accounting)
        self._tells_states = True

    async def close(self) -> None:
        await self._left.close()
        await self._shell.close()

    async def submit(self, script: JobScript, user: str) -> int:
        command = commands.sbatch(script)
        try:
            done = await self._shell.run(command.argv, user=user, stdin=command.stdin, timeout=self._timeout)
        except Unavailable as error:
            if error.details.get("started", True):
                raise SubmitUnknown(f"the answer of sbatch was lost: {error.message}") from error
            raise SchedulerUnavailable(f"sbatch was not run: {error.message}", hint=error.hint) from error
        if done.returncode == _NOT_FOUND:
            _missing(command)
        if done.returncode != 0:
            raise after_sbatch(done.returncode, done.stderr)
        job_id = commands.parse_sbatch(done.stdout)
        if job_id is None:
            raise SubmitUnknown(f"sbatch ended well but named no job id: {done.stdout[:200]!r}")
        self._memory.forget(job_id)
        return job_id

    async def look(self, job_ids: Collection[int], awaited: Collection[int] = ()) -> Mapping[int, SeenJob]:
        wanted = list(dict.fromkeys(job_ids))
        at = self._monotonic()
        queue: set[int] = set()
        for some in _batches(wanted):
            queue.update(await self._queue(some, awaited, at))
        seen = {i: entry.job for i in wanted if i in queue and (entry := self._memory.get(i)) is not None}
        return seen | await self._left.tell([i for i in wanted if i not in seen], at)

    async def _queue(self, job_ids: Sequence[int], awaited: Collection[int], at: float) -> Collection[int]:
        """Look at these in the queue, in full where there may be news; which of them it has."""
        if self._tells_states:
            command, what = commands.squeue_states(job_ids), "tell the states of jobs"
            done = await self._run(command, self._viewer)
            if done.returncode == 0 or "only-job-state" not in done.stderr:
                words = self._read(commands.parse_states, self._answer(command, done, what))
                told = {job_id: states.parse(word) for job_id, word in words.items()}
                await self._details(self._memory.choose(told, awaited, at, self._clock()), at)
                return told
            self._tells_states = False  # Slurm before 24.05
        return await self._details(job_ids, at)

    async def _details(self, job_ids: Sequence[int], at: float) -> Collection[int]:
        """Remember all that the queue says of these; which of them it has."""
        if not job_ids:
            return ()
        mark = self._mark()
        command = (commands.squeue_each if len(job_ids) <= _ONE_BY_ONE else commands.squeue)(job_ids, mark)
        done = await self._ask(command, "show jobs", accept=UNKNOWN_JOB)
        jobs = self._read(partial(commands.parse_squeue, mark=mark), done)
        for job in jobs:
            self._memory.put(job, at)
        return [job.job_id for job in jobs]

    async def _accounting(self, job_ids: Sequence[int]) -> list[SeenJob]:
        mark = self._mark()
        done = await self._ask(commands.sacct(job_ids, WINDOW.days, mark), "show jobs in accounting")
        return self._read(partial(commands.parse_sacct, mark=mark), done)

    async def find(self, name: str, user: str) -> SeenJob | None:
        mark = self._mark()
        done = await self._ask(commands.squeue_named(name, user, mark), f"look for job {name}", user=user)
        found = [job for job in self._read(partial(commands.parse_squeue, mark=mark), done) if job.name == name]
        if not found:
            mark = self._mark()
            done = await self._ask(
                commands.sacct_named(name, user, FIND_DAYS, mark),
                f"look for job {name} in accounting",
                user=user,
            )
            rows = self._read(partial(commands.parse_sacct, mark=mark), done)
            found = [left_queue(job) for job in rows if job.name == name]
        return max(found, key=lambda job: job.job_id, default=None)

    async def mine(self, users: Collection[str]) -> Sequence[SeenJob]:
        if not users:
            return []
        mark = self._mark()
        done = await self._ask(commands.squeue_live(users, mark), "list the live jobs of our users")
        return [job for job in self._read(partial(commands.parse_squeue, mark=mark), done) if is_ours(job.name)]

    async def terminate(self, job_id: int, user: str) -> None:
        await self._scancel(commands.scancel_batch(job_id), job_id, user)

    async def cancel(self, job_id: int, user: str) -> None:
        await self._scancel(commands.scancel(job_id), job_id, user)

    async def _scancel(self, command: Command, job_id: int, user: str) -> None:
        done = await self._run(command, user)
        problem = from_stderr(done.stderr)
        if problem.number in ALREADY_OVER or (done.returncode == 0 and not done.stderr.strip()):
            return
        if done.returncode != 0 or problem.number is not None:
            raise after_question(problem, f"cancel job {job_id} of {user}")

    async def inventory(self) -> Inventory:
        mark = self._mark()
        partitions = await self._ask(sinfo.partitions(mark), "list its partitions")
        nodes = await self._ask(sinfo.nodes(mark), "list its nodes")
        try:
            return sinfo.parse_inventory(partitions.stdout, nodes.stdout, mark)
        except Unreadable as error:
            raise SchedulerUnavailable(f"sinfo printed what we cannot read: {error}") from error

    async def info(self) -> SchedulerInfo:
        config = commands.parse_config((await self._ask(commands.scontrol_config(), "show its configuration")).stdout)
        return SchedulerInfo(
            cluster=config.get("ClusterName", self._cluster),
            version=config.get("SLURM_VERSION", ""),
            backend="cli",
        )

    async def _run(self, command: Command, user: str) -> CommandResult:
        try:
            return await self._shell.run(command.argv, user=user, stdin=command.stdin, timeout=self._timeout)
        except (Unavailable, Forbidden) as error:  # the user is not let in there: that says nothing of any job
            raise SchedulerUnavailable(error.message, hint=error.hint) from error

    async def _ask(
        self, command: Command, what: str, *, user: str | None = None, accept: int | None = None
    ) -> CommandResult:
        """Run a question; an error whose number is `accept` counts as an answer."""
        return self._answer(command, await self._run(command, user or self._viewer), what, accept)

    def _answer(self, command: Command, done: CommandResult, what: str, accept: int | None = None) -> CommandResult:
        if done.returncode == _NOT_FOUND:
            _missing(command)
        if done.returncode != 0:
            problem = from_stderr(done.stderr)
            if accept is None or problem.number != accept:
                raise after_question(problem, what)
        return done

    def _read(self, parse: Callable[[str], T], done: CommandResult) -> T:
        try:
            return parse(done.stdout)
        except Unreadable as error:
            raise SchedulerUnavailable(f"Slurm's commands printed what we cannot read: {error}") from error


def _missing(command: Command) -> NoReturn:
    raise SchedulerUnavailable(
        f"there is no {command.name} on the PATH there",
        hint="Slurm's commands must be on the PATH of a login without a terminal (ssh HOST command -v sbatch).",
    )


def _batches(job_ids: Sequence[int]) -> list[Sequence[int]]:
    return [job_ids[start : start + _IDS_AT_ONCE] for start in range(0, len(job_ids), _IDS_AT_ONCE)]
