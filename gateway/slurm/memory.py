"""What a back end remembers of jobs between two looks, so that it asks for details only where they can be new."""

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from gateway.model.announcement import Awaiting, Running, parse
from gateway.model.job import LEFT_QUEUE, JobState, SeenJob

KEPT: Final = 20_000
CHANGED_A_LOOK: Final = 100  # a thousand jobs that end at once must not make one look last for seconds
AWAITED_A_LOOK: Final = 50
QUIET_EVERY: Final = 4.0  # seconds for each job that is asked about on no hint: the same for one job and for 10,000
QUIET_A_LOOK: Final = 10

_REASON_AFTER: Final = 10.0  # a pending job's reason may change
_QUIET_AFTER: Final = 60.0  # a running, announced job's time limit may change
_SILENT_SHARE: Final = 1 / 20  # a running job that has not announced: asked after 5 % of the time it has run,
_SILENT_AT_MOST: Final = 30.0  # but at least this often
_SILENT_AT_LEAST: Final = 2.0  # and one of which no news is awaited not at every look


@dataclass(frozen=True)
class Entry:
    """A job as last seen in full, when (monotonic seconds), and whether accounting said it."""

    job: SeenJob
    at: float
    from_accounting: bool = False


class Memory:
    """Bounded; the jobs not asked about for the longest time are forgotten first. A lost entry costs one question."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._allowance = float(QUIET_A_LOOK)
        self._allowance_at: float | None = None

    def get(self, job_id: int) -> Entry | None:
        entry = self._entries.get(job_id)
        if entry is not None:
            self._entries.move_to_end(job_id)
        return entry

    def put(self, job: SeenJob, at: float, *, from_accounting: bool = False) -> None:
        self._entries[job.job_id] = Entry(job, at, from_accounting)
        self._entries.move_to_end(job.job_id)
        while len(self._entries) > self._kept:
            self._entries.popitem(last=False)

    def forget(self, job_id: int) -> None:
        """The id is a new job's: Slurm's ids begin again some day."""
        self._entries.pop(job_id, None)

    def changed(self, job_id: int, state: JobState, flags: frozenset[str]) -> bool:
        """Its state is not what it was at the last full look."""
        entry = self._entries.get(job_id)
        return entry is None or entry.from_accounting or entry.job.state != state or entry.job.flags != flags

    def choose(
        self,
        states: Mapping[int, tuple[JobState, frozenset[str]]],
        awaited: Collection[int],
        at: float,
        now: datetime,
    ) -> list[int]:
        """Which of the jobs in the queue to ask about in full, by their states as told now.

        All that were never seen; those whose state changed, ends first; those of which news is `awaited`; and, at a
        rate that does not depend on how many there are, the others in turn: limits and reasons change silently.
        """
        new: list[int] = []
        changed: list[tuple[int, int]] = []
        hoped: list[tuple[float, int]] = []
        quiet: list[tuple[float, int]] = []
        waited_for = frozenset(awaited)
        for job_id, (state, flags) in states.items():
            entry = self._entries.get(job_id)
            if entry is None:
                new.append(job_id)
            elif self.changed(job_id, state, flags):
                changed.append((_RANK.get(state, 0), job_id))
            elif (over := at - entry.at - patience(entry.job, now, awaited=job_id in waited_for)) >= 0:
                (hoped if job_id in waited_for else quiet).append((-over, job_id))
        return [
            *new,
            *(job_id for _, job_id in sorted(changed)[:CHANGED_A_LOOK]),
            *(job_id for _, job_id in sorted(hoped)[:AWAITED_A_LOOK]),
            *(job_id for _, job_id in sorted(quiet)[: self._allowed(at, len(quiet))]),
        ]

    def _allowed(self, at: float, wanted: int) -> int:
        """How many quiet jobs may be asked about now."""
        if self._allowance_at is not None:
            self._allowance += max(0.0, at - self._allowance_at) / QUIET_EVERY
        self._allowance, self._allowance_at = min(float(QUIET_A_LOOK), self._allowance), at
        number = min(wanted, int(self._allowance))
        self._allowance -= number
        return number


_RANK: Final = {JobState.RUNNING: 1, JobState.PENDING: 2}


def patience(job: SeenJob, now: datetime, *, awaited: bool = False) -> float:
    """Seconds for which a full look at a job stays good while its state does not change."""
    if job.state.ended:
        return float("inf")
    if job.state is not JobState.RUNNING:
        return 0.0 if awaited else _REASON_AFTER
    told = parse(job.comment)
    more = isinstance(told, Running | Awaiting)  # there is another word to come
    stale = job.restarts > 0  # what it says may be the word of the run before
    if told is not None and not (awaited and (more or stale)):
        return _QUIET_AFTER
    ran = (now - job.start_time).total_seconds() if job.start_time else 0.0
    return min(_SILENT_AT_MOST, max(0.0 if awaited else _SILENT_AT_LEAST, ran * _SILENT_SHARE))


def left_queue(job: SeenJob) -> SeenJob:
    """A job that the queue no longer has, as accounting tells it; what still reads live there is UNKNOWN."""
    if job.state.ended or job.state is JobState.UNKNOWN:
        return job
    return job.model_copy(
        update={
            "state": JobState.UNKNOWN,
            "flags": job.flags | {LEFT_QUEUE},
            "reason": f"not in the queue any more; accounting still says {job.state}",
        }
    )


def not_told(job_id: int, entry: Entry | None, why: str) -> SeenJob:
    """A job that left the queue while accounting does not answer, or has not yet: it may have ended, who knows how."""
    known = entry.job if entry is not None else SeenJob(job_id=job_id, state=JobState.UNKNOWN)
    reason = "not in the queue any more; accounting is being asked"
    if why:
        reason = f"not in the queue any more, and accounting does not answer: {why}"
    return known.model_copy(update={"state": JobState.UNKNOWN, "reason": reason})
