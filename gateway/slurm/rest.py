"""Slurm through slurmrestd: each call as the user it is for, by a token that the gateway signs.

A look costs one cheap question for the states of all our jobs (15 ms for 1,000, whatever else is in the queue), one
for each job that `Memory.choose` has news expected of, and one to accounting for those that left the queue. The list
of the whole queue (82 MB at 10,000 jobs) is never asked for.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from gateway.core.ports import Clock, SchedulerInfo
from gateway.errors import Forbidden, SchedulerUnavailable, SubmitUnknown
from gateway.model.inventory import Inventory
from gateway.model.job import JobScript, JobState, SeenJob, created_at, is_ours
from gateway.slurm import rest_parse, states, times
from gateway.slurm.left import WINDOW, Left
from gateway.slurm.memory import Memory
from gateway.slurm.problems import (
    ACCESS_DENIED,
    ALREADY_OVER,
    REJECTED,
    UNKNOWN_JOB,
    UNKNOWN_USER,
    Problem,
    after_question,
    after_submit,
)
from gateway.slurm.queue_index import QueueIndex, each
from gateway.slurm.rest_http import Refused, RestClient
from gateway.slurm.wire import AnswerLost

FIND_WINDOW: Final = timedelta(days=14)

_ACCOUNTING_LAG: Final = timedelta(minutes=10)
_CLOCKS_APART: Final = timedelta(minutes=10)
_STATES_AT_ONCE: Final = 1_000  # ids in one address: 16 kB, the same answer in less time than in four parts
# No times: then accounting tells what is live now, also what is held and has never been eligible.
_LIVE_JOBS: Final = (
    *(("state", word) for word in ("PENDING", "RUNNING", "SUSPENDED")),
    ("usage_time_as_submit_time", "true"),
    ("skip_steps", "true"),
)


def _now() -> datetime:
    return datetime.now(UTC)


class RestScheduler:
    """The Scheduler port over slurmrestd. `viewer` is the Unix user who asks about jobs and nodes."""

    def __init__(
        self,
        client: RestClient,
        *,
        cluster: str,
        viewer: str,
        comment_field: str = "comment",
        clock: Clock = _now,
        monotonic: Callable[[], float] = time.monotonic,
        memory: Memory | None = None,
    ) -> None:
        self._client = client
        self._cluster = cluster
        self._viewer = viewer
        self._comment_field = comment_field
        self._clock = clock
        self._monotonic = monotonic
        self._memory = memory or Memory()
        self._left = Left(self._memory, self._ask_accounting)
        self._queue = QueueIndex(lambda: self._ask_states([]), self._ask_queue)

    async def close(self) -> None:
        await self._left.close()
        await self._client.close()

    async def submit(self, script: JobScript, user: str) -> int:
        try:
            answer = await self._client.send(
                "POST", "slurm", "/job/submit", user=user, body=rest_parse.submission(script)
            )
        except AnswerLost as lost:
            raise SubmitUnknown(f"slurmrestd's answer to the submit was lost: {lost}") from lost
        except Refused as refused:
            raise after_submit(refused.problem) from refused
        job_id = answer.get("job_id")
        if not isinstance(job_id, int) or job_id <= 0:
            raise SubmitUnknown(f"slurmrestd took the job but names no job id: {str(answer)[:200]}")
        self._memory.forget(job_id)
        return job_id

    async def look(self, job_ids: Collection[int], awaited: Collection[int] = ()) -> Mapping[int, SeenJob]:
        wanted = list(dict.fromkeys(job_ids))
        if not wanted:
            return {}
        at = self._monotonic()
        queue = await self._states(wanted)
        await each(self._details, self._memory.choose(queue, awaited, at, self._clock()))
        seen = {i: entry.job for i in wanted if i in queue and (entry := self._memory.get(i)) is not None}
        return seen | await self._left.tell([i for i in wanted if i not in seen], at)

    async def find(self, name: str, user: str) -> SeenJob | None:
        accounting, epoch = await self._accounting(user)
        answer: Mapping[str, Any] = {}
        if accounting != "none":
            try:
                answer = await self._client.get("slurmdb", "/jobs/", user=user, params=self._by_name(name, user))
            except Refused as refused:
                if accounting == "complete":
                    raise after_question(refused.problem, f"look for job {name} in accounting") from refused
        rows = [rest_parse.accounting_job(row, self._comment_field) for row in answer.get("jobs") or ()]
        number = max((job.job_id for job in rows if job.name == name), default=None)
        if number is None:
            # slurmctld tells accounting of new jobs some seconds later: the newest are only in the queue
            behind = _ACCOUNTING_LAG if accounting == "complete" else FIND_WINDOW
            number = await self._queue.find(name, user, self._not_before(name, behind), epoch)
        if number is None and not answer and accounting != "none":
            raise SchedulerUnavailable(f"job {name} is not in the queue, and accounting does not answer")
        if number is None:
            return None
        known = self._memory.get(number)
        if known is not None and known.job.name != name:
            self._memory.forget(number)  # of a job that slurmctld lost in a crash, before it gave the number again
        return (await self.look([number])).get(number)

    async def mine(self, users: Collection[str]) -> Sequence[SeenJob]:
        """From accounting, one question a user: slurmrestd cannot ask the queue by user."""
        if not users:
            return []
        if (await self._accounting(self._viewer))[0] == "none":
            return await self._queue.live(users)

        async def ask(user: str) -> list[SeenJob]:
            params = [("users", user), *_LIVE_JOBS]
            try:
                answer = await self._client.get("slurmdb", "/jobs/", user=self._viewer, params=params)
            except Refused as refused:
                if refused.problem.number == UNKNOWN_USER:
                    return []
                raise after_question(refused.problem, f"list the live jobs of {user}") from refused
            rows = (rest_parse.accounting_job(row, self._comment_field) for row in answer.get("jobs") or ())
            return [job for job in rows if is_ours(job.name)]

        return [job for some in await each(ask, users) for job in some]

    def _not_before(self, name: str, behind: timedelta) -> datetime:
        """A session's job was not submitted before the session was there, if the clocks agree within minutes."""
        bounds = [self._clock() - behind]
        if (created := created_at(name)) is not None:
            bounds.append(created - _CLOCKS_APART)
        return max(bounds)

    def _by_name(self, name: str, user: str) -> Sequence[tuple[str, str]]:
        return [
            ("job_name", name),
            ("users", user),
            ("start_time", rest_parse.moment(self._clock() - FIND_WINDOW)),
            ("usage_time_as_submit_time", "true"),  # a held job has no other time
            ("skip_steps", "true"),
        ]

    async def terminate(self, job_id: int, user: str) -> None:
        await self._delete(job_id, user, [("signal", "SIGTERM"), ("flags", "BATCH_JOB")])

    async def cancel(self, job_id: int, user: str) -> None:
        await self._delete(job_id, user, [])

    async def _delete(self, job_id: int, user: str, params: Sequence[tuple[str, str]]) -> None:
        try:
            answer = await self._client.send("DELETE", "slurm", f"/job/{job_id}", user=user, params=params)
        except AnswerLost as lost:
            raise SchedulerUnavailable(
                f"the answer to the cancel of job {job_id} was lost: {lost}", hint="Cancel it again."
            ) from lost
        except Refused as refused:
            if refused.problem.number in ALREADY_OVER:
                return
            raise after_question(refused.problem, f"cancel job {job_id} of {user}") from refused
        for row in answer.get("status") or ():
            error = row.get("error") or {}
            code = error.get("code") or 0
            words = error.get("message") or error.get("string") or "refused"
            if code and code not in ALREADY_OVER:
                if code == ACCESS_DENIED:
                    raise Forbidden(f"Slurm does not let {user} cancel job {job_id}: {words}")
                raise after_question(Problem(code, words), f"cancel job {job_id} of {user}")

    async def inventory(self) -> Inventory:
        partitions, nodes = await asyncio.gather(self._ask("/partitions/"), self._ask("/nodes/"))
        return rest_parse.inventory(partitions, nodes)

    async def info(self) -> SchedulerInfo:
        answer = await self._ask("/ping/")
        if not any(_responds(ping) for ping in answer.get("pings") or ()):
            self._client.renew()  # since 26.05 a refused token reads like this
            answer = await self._ask("/ping/")
        pings = answer.get("pings") or ()
        if not any(_responds(ping) for ping in pings):
            said = "; ".join(f"{p.get('hostname', '?')}: {p.get('status') or p.get('pinged', '?')}" for p in pings)
            raise SchedulerUnavailable(f"slurmctld does not respond ({said or 'no controller is known'})")
        meta = answer.get("meta") or {}
        slurm = meta.get("slurm") or meta.get("Slurm") or {}
        return SchedulerInfo(
            cluster=slurm.get("cluster") or self._cluster,
            version=slurm.get("release") or "",
            backend=f"rest {self._client.version}",
        )

    async def _ask(self, path: str, params: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
        try:
            return await self._client.get("slurm", path, user=self._viewer, params=params)
        except Refused as refused:
            raise after_question(refused.problem, f"answer {path}") from refused

    async def _states(self, wanted: Sequence[int]) -> dict[int, tuple[JobState, frozenset[str]]]:
        """States of those that are in the queue."""
        found: dict[int, tuple[JobState, frozenset[str]]] = {}
        for start in range(0, len(wanted), _STATES_AT_ONCE):
            # never joined by commas: slurmrestd answers that twice on one connection
            some = wanted[start : start + _STATES_AT_ONCE]
            told = await self._ask_states([str(job_id) for job_id in some])
            found |= {job_id: states.parse(told[job_id]) for job_id in some if job_id in told}
        return found

    async def _ask_states(self, ids: Sequence[str]) -> dict[int, tuple[str, ...]]:
        """Of these, or of all that the queue has."""
        try:
            answer = await self._client.get(
                "slurm", "/jobs/state/", user=self._viewer, params=[("job_id", i) for i in ids]
            )
        except Refused as refused:
            if not ids or refused.problem.number not in REJECTED:
                raise after_question(refused.problem, "tell the states of jobs") from refused
            if len(ids) == 1:
                return {}
            half = len(ids) // 2  # one id that slurmrestd rejects must not hide the others
            return await self._ask_states(ids[:half]) | await self._ask_states(ids[half:])
        return rest_parse.job_states(answer)

    async def _details(self, job_id: int) -> None:
        job = await self._ask_queue(job_id)
        if job is None:  # left the queue since
            self._memory.forget(job_id)
        else:
            self._memory.put(job, self._monotonic())

    async def _ask_queue(self, job_id: int) -> SeenJob | None:
        try:
            answer = await self._client.get("slurm", f"/job/{job_id}", user=self._viewer)
        except Refused as refused:
            if refused.problem.number == UNKNOWN_JOB:
                return None
            raise after_question(refused.problem, f"tell about job {job_id}") from refused
        jobs = (rest_parse.queue_job(row, self._comment_field) for row in answer.get("jobs") or ())
        return next((job for job in jobs if job.job_id == job_id), None)

    async def _ask_accounting(self, job_ids: Sequence[int]) -> Sequence[SeenJob]:
        """What accounting has of these jobs. SchedulerUnavailable."""
        since = rest_parse.moment(self._clock() - WINDOW)
        params = [("start_time", since), ("skip_steps", "true"), *(("step", str(i)) for i in job_ids)]
        try:
            answer = await self._client.get("slurmdb", "/jobs/", user=self._viewer, params=params)
        except Refused as refused:
            raise SchedulerUnavailable(refused.problem.words) from refused
        return [rest_parse.accounting_job(row, self._comment_field) for row in answer.get("jobs") or ()]

    async def _accounting(self, user: str) -> tuple[Literal["none", "behind", "complete"], int | None]:
        """Whether there is accounting, and slurmctld's outbox to it is empty; and since when slurmctld is up."""
        try:
            answer = await self._client.get("slurm", "/diag/", user=user)
        except Refused as refused:
            raise after_question(refused.problem, "tell whether accounting is up to date") from refused
        statistics = answer.get("statistics") or {}
        epoch = times.number(statistics.get("req_time_start"))
        storage = ((answer.get("meta") or {}).get("plugin") or {}).get("accounting_storage")
        if storage in {"", "accounting_storage/none"}:
            return "none", epoch
        return "complete" if statistics.get("dbd_agent_queue_size") == 0 else "behind", epoch


def _responds(ping: Mapping[str, Any]) -> bool:
    if "responding" in ping:
        return bool(ping["responding"])
    return ping.get("pinged") == "UP"
