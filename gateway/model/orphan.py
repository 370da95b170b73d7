"""Jobs that nobody follows, and sessions without a job: which they are, by what Slurm and the database say. Pure."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from gateway.model.announcement import whose
from gateway.model.job import LEFT_QUEUE, JobState, SeenJob

_NAME = re.compile(r"sluice-[0-9a-z]{26}-\d+")
_GOING = frozenset({LEFT_QUEUE, "COMPLETING"})
_BEGUN = frozenset({JobState.RUNNING, JobState.SUSPENDED})


class OrphanKind(StrEnum):
    """What is wrong.

    `unknown`: a job of ours that no session has; `ended`: its session has ended; `double`: its session has another
    job; `lost`: a session whose job Slurm does not know.
    """

    UNKNOWN = "unknown"
    ENDED = "ended"
    DOUBLE = "double"
    LOST = "lost"


class Owner(BaseModel):
    """The session that a job name belongs to."""

    model_config = ConfigDict(frozen=True)

    session_id: str
    ended: bool
    job_id: int | None


class Orphan(BaseModel):
    """One of them, as it is counted."""

    model_config = ConfigDict(frozen=True)

    cluster: str
    kind: OrphanKind
    job_id: int
    name: str
    unix_user: str
    at: datetime


class Stray(BaseModel):
    """A job to be cancelled, and why. `adopt`: its session takes this job before."""

    model_config = ConfigDict(frozen=True)

    job: SeenJob
    kind: OrphanKind
    owner: Owner | None = None
    adopt: int | None = None


def ours(jobs: Iterable[SeenJob]) -> list[SeenJob]:
    """Those whose names a gateway gave, alive as far as is known."""
    return [job for job in jobs if _NAME.fullmatch(job.name) and not job.state.ended]


def strays(jobs: Iterable[SeenJob], owners: Mapping[str, Owner], instance: str) -> list[Stray]:
    """Which of the jobs are to be cancelled. `owners` is by job name, read after Slurm was asked.

    A job of another gateway is left alone; so is one that does not say whose it is, unless the database knows its
    name: names are unique. A session whose job is not recorded yet keeps all of that name.
    """
    live = {job.job_id: job for job in ours(jobs) if job.state is not JobState.UNKNOWN and not job.flags & _GOING}
    found = []
    for job in live.values():
        of, owner = whose(job.comment), owners.get(job.name)
        if of not in {None, instance}:
            continue
        if owner is None:
            if of == instance:
                found.append(Stray(job=job, kind=OrphanKind.UNKNOWN))
        elif owner.ended:
            found.append(Stray(job=job, kind=OrphanKind.ENDED, owner=owner))
        elif owner.job_id is not None and owner.job_id != job.job_id:
            recorded = live.get(owner.job_id)
            if job.state in _BEGUN and recorded is not None and recorded.state is JobState.PENDING:
                # what runs has the claim on the attempt: the one that waits would make way for it
                found.append(Stray(job=recorded, kind=OrphanKind.DOUBLE, owner=owner, adopt=job.job_id))
            else:
                found.append(Stray(job=job, kind=OrphanKind.DOUBLE, owner=owner))
    return found
