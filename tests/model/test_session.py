"""The life cycle, case by case, and as a whole: whatever Slurm says, the rules hold."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import session as life
from gateway.model.announcement import Endpoint
from gateway.model.job import Job, JobState, SeenJob, job_name
from gateway.model.jobspec import HttpProbe
from gateway.model.plan import PinnedImage, Plan, PlannedService
from gateway.model.session import Act, Phase, Session

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID = "01JD0000000000000000000000"
READY = "sluice/1 ready tcp=10.0.0.1:4000 sha256=" + "a" * 64
ENDPOINT = Endpoint(host="10.0.0.1", port=4000, fingerprint="a" * 64)


def plan(kind: str) -> Plan:
    return Plan(
        recipe="echo",
        version="1",
        digest="0" * 64,
        kind="service" if kind == "service" else "batch",
        image=PinnedImage(name="base", path="/images/base.sif", sha256="b" * 64),
        command=("true",),
        service=PlannedService(probe=HttpProbe(path="/health")) if kind == "service" else None,
    )


def session(kind: str = "service", *, job: dict[str, object] | None = None, **changes: object) -> Session:
    base = Session(
        id=ID,
        name="echo",
        owner="ann",
        project="default",
        cluster="c",
        unix_user="ann",
        plan=plan(kind),
        created_at=NOW,
        updated_at=NOW,
        job=Job(session_id=ID, attempt=1, name=job_name(ID, 1)).model_copy(update=job or {}),
    )
    return base.model_copy(update=changes)


def submitted(kind: str = "service", phase: Phase = Phase.QUEUED, **changes: object) -> Session:
    return session(kind, job={"intent_at": NOW, "job_id": 7, "submitted_at": NOW}, phase=phase, **changes)


def seen(state: JobState, **changes: object) -> SeenJob:
    return SeenJob(job_id=7, state=state).model_copy(update=changes)


def test_the_intent_is_recorded_before_anything_is_sent() -> None:
    step = life.step(session(), None, NOW)
    assert step is not None
    assert step.act is Act.SUBMIT
    assert step.session.job.intent_at == NOW


def test_an_intent_without_an_answer_is_looked_up_never_repeated() -> None:
    step = life.step(session(job={"intent_at": NOW}), None, NOW + timedelta(hours=1))
    assert step is not None
    assert step.act is Act.FIND


def test_not_found_once_is_not_enough_to_send_again() -> None:
    doubtful = life.not_found(session(job={"intent_at": NOW}), NOW)
    assert doubtful.job.intent_at == NOW
    assert life.not_found(doubtful, NOW + timedelta(seconds=5)).job.intent_at == NOW
    assert life.not_found(doubtful, NOW + life.MISSED_GRACE).job.intent_at is None


def test_a_stop_before_the_job_exists_needs_no_slurm() -> None:
    step = life.step(session(stop_requested_at=NOW), None, NOW)
    assert step is not None
    assert (step.session.phase, step.act) == (Phase.STOPPED, None)


def test_a_stop_in_doubt_finds_out_first() -> None:
    step = life.step(session(job={"intent_at": NOW}, stop_requested_at=NOW), None, NOW)
    assert step is not None
    assert step.act is Act.FIND
    assert not step.session.phase.ended


def test_a_service_is_ready_only_after_its_agent_answered() -> None:
    step = life.step(submitted(), seen(JobState.RUNNING, comment=READY), NOW)
    assert step is not None
    assert (step.session.phase, step.act) == (Phase.STARTING, Act.PROBE)
    ready = life.probed(step.session, ENDPOINT, "", NOW)
    assert (ready.phase, ready.endpoint, ready.ready_at) == (Phase.READY, ENDPOINT, NOW)


def test_an_agent_that_does_not_answer_leaves_the_service_starting_and_says_why() -> None:
    after = life.probed(submitted(phase=Phase.STARTING), None, "refused", NOW)
    assert after.phase is Phase.STARTING
    assert (after.conditions["EndpointReachable"].status, after.conditions["EndpointReachable"].message) == (
        False,
        "refused",
    )


def test_a_requeued_service_loses_its_endpoint() -> None:
    before = submitted(phase=Phase.READY, endpoint=ENDPOINT)
    step = life.step(before, seen(JobState.PENDING, restarts=1, reason="BeginTime"), NOW)
    assert step is not None
    assert (step.session.phase, step.session.endpoint) == (Phase.QUEUED, None)
    assert "Requeued" in step.session.message


def test_a_batch_session_runs_and_succeeds() -> None:
    running = life.step(submitted("batch"), seen(JobState.RUNNING), NOW)
    assert running is not None
    assert running.session.word == "running"
    done = life.step(running.session, seen(JobState.COMPLETED, exit_code=0), NOW)
    assert done is not None
    assert done.session.phase is Phase.SUCCEEDED


@pytest.mark.parametrize(
    ("told", "reason", "words"),
    [
        (seen(JobState.COMPLETED), "service_exited", "by itself"),
        (seen(JobState.TIMEOUT, time_limit=5), "time_limit", "time limit of 5 minutes"),
        (seen(JobState.CANCELLED), "cancelled", "outside Sluice"),
        (seen(JobState.OUT_OF_MEMORY), "out_of_memory", "--memory"),
        (seen(JobState.NODE_FAIL), "node_fail", "node failed"),
        (seen(JobState.FAILED, exit_code=3), "exit_code", "exit code 3"),
        (seen(JobState.FAILED, signal=9), "killed", "signal 9"),
        (seen(JobState.FAILED, comment="sluice/1 ended reason=image_missing code=78"), "image_missing", "image build"),
        (seen(JobState.FAILED, comment="sluice/1 ended reason=service_exited code=1"), "service_exited", "code 1"),
    ],
)
def test_a_service_that_ends_by_itself_has_failed_and_says_how(told: SeenJob, reason: str, words: str) -> None:
    step = life.step(submitted(phase=Phase.READY, endpoint=ENDPOINT), told, NOW)
    assert step is not None
    assert (step.session.phase, step.session.reason) == (Phase.FAILED, reason)
    assert words in step.session.message
    assert step.session.endpoint is None


def test_a_stop_is_sent_again_only_after_a_while() -> None:
    first = life.step(submitted(phase=Phase.READY, stop_requested_at=NOW), seen(JobState.RUNNING), NOW)
    assert first is not None
    assert (first.session.phase, first.act) == (Phase.STOPPING, Act.TERMINATE)
    second = life.step(first.session, seen(JobState.RUNNING), NOW + timedelta(seconds=1))
    assert second is not None
    assert second.act is None
    third = life.step(first.session, seen(JobState.RUNNING), NOW + life.patience(first.session))
    assert third is not None
    assert third.act is Act.CANCEL


def test_what_does_not_run_has_nothing_to_save() -> None:
    step = life.step(submitted(stop_requested_at=NOW), seen(JobState.PENDING), NOW)
    assert step is not None
    assert step.act is Act.CANCEL


@pytest.mark.parametrize("kind", ["service", "batch"])
def test_what_ended_because_it_was_told_to_is_stopped(kind: str) -> None:
    told = seen(JobState.COMPLETED, comment="sluice/1 ended reason=stopped code=0", exit_code=0)
    step = life.step(submitted(kind, phase=Phase.STOPPING, stop_requested_at=NOW), told, NOW)
    assert step is not None
    assert (step.session.phase, step.session.reason) == (Phase.STOPPED, "stopped")


def test_a_job_that_nobody_knows_is_lost_only_after_long() -> None:
    first = life.step(submitted(phase=Phase.READY), None, NOW)
    assert first is not None
    assert first.session.phase is Phase.READY
    assert life.step(first.session, None, NOW + timedelta(minutes=5)) is None
    lost = life.step(first.session, None, NOW + life.LOST_AFTER)
    assert lost is not None
    assert (lost.session.phase, lost.session.reason) == (Phase.FAILED, "job_lost")


def test_a_job_that_got_our_number_is_not_ours() -> None:
    stranger = seen(JobState.COMPLETED, name="someone-elses")
    step = life.step(submitted("batch", phase=Phase.READY), stranger, NOW)
    assert step is not None
    assert not step.session.phase.ended
    assert step.session.job.missed_at == NOW


def test_unreachable_changes_a_condition_and_nothing_else() -> None:
    before = submitted(phase=Phase.READY, endpoint=ENDPOINT)
    after = life.unreachable(before, "no route", NOW)
    assert not after.conditions["SchedulerReachable"].status
    assert after.model_copy(update={"conditions": {}}) == before
    assert life.unreachable(after, "no route", NOW + timedelta(hours=1)) == after


states = st.sampled_from(JobState)
told = st.builds(
    SeenJob,
    job_id=st.just(7),
    state=states,
    flags=st.frozensets(st.sampled_from(["COMPLETING", "REQUEUED", "CONFIGURING"]), max_size=2),
    comment=st.sampled_from(["", READY, "sluice/1 ended reason=stopped code=0", "hello"]),
    exit_code=st.integers(0, 255) | st.none(),
)


@given(st.lists(told | st.none(), max_size=12), st.booleans(), st.sampled_from(["service", "batch"]))
def test_whatever_slurm_says_the_rules_hold(story: list[SeenJob | None], stop: bool, kind: str) -> None:
    current = submitted(kind, stop_requested_at=NOW if stop else None)
    now = NOW
    for told_now in story:
        now += timedelta(seconds=1)
        step = life.step(current, told_now, now)
        if current.phase.ended:
            assert step is None, "an ended session never moves again"
            continue
        if step is None:
            continue
        after = step.session
        assert step.act not in {Act.SUBMIT, Act.FIND}, "a job that has an id is never sent or looked up by name again"
        if after.phase.ended:
            assert told_now is not None, "not knowing is not an end"
            assert told_now.state.ended
            assert after.reason
            assert after.message
        if after.phase is Phase.READY and kind == "service":
            assert after.endpoint == current.endpoint
        if step.act in {Act.CANCEL, Act.TERMINATE}:
            assert stop
        assert (after.phase is Phase.STOPPED) <= stop
        current = after
