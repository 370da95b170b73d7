"""When a service that nobody uses is stopped, and what is told before that and before a time limit."""

from datetime import UTC, datetime, timedelta

import pytest

from gateway.model.announcement import Endpoint
from gateway.model.idle import noticed, quiet, rule_for, to_ask
from gateway.model.job import Job, JobState, job_name
from gateway.model.jobspec import HttpProbe
from gateway.model.load import Load
from gateway.model.plan import IdleRule, PinnedImage, Plan, PlannedLifecycle, PlannedService
from gateway.model.resources import Gpus, Resources
from gateway.model.session import Phase, Session

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ID = "01JD0000000000000000000001"
RULES = (
    IdleRule(connected=True, after=7200),
    IdleRule(gpus=True, after=600, warn=60),
    IdleRule(after=3600, warn=300),
)


def session(*rules: IdleRule, gpus: int = 0, renew: bool = False) -> Session:
    """Ready since an hour, in a job of two."""
    began = NOW - timedelta(hours=1)
    plan = Plan(
        recipe="desk",
        version="1",
        digest="0" * 64,
        kind="service",
        image=PinnedImage(name="base", path="/base.sif", sha256="b" * 64),
        command=("serve",),
        resources=Resources(gpus=Gpus(count=gpus)),
        service=PlannedService(probe=HttpProbe()),
        lifecycle=PlannedLifecycle(renew=renew, idle=rules),
    )
    told = {"state": JobState.RUNNING, "started_at": began, "submitted_at": began, "time_limit": 120, "job_id": 1}
    return Session(
        id=ID,
        name="desk",
        owner="ann",
        project="p",
        cluster="c",
        unix_user="ann",
        plan=plan,
        phase=Phase.READY,
        endpoint=Endpoint(host="h", port=1, fingerprint="a" * 64),
        ready_at=began,
        created_at=began,
        updated_at=began,
        job=Job(session_id=ID, attempt=1, name=job_name(ID, 1)).model_copy(update=told),
    )


def load(**said: object) -> Load:
    return Load.model_validate({"session_id": ID, "writer": "", "at": NOW, **said})


def test_the_first_rule_that_fits_decides() -> None:
    assert rule_for(session(*RULES, gpus=1), load(websockets=1)) == RULES[0]
    assert rule_for(session(*RULES, gpus=1), load()) == RULES[1]
    assert rule_for(session(*RULES), None) == RULES[2]
    assert rule_for(session(RULES[1]), None) is None
    assert rule_for(session(RULES[2]), load(websockets=1)) is None, "somebody is connected"


def test_it_counts_from_the_last_request_and_what_was_asked_for_comes_first() -> None:
    asked = NOW - timedelta(minutes=5)
    found = quiet(session(RULES[2]), load(last_request_at=asked))
    assert found is not None
    assert (found.since, found.stop_at) == (asked, asked + timedelta(hours=1))
    assert found.tell_at == found.stop_at - timedelta(minutes=5)
    until = NOW + timedelta(hours=9)
    kept = quiet(session(RULES[2]).model_copy(update={"keep_until": until}), load(last_request_at=asked))
    assert kept is not None
    assert kept.stop_at == until


@pytest.mark.parametrize("said", [{"in_flight": 1}, {"waiting": 1}])
def test_what_is_used_is_not_idle(said: dict[str, int]) -> None:
    assert quiet(session(RULES[2]), load(**said)) is None
    assert quiet(session(IdleRule(after=None)), load()) is None
    assert quiet(session(RULES[2]).model_copy(update={"phase": Phase.STARTING}), load()) is None


def told(one: Session, now: datetime, still_at: datetime | None = None, load: Load | None = None) -> Session:
    return noticed(one, quiet(one, load), now, still_at=still_at)


def asked(one: Session, now: datetime, still_at: datetime | None = None) -> str | None:
    """What its agents are asked for."""
    found = quiet(one, None)
    assert found is not None
    return to_ask(one, found, now, still_at)


def test_the_warning_comes_and_goes() -> None:
    one, now = session(RULES[2]), NOW - timedelta(minutes=5)
    early = NOW - timedelta(minutes=6)
    assert "Idle" not in told(one, early, early).conditions
    warned = told(one, now, now)
    assert warned.conditions["Idle"].status
    assert "2026-01-01 12:00 UTC" in warned.conditions["Idle"].message
    used = told(warned, NOW - timedelta(minutes=3), now, load(last_request_at=now))
    assert not used.conditions["Idle"].status


def test_nobody_is_warned_before_the_agents_have_said_that_it_is_still() -> None:
    one, now = session(RULES[2]), NOW - timedelta(minutes=5)
    assert asked(one, NOW - timedelta(minutes=6)) is None
    assert asked(one, now) == "still"
    assert asked(one, now, now - timedelta(hours=1)) == "still", "that was of another time"
    assert asked(one, now, now) is None
    assert "Idle" not in told(one, now).conditions
    warned = told(one, now, now)
    assert asked(warned, now) is None
    assert asked(warned, NOW) == "idle"


def test_whoever_is_warned_late_has_as_long_all_the_same() -> None:
    """The server was away: it tells first, and stops when there was time to keep it."""
    late = NOW + timedelta(hours=3)
    one = session(RULES[2])
    assert asked(one, late) == "still"
    warned = told(one, late, late)
    assert "15:05 UTC" in warned.conditions["Idle"].message
    assert asked(warned, late + timedelta(minutes=4)) is None
    assert asked(warned, late + timedelta(minutes=5)) == "idle"


def test_a_warning_comes_no_sooner_than_after_half_the_time() -> None:
    found = quiet(session(IdleRule(after=600, warn=3600)), None)
    assert found is not None
    assert found.stop_at - found.tell_at == timedelta(minutes=5)


def test_a_limit_is_told_of_where_no_job_follows() -> None:
    near = NOW + timedelta(minutes=51)
    assert "TimeLimit" not in noticed(session(), None, NOW).conditions
    assert noticed(session(), None, near).conditions["TimeLimit"].status
    lasting = session(renew=True)
    assert "TimeLimit" not in noticed(lasting, None, near).conditions, "its successor is not due yet"
    late = NOW + timedelta(minutes=59)
    assert "TimeLimit" not in noticed(lasting, None, late, followed=True).conditions
    assert noticed(lasting, None, late).conditions["TimeLimit"].status, "Slurm takes no successor"
