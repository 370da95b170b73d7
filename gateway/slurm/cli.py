"""Slurm through its commands, run by a Shell: on this machine or over ssh.

A look is one `squeue` for all the jobs, and one `sacct` for those that left the queue since the last look.
"""

import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NoReturn

from gateway.core.ports import CommandResult, SchedulerInfo, Shell
from gateway.errors import Forbidden, SchedulerUnavailable, SubmitUnknown, Unavailable
from gateway.model.inventory import Inventory
from gateway.model.job import JobScript, SeenJob, is_ours
from gateway.slurm import commands
from gateway.slurm.commands import Command, Unreadable
from gateway.slurm.memory import Memory, left_queue, not_told
from gateway.slurm.problems import (
    ALREADY_OVER,
    UNKNOWN_JOB,
    after_question,
    after_sbatch,
    from_stderr,
)

FIND_DAYS: Final = 14

_IDS_AT_ONCE: Final = 5_000  # one argument may have 128 KiB
_NOT_FOUND: Final = 127


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
    ) -> None:
        self._shell = shell
        self._cluster = cluster
        self._viewer = viewer
        self._timeout = timeout
        self._monotonic = monotonic
        self._mark = mark
        self._memory = memory or Memory()

    async def close(self) -> None:
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

    async def look(self, job_ids: Collection[int]) -> Mapping[int, SeenJob]:
        wanted = list(dict.fromkeys(job_ids))
        seen: dict[int, SeenJob] = {}
        for some in _batches(wanted):
            mark = self._mark()
            done = await self._ask(commands.squeue(some, mark), "show jobs", accept=UNKNOWN_JOB)
            for job in self._read(commands.parse_squeue, done, mark):
                seen[job.job_id] = job
                self._memory.put(job, self._monotonic())
        left = []
        for job_id in wanted:
            if job_id in seen:
                continue
            entry = self._memory.get(job_id)
            if entry is not None and entry.from_accounting and entry.job.state.ended:
                seen[job_id] = entry.job
            else:
                left.append(job_id)
        for some in _batches(left):
            try:
                rows = await self._accounting(some)
            except SchedulerUnavailable as error:
                for job_id in some:
                    seen[job_id] = not_told(job_id, self._memory.get(job_id), error.message)
                continue
            for job in rows:
                seen[job.job_id] = left_queue(job)
                self._memory.put(seen[job.job_id], self._monotonic(), from_accounting=True)
        return {job_id: seen[job_id] for job_id in wanted if job_id in seen}

    async def _accounting(self, job_ids: Sequence[int]) -> list[SeenJob]:
        mark = self._mark()
        done = await self._ask(commands.sacct(job_ids, mark), "show jobs in accounting")
        return self._read(commands.parse_sacct, done, mark)

    async def find(self, name: str, user: str) -> SeenJob | None:
        mark = self._mark()
        done = await self._ask(commands.squeue_named(name, user, mark), f"look for job {name}", user=user)
        found = [job for job in self._read(commands.parse_squeue, done, mark) if job.name == name]
        if not found:
            mark = self._mark()
            done = await self._ask(
                commands.sacct_named(name, user, FIND_DAYS, mark),
                f"look for job {name} in accounting",
                user=user,
            )
            rows = self._read(commands.parse_sacct, done, mark)
            found = [left_queue(job) for job in rows if job.name == name]
        return max(found, key=lambda job: job.job_id, default=None)

    async def mine(self, users: Collection[str]) -> Sequence[SeenJob]:
        if not users:
            return []
        mark = self._mark()
        done = await self._ask(commands.squeue_live(users, mark), "list the live jobs of our users")
        return [job for job in self._read(commands.parse_squeue, done, mark) if is_ours(job.name)]

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
        partitions = await self._ask(commands.scontrol_show("partitions"), "list its partitions")
        nodes = await self._ask(commands.scontrol_show("nodes"), "list its nodes")
        try:
            return commands.parse_inventory(partitions.stdout, nodes.stdout)
        except Unreadable as error:
            raise SchedulerUnavailable(f"scontrol printed what we cannot read: {error}") from error

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
        done = await self._run(command, user or self._viewer)
        if done.returncode == _NOT_FOUND:
            _missing(command)
        if done.returncode != 0:
            problem = from_stderr(done.stderr)
            if accept is None or problem.number != accept:
                raise after_question(problem, what)
        return done

    def _read(self, parse: Callable[[str, str], list[SeenJob]], done: CommandResult, mark: str) -> list[SeenJob]:
        try:
            return parse(done.stdout, mark)
        except Unreadable as error:
            raise SchedulerUnavailable(f"Slurm's commands printed what we cannot read: {error}") from error


def _missing(command: Command) -> NoReturn:
    raise SchedulerUnavailable(
        f"there is no {command.name} on the PATH there",
        hint="Slurm's commands must be on the PATH of a login without a terminal (ssh HOST command -v sbatch).",
    )


def _batches(job_ids: Sequence[int]) -> list[Sequence[int]]:
    return [job_ids[start : start + _IDS_AT_ONCE] for start in range(0, len(job_ids), _IDS_AT_ONCE)]
