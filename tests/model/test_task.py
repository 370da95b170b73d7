"""The life of a task: whatever is seen in whatever order, it only goes forward, and ends once."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from gateway.model.task import LineFault, Seen, Task, TaskPhase, cancel, step, unasked, view_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FAULT = LineFault(code="invalid_json_line", message="it is not JSON", line=3)
#: What may follow what, as it is drawn above the module.
AFTER = {
    TaskPhase.VALIDATING: {TaskPhase.IN_PROGRESS, TaskPhase.FAILED, TaskPhase.CANCELLING, TaskPhase.FINALIZING},
    TaskPhase.IN_PROGRESS: {TaskPhase.FINALIZING, TaskPhase.CANCELLING},
    TaskPhase.FINALIZING: {TaskPhase.COMPLETED, TaskPhase.FAILED, TaskPhase.EXPIRED},
    TaskPhase.CANCELLING: {TaskPhase.CANCELLED},
}


def a_task(**changes: object) -> Task:
    made = Task(id="batch_1", owner="ann", user_id="u", input_file="file-1", created_at=NOW, expires_at=NOW)
    return made.model_copy(update={"expires_at": NOW + timedelta(hours=1), **changes})


SEEN = st.builds(
    Seen,
    lines=st.none() | st.integers(0, 5),
    faults=st.just(()) | st.just((FAULT,)),
    refused=st.sampled_from(("", "its session has ended")),
    assembled=st.none() | st.just(("file-o", None)),
)
ACTS = st.lists(st.tuples(SEEN, st.booleans(), st.integers(0, 3), st.integers(0, 90)), max_size=12)


@given(ACTS)
def test_it_only_goes_forward_and_ends_once(acts: list[tuple[Seen, bool, int, int]]) -> None:
    task, now = a_task(), NOW
    for seen, wants_its_end, done, minutes in acts:
        now += timedelta(minutes=minutes)
        if task.phase.asks:
            task = task.model_copy(update={"completed": min(task.total or 0, task.completed + done)})
        wanted = cancel(task, now) if wants_its_end else task
        for before, after in ((task, wanted), (wanted, step(wanted, seen, now))):
            assert after.phase is before.phase or after.phase in AFTER[before.phase]
            assert after is before or not before.phase.ended
            assert after.done == before.done
            assert (after.ended_at is not None) == after.phase.ended
            task = after
    if task.phase is TaskPhase.COMPLETED:
        assert task.done == task.total
    assert view_of(task).phase is task.phase


def test_each_end_says_why() -> None:
    begun = step(a_task(), Seen(lines=2), NOW)
    assert (begun.phase, begun.total) == (TaskPhase.IN_PROGRESS, 2)
    late = step(begun, Seen(), NOW + timedelta(hours=1))
    assert (late.phase, late.outcome, late.message) == (
        TaskPhase.FINALIZING,
        TaskPhase.EXPIRED,
        "it was not done within 24h",
    )
    assert step(late, Seen(assembled=("o", "e")), NOW).phase is TaskPhase.EXPIRED
    assert unasked(late)[0] == "batch_expired"
    never = step(a_task(), Seen(), NOW + timedelta(hours=1))
    assert (never.outcome, never.message) == (TaskPhase.EXPIRED, "it was not done within 24h")
    assert unasked(cancel(begun, NOW))[0] == "batch_cancelled"
    refused = step(begun, Seen(refused="session demo has ended"), NOW)
    assert unasked(refused) == ("batch_failed", "the batch ended before this line was answered: session demo has ended")
    assert step(refused, Seen(assembled=(None, None)), NOW).faults[0].message == "session demo has ended"
    bad = step(a_task(), Seen(faults=(FAULT, FAULT)), NOW)
    assert (bad.phase, bad.message) == (TaskPhase.FAILED, "line 3: it is not JSON (and 1 more)")
    whole = step(begun.model_copy(update={"completed": 1, "failed": 1}), Seen(refused="too late to refuse"), NOW)
    assert whole.outcome is TaskPhase.COMPLETED
