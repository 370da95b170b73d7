"""The intent to submit a job, and what answers to it mean: sent once, looked for, never sent again unseen. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from gateway.model.session import LONGEST_PAUSE, Phase, Session, move, recent, with_job

# A submit is sent this soon after its intent was recorded, or not at all; all of one is over after SUBMIT_LIFE
# (sbatch is ended by `timeout`, see gateway.slurm.commands). Only then may a denial mean that it is sent again.
SEND_WITHIN = timedelta(seconds=30)
SUBMIT_LIFE = timedelta(seconds=90)
DENIED_FOR = timedelta(seconds=20)
FIND_AGAIN = timedelta(seconds=5)


def may_send(session: Session, now: datetime, age: timedelta) -> bool:
    """Whether the intent is young enough to be acted on, by both clocks: the look-up relies on its being sent soon."""
    return age < SEND_WITHIN and recent(session.job.intent_at, SEND_WITHIN, now)


def submitted(session: Session, job_id: int, now: datetime) -> Session:
    """Slurm has the job. An answer that comes after another job was recorded is left to the sweep."""
    if session.job.job_id is not None:
        return session
    session = with_job(session, job_id=job_id, submitted_at=now, missed_at=None, not_before=None, tries=0)
    return session if session.stop_requested_at else move(session, Phase.QUEUED, "", now)


def not_submitted(
    session: Session,
    why: str,
    now: datetime,
    *,
    again_after: timedelta,
    intent_at: datetime | None,
    limit: bool = False,
) -> Session:
    """Slurm certainly has not got the job of this intent; it is sent again later, at a `limit` also when others end."""
    if session.job.job_id is not None or session.job.intent_at != intent_at:
        return session
    tries = session.job.tries + 1
    session = with_job(session, intent_at=None, missed_at=None, not_before=now + again_after, tries=tries)
    return move(session, Phase.REQUESTED, "limit" if limit else "waiting", now, message=why)


def pause(tries: int, chance: float) -> timedelta:
    """How long to wait after so many tries in vain: doubled each time, bounded; `chance` in [0, 1) spreads it."""
    longest = min(LONGEST_PAUSE.total_seconds(), 2.0 ** min(tries, 10))
    return timedelta(seconds=longest * (0.5 + chance / 2))


def make_room(waiting: Iterable[Session], ended: Iterable[Session]) -> list[Session]:
    """Of those that wait for a limit, as many as have ended of the same user or account, the oldest first: try now."""
    woken: dict[str, Session] = {}
    queue = sorted((s for s in waiting if s.reason == "limit" and s.job.intent_at is None), key=lambda one: one.id)
    for gone in ended:
        for one in queue:
            account = one.plan.resources.account
            same = one.unix_user == gone.unix_user or (account is not None and account == gone.plan.resources.account)
            if same and one.id not in woken:
                woken[one.id] = with_job(one, not_before=None, tries=0)
                break
    return list(woken.values())


def not_found(session: Session, now: datetime, age: timedelta) -> Session:
    """Queue and accounting answered that no job has our name; `age` is the intent's, by a clock that nobody sets.

    That counts only once no submit can be under way any more; and it must be said twice, as what a controller has
    just taken may not be seen yet.
    """
    job = session.job
    if job.job_id is not None or job.intent_at is None:
        return session
    again = now + FIND_AGAIN
    if age < SUBMIT_LIFE:
        return with_job(session, missed_at=None, not_before=again)
    if job.missed_at is None or now < job.missed_at:
        return with_job(session, missed_at=now, not_before=again)
    if now < job.missed_at + DENIED_FOR:
        return with_job(session, not_before=again)
    return with_job(session, intent_at=None, missed_at=None, not_before=None)
