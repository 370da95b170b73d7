"""A session and its whole life cycle: `step` decides, from what was seen, what comes next. Pure.

    requested ──submit──▶ queued ──▶ starting ──probe──▶ ready ──▶ stopping ──▶ succeeded
        │                   ▲            │                 │                  │  failed
        └── stop before ────│── requeued ┴─────────────────┘                  └  stopped
            submit ▶ stopped

Not knowing is never an end: a scheduler that cannot be asked changes a condition, not the phase.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from gateway.model.announcement import Ended, Endpoint, parse
from gateway.model.job import Job, JobState, SeenJob
from gateway.model.plan import Plan

CANCEL_AGAIN = timedelta(seconds=30)
STOP_SLACK = timedelta(seconds=10)
LOST_AFTER = timedelta(minutes=15)
MISSED_GRACE = timedelta(seconds=10)


class Phase(StrEnum):
    REQUESTED = "requested"
    QUEUED = "queued"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def ended(self) -> bool:
        return self in {Phase.SUCCEEDED, Phase.FAILED, Phase.STOPPED}


class Condition(BaseModel):
    """Something true or false beside the phase, and since when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: bool
    message: str = ""
    since: datetime


class Session(BaseModel):
    """One running use of a recipe by one user in one project. `version` guards every write."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str
    owner: str
    project: str
    cluster: str
    unix_user: str
    plan: Plan
    phase: Phase = Phase.REQUESTED
    reason: str = ""
    message: str = ""
    conditions: Mapping[str, Condition] = {}
    endpoint: Endpoint | None = None
    stop_requested_at: datetime | None = None
    version: int = 1
    created_at: datetime
    updated_at: datetime
    ready_at: datetime | None = None
    ended_at: datetime | None = None
    job: Job

    @property
    def word(self) -> str:
        """The phase as people read it: a batch session is `running` where a service is `ready`."""
        return "running" if self.phase is Phase.READY and self.plan.kind == "batch" else self.phase.value


class Act(StrEnum):
    """What must be done in the world after the step is recorded; each is safe to repeat."""

    SUBMIT = "submit"
    FIND = "find"
    TERMINATE = "terminate"
    CANCEL = "cancel"
    PROBE = "probe"


class Step(BaseModel):
    """The session as it shall be recorded, and what to do then."""

    model_config = ConfigDict(frozen=True)

    session: Session
    act: Act | None = None


def step(session: Session, seen: SeenJob | None, now: datetime) -> Step | None:
    """The next step of a session, or None if nothing is to do.

    `seen` is what Slurm said of its job in the last poll; None if neither queue nor accounting knows it.
    Call it only with an answer: a poll that failed is `unreachable`, not a step.
    """
    if session.phase.ended:
        return None
    session, stop = reachable(session, now), session.stop_requested_at is not None
    job = session.job
    if job.job_id is None:
        if job.intent_at is not None:
            return Step(session=session, act=Act.FIND)
        if stop:
            return Step(session=end(session, Phase.STOPPED, "stopped", "Stopped before it was submitted.", now))
        if job.not_before is not None and now < job.not_before:
            return None
        return Step(session=_with_job(session, intent_at=now), act=Act.SUBMIT)
    if seen is None or (seen.name and seen.name != job.name):  # a controller that lost jobs gives their ids to others
        return _missing(session, now)
    session = _with_job(session, missed_at=None, **_told(seen))
    if seen.state.ended and "COMPLETING" not in seen.flags:
        return Step(session=end(session, *verdict(session, seen), now, at=seen.end_time))
    if stop or seen.state.ended:
        session = move(session, Phase.STOPPING, session.reason or "stopping", now, endpoint=None)
        if seen.state.ended or (job.cancelled_at is not None and now < job.cancelled_at + patience(session)):
            return Step(session=session)
        gently = seen.state is JobState.RUNNING and job.cancelled_at is None
        return Step(session=_with_job(session, cancelled_at=now), act=Act.TERMINATE if gently else Act.CANCEL)
    match seen.state:
        case JobState.PENDING:
            again = "Requeued by Slurm; waiting to start again." if seen.restarts else ""
            return Step(session=move(session, Phase.QUEUED, seen.reason, now, message=again, endpoint=None))
        case JobState.RUNNING | JobState.SUSPENDED if session.plan.kind == "batch":
            return Step(session=move(session, Phase.READY, "", now))
        case JobState.RUNNING:
            return _running_service(session, seen, now)
        case _:
            return Step(session=session)


def _running_service(session: Session, seen: SeenJob, now: datetime) -> Step:
    announced = parse(seen.comment)
    if session.phase is Phase.READY and announced == session.endpoint:
        return Step(session=session)
    session = move(session, Phase.STARTING, "", now, endpoint=None)
    return Step(session=session, act=Act.PROBE if isinstance(announced, Endpoint) else None)


def _missing(session: Session, now: datetime) -> Step | None:
    """Neither queue nor accounting knows the job. Accounting may be minutes late: wait long before calling it lost."""
    if session.job.missed_at is None:
        return Step(session=_with_job(session, missed_at=now))
    if now < session.job.missed_at + LOST_AFTER:
        return None
    if session.stop_requested_at is not None:
        return Step(session=end(session, Phase.STOPPED, "stopped", "Stopped; Slurm no longer knows the job.", now))
    message = f"Slurm knows job {session.job.job_id} neither in the queue nor in accounting."
    return Step(session=end(session, Phase.FAILED, "job_lost", message, now))


def patience(session: Session) -> timedelta:
    """How long an end that was asked for may take before it is asked for again, and then less gently."""
    return max(CANCEL_AGAIN, timedelta(seconds=session.plan.lifecycle.kill_after) + STOP_SLACK)


def verdict(session: Session, seen: SeenJob) -> tuple[Phase, str, str]:
    """How an ended job ends its session: phase, reason (a stable word), and a sentence for people."""
    told, job = parse(seen.comment), f"Job {seen.job_id}"
    batch = session.plan.kind == "batch"
    finished = isinstance(told, Ended) and told.reason == "finished"
    if seen.state is JobState.COMPLETED and batch and (finished or session.stop_requested_at is None):
        return Phase.SUCCEEDED, "finished", "Finished."
    if session.stop_requested_at is not None:
        return Phase.STOPPED, "stopped", "Stopped on request."
    if isinstance(told, Ended) and told.reason in _ENDINGS and seen.state in {JobState.COMPLETED, JobState.FAILED}:
        return (
            Phase.FAILED,
            told.reason,
            _ENDINGS[told.reason].format(code=told.code, image=session.plan.image.name),
        )
    match seen.state:
        case JobState.COMPLETED:
            return Phase.FAILED, "service_exited", "The service ended by itself."
        case JobState.FAILED if seen.signal:
            return Phase.FAILED, "killed", f"{job} was ended by signal {seen.signal}."
        case JobState.FAILED:
            return Phase.FAILED, "exit_code", f"{job} failed with exit code {seen.exit_code}."
        case JobState.TIMEOUT:
            limit = f" of {seen.time_limit} minutes" if seen.time_limit else ""
            return (
                Phase.FAILED,
                "time_limit",
                f"{job} reached its time limit{limit}. Ask for more with --time.",
            )
        case JobState.OUT_OF_MEMORY:
            return (
                Phase.FAILED,
                "out_of_memory",
                f"{job} used more memory than it asked for. Ask for more with --memory.",
            )
        case JobState.CANCELLED:
            return Phase.FAILED, "cancelled", f"{job} was cancelled outside Sluice (scancel)."
        case state:
            return Phase.FAILED, state.value.lower(), _OTHER_ENDS.get(state, "{job} ended.").format(job=job)


_ENDINGS = {
    "image_missing": "The image {image} is not on the node. Build it again: sluice image build {image}.",
    "start_failed": "It ended before it was ready (exit code {code}). See the session's log.",
    "service_exited": "The service ended by itself with exit code {code}. See the session's log.",
    "probe_timeout": "The service did not become ready in time. See the session's log.",
    "agent_error": "The agent in the job failed. See the session's log.",
    "time_limit": "It reached its time limit and was ended in good time. Ask for more with --time.",
    "stopped": "It was told to end from outside Sluice.",
    "finished": "The program failed with exit code {code}. See the session's log.",
}
_OTHER_ENDS = {
    JobState.NODE_FAIL: "{job} ended because a node failed.",
    JobState.PREEMPTED: "{job} was preempted by a job of higher priority.",
    JobState.BOOT_FAIL: "{job} ended because its node did not boot.",
    JobState.DEADLINE: "{job} could not finish before its deadline.",
}


def move(session: Session, phase: Phase, reason: str, now: datetime, **changes: Any) -> Session:
    """The session in another phase (or the same one, with another reason)."""
    values: dict[str, Any] = {"phase": phase, "reason": reason, "message": "", **changes}
    if phase is Phase.READY and session.phase is not Phase.READY:
        values["ready_at"] = now
    return session.model_copy(update=values)


def end(
    session: Session, phase: Phase, reason: str, message: str, now: datetime, *, at: datetime | None = None
) -> Session:
    """The session ended: no endpoint, nothing more to do."""
    return move(session, phase, reason, now, message=message, endpoint=None, ended_at=at or now)


def unreachable(session: Session, why: str, now: datetime) -> Session:
    """Slurm could not be asked: a condition, never a phase."""
    return _condition(session, "SchedulerReachable", status=False, message=why, now=now)


def reachable(session: Session, now: datetime) -> Session:
    if "SchedulerReachable" not in session.conditions:
        return session
    return _condition(session, "SchedulerReachable", status=True, message="", now=now)


def probed(session: Session, endpoint: Endpoint | None, why: str, now: datetime) -> Session:
    """The announced endpoint was tried: ready if it answered, else still starting, with a condition that says why."""
    if endpoint is None:
        return _condition(session, "EndpointReachable", status=False, message=why, now=now)
    session = _condition(session, "EndpointReachable", status=True, message="", now=now)
    return move(session, Phase.READY, "", now, endpoint=endpoint)


def submitted(session: Session, job_id: int, now: datetime) -> Session:
    """Slurm has the job."""
    session = _with_job(session, job_id=job_id, submitted_at=now, missed_at=None)
    return session if session.stop_requested_at else move(session, Phase.QUEUED, "", now)


def not_submitted(session: Session, why: str, now: datetime, *, again_after: timedelta) -> Session:
    """Slurm certainly has not got the job; it is sent again later."""
    session = _with_job(session, intent_at=None, missed_at=None, not_before=now + again_after)
    return move(session, Phase.REQUESTED, "waiting", now, message=why)


def not_found(session: Session, now: datetime) -> Session:
    """Queue and accounting answered that no job has our name. A submit may still be on its way, so ask again first."""
    if session.job.missed_at is None:
        return _with_job(session, missed_at=now)
    if now < session.job.missed_at + MISSED_GRACE:
        return session
    return _with_job(session, intent_at=None, missed_at=None)


def _with_job(session: Session, **changes: Any) -> Session:
    return session.model_copy(update={"job": session.job.model_copy(update=changes)})


def _told(seen: SeenJob) -> dict[str, Any]:
    return {
        "state": seen.state,
        "reason": seen.reason,
        "nodes": seen.nodes,
        "exit_code": seen.exit_code,
        "signal": seen.signal,
        "comment": seen.comment,
        "restarts": seen.restarts,
        "position": seen.position if seen.state is JobState.PENDING else None,
        "started_at": seen.start_time,
        "ended_at": seen.end_time if seen.state.ended else None,
    }


def _condition(session: Session, name: str, *, status: bool, message: str, now: datetime) -> Session:
    before = session.conditions.get(name)
    if before is not None and (before.status, before.message) == (status, message):
        return session
    since = before.since if before is not None and before.status == status else now
    changed = {**session.conditions, name: Condition(status=status, message=message, since=since)}
    return session.model_copy(update={"conditions": changed})
