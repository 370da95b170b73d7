"""What a back end remembers of jobs between two looks, so that it asks for details only where they can be new."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from gateway.model.announcement import parse
from gateway.model.job import JobState, SeenJob

KEPT: Final = 20_000

_REASON_AFTER: Final = 10.0  # a pending job's reason and place may change
_QUIET_AFTER: Final = 60.0  # a running, announced job's time limit may change
_SILENT_SHARE: Final = 1 / 20  # a running job that has not announced: asked after 5 % of the time it has run,
_SILENT_AT_MOST: Final = 30.0  # but at least this often


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

    def stale(self, job_ids: Iterable[int], at: float, now: datetime) -> list[int]:
        """Of jobs whose state has not changed, those that may have other news by now; the longest waiting first."""
        waiting = []
        for job_id in job_ids:
            entry = self._entries.get(job_id)
            if entry is not None:
                over = at - entry.at - patience(entry.job, now)
                if over >= 0:
                    waiting.append((over, job_id))
        return [job_id for _, job_id in sorted(waiting, reverse=True)]


def patience(job: SeenJob, now: datetime) -> float:
    """Seconds for which a full look at a job stays good while its state does not change."""
    if job.state.ended:
        return float("inf")
    if job.state is not JobState.RUNNING:
        return _REASON_AFTER
    if parse(job.comment) is not None:
        return _QUIET_AFTER
    ran = (now - job.start_time).total_seconds() if job.start_time else 0.0
    return min(_SILENT_AT_MOST, max(0.0, ran) * _SILENT_SHARE)


def left_queue(job: SeenJob) -> SeenJob:
    """A job that the queue no longer has, as accounting tells it; what still reads live there is UNKNOWN."""
    if job.state.ended or job.state is JobState.UNKNOWN:
        return job
    return job.model_copy(
        update={
            "state": JobState.UNKNOWN,
            "reason": f"not in the queue any more; accounting still says {job.state}",
        }
    )


def not_told(job_id: int, entry: Entry | None, why: str) -> SeenJob:
    """A job that left the queue while accounting does not answer: it may have ended, and nobody says how."""
    known = entry.job if entry is not None else SeenJob(job_id=job_id, state=JobState.UNKNOWN)
    reason = f"not in the queue any more, and accounting does not answer: {why}"
    return known.model_copy(update={"state": JobState.UNKNOWN, "reason": reason})
