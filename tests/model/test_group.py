"""Which jobs of a session are started, drained and ended: whatever happens, as many as there should be, and it ends."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from gateway.model import group
from gateway.model.announcement import Endpoint
from gateway.model.group import Adopt, Drain, Sight, Sleep, Start, Stop, steer
from gateway.model.job import Job, JobRole, JobState, job_name
from gateway.model.jobspec import HttpProbe
from gateway.model.load import Load
from gateway.model.plan import PinnedImage, Plan, PlannedLifecycle, PlannedReplicas, PlannedService
from gateway.model.session import Phase, Session

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ID = "01JD0000000000000000000001"


def plan(least: int = 1, most: int = 1, size: str = "a", *, renew: bool = True) -> Plan:
    return Plan(
        recipe="echo",
        version="1",
        digest="0" * 64,
        kind="service",
        image=PinnedImage(name="base", path="/base.sif", sha256="b" * 64),
        command=("serve", size),
        service=PlannedService(probe=HttpProbe(), replicas=PlannedReplicas(min=least, max=most, target_in_flight=4)),
        lifecycle=PlannedLifecycle(renew=renew),
    )


def session(wanted: Plan, phase: Phase = Phase.READY, age: float = 600, attempt: int = 1) -> Session:
    """A session whose job has run for `age` seconds of an hour; it took 30 seconds to become ready."""
    began = NOW - timedelta(seconds=age)
    submitted = phase is not Phase.REQUESTED
    running = phase in {Phase.READY, Phase.STARTING}
    job = Job(
        session_id=ID,
        attempt=attempt,
        name=job_name(ID, attempt),
        job_id=attempt if submitted else None,
        state=JobState.RUNNING if running else JobState.PENDING if submitted else None,
        nodes="node1" if running else "",
        submitted_at=began if submitted else None,
        started_at=began if running else None,
        time_limit=60,
    )
    ready = phase is Phase.READY
    return Session(
        id=ID,
        name="echo",
        owner="ann",
        project="p",
        cluster="c",
        unix_user="ann",
        plan=wanted,
        phase=phase,
        endpoint=Endpoint(host="h", port=attempt, fingerprint="a" * 64) if ready else None,
        ready_at=began + timedelta(seconds=30) if ready else None,
        created_at=began,
        updated_at=began,
        job=job,
    )


def member(
    of: Session, attempt: int, phase: Phase = Phase.READY, role: JobRole = JobRole.REPLICA, **more: object
) -> Session:
    one = session(of.plan, phase, attempt=attempt)
    row = f"01JD{attempt:022d}X"[:26]
    job = one.job.model_copy(update={"session_id": row, "role": role})
    return one.model_copy(update={"id": row, "parent": ID, "name": row.lower(), "job": job, **more})


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def load(**said: object) -> Load:
    return Load.model_validate({"session_id": ID, "writer": "", "at": NOW, **said})


def test_nothing_is_to_do_where_one_job_serves_and_no_limit_is_near() -> None:
    assert steer(session(plan()), [], Sight(), NOW) == []


def test_what_is_missing_is_started_at_once() -> None:
    one = session(plan(3, 3))
    assert steer(one, [], Sight(), NOW) == [Start(one.plan, JobRole.REPLICA)] * 2


def test_a_job_near_its_limit_gets_a_successor_once() -> None:
    one = session(plan(), age=3450)
    (start,) = steer(one, [], Sight(), NOW)
    assert start == Start(one.plan, JobRole.SUCCESSOR)
    waiting = member(one, 2, Phase.QUEUED, JobRole.SUCCESSOR)
    assert steer(one, [waiting], Sight(), NOW) == []


def test_a_job_that_took_long_to_start_is_renewed_earlier() -> None:
    quick, slow = session(plan(), age=600), session(plan(), age=600)
    slow = slow.model_copy(
        update={"ready_at": slow.job.submitted_at + timedelta(minutes=9)} if slow.job.submitted_at else {}
    )
    early, late = group.renew_at(slow), group.renew_at(quick)
    assert early is not None
    assert late is not None
    assert late - early == 2 * (timedelta(minutes=9) - timedelta(seconds=30))


def test_the_session_goes_on_as_the_successor_and_its_old_job_makes_way() -> None:
    one = session(plan(), age=3450)
    after = member(one, 2, role=JobRole.SUCCESSOR)
    assert steer(one, [after], Sight(), NOW) == [Adopt(after, drain=True)]
    new, old = group.swap(one, after, NOW)
    assert (new.id, new.job.attempt, new.job.role, new.phase) == (ID, 2, JobRole.PRIMARY, Phase.READY)
    assert (old.id, old.job.attempt, old.parent, old.drain_at) == (after.id, 1, ID, NOW)
    assert steer(new, [old], Sight(), at(1)) == []
    busy = Sight(load=load(in_flight=1, by_attempt={1: 1}))
    assert steer(new, [old], busy, at(60)) == []
    assert steer(new, [old], Sight(), at(5)) == [Stop(old, "replaced")]
    assert steer(new, [old], busy, at(600)) == [Stop(old, "replaced")]


def test_a_node_that_is_drained_is_left() -> None:
    one = session(plan())
    assert steer(one, [], Sight(drained=frozenset({"node2"})), NOW) == []
    assert steer(one, [], Sight(drained=frozenset({"node1"})), NOW) == [Start(one.plan, JobRole.SUCCESSOR)]
    assert steer(session(plan(renew=False)), [], Sight(drained=frozenset({"node1"})), NOW) == []


def test_a_job_that_is_to_be_preempted_gets_a_successor_at_once_and_one_with_a_shorter_limit_later() -> None:
    one = session(plan())
    preempted = one.model_copy(update={"job": one.job.model_copy(update={"ends_at": at(60)})})
    assert steer(preempted, [], Sight(), NOW) == [Start(one.plan, JobRole.SUCCESSOR)]
    usual = one.model_copy(update={"job": one.job.model_copy(update={"ends_at": at(3000)})})
    assert steer(usual, [], Sight(), NOW) == []


def test_that_a_successor_was_booked_long_before_its_time_is_no_reason_to_renew_it_earlier() -> None:
    one = session(plan(), age=600)
    assert one.job.submitted_at is not None
    early = one.job.submitted_at - timedelta(minutes=40)
    booked = one.job.model_copy(update={"submitted_at": early, "begin_at": one.job.submitted_at})
    assert group.renew_at(one.model_copy(update={"job": booked})) == group.renew_at(one)


def test_a_successor_is_in_the_queue_before_its_time_and_begins_in_time() -> None:
    one = session(plan(), age=2700)
    begin = group.renew_at(one)
    assert begin is not None
    (start,) = steer(one, [], Sight(), NOW)
    assert start == Start(one.plan, JobRole.SUCCESSOR, begin)
    row = group.further(one, "01JD0000000000000000000002", 2, start, NOW)
    assert row.job.begin_at == begin
    waiting = row.model_copy(update={"phase": Phase.QUEUED})
    for known in (row, waiting):
        assert steer(one, [known], Sight(), NOW) == []
        assert steer(one, [known], Sight(), begin) == []
    assert group.heir(one.model_copy(update={"phase": Phase.FAILED}), [waiting], NOW) is None
    assert group.heir(one.model_copy(update={"phase": Phase.FAILED}), [waiting], begin) == waiting


def test_a_successor_that_is_not_needed_any_more_is_not_waited_for() -> None:
    one = session(plan(), age=2700)
    begin = group.renew_at(one)
    waiting = member(one, 2, Phase.QUEUED, JobRole.SUCCESSOR)
    waiting = waiting.model_copy(update={"job": waiting.job.model_copy(update={"begin_at": begin})})
    longer = one.model_copy(update={"job": one.job.model_copy(update={"time_limit": 600})})
    assert steer(longer, [waiting], Sight(), NOW) == [Stop(waiting, "replaced")]
    on_a_drained_node = Sight(drained=frozenset({"node1"}))
    assert steer(one, [waiting], on_a_drained_node, NOW) == [
        Start(one.plan, JobRole.SUCCESSOR),
        Stop(waiting, "replaced"),
    ]


def test_a_limit_beyond_the_end_of_the_calendar_is_none() -> None:
    one = session(plan())
    longest = one.model_copy(update={"job": one.job.model_copy(update={"time_limit": 2**32 - 2})})
    assert (group.limit_of(longest), group.renew_at(longest), group.is_cut_short(longest)) == (None, None, False)
    assert steer(longest, [], Sight(), NOW) == []


def test_an_update_takes_over_when_it_is_ready_and_one_that_fails_changes_nothing() -> None:
    one = session(plan(2, 2))
    other = member(one, 2)
    new = member(one, 3, Phase.STARTING, JobRole.SUCCESSOR, plan=plan(2, 2, "b"))
    assert all(
        isinstance(change, Start) and change.plan == new.plan for change in steer(one, [other, new], Sight(), NOW)
    )
    ready = member(one, 3, Phase.READY, JobRole.SUCCESSOR, plan=plan(2, 2, "b"))
    assert steer(one, [other, ready], Sight(), NOW) == [Adopt(ready, drain=True)]
    assert steer(one, [other], Sight(), NOW) == []


def test_other_numbers_of_replicas_are_no_reason_for_other_jobs() -> None:
    assert group.same_job(plan(1, 1), plan(2, 5, renew=False))
    assert not group.same_job(plan(), plan(size="b"))


def test_one_too_many_goes_only_after_a_while_and_the_latest_first() -> None:
    one = session(plan(1, 3))
    others = [member(one, 2), member(one, 3)]
    assert steer(one, others, Sight(load=load(in_flight=1)), NOW) == []
    calm = Sight(load=load(in_flight=1), calm_since=at(-601))
    assert steer(one, others, calm, NOW) == [Drain(others[1]), Drain(others[0])]
    assert steer(one, others, Sight(load=load(in_flight=9), calm_since=at(-601)), NOW) == []


def test_requests_that_wait_start_one_job_and_no_more() -> None:
    one = session(plan(0, 3), Phase.STARTING)
    assert steer(one, [], Sight(load=load(waiting=3)), NOW) == []


def test_a_session_that_nobody_uses_sleeps_if_it_may() -> None:
    old = session(plan(0, 2), age=1000)
    assert steer(old, [], Sight(), NOW) == [Sleep()]
    assert steer(old, [], Sight(load=load(websockets=1)), NOW) == []
    assert steer(old, [], Sight(load=load(last_request_at=at(-500))), NOW) == []
    assert steer(session(plan(1, 2), age=1000), [], Sight(), NOW) == []


def test_a_request_while_the_last_job_drains_keeps_it() -> None:
    old = session(plan(0, 2), age=1000)
    asleep, kept = group.part(old, "01JD0000000000000000000009", 2, NOW)
    asleep = asleep.model_copy(update={"asleep_at": NOW})
    kept = kept.model_copy(update={"drain_at": NOW})
    assert steer(asleep, [kept], Sight(), at(1)) == []
    came = Sight(load=load(last_request_at=at(1), in_flight=1, by_attempt={1: 1}))
    assert steer(asleep, [kept], came, at(2)) == [Adopt(kept, drain=True)]
    back, empty = group.swap(asleep, kept, at(2))
    assert (back.asleep_at, back.drain_at, back.job.attempt, back.phase) == (None, None, 1, Phase.READY)
    assert empty.stop_requested_at == at(2)


def test_a_session_that_was_told_to_stop_tells_all_its_jobs() -> None:
    one = session(plan(2, 2)).model_copy(update={"stop_requested_at": NOW})
    other = member(one, 2)
    assert steer(one, [other], Sight(), NOW) == [Stop(other, "")]
    assert steer(one, [other.model_copy(update={"stop_requested_at": NOW})], Sight(), NOW) == []


def test_what_fails_again_and_again_is_started_ever_more_seldom() -> None:
    one = session(plan(2, 2))
    assert steer(one, [], Sight(failures=[at(-1)]), NOW) == []
    assert steer(one, [], Sight(failures=[at(-11)]), NOW) != []
    assert steer(one, [], Sight(failures=[at(-11)] * 4), NOW) == []
    assert steer(one, [], Sight(failures=[at(-301)] * 9), NOW) != []


PHASES = st.sampled_from([Phase.REQUESTED, Phase.QUEUED, Phase.STARTING, Phase.READY, Phase.STOPPING])


@st.composite
def groups(draw: st.DrawFn) -> tuple[Session, list[Session], Sight]:
    least = draw(st.integers(0, 3))
    most = draw(st.integers(max(least, 1), 4))
    plans = [plan(least, most), plan(least, most, "b")]
    one = session(plans[0], draw(PHASES), age=draw(st.sampled_from([10, 600, 3450])))
    if one.phase is Phase.STOPPING or draw(st.integers(0, 9)) == 0:
        one = one.model_copy(update={"stop_requested_at": NOW})
    others = []
    for number in range(2, 2 + draw(st.integers(0, 4))):
        other = member(one, number, draw(PHASES), draw(st.sampled_from(JobRole)), plan=draw(st.sampled_from(plans)))
        going = other.phase is Phase.STOPPING or draw(st.booleans())
        told = draw(st.sampled_from(["stop_requested_at", "drain_at"])) if going else None
        if other.phase is Phase.STOPPING:
            told = "stop_requested_at"
        others.append(other.model_copy(update={told: at(-draw(st.integers(0, 20)))}) if told else other)
    busy = load(in_flight=draw(st.integers(0, 20)), waiting=draw(st.integers(0, 3)))
    calm = draw(st.sampled_from([None, at(-5), at(-1000)]))
    return one, others, Sight(load=draw(st.sampled_from([None, busy])), calm_since=calm)


@given(groups())
def test_it_comes_to_rest_with_as_many_ready_jobs_as_there_should_be(
    given_: tuple[Session, list[Session], Sight],
) -> None:
    """Everything that is started becomes ready, everything that is told to end ends."""
    one, others, sight = given_
    attempt, now = 10, NOW
    for _ in range(40):
        before = [one, *others]
        changes = steer(one, others, sight, now)
        for change in changes:
            match change:
                case Start():
                    attempt += 1
                    fresh = group.further(one, f"01JD{attempt:022d}", attempt, change, now)
                    others = [*others, _become_ready(fresh, attempt, now)]
                case Adopt(member=other, drain=drain):
                    one, was = group.swap(one, other, now if drain else None)
                    others = [was if row.id == other.id else row for row in others]
                case Drain(member=other):
                    others = [row.model_copy(update={"drain_at": now}) if row.id == other.id else row for row in others]
                case Stop(member=other):
                    others = [row for row in others if row.id != other.id]
                case Sleep():
                    return
        others = [row for row in others if row.stop_requested_at is None]
        if one.stop_requested_at is not None:
            assert not any(isinstance(change, Start) for change in changes)
            if not others:
                return
            continue
        if one.phase is not Phase.READY:
            one = _become_ready(one, one.job.attempt, now)
        others = [row if group.is_ready(row) else _become_ready(row, row.job.attempt, now) for row in others]
        now += timedelta(seconds=4)
        assert not any(map(group.is_ready, before)) or any(map(group.is_ready, (one, *others)))
        if not changes and [one, *others] == before and not any(row.drain_at for row in before):
            break
    asked = one.plan.replicas
    assert asked.min <= len(others) + 1 <= max(asked.max, 1)
    assert len({row.job.attempt for row in (one, *others)}) == len(others) + 1
    assert all(group.same_job(row.plan, one.plan) for row in others)


def _become_ready(row: Session, attempt: int, now: datetime) -> Session:
    told = {"job_id": attempt, "state": JobState.RUNNING, "started_at": now, "submitted_at": now, "time_limit": 60}
    there = {"phase": Phase.READY, "endpoint": Endpoint(host="h", port=attempt, fingerprint="a" * 64), "ready_at": now}
    return row.model_copy(update={**there, "job": row.job.model_copy(update=told)})
