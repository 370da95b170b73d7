"""When a service that nobody uses is stopped, and what its users are told before that or before a time limit. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from gateway.model.group import is_cut_short, is_ready, limit_of, renew_at
from gateway.model.load import Load
from gateway.model.plan import IdleRule
from gateway.model.session import Session, condition

IDLE, LIMIT = "Idle", "TimeLimit"
#: What a rule may want an agent to watch.
WATCHED = ("kernels", "gpu_below")
#: So long before a limit at which the session will end it is told; a fifth of the time in shorter jobs.
TELL_BEFORE = timedelta(minutes=10)
#: A renewal that has brought no successor after so long was refused.
SUCCESSOR_WITHIN = timedelta(seconds=30)


@dataclass(frozen=True)
class Quiet:
    """Nobody uses the session: it is stopped at `stop_at`, and its users are told from `tell_at` on."""

    after: timedelta
    since: datetime
    tell_at: datetime
    stop_at: datetime


def rule_for(session: Session, load: Load | None) -> IdleRule | None:
    """The first rule that fits; None if none does."""
    connected = load is not None and load.websockets > 0
    gpus = bool(session.plan.resources.gpus.count)
    for rule in session.plan.lifecycle.idle:
        if rule.connected == connected and rule.gpus in {None, gpus}:
            return rule
    return None


def quiet(session: Session, load: Load | None, active_at: datetime | None = None) -> Quiet | None:
    """Since when nobody uses it, and what follows; None while somebody does, or no rule says that it ends.

    `active_at`: when its agent last saw it at work without a request.
    """
    rule = rule_for(session, load)
    if rule is None or rule.after is None or not is_ready(session) or session.ready_at is None:
        return None
    if load is not None and (load.in_flight or load.waiting):
        return None
    asked = load.last_request_at if load is not None else None
    since = max(at for at in (session.ready_at, asked, active_at) if at is not None)
    after = timedelta(seconds=rule.after)
    warn = min(timedelta(seconds=rule.warn), after / 2)
    stop_at = max(since + after, session.keep_until or since)
    if (told_at := _told_at(session)) is not None:
        stop_at = max(stop_at, told_at + warn)  # it could not be told in time: they have as long all the same
    return Quiet(after=after, since=since, tell_at=stop_at - warn, stop_at=stop_at)


def unused_for(rule: IdleRule | None, idle: float, watched: Mapping[str, float]) -> float:
    """Seconds since a job was used, by what its agent says: no request for `idle`, `watched` what else was looked at.

    What the rule asks for and the agent does not tell counts as used now.
    """
    wanted = [name for name in WATCHED if rule is not None and getattr(rule, name)]
    return min([idle, *(watched.get(name, 0.0) for name in wanted)])


def to_ask(session: Session, found: Quiet, now: datetime, still_at: datetime | None) -> Literal["still", "idle"] | None:
    """What its agents are to be asked for now: that its users can be told that it ends, or that it does.

    `still_at`: when they last said that nobody uses it.
    """
    if _told_at(session) is not None:
        return "idle" if now >= found.stop_at else None
    return "still" if now >= found.tell_at and not _is_still(found, still_at) else None


def noticed(
    session: Session,
    found: Quiet | None,
    now: datetime,
    *,
    followed: bool = False,
    still_at: datetime | None = None,
) -> Session:
    """The session with the conditions that tell of an end to come, as long as one is.

    `found`: what `quiet` says of it now. `followed`: another job of it lives, or is about to. `still_at`: as in
    `to_ask`; who is at work without a request is not told that nobody is.
    """
    told = ""
    known = _told_at(session) is not None
    if found is not None and now >= found.tell_at and (known or _is_still(found, still_at)):
        stop_at = found.stop_at if known else max(found.stop_at, now + (found.stop_at - found.tell_at))
        told = f"Nobody has used it since {_hour(found.since)}: it is stopped at {_hour(stop_at)}. " + _KEEP
    session = _tell(session, IDLE, told, now)
    limit, job = limit_of(session), session.job
    told = ""
    near = limit is not None and job.started_at is not None and now >= limit - _before(limit - job.started_at)
    due = renew_at(session) if session.plan.lifecycle.renew else None  # some time passes until a successor is there
    if limit is not None and is_cut_short(session) and not followed:
        told = f"Slurm ends job {job.job_id} at {_hour(limit)}, before its time limit: it is to be preempted."
    elif limit is not None and near and not followed and (due is None or now >= due + SUCCESSOR_WITHIN):
        told = f"Job {job.job_id} reaches its time limit at {_hour(limit)}, and no other job follows it."
    return _tell(session, LIMIT, told, now)


_KEEP = "`sluice extend` keeps it."


def _told_at(session: Session) -> datetime | None:
    """Since when its users know that it ends as nobody uses it."""
    told = session.conditions.get(IDLE)
    return told.since if told is not None and told.status else None


def _is_still(found: Quiet, still_at: datetime | None) -> bool:
    return still_at is not None and still_at >= found.tell_at


def _tell(session: Session, name: str, told: str, now: datetime) -> Session:
    if not told and name not in session.conditions:
        return session
    return condition(session, name, status=bool(told), message=told, now=now)


def _before(length: timedelta) -> timedelta:
    return min(TELL_BEFORE, length / 5)


def _hour(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
