"""What is asked about in full, and that it does not grow with the number of jobs."""

from datetime import UTC, datetime, timedelta

from gateway.model.job import JobState, SeenJob
from gateway.slurm.memory import AWAITED_A_LOOK, CHANGED_A_LOOK, QUIET_A_LOOK, QUIET_EVERY, Memory

NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
READY = f"sluice/1 ready tcp=10.0.0.1:4000 sha256={'0' * 64}"
States = dict[int, tuple[JobState, frozenset[str]]]


def states(state: JobState, *job_ids: int) -> States:
    return dict.fromkeys(job_ids, (state, frozenset()))


def known(count: int, state: JobState, comment: str = "", ran: float = 3600) -> tuple[Memory, States]:
    memory = Memory()
    start = NOW - timedelta(seconds=ran)
    for job_id in range(count):
        memory.put(SeenJob(job_id=job_id, state=state, comment=comment, start_time=start), 0.0)
    return memory, states(state, *range(count))


def test_new_jobs_are_all_asked_about_and_changed_ones_ends_first() -> None:
    memory, before = known(300, JobState.PENDING)
    after = before | states(JobState.RUNNING, *range(290)) | states(JobState.COMPLETED, *range(290, 295))
    chosen = memory.choose(after | states(JobState.PENDING, *range(300, 700)), [], 0.0, NOW)
    assert set(range(300, 700)) <= set(chosen)
    rest = [job_id for job_id in chosen if job_id < 300]
    assert rest[:5] == [290, 291, 292, 293, 294]
    assert len(rest) == CHANGED_A_LOOK


def test_quiet_jobs_take_turns_at_a_rate_that_does_not_depend_on_their_number() -> None:
    asked: dict[int, int] = {}
    for count in (20, 1000):
        memory, told = known(count, JobState.RUNNING, READY)
        turns: list[int] = []
        for second in range(1000):
            for job_id in memory.choose(told, [], float(second), NOW):
                turns.append(job_id)
                memory.put(SeenJob(job_id=job_id, state=JobState.RUNNING, comment=READY), float(second))
        asked[count] = len(turns)
        assert len(set(turns)) == min(count, len(turns)), "none is asked about twice before all were"
    assert asked[20] <= asked[1000] <= QUIET_A_LOOK + 1000 / QUIET_EVERY


def test_a_few_jobs_do_not_wait_for_their_turn() -> None:
    memory, told = known(5, JobState.PENDING)
    assert memory.choose(told, [], 9.0, NOW) == []
    assert sorted(memory.choose(told, [], 10.0, NOW)) == [0, 1, 2, 3, 4]


def test_jobs_of_which_news_is_awaited_need_no_turn_and_are_bounded() -> None:
    memory, told = known(1000, JobState.RUNNING, ran=20)
    assert len(memory.choose(told, range(1000), 2.0, NOW)) == AWAITED_A_LOOK
    assert memory.choose(told, [7], 0.5, NOW) == []
    assert memory.choose(told, [7], 1.0, NOW)[0] == 7


def test_an_awaited_job_that_has_announced_itself_is_a_quiet_one() -> None:
    memory, told = known(1, JobState.RUNNING, READY, ran=20)
    assert memory.choose(told, [0], 30.0, NOW) == []
    assert memory.choose(told, [0], 60.0, NOW) == [0]


def test_what_a_requeued_job_said_in_its_run_before_keeps_nobody_from_asking() -> None:
    memory, told = Memory(), states(JobState.RUNNING, 0)
    memory.put(SeenJob(job_id=0, state=JobState.RUNNING, comment=READY, start_time=NOW, restarts=1), 0.0)
    assert memory.choose(told, [0], 1.0, NOW) == [0]


def test_ended_jobs_are_not_asked_about_again() -> None:
    memory, told = known(3, JobState.COMPLETED)
    assert memory.choose(told, [0, 1], 1e9, NOW) == []


def test_a_job_that_has_another_word_to_say_is_asked_about_while_it_is_awaited() -> None:
    memory, told = known(2, JobState.RUNNING, READY.replace("ready", "running"), ran=20)
    assert memory.choose(told, [1], 1.5, NOW) == [1]
    assert memory.choose(told, [], 30.0, NOW) == []
