"""The life cycle, case by case, and as a whole: whatever Slurm says, the rules hold."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import intent
from gateway.model import session as life
from gateway.model.announcement import Awaiting, Endpoint, parse
from gateway.model.job import LEFT_QUEUE, Job, JobState, SeenJob, job_name
from gateway.model.jobspec import HttpProbe
from gateway.model.plan import PinnedImage, Plan, PlannedService
from gateway.model.session import Act, Phase, Session, Step
from gateway.slurm.commands import SBATCH_SECONDS

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


def test_a_denial_counts_once_no_submit_can_be_under_way_and_two_of_them_apart() -> None:
    current = intent.not_found(session(job={"intent_at": NOW}), NOW, intent.SUBMIT_LIFE - timedelta(seconds=1))
    assert (current.job.missed_at, current.job.intent_at) == (None, NOW), "one may still be under way"
    at = NOW + timedelta(minutes=5)
    current = intent.not_found(current, at, intent.SUBMIT_LIFE)
    assert (current.job.missed_at, current.job.intent_at) == (at, NOW)
    assert intent.not_found(current, at + timedelta(seconds=5), intent.SUBMIT_LIFE).job.intent_at == NOW
    assert intent.not_found(current, at + intent.DENIED_FOR, intent.SUBMIT_LIFE).job.intent_at is None


@given(st.lists(st.tuples(st.floats(0, 60), st.floats(-600, 600)), max_size=30))
def test_a_submit_is_repeated_only_when_the_one_before_is_certainly_over(story: list[tuple[float, float]]) -> None:
    """Time passes, and somebody sets the clock forth and back as they like."""
    current, now, age, denials = session(job={"intent_at": NOW}), NOW, timedelta(0), 0
    for passed, set_by in story:
        age += timedelta(seconds=passed)
        now += timedelta(seconds=passed + set_by)
        step = life.step(current, None, now)
        assert step is not None
        assert step.act in {None, Act.FIND}
        if step.act is Act.FIND:
            denials += age >= intent.SUBMIT_LIFE
            current = intent.not_found(step.session, now, age)
        if current.job.intent_at is None:
            assert age >= intent.SUBMIT_LIFE
            assert denials >= 2
            return


def test_an_intent_that_was_not_acted_on_at_once_is_not_acted_on() -> None:
    asked = session(job={"intent_at": NOW})
    young, old = timedelta(seconds=1), intent.SEND_WITHIN
    assert intent.may_send(asked, NOW + young, young)
    assert not intent.may_send(asked, NOW + young, old), "the process was stopped and the clock set back"
    assert not intent.may_send(asked, NOW + old, young), "the whole machine was stopped"
    assert not intent.may_send(asked, NOW - young, young), "a clock that was set back says nothing of its age"
    assert intent.SEND_WITHIN + timedelta(seconds=SBATCH_SECONDS + 5) < intent.SUBMIT_LIFE


def test_a_late_answer_changes_no_later_intent_and_no_other_job() -> None:
    later = session(job={"intent_at": NOW + timedelta(minutes=5)})
    refused = intent.not_submitted(later, "no", NOW, again_after=timedelta(seconds=1), intent_at=NOW)
    assert refused == later
    assert intent.submitted(submitted(), 8, NOW) == submitted()
    assert intent.not_found(submitted(), NOW, intent.SUBMIT_LIFE) == submitted()


@given(st.integers(0, 100), st.floats(0, 1, exclude_max=True))
def test_a_pause_grows_and_has_a_bound(tries: int, chance: float) -> None:
    pause = intent.pause(tries, chance)
    assert timedelta(0) < pause <= life.LONGEST_PAUSE
    assert pause <= 2 * intent.pause(tries + 1, 0.0)
    assert intent.pause(100, chance) >= life.LONGEST_PAUSE / 2


def test_what_waits_for_a_limit_is_tried_when_others_of_its_user_end() -> None:
    def waiting(number: int, **changes: object) -> Session:
        job = {"not_before": NOW + timedelta(minutes=1), "tries": 3}
        return session(job=job).model_copy(update={"id": f"01JD{number:022}", "reason": "limit", **changes})

    first, second, other = waiting(1), waiting(2), waiting(3, unix_user="ben")
    ended = submitted(phase=Phase.STOPPED)
    (woken,) = intent.make_room([second, other, first], [ended])
    assert (woken.id, woken.job.not_before, woken.job.tries) == (first.id, None, 0)
    assert [one.id for one in intent.make_room([second, first, other], [ended, ended])] == [first.id, second.id]
    step = life.step(woken, None, NOW)
    assert step is not None
    assert step.act is Act.SUBMIT


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


@pytest.mark.parametrize("answer", [None, seen(JobState.UNKNOWN, flags=frozenset({LEFT_QUEUE}))])
def test_a_job_that_nobody_knows_is_lost_only_after_many_answers(answer: SeenJob | None) -> None:
    current, now = submitted(phase=Phase.READY), NOW
    for _ in range(life.LOST_AFTER):
        step = life.step(current, answer, now)
        assert step is not None
        assert step.session.phase is Phase.READY
        current, now = step.session, now + life.MISS_EVERY
        assert life.step(current, answer, now - timedelta(seconds=1)) == Step(session=current), "not counted twice"
    lost = life.step(current, answer, now)
    assert lost is not None
    assert (lost.session.phase, lost.session.reason) == (Phase.FAILED, "job_lost")


def test_an_hour_without_answers_is_no_sign_that_a_job_is_lost() -> None:
    first = life.step(submitted(phase=Phase.READY), None, NOW)
    assert first is not None
    silent = seen(JobState.UNKNOWN, reason="not in the queue any more, and accounting does not answer: refused")
    for answer in (None, silent, None):
        after = life.step(first.session, answer, NOW + timedelta(hours=1))
        assert after is not None
        assert not after.session.phase.ended
    back = life.step(first.session, seen(JobState.RUNNING), NOW + timedelta(hours=1))
    assert back is not None
    assert (back.session.job.misses, back.session.job.missed_at) == (0, None)


def test_a_job_that_got_our_number_is_not_ours() -> None:
    stranger = seen(JobState.COMPLETED, name="someone-elses")
    step = life.step(submitted("batch", phase=Phase.READY), stranger, NOW)
    assert step is not None
    assert not step.session.phase.ended
    assert step.session.job.missed_at == NOW


def test_the_job_that_began_an_attempt_first_is_the_sessions() -> None:
    told = seen(JobState.FAILED, exit_code=75, comment="sluice/1@0a ended reason=duplicate code=75 holder=5")
    step = life.step(submitted(), told, NOW)
    assert step is not None
    assert (step.session.phase, step.session.job.job_id, step.act) == (Phase.QUEUED, 5, None)


@pytest.mark.parametrize(("kind", "phase"), [("service", Phase.STARTING), ("batch", Phase.READY)])
def test_a_suspended_job_says_so_and_goes_on_when_resumed(kind: str, phase: Phase) -> None:
    before = submitted(kind, phase=Phase.READY, endpoint=ENDPOINT if kind == "service" else None)
    step = life.step(before, seen(JobState.SUSPENDED, comment=READY), NOW)
    assert step is not None
    assert (step.session.phase, step.session.reason, step.session.endpoint) == (phase, "suspended", None)
    assert "resumed" in step.session.message
    resumed = life.step(step.session, seen(JobState.RUNNING, comment=READY), NOW)
    assert resumed is not None
    assert resumed.session.reason == ""
    assert resumed.act is (Act.PROBE if kind == "service" else None)


def test_what_was_staged_goes_with_the_session() -> None:
    secret = submitted("batch").plan.model_copy(update={"secrets": ("TOKEN",)})
    step = life.step(submitted("batch", plan=secret), seen(JobState.COMPLETED, exit_code=0), NOW)
    assert step is not None
    assert step.act is Act.TIDY


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
    flags=st.frozensets(st.sampled_from(["COMPLETING", "REQUEUED", "CONFIGURING", LEFT_QUEUE]), max_size=2),
    comment=st.sampled_from(
        [
            "",
            READY,
            "sluice/1 ended reason=stopped code=0",
            "sluice/1@a ended reason=duplicate code=75 holder=9",
            "hello",
        ]
    ),
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


WAITS = "sluice/1 secrets tcp=10.0.0.1:4000 sha256=" + "a" * 64


@pytest.mark.parametrize("kind", ["service", "batch"])
def test_an_agent_that_waits_for_secrets_is_given_them_once_and_a_restarted_one_again(kind: str) -> None:
    current = submitted(kind)
    step = life.step(current, seen(JobState.RUNNING, comment=WAITS), NOW)
    assert step is not None
    assert step.act is Act.PUSH
    told = parse(WAITS)
    assert isinstance(told, Awaiting)
    in_vain = life.pushed(step.session, told, "it does not answer", NOW)
    again = life.step(in_vain, seen(JobState.RUNNING, comment=WAITS), NOW)
    assert again is not None
    assert again.act is Act.PUSH
    done = life.pushed(step.session, told, "", NOW)
    quiet = life.step(done, seen(JobState.RUNNING, comment=WAITS), NOW)
    assert quiet is not None
    assert quiet.act is None
    other = life.step(done, seen(JobState.RUNNING, comment=WAITS.replace("a" * 64, "b" * 64)), NOW)
    assert other is not None
    assert other.act is Act.PUSH


def test_news_is_awaited_of_a_batch_job_until_its_agent_has_said_where_it_is_and_may_not_wait_for_secrets() -> None:
    late = NOW + life.ASKS_WITHIN
    silent = submitted("batch", Phase.READY)
    silent = silent.model_copy(update={"job": silent.job.model_copy(update={"started_at": NOW})})
    assert life.awaits_news(silent, NOW)
    assert not life.awaits_news(silent, late)
    running = f"sluice/1 running tcp=10.0.0.1:4000 sha256={'0' * 64}"
    begun = silent.model_copy(update={"job": silent.job.model_copy(update={"comment": running})})
    assert not life.awaits_news(begun, NOW)
    secret = begun.model_copy(update={"plan": begun.plan.model_copy(update={"secrets": {"TOKEN": "secret:hub"}})})
    assert life.awaits_news(secret, NOW)
    assert not life.awaits_news(secret, late)
    assert life.awaits_news(submitted("service", Phase.STARTING), late)
