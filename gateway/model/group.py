"""Several jobs of one session: `steer` decides which to start, to drain and to end, and which one the session is. Pure.

Every job lives the life that `gateway.model.session.step` describes. That of the session's own row is the session's;
each further one has a row with a `parent`. Two rows may exchange their lives (`swap`), and a row may give its life away
and begin another one (`part`): so a session goes on in another job and never leaves `ready`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Any

from gateway.model.hostlist import hosts
from gateway.model.job import Job, JobRole, JobState, job_name
from gateway.model.load import Load
from gateway.model.plan import Plan
from gateway.model.session import Phase, Session, with_job

#: A job that drains is shown as draining for so long at least, so that every process of the data plane has seen it.
SHOWN = timedelta(seconds=3)
#: Longer than that nobody waits for what is in flight in a job that is no more needed.
DRAIN_LONGEST = timedelta(minutes=10)
#: A successor has so much more time to become ready than its predecessor took; less in jobs of a few minutes.
MARGIN = timedelta(seconds=60)
UNKNOWN_START = timedelta(minutes=2)
#: So much before it is to begin a successor is in the queue; a quarter of the time in jobs of a few hours.
BOOKED_BEFORE = timedelta(hours=1)
#: Slurm ends a job so much before its time limit only if something else has come up, as a preemption.
CUT_SHORT = timedelta(minutes=2)
FAILURES_COUNT_FOR = timedelta(minutes=10)
LONGEST_PAUSE = timedelta(minutes=5)
#: Ends after which a service that is renewed goes on in another job.
RENEWED = frozenset({"time_limit", "node_fail", "preempted", "boot_fail"})

_LIFE = (
    *("plan", "phase", "reason", "message", "conditions", "endpoint", "ready_at", "ended_at"),
    *("stop_requested_at", "stop_reason", "drain_at"),
)


@dataclass(frozen=True)
class Sight:
    """What is seen besides the jobs.

    `load`: what the data plane has to do; None if it has said nothing. `calm_since`: since when fewer jobs would have
    been enough. `drained`: nodes that shall be left. `failures`: when further jobs of the session failed.
    """

    load: Load | None = None
    calm_since: datetime | None = None
    drained: frozenset[str] = frozenset()
    failures: Sequence[datetime] = ()


@dataclass(frozen=True)
class Start:
    """One more job of this plan, which does not begin before `begin_at`."""

    plan: Plan
    role: JobRole
    begin_at: datetime | None = None


@dataclass(frozen=True)
class Adopt:
    """The session goes on as this one; `drain`: the job that it had makes way."""

    member: Session
    drain: bool


@dataclass(frozen=True)
class Drain:
    """No new requests for this one."""

    member: Session


@dataclass(frozen=True)
class Stop:
    """An end for this one."""

    member: Session
    reason: str


@dataclass(frozen=True)
class Sleep:
    """Nobody uses the session: its last job drains, and it has none until a request comes. To be asked for twice."""


Change = Start | Adopt | Drain | Stop | Sleep


def steer(session: Session, members: Sequence[Session], sight: Sight, now: datetime) -> list[Change]:
    """What to do about the jobs of a live service, given its `members` (those that have not ended)."""
    if session.stop_requested_at is not None:
        return [Stop(one, session.stop_reason) for one in members if one.stop_requested_at is None]
    changes: list[Change] = [
        Stop(one, "replaced") for one in members if one.stop_requested_at is None and _drained(one, sight, now)
    ]
    jobs = [one for one in (session, *members) if one.stop_requested_at is None and one.drain_at is None]
    if session.asleep_at is not None:
        return changes + _asleep(session, members, sight)
    plan = target(session, members)
    booked = [one for one in jobs if is_booked(one, now)]
    jobs = [one for one in jobs if one not in booked]
    good = [one for one in jobs if not _leaving(one, plan, sight, now)]
    if (better := _better(session, jobs, good)) is not None:
        return [*changes, Adopt(better, drain=session not in good)]
    wanted = demand(session, len(good), sight, now)
    if wanted == 0:
        others = [one for one in (*jobs, *booked) if one is not session]
        return [*changes, *(Drain(one) for one in others), *([] if others or session not in jobs else [Sleep()])]
    if len(good) < wanted and not _pausing(sight, now):
        role = JobRole.SUCCESSOR if len(good) < len(jobs) else JobRole.REPLICA
        changes += [Start(plan, role)] * (wanted - len(good))
    changes += _bookings(plan, good[:wanted], booked, now, more=not _pausing(sight, now))
    spare = [one for one in jobs if one is not session and one not in good]
    if len(good) > wanted:  # the latest goes first, and before it those that are not ready
        extra = sorted((one for one in good if one is not session), key=lambda one: (is_ready(one), -one.job.attempt))
        spare += extra[: len(good) - wanted]
    enough = sum(is_ready(one) for one in jobs) - wanted
    for one in spare:
        if not is_ready(one):
            changes.append(Stop(one, "scaled_down" if one in good else "replaced"))
        elif enough > 0:
            changes.append(Drain(one))
            enough -= 1
    return changes


def demand(session: Session, have: int, sight: Sight, now: datetime) -> int:
    """How many jobs there should be: at once more, and fewer only after a while (none: see `need`)."""
    asked, load = session.plan.replicas, sight.load
    enough = need(session, load, now)
    if 0 < enough < have and (sight.calm_since is None or now - sight.calm_since < _seconds(asked.scale_down_after)):
        enough = have
    return min(max(enough, asked.min), asked.max)


def need(session: Session, load: Load | None, now: datetime) -> int:
    """How many jobs would do for what there is to do now."""
    asked = session.plan.replicas
    busy = load.in_flight + load.waiting if load is not None else 0
    enough = ceil(busy / asked.target_in_flight)
    asked_at = load.last_request_at if load is not None else None
    used = max((at for at in (session.ready_at, asked_at) if at is not None), default=now)
    lately = now - used < _seconds(asked.scale_down_after)
    return max(enough, 1) if lately or not is_ready(session) or (load is not None and load.used) else enough


def target(session: Session, members: Sequence[Session]) -> Plan:
    """What its jobs shall be: what the newest successor brings, while there is one, else what the session is."""
    told = [
        one
        for one in members
        if one.job.role is JobRole.SUCCESSOR and one.stop_requested_at is None and one.drain_at is None
        if one.job.attempt > session.job.attempt
    ]
    newest = max(told, key=lambda one: one.job.attempt, default=None)
    return newest.plan if newest is not None else session.plan


def hands_over(before: Session, after: Session) -> bool:
    """Whether a session should go on as another of its jobs, if there is one: see `heir`.

    `before` and `after`: how its own job was and is now. It has ended, is being cleared away though nobody asked for
    that, or answers requests no more.
    """
    if after.phase.ended:
        return True
    left = after.phase is Phase.STOPPING or (is_ready(before) and not is_ready(after))
    return left and after.stop_requested_at is None


def heir(leaving: Session, members: Sequence[Session], now: datetime) -> Session | None:
    """Which of its live jobs a session goes on as, whose own one leaves it. While that runs: only as a ready one."""
    left = [one for one in members if not one.phase.ended and not is_booked(one, now)]
    if leaving.stop_requested_at is None:
        left = [one for one in left if one.stop_requested_at is None]
    if leaving.phase is Phase.STOPPING:
        left = [one for one in left if one.phase is not Phase.STOPPING]
    elif not leaving.phase.ended:
        left = [one for one in left if is_ready(one)]
    return max(left, key=lambda one: (is_ready(one), one.drain_at is None, one.job.attempt), default=None)


def goes_on(ended: Session) -> bool:
    """Whether a session whose only job has ended begins another one by itself."""
    if not ended.phase.ended or ended.stop_requested_at is not None or not ended.plan.lifecycle.renew:
        return False
    return ended.reason in RENEWED and (ended.ready_at is not None or ended.reason != "time_limit")


def swap(session: Session, member: Session, drain_at: datetime | None = None) -> tuple[Session, Session]:
    """The two with each other's lives. With `drain_at` the one that the session had makes way from then on.

    How many jobs there are, and what was asked of the session, stays with it.
    """
    mine, its = _life(member) | {"drain_at": None, "asleep_at": None}, _life(session)
    mine["plan"] = settled(member.plan, session.plan)
    if session.stop_requested_at is not None:
        mine |= {"stop_requested_at": session.stop_requested_at, "stop_reason": session.stop_reason}
    if drain_at is not None:
        its |= (
            {"drain_at": drain_at} if is_ready(session) else {"stop_requested_at": drain_at, "stop_reason": "replaced"}
        )
    mine["job"] = member.job.model_copy(update={"session_id": session.id, "role": JobRole.PRIMARY})
    its["job"] = session.job.model_copy(update={"session_id": member.id, "role": JobRole.REPLICA})
    return session.model_copy(update=mine), member.model_copy(update=its)


def part(session: Session, row_id: str, attempt: int, now: datetime) -> tuple[Session, Session]:
    """The session with a life to begin, and its life until now in a row of its own."""
    job = session.job.model_copy(update={"session_id": row_id})
    kept = session.model_copy(update={**_row(session, row_id, now), "job": job})
    return _begin(session, session.id, attempt, JobRole.PRIMARY), kept


def further(session: Session, row_id: str, attempt: int, start: Start, now: datetime) -> Session:
    """One more job of the session, not submitted yet."""
    row = session.model_copy(update={**_row(session, row_id, now), "plan": start.plan})
    begun = _begin(row, session.id, attempt, start.role)
    return with_job(begun, begin_at=start.begin_at)


def is_ready(one: Session) -> bool:
    """Whether it answers requests now."""
    return one.phase is Phase.READY and one.endpoint is not None


def is_booked(one: Session, now: datetime) -> bool:
    """Whether it waits for the time before which it is not to begin."""
    begin, state = one.job.begin_at, one.job.state
    return begin is not None and now < begin and state in {None, JobState.PENDING}


def limit_of(one: Session) -> datetime | None:
    """When the job is ended by Slurm, as far as is known: at its time limit, or before if it is to be preempted."""
    job = one.job
    if job.started_at is None or job.state is not JobState.RUNNING:
        return None
    return min((at for at in (_time_limit(job), job.ends_at) if at is not None), default=None)


def is_cut_short(one: Session) -> bool:
    """Whether Slurm has said that it ends the job before its time limit: another one of higher priority needs room."""
    limit, end = _time_limit(one.job), limit_of(one)
    return limit is not None and end is not None and end < limit - CUT_SHORT


def _time_limit(job: Job) -> datetime | None:
    if job.started_at is None or job.time_limit is None:
        return None
    try:
        return job.started_at + timedelta(minutes=job.time_limit)
    except OverflowError:  # Slurm counts to the year 10,190; that is as good as no limit
        return None


def renew_at(one: Session) -> datetime | None:
    """When the successor of a job is to be submitted, so that it is ready in time: by what the job itself took."""
    limit, job = limit_of(one), one.job
    if limit is None or job.started_at is None:
        return None
    length, took = limit - job.started_at, UNKNOWN_START
    if one.ready_at is not None and job.submitted_at is not None:
        asked = max(job.submitted_at, job.begin_at or job.submitted_at)  # one that was booked had to wait
        took = max(timedelta(0), one.ready_at - asked)
    ends = min(_seconds(one.plan.lifecycle.before_limit), length / 10)  # as the agent reckons
    return limit - min(ends + 2 * took + min(MARGIN, length / 4), length * 3 / 4)


def same_job(one: Plan, other: Plan) -> bool:
    """Whether two plans give the same job: how many there are of it, and for how long, is not in it."""
    return _bare(one) == _bare(other)


def _row(session: Session, row_id: str, now: datetime) -> dict[str, Any]:
    at = {"created_at": now, "updated_at": now, "asleep_at": None, "keep_until": None}
    return {"id": row_id, "parent": session.id, "name": row_id.lower(), "version": 1, **at}


def _begin(row: Session, session_id: str, attempt: int, role: JobRole) -> Session:
    job = Job(session_id=row.id, attempt=attempt, role=role, name=job_name(session_id, attempt))
    empty: dict[str, Any] = {"reason": "", "message": "", "conditions": {}, "stop_reason": "", "job": job}
    none = dict.fromkeys(("endpoint", "ready_at", "ended_at", "stop_requested_at", "drain_at", "asleep_at"))
    return row.model_copy(update={**empty, **none, "phase": Phase.REQUESTED})


def _life(one: Session) -> dict[str, Any]:
    return {name: getattr(one, name) for name in _LIFE}


def _asleep(session: Session, members: Sequence[Session], sight: Sight) -> list[Change]:
    """It was put to sleep: should a request have come while its last job drains, that job goes on."""
    load, since = sight.load, session.asleep_at
    came = load is not None and since is not None and load.last_request_at is not None and load.last_request_at > since
    left = [one for one in members if is_ready(one) and one.stop_requested_at is None]
    if left and load is not None and (came or load.used):
        return [Adopt(max(left, key=lambda one: one.job.attempt), drain=True)]
    return []


def _better(session: Session, jobs: Sequence[Session], good: Sequence[Session]) -> Session | None:
    """The job that the session should rather be."""
    others = [one for one in jobs if one is not session and is_ready(one)]
    if is_ready(session) and session in good:
        return None
    lasting = [one for one in others if one in good]
    if lasting:
        return max(lasting, key=lambda one: one.job.attempt)
    return others[0] if others and not is_ready(session) else None


def _leaving(one: Session, plan: Plan, sight: Sight, now: datetime) -> bool:
    """Whether another job should take its place: it is not as it should be, near its limit, or on a node to be left."""
    if not same_job(one.plan, plan):
        return True
    if not one.plan.lifecycle.renew or one.job.state is not JobState.RUNNING:
        return False
    at = renew_at(one)
    return (at is not None and now >= at) or is_cut_short(one) or not sight.drained.isdisjoint(hosts(one.job.nodes))


def _bookings(
    plan: Plan, good: Sequence[Session], booked: Sequence[Session], now: datetime, *, more: bool
) -> list[Change]:
    """Successors are in the queue before it is their time: Slurm starts them also while no server of ours is up."""
    right = [one for one in booked if same_job(one.plan, plan)]
    due = sorted(at for one in good if (at := renew_at(one)) is not None and _soon(one, at, now))
    changes: list[Change] = [Stop(one, "replaced") for one in booked if one not in right[: len(due)]]
    if more:
        changes += [Start(plan, JobRole.SUCCESSOR, at) for at in due[len(right) :]]
    return changes


def _soon(one: Session, at: datetime, now: datetime) -> bool:
    limit, started = limit_of(one), one.job.started_at
    if not one.plan.lifecycle.renew or limit is None or started is None:
        return False
    return at - min(BOOKED_BEFORE, (limit - started) / 4) <= now < at


def _drained(one: Session, sight: Sight, now: datetime) -> bool:
    if one.drain_at is None or now < one.drain_at + SHOWN:
        return False
    load = sight.load
    busy = 0 if load is None else load.by_attempt.get(one.job.attempt, 0)
    return busy == 0 or now >= one.drain_at + DRAIN_LONGEST


def _pausing(sight: Sight, now: datetime) -> bool:
    """Whether what failed lately makes it wait before the next is started."""
    late = [at for at in sight.failures if now - at < FAILURES_COUNT_FOR]
    return bool(late) and now < max(late) + min(LONGEST_PAUSE, _seconds(5 * 2.0 ** min(len(late), 10)))


def settled(plan: Plan, session: Plan) -> Plan:
    """A plan with what concerns the session as a whole from the other one."""
    if plan.service is None or session.service is None:
        return plan
    service = plan.service.model_copy(update={"replicas": session.service.replicas})
    return plan.model_copy(update={"service": service})


def _bare(plan: Plan) -> Plan:
    few = {"replicas": None, "affinity": "none", "max_in_flight": None, "max_queue": None}
    service = plan.service.model_copy(update=few) if plan.service is not None else None
    kept = plan.lifecycle.model_copy(update={"renew": False, "idle": ()})
    return plan.model_copy(update={"service": service, "lifecycle": kept, "labels": {}, "digest": ""})


def _seconds(number: float) -> timedelta:
    return timedelta(seconds=number)
