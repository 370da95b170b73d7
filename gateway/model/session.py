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

from gateway.model.announcement import Awaiting, Ended, Endpoint, Running, parse
from gateway.model.job import LEFT_QUEUE, Job, JobState, SeenJob
from gateway.model.plan import Plan

CANCEL_AGAIN = timedelta(seconds=30)
STOP_SLACK = timedelta(seconds=10)
# Denials that a job exists, so far apart, until it is lost. Counted, because only answers count: fifteen minutes in
# which Slurm or its accounting was away, or no server of ours was up, are none.
MISS_EVERY = timedelta(minutes=1)
LOST_AFTER = 15
#: So long at most is waited between two tries to submit.
LONGEST_PAUSE = timedelta(minutes=2)
# An agent whose secrets no file brought waits so long for them (`secrets_timeout` of the job spec).
ASKS_WITHIN = timedelta(minutes=5)


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
    """One running use of a recipe by one user in one project. `version` guards every write.

    One with a `parent` is one more job of that session: a replica, a successor, or what it had before (see
    gateway.model.group). It lives the same life, and is shown to nobody as a session. `drain_at`: since when it gets
    no new requests; `asleep_at`: since when it has no job, until a request wants one; `keep_until`: asked not to be
    stopped for being idle before; `stop_reason`: why it was told to end, where nobody asked for it.
    """

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
    parent: str | None = None
    drain_at: datetime | None = None
    asleep_at: datetime | None = None
    keep_until: datetime | None = None
    stop_reason: str = ""
    job: Job

    @property
    def root(self) -> str:
        """The id of the session that this is, or is a job of: what its directory, jobs and secrets go by."""
        return self.parent or self.id

    @property
    def word(self) -> str:
        return word(self.phase.value, self.plan.kind)


def word(phase: str, kind: str) -> str:
    """The phase as people read it: a batch session is `running` where a service is `ready`."""
    return "running" if phase == Phase.READY and kind == "batch" else phase


class Act(StrEnum):
    """What must be done in the world after the step is recorded; each is safe to repeat."""

    SUBMIT = "submit"
    FIND = "find"
    TERMINATE = "terminate"
    CANCEL = "cancel"
    PROBE = "probe"
    TIDY = "tidy"
    PUSH = "push"


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
    if session.job.job_id is None:
        return _unsubmitted(session, now)
    if seen is None or LEFT_QUEUE in seen.flags or (seen.name and seen.name != session.job.name):
        return _missing(session, now)  # a controller that lost jobs gives their numbers to others
    told, job = parse(seen.comment), session.job
    if isinstance(told, Ended) and told.holder is not None and told.holder != job.job_id:
        return Step(session=with_job(session, job_id=told.holder))  # the other job of this attempt came first
    missed = {} if seen.state is JobState.UNKNOWN else {"missed_at": None, "misses": 0}
    session = with_job(session, **missed, **_told(seen))
    if seen.state.ended and "COMPLETING" not in seen.flags:
        return _ended(end(session, *verdict(session, seen), now, at=seen.end_time))
    if stop or seen.state.ended:
        session = move(session, Phase.STOPPING, session.reason or "stopping", now, endpoint=None)
        if seen.state.ended or recent(job.cancelled_at, patience(session), now):
            return Step(session=session)
        gently = seen.state is JobState.RUNNING and job.cancelled_at is None
        return Step(session=with_job(session, cancelled_at=now), act=Act.TERMINATE if gently else Act.CANCEL)
    match seen.state:
        case JobState.PENDING:
            again = "Requeued by Slurm; waiting to start again." if seen.restarts else ""
            return Step(session=move(session, Phase.QUEUED, seen.reason, now, message=again, endpoint=None))
        case JobState.SUSPENDED:
            phase = Phase.READY if session.plan.kind == "batch" else Phase.STARTING
            return Step(session=move(session, phase, "suspended", now, message=_SUSPENDED, endpoint=None))
        case JobState.RUNNING if isinstance(told, Awaiting) and not _pushed(session, told):
            phase = Phase.READY if session.plan.kind == "batch" else Phase.STARTING
            return Step(session=move(session, phase, "", now, endpoint=None), act=Act.PUSH)
        case JobState.RUNNING if session.plan.kind == "batch":
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


def _unsubmitted(session: Session, now: datetime) -> Step:
    """No job that we know of. With an intent there may be one: it is looked for, never sent again unseen."""
    job = session.job
    waits = job.not_before is not None and now < job.not_before <= now + LONGEST_PAUSE
    if job.intent_at is not None:
        return Step(session=session, act=None if waits else Act.FIND)
    if session.stop_requested_at is not None:
        return _ended(end(session, Phase.STOPPED, "stopped", "Stopped before it was submitted.", now))
    if waits:
        return Step(session=session)
    return Step(session=with_job(session, intent_at=now, not_before=None), act=Act.SUBMIT)


def _missing(session: Session, now: datetime) -> Step:
    """The queue has not got the job, and accounting knows no end of it. It may be minutes late: wait long."""
    if recent(session.job.missed_at, MISS_EVERY, now):
        return Step(session=session)
    session = with_job(session, missed_at=now, misses=session.job.misses + 1)
    if session.job.misses <= LOST_AFTER:
        return Step(session=session)
    if session.stop_requested_at is not None:
        return _ended(end(session, Phase.STOPPED, "stopped", "Stopped; Slurm no longer knows the job.", now))
    message = f"Slurm's queue does not know job {session.job.job_id}, and accounting knows no end of it."
    return _ended(end(session, Phase.FAILED, "job_lost", message, now))


def _ended(session: Session) -> Step:
    """What was staged for the job alone goes with it."""
    return Step(session=session, act=Act.TIDY if session.plan.secrets else None)


def recent(at: datetime | None, span: timedelta, now: datetime) -> bool:
    """Less than so long ago. A moment that is still to come is not: the clock was set back."""
    return at is not None and at <= now < at + span


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
        why = session.stop_reason
        return Phase.STOPPED, why or "stopped", STOPS.get(why, "Stopped on request.")
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
    "duplicate": "Another job of this session had begun already.",
}
#: Why a job was told to end where nobody asked for it, and what is said of it.
STOPS = {
    "idle": "Stopped, as nobody used it. `sluice resume` starts it again.",
    "replaced": "Another job of the session took its place.",
    "scaled_down": "Fewer jobs were needed.",
}
_SUSPENDED = "Slurm has suspended the job; it goes on when it is resumed."
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
    return condition(session, "SchedulerReachable", status=False, message=why, now=now)


def reachable(session: Session, now: datetime) -> Session:
    if "SchedulerReachable" not in session.conditions:
        return session
    return condition(session, "SchedulerReachable", status=True, message="", now=now)


def probed(session: Session, endpoint: Endpoint | None, why: str, now: datetime) -> Session:
    """The announced endpoint was tried: ready if it answered, else still starting, with a condition that says why."""
    if endpoint is None:
        return condition(session, "EndpointReachable", status=False, message=why, now=now)
    session = condition(session, "EndpointReachable", status=True, message="", now=now)
    return move(session, Phase.READY, "", now, endpoint=endpoint)


def staged(session: Session, why_not: str, now: datetime) -> Session:
    """The secrets lie in a file for the agent; or why they do not, so that it will ask for them."""
    return condition(session, "SecretsDelivered", status=not why_not, message=why_not, now=now)


def pushed(session: Session, told: Awaiting, why_not: str, now: datetime) -> Session:
    """The agent that waits there has the secrets; or why it has not got them yet."""
    message = why_not or _push_words(told)
    return condition(session, "SecretsDelivered", status=not why_not, message=message, now=now)


def _pushed(session: Session, told: Awaiting) -> bool:
    """A job that is started again has another agent, with another certificate: it needs them anew."""
    condition = session.conditions.get("SecretsDelivered")
    return condition is not None and condition.status and condition.message == _push_words(told)


def _push_words(told: Awaiting) -> str:
    return f"Handed to the agent with certificate {told.endpoint.fingerprint[:16]}."


def awaits_news(session: Session, now: datetime) -> bool:
    """Whether its agent may be about to say something that changes no state of its job."""
    young = session.phase is Phase.READY and recent(session.job.started_at, ASKS_WITHIN, now)
    silent = session.plan.kind == "batch" and not isinstance(parse(session.job.comment), Running)
    return session.phase is Phase.STARTING or (young and (silent or bool(session.plan.secrets)))


def with_job(session: Session, **changes: Any) -> Session:
    """The session with changed fields of its job."""
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
        "time_limit": seen.time_limit,
        "position": seen.position if seen.state is JobState.PENDING else None,
        "started_at": seen.start_time,
        "ended_at": seen.end_time if seen.state.ended else None,
        "ends_at": seen.end_time if seen.state is JobState.RUNNING else None,
    }


def condition(session: Session, name: str, *, status: bool, message: str, now: datetime) -> Session:
    before = session.conditions.get(name)
    if before is not None and (before.status, before.message) == (status, message):
        return session
    since = before.since if before is not None and before.status == status else now
    changed = {**session.conditions, name: Condition(status=status, message=message, since=since)}
    return session.model_copy(update={"conditions": changed})
