"""An honest in-memory Slurm with a clock and faults: the fast tests' scheduler, held to the real ones' contract.

Jobs wait for CPUs and GPUs in order, run, end, stay in the queue for a while (MinJobAge) and live on in accounting.
`automatic` lets them start by themselves and end when their script (as `runs` reads it) or time limit says so;
otherwise a test says what happens: `start`, `announce`, `finish`, `requeue`, `purge`. `faults` breaks what breaks.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.core.cost import Cost
from gateway.core.ports import Clock, SchedulerInfo
from gateway.errors import Forbidden, SchedulerUnavailable, SluiceError, SubmitDeferred, SubmitRefused, SubmitUnknown
from gateway.model.doctor import Association
from gateway.model.inventory import Gpus, Inventory, Node, Partition
from gateway.model.job import JobScript, JobState, SeenJob, is_ours
from gateway.slurm import gres
from gateway.slurm.fake_parts import Faults, Host, Run, Taken, cpus, uses
from gateway.slurm.memory import Entry, left_queue, not_told

__all__ = ["FakeSlurm", "Faults", "Run"]

_LIVE: Final = frozenset({JobState.PENDING, JobState.RUNNING, JobState.SUSPENDED})


def _now() -> datetime:
    return datetime.now(UTC)


class FakeSlurm:
    """The Scheduler port in memory."""

    def __init__(
        self,
        *,
        clock: Clock = _now,
        automatic: bool = False,
        runs: Callable[[JobScript], Run] = lambda _: Run(),
        nodes: int = 2,
        cpus: int = 16,
        memory: int = 64_000,
        gpus: str = "gpu:a100:4",
        partitions: Mapping[str, int | None] | None = None,
        accounts: Collection[str] = ("research", "teaching"),
        max_submit: int | None = None,
        min_job_age: float = 300.0,
    ) -> None:
        self.faults = Faults()
        self.calls: Counter[str] = Counter()
        self.cost = Cost()
        self._clock = clock
        self._automatic = automatic
        self._runs = runs
        self._gpus = gres.counts(gpus)
        self._hosts = [Host(f"node{n}", cpus, memory, dict(self._gpus)) for n in range(1, nodes + 1)]
        self._partitions = dict(partitions or {"cpu": 7 * 1440, "gpu": 2 * 1440, "debug": 30})
        self._accounts = frozenset(accounts)
        self._max_submit = max_submit
        self._min_job_age = timedelta(seconds=min_job_age)
        self._jobs: dict[int, Taken] = {}
        self._past_lives: list[Taken] = []  # of numbers that were given again
        self._late: list[tuple[datetime, JobScript, str]] = []  # submits that are on their way
        self._ids = itertools.count(1)

    # The port

    async def submit(self, script: JobScript, user: str) -> int:
        await self._answer("submit")
        if self.faults.refuse_requests > 0:
            self.faults.refuse_requests -= 1
            raise SchedulerUnavailable("connection refused")
        if self.faults.lose_requests > 0:
            self.faults.lose_requests -= 1
            raise SubmitUnknown("the connection broke before an answer")
        if self.faults.late_requests > 0:
            self.faults.late_requests -= 1
            self._late.append((self._clock() + timedelta(seconds=self.faults.late_by), script, user))
            raise SubmitUnknown("no answer in time")
        job_id = self._take(script, user)
        if self.faults.double_requests > 0:
            self.faults.double_requests -= 1
            self._take(script, user)
        self._advance()
        if self.faults.lose_answers > 0:
            self.faults.lose_answers -= 1
            raise SubmitUnknown("the answer was lost")
        return job_id

    def _take(self, script: JobScript, user: str) -> int:
        self._check(script, user)
        job_id = next(self._ids)
        seen = SeenJob(
            job_id=job_id,
            name=script.options.name,
            user=user,
            state=JobState.PENDING,
            submit_time=self._clock(),
            time_limit=script.options.time_limit or self._partitions[self._partition(script)],
            comment=script.options.comment,
        )
        if job_id in self._jobs:
            self._past_lives.append(self._jobs.pop(job_id))
        self._jobs[job_id] = Taken(script, user, seen, gres.counts(script.options.gres or ""))
        return job_id

    async def look(self, job_ids: Collection[int], awaited: Collection[int] = ()) -> Mapping[int, SeenJob]:
        del awaited  # it is all known here
        await self._answer("look")
        seen = {}
        for job_id in dict.fromkeys(job_ids):
            job = self._jobs.get(job_id)
            if job is not None and job.in_queue:
                seen[job_id] = self._shown(job)
            elif self.faults.accounting_down:
                known = Entry(job.seen, 0.0) if job is not None else None
                seen[job_id] = not_told(job_id, known, "connection refused")
            elif job is not None and job.in_accounting:
                seen[job_id] = left_queue(job.seen)
        return seen

    async def find(self, name: str, user: str) -> SeenJob | None:
        await self._answer("find")
        mine = [job for job in self._all() if job.seen.name == name and job.user == user]
        if queued := [job for job in mine if job.in_queue]:
            return self._shown(max(queued, key=lambda job: job.seen.job_id))
        self._ask_accounting()
        past = [job for job in mine if job.in_accounting]
        return left_queue(max(past, key=lambda job: job.seen.job_id).seen) if past else None

    async def mine(self, users: Collection[str]) -> Sequence[SeenJob]:
        await self._answer("mine")
        return [
            self._shown(job)
            for job in self._jobs.values()
            if job.in_queue and job.seen.state in _LIVE and job.user in users and is_ours(job.seen.name)
        ]

    async def terminate(self, job_id: int, user: str) -> None:
        await self._answer("terminate")
        job = self._owned(job_id, user)
        if job is not None and job.seen.state is JobState.RUNNING and not self.faults.deaf_scripts:
            self._end(job, JobState.COMPLETED, exit_code=0)
            self._advance()

    def _owned(self, job_id: int, user: str) -> Taken | None:
        job = self._jobs.get(job_id)
        if job is None or not job.in_queue or job.seen.state not in _LIVE:
            return None
        if job.user != user:
            raise Forbidden(f"Slurm does not let {user} cancel job {job_id}: Access/permission denied")
        return job

    async def cancel(self, job_id: int, user: str) -> None:
        await self._answer("cancel")
        job = self._owned(job_id, user)
        if job is None:
            return
        ran = job.seen.state is not JobState.PENDING
        self._end(job, JobState.CANCELLED, exit_code=None if ran else 0, signal=15 if ran else None)
        self._advance()

    async def inventory(self) -> Inventory:
        await self._answer("inventory")
        if self.faults.accounting_down:  # as slurmrestd does
            await asyncio.sleep(self.faults.accounting_delay)
            raise SchedulerUnavailable("slurmdbd does not respond")
        return Inventory(
            partitions=tuple(
                Partition(
                    name=name,
                    up=True,
                    default=name == next(iter(self._partitions)),
                    max_time=limit,
                    nodes=",".join(host.name for host in self._hosts),
                    total_nodes=len(self._hosts),
                    total_cpus=sum(host.cpus for host in self._hosts),
                )
                for name, limit in self._partitions.items()
            ),
            nodes=tuple(self._node(host) for host in self._hosts),
        )

    async def info(self) -> SchedulerInfo:
        await self._answer("info")
        return SchedulerInfo(cluster="fake", version="26.05.0", backend="fake")

    # The Inspection port

    by_shell = False

    async def configuration(self) -> Mapping[str, str]:
        await self._answer("configuration")
        return {
            "ClusterName": "fake",
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageEnforce": "associations",
            "MinJobAge": f"{self._min_job_age.total_seconds():g} sec",
            "KillWait": "30 sec",
            "TaskPlugin": "task/cgroup",
            "ConstrainDevices": "yes",
        }

    async def associations(self, user: str) -> Sequence[Association]:
        await self._answer("associations")
        self._ask_accounting()
        del user  # everybody may use every account here
        return [Association(cluster="fake", account=account, qos=("normal",)) for account in sorted(self._accounts)]

    async def now(self) -> datetime:
        await self._answer("now")
        return self._clock()

    async def close(self) -> None:
        return

    # What happens to jobs

    def start(self, job_id: int, node: str = "node1") -> None:
        """Slurm starts it, whatever room there is."""
        self._start(self._jobs[job_id], [host for host in self._hosts if host.name == node], self._clock())

    def announce(self, job_id: int, comment: str) -> None:
        """The agent in the job writes the job's comment."""
        self._change(self._jobs[job_id], comment=comment)

    def finish(
        self,
        job_id: int,
        state: JobState | None = None,
        *,
        exit_code: int | None = None,
        signal: int | None = None,
        clearing: bool = False,
    ) -> None:
        """It ends: COMPLETED, FAILED with an exit code or signal, or as `state` says; `clearing`: COMPLETING still."""
        code = exit_code if exit_code is not None or signal is not None else 0
        failed = bool(code) or signal is not None
        self._end(
            self._jobs[job_id],
            state or (JobState.FAILED if failed else JobState.COMPLETED),
            exit_code=code,
            signal=signal,
        )
        self._change(self._jobs[job_id], flags=("COMPLETING",) if clearing else ())
        self._advance()

    def preempt(self, job_id: int, grace: float) -> None:
        """A job of higher priority needs its place: it is to end in so many seconds."""
        self._change(self._jobs[job_id], end_time=self._clock() + timedelta(seconds=grace))

    def requeue(self, job_id: int) -> None:
        """Back to the queue under the same id, as after a preemption or a node failure."""
        job = self._jobs[job_id]
        self._leave(job)
        job.began = None
        self._change(
            job,
            state=JobState.PENDING,
            restarts=job.seen.restarts + 1,
            nodes="",
            comment=job.seen.comment,
            start_time=None,
            end_time=None,
            exit_code=None,
            signal=None,
            reason="BeginTime",
        )
        self._advance()

    def hold(self, job_id: int) -> None:
        """It does not start until released."""
        self._jobs[job_id].held = True

    def release(self, job_id: int) -> None:
        self._jobs[job_id].held = False
        self._advance()

    def purge(self, job_id: int) -> None:
        """It leaves the queue; accounting keeps it."""
        self._leave(self._jobs[job_id])
        self._jobs[job_id].in_queue = False

    def forget(self, job_id: int) -> None:
        """Accounting loses it, too."""
        self.purge(job_id)
        self._jobs[job_id].in_accounting = False

    def restart(self, *, lost: float = 0.0) -> None:
        """Slurmctld crashes and starts again, without the jobs that it took in the last `lost` seconds.

        Accounting has not heard of those, and their numbers are given again. Other jobs have not noticed.
        """
        since = self._clock() - timedelta(seconds=lost)
        gone = [i for i, job in self._jobs.items() if job.seen.submit_time is None or job.seen.submit_time > since]
        for job_id in gone if lost else ():
            self._leave(self._jobs.pop(job_id))
        self._ids = itertools.count(max(self._jobs, default=0) + 1)

    def begin_numbers_again(self) -> None:
        """As if slurmctld had lost its state: the queue is empty, and the next job is number 1 again."""
        for job_id in self._jobs:
            self.purge(job_id)
        self._ids = itertools.count(1)

    def node_down(self, name: str, *, down: bool = True) -> None:
        """A node dies (its jobs end NODE_FAIL, or are requeued if they may be), or comes back."""
        host = next(host for host in self._hosts if host.name == name)
        host.down = down
        for job_id in sorted(host.jobs) if down else ():
            if self._jobs[job_id].script.options.requeue:
                self.requeue(job_id)
            else:
                self.finish(job_id, JobState.NODE_FAIL, exit_code=0)
        self._advance()

    def submitted(self, name: str | None = None) -> list[tuple[JobScript, str, SeenJob]]:
        """Every job ever taken (of that name): its script, its user and how it is now."""
        return [(job.script, job.user, job.seen) for job in self._all() if name is None or job.seen.name == name]

    # How it works

    async def _answer(self, call: str) -> None:
        self.calls[call] += 1
        if self.faults.delay:
            await asyncio.sleep(self.faults.delay)
        self.cost.asked(call, "unanswered" if self.faults.unavailable else "ok", 0)
        if self.faults.unavailable:
            raise SchedulerUnavailable("slurmctld does not respond")
        self._advance()

    def _ask_accounting(self) -> None:
        if self.faults.accounting_down:
            raise SchedulerUnavailable("slurmdbd does not respond")

    def _all(self) -> list[Taken]:
        return [*self._past_lives, *self._jobs.values()]

    def _partition(self, script: JobScript) -> str:
        return script.options.partition or next(iter(self._partitions))

    def _check(self, script: JobScript, user: str) -> None:
        options = script.options
        if self._partition(script) not in self._partitions:
            raise SubmitRefused("Slurm refused the job: Invalid partition name specified")
        if options.account is not None and options.account not in self._accounts:
            raise SubmitRefused("Slurm refused the job: Invalid account or account/partition combination specified")
        wanted = gres.counts(options.gres or "")
        if any(self._capacity(self._gpus, key) < count for key, count in wanted.items()):
            raise SubmitRefused("Slurm refused the job: Requested node configuration is not available")
        live = sum(1 for job in self._jobs.values() if job.user == user and job.seen.state in _LIVE)
        if self._max_submit is not None and live >= self._max_submit:
            raise SubmitDeferred("Slurm takes no more such jobs now: AssocMaxSubmitJobLimit")

    def _advance(self) -> None:
        """Everything that was to happen until now, in its order."""
        now = self._clock()
        arrived = [submit for submit in self._late if submit[0] <= now]
        self._late = [submit for submit in self._late if submit[0] > now]
        for _, script, user in arrived:
            with suppress(SluiceError):  # a refusal, which nobody hears
                self._take(script, user)
        if self._automatic:
            self._start_what_fits(now)
            while (due := self._next_end()) is not None and due[0] <= now:
                self._end(due[1], due[2], exit_code=due[3], at=due[0])
                self._start_what_fits(due[0])
        for job in self._jobs.values():
            ended = job.seen.end_time
            if job.seen.state.ended and ended is not None and now - ended > self._min_job_age:
                job.in_queue = False

    def _next_end(self) -> tuple[datetime, Taken, JobState, int | None] | None:
        ends: list[tuple[datetime, Taken, JobState, int | None]] = []
        for job in self._jobs.values():
            if job.seen.state is not JobState.RUNNING or job.began is None:
                continue
            run = self._runs(job.script)
            if job.seen.time_limit is not None:
                ends.append((job.began + timedelta(minutes=job.seen.time_limit), job, JobState.TIMEOUT, 0))
            if run.seconds is not None:
                state = JobState.FAILED if run.exit_code else JobState.COMPLETED
                ends.append((job.began + timedelta(seconds=run.seconds), job, state, run.exit_code))
        return min(ends, key=lambda end: end[0], default=None)

    def _start_what_fits(self, at: datetime) -> None:
        for job in self._pending():
            if job.held:
                self._change(job, reason="JobHeldUser")
                continue
            begin = job.script.options.begin_at
            if begin is not None and at < begin:
                self._change(job, reason="BeginTime")
                continue
            hosts = [host for host in self._hosts if self._fits(job, host)][: job.script.options.nodes]
            if len(hosts) == job.script.options.nodes:
                self._start(job, hosts, at)
            else:
                self._change(job, reason="Resources")

    def _pending(self) -> list[Taken]:
        return [job for job in self._jobs.values() if job.seen.state is JobState.PENDING and job.in_queue]

    def _fits(self, job: Taken, host: Host) -> bool:
        used = [self._jobs[job_id] for job_id in host.jobs]
        if host.down or any(other.script.options.exclusive for other in used):
            return False
        if job.script.options.exclusive and used:
            return False
        free_cpus = host.cpus - sum(cpus(other) for other in used)
        return free_cpus >= cpus(job) and all(
            self._capacity(host.gpus, key) - sum(uses(other.gpus, key) for other in used) >= count
            for key, count in job.gpus.items()
        )

    @staticmethod
    def _capacity(counts: gres.Counts, key: tuple[str, str]) -> int:
        return sum(n for (name, kind), n in counts.items() if name == key[0] and key[1] in {"", kind})

    def _start(self, job: Taken, hosts: list[Host], at: datetime) -> None:
        job.began = at
        for host in hosts:
            host.jobs.add(job.seen.job_id)
        self._change(
            job,
            state=JobState.RUNNING,
            reason="",
            nodes=",".join(host.name for host in hosts),
            start_time=at,
            end_time=at + timedelta(minutes=limit) if (limit := job.seen.time_limit) is not None else None,
        )

    def _end(
        self,
        job: Taken,
        state: JobState,
        *,
        exit_code: int | None,
        signal: int | None = None,
        at: datetime | None = None,
    ) -> None:
        self._leave(job)
        self._change(job, state=state, exit_code=exit_code, signal=signal, end_time=at or self._clock(), reason="")

    def _leave(self, job: Taken) -> None:
        for host in self._hosts:
            host.jobs.discard(job.seen.job_id)

    @staticmethod
    def _change(job: Taken, **fields: object) -> None:
        job.seen = SeenJob.model_validate({**dict(job.seen), **fields})

    def _shown(self, job: Taken) -> SeenJob:
        if job.seen.state is not JobState.PENDING:
            return job.seen
        return job.seen.model_copy(update={"position": self._pending().index(job) + 1})

    def _node(self, host: Host) -> Node:
        jobs = [self._jobs[job_id] for job_id in host.jobs]
        gpus = tuple(
            Gpus(name=name, type=kind, total=total, used=sum(uses(job.gpus, (name, kind)) for job in jobs))
            for (name, kind), total in host.gpus.items()
        )
        return Node(
            name=host.name,
            address=host.name,
            states=("DOWN",) if host.down else ("MIXED",) if jobs else ("IDLE",),
            available=not host.down,
            partitions=tuple(self._partitions),
            cpus=host.cpus,
            cpus_used=sum(cpus(job) for job in jobs),
            memory=host.memory,
            memory_used=sum(job.script.options.memory or 0 for job in jobs),
            gpus=gpus,
        )
