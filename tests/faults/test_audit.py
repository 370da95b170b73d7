"""The audit finds what it looks for: each thing that must not be, made up."""

import time

import pytest

from tests.faults.audit import Accounted, Findings, judge, parse, session_of
from tests.faults.clients import Plan, Told
from tests.faults.harness import recoveries

ID = "01JABCDEFGHJKMNPQRSTVWXYZ0"
NAME = f"sluice-{ID.lower()}-1"
END = 1_700_000_000.0


def told(
    phase: str = "succeeded", *, reason: str = "finished", plan: Plan | None = None, **values: float | bool
) -> Told:
    made = Told(plan or Plan("runs"), id=ID, job_name=NAME, phase=phase, reason=reason, ended_at=END + 2)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def job(state: str = "COMPLETED", *, job_id: int = 7, name: str = NAME, end: float | None = END) -> Accounted:
    return Accounted(job_id, name, state, END - 10, end)


def judged(one: Told, *jobs: Accounted, marks: tuple[int, ...] = (7,), listed: bool = True) -> Findings:
    return judge([one], jobs, {ID: marks}, [ID] if listed else [])


@pytest.mark.parametrize(
    ("one", "jobs", "marks"),
    [
        (told(), [job()], [7]),
        (told("failed", plan=Plan("fails")), [job("FAILED")], [7]),
        (told("failed", reason="node_fail"), [job("NODE_FAIL")], [7]),
        (told("stopped", reason="stopped", stop_asked=True), [job("CANCELLED")], []),
        (told("stopped", reason="stopped", stop_asked=True), [], []),
    ],
    ids=["succeeded", "failed", "node", "stopped", "stopped before"],
)
def test_what_is_as_it_must_be_passes(one: Told, jobs: list[Accounted], marks: list[int]) -> None:
    assert list(judge([one], jobs, {ID: marks}, [ID])) == []


def test_a_session_that_is_gone_is_lost() -> None:
    assert len(judged(told(), job(), listed=False).lost) == 1
    assert list(judged(told(forgotten=True), job(), listed=False)) == []


def test_a_session_without_an_end_is_lost() -> None:
    one = told("running")
    one.ended_at = None
    assert len(judged(one, job("RUNNING", end=None)).lost) == 1


def test_a_session_that_never_had_a_job_is_lost() -> None:
    assert len(judged(told(), marks=()).lost) == 1


def test_a_session_that_nobody_asked_for_is_found() -> None:
    assert len(judge([], [], {}, [ID]).lost) == 1


def test_two_jobs_of_one_attempt_are_found() -> None:
    assert len(judged(told(), job(), job(job_id=8), marks=(7, 8)).doubled) == 1


def test_an_end_before_the_jobs_end_is_false() -> None:
    assert len(judged(told(), job(end=END + 60)).falsely_ended) == 1
    assert len(judged(told(), job("RUNNING", end=None)).falsely_ended) == 1


@pytest.mark.parametrize(
    ("one", "state"),
    [
        (told(), "FAILED"),
        (told("failed"), "COMPLETED"),
        (told("failed", reason="job_lost"), "NODE_FAIL"),
        (told("stopped"), "CANCELLED"),
        (told("succeeded", plan=Plan("fails")), "COMPLETED"),
    ],
)
def test_an_end_of_another_kind_is_false(one: Told, state: str) -> None:
    assert len(judged(one, job(state)).falsely_ended) == 1


def test_a_success_without_a_trace_of_the_job_is_false() -> None:
    assert len(judged(told(), job(), marks=()).falsely_ended) == 1


def test_a_job_of_no_session_is_an_orphan() -> None:
    stranger = job(name="sluice-01jaaaaaaaaaaaaaaaaaaaaaaa-1", job_id=9)
    assert len(judged(told(), job(), stranger).orphans) == 1
    assert len(judged(told(), job(), marks=(7, 9)).orphans) == 1


def test_what_a_client_noted_is_reported() -> None:
    one = told()
    one.wrong.append("accepted, and then answered 404")
    assert len(judged(one, job()).wrong) == 1


def test_a_session_that_comes_back_from_its_end_is_noted() -> None:
    one = Told(Plan("runs"))
    view = {"id": ID, "job": {"name": NAME, "job_id": 7}, "reason": "", "message": ""}
    one.hear({**view, "phase": "failed", "ended": True})
    one.hear({**view, "phase": "running", "ended": False})
    assert len(one.wrong) == 1


def test_accounting_is_read_with_the_last_life_of_a_job() -> None:
    text = (
        f"7|{NAME}|NODE_FAIL|2026-01-01T00:00:00|2026-01-01T00:00:05\n"
        f"7|{NAME}|CANCELLED by 2001|2026-01-01T00:00:06|2026-01-01T00:00:09\n"
        f"8|another|COMPLETED|2026-01-01T00:00:00|2026-01-01T00:00:05\n"
        f"9|{NAME}|RUNNING|2026-01-01T00:00:00|Unknown\n"
    )
    first, second = parse(text)
    assert (first.job_id, first.state, first.end) == (7, "CANCELLED", first.submitted + 3)
    assert (second.state, second.end) == ("RUNNING", None)
    assert session_of(NAME) == ID


def test_a_fault_that_nobody_recovered_from_is_told() -> None:
    now = time.time()
    one = Told(Plan("runs"), asked_at=now + 1, job_at=now + 3)
    assert recoveries([one], [now]) == ([3.0], [])
    times, never = recoveries([one], [now, now + 2])
    assert (len(times), len(never)) == (1, 1)
