"""The in-memory Slurm: what its tests' controls and faults do."""

from typing import Any

import pytest

from gateway.errors import SchedulerUnavailable, SubmitDeferred, SubmitUnknown
from gateway.model.job import JobOptions, JobScript, JobState
from gateway.slurm.fake import FakeSlurm, Run


def script(name: str = "sluice-x-1", **options: Any) -> JobScript:
    return JobScript(options=JobOptions.model_validate({"name": name, **options}), text="")


async def state(slurm: FakeSlurm, job_id: int) -> JobState:
    return (await slurm.look([job_id]))[job_id].state


async def test_a_test_says_what_happens(clock: Any) -> None:
    slurm = FakeSlurm(clock=clock)
    job_id = await slurm.submit(script(), "alice")
    assert await state(slurm, job_id) is JobState.PENDING
    slurm.start(job_id, "node2")
    slurm.announce(job_id, "hello")
    seen = (await slurm.look([job_id]))[job_id]
    assert (seen.state, seen.nodes, seen.comment) == (JobState.RUNNING, "node2", "hello")
    clock.forward(10)
    slurm.finish(job_id, exit_code=4)
    seen = (await slurm.look([job_id]))[job_id]
    assert (seen.state, seen.exit_code, seen.end_time) == (JobState.FAILED, 4, clock())


async def test_a_lost_answer_leaves_a_job_that_is_found_by_its_name(clock: Any) -> None:
    slurm = FakeSlurm(clock=clock)
    slurm.faults.lose_answers = 1
    with pytest.raises(SubmitUnknown):
        await slurm.submit(script(), "alice")
    assert await slurm.find("sluice-x-1", "alice") is not None
    slurm.faults.lose_requests = 1
    with pytest.raises(SubmitUnknown):
        await slurm.submit(script("sluice-y-1"), "alice")
    assert await slurm.find("sluice-y-1", "alice") is None
    assert len(slurm.submitted()) == 1


async def test_what_left_the_queue_is_in_accounting_as_long_as_that_answers(clock: Any) -> None:
    slurm = FakeSlurm(clock=clock, min_job_age=60)
    job_id = await slurm.submit(script(), "alice")
    slurm.start(job_id)
    slurm.finish(job_id)
    clock.forward(61)
    slurm.faults.accounting_down = True
    assert await state(slurm, job_id) is JobState.UNKNOWN
    with pytest.raises(SchedulerUnavailable):
        await slurm.find("sluice-x-1", "alice")
    slurm.faults.accounting_down = False
    assert await state(slurm, job_id) is JobState.COMPLETED
    slurm.forget(job_id)
    assert await slurm.look([job_id]) == {}


async def test_a_live_job_purged_from_the_queue_is_unknown(clock: Any) -> None:
    slurm = FakeSlurm(clock=clock)
    job_id = await slurm.submit(script(), "alice")
    slurm.start(job_id)
    slurm.purge(job_id)
    assert await state(slurm, job_id) is JobState.UNKNOWN


async def test_jobs_run_in_order_as_there_is_room_and_end_on_time(clock: Any) -> None:
    slurm = FakeSlurm(clock=clock, automatic=True, runs=lambda _: Run(100), nodes=1, gpus="gpu:a100:2")
    first = await slurm.submit(script(gres="gpu:a100:2"), "alice")
    second = await slurm.submit(script(gres="gpu:1"), "alice")
    third = await slurm.submit(script(gres="gpu:1", time_limit=1), "alice")
    waiting = (await slurm.look([second, third]))[third]
    assert (await state(slurm, first), waiting.state, waiting.position) == (JobState.RUNNING, JobState.PENDING, 2)
    assert waiting.reason == "Resources"
    assert (await slurm.inventory()).nodes[0].gpus[0].used == 2
    clock.forward(101)
    assert await state(slurm, first) is JobState.COMPLETED
    assert [await state(slurm, i) for i in (second, third)] == [JobState.RUNNING, JobState.RUNNING]
    clock.forward(60)
    assert await state(slurm, third) is JobState.TIMEOUT
    clock.forward(40)
    assert await state(slurm, second) is JobState.COMPLETED


async def test_a_dead_node_ends_or_requeues_its_jobs(clock: Any) -> None:
    slurm = FakeSlurm(clock=clock)
    fixed, free = await slurm.submit(script(), "alice"), await slurm.submit(script(requeue=True), "alice")
    slurm.start(fixed)
    slurm.start(free)
    slurm.node_down("node1")
    seen = await slurm.look([fixed, free])
    assert [seen[fixed].state, seen[free].state] == [JobState.NODE_FAIL, JobState.PENDING]
    assert seen[free].restarts == 1
    assert not (await slurm.inventory()).nodes[0].available


async def test_faults_and_limits(clock: Any) -> None:
    slurm = FakeSlurm(clock=clock, max_submit=1)
    slurm.faults.refuse_requests = 1
    with pytest.raises(SchedulerUnavailable):
        await slurm.submit(script(), "alice")
    job_id = await slurm.submit(script(), "alice")
    with pytest.raises(SubmitDeferred):
        await slurm.submit(script(), "alice")
    slurm.faults.unavailable = True
    with pytest.raises(SchedulerUnavailable):
        await slurm.look([job_id])
    assert slurm.calls["submit"] == 3


async def test_a_submit_may_arrive_long_after_it_was_given_up(clock: Any) -> None:
    slurm = FakeSlurm(clock=clock)
    slurm.faults.late_requests = 1
    with pytest.raises(SubmitUnknown):
        await slurm.submit(script(), "alice")
    assert await slurm.find("sluice-x-1", "alice") is None
    clock.forward(slurm.faults.late_by)
    found = await slurm.find("sluice-x-1", "alice")
    assert found is not None
    assert found.submit_time == clock()


async def test_a_submit_may_arrive_twice(clock: Any) -> None:
    slurm = FakeSlurm(clock=clock)
    slurm.faults.double_requests = 1
    job_id = await slurm.submit(script(), "alice")
    assert len(slurm.submitted("sluice-x-1")) == 2
    found = await slurm.find("sluice-x-1", "alice")
    assert found is not None
    assert found.job_id == job_id + 1


async def test_a_crash_loses_the_newest_jobs_and_gives_their_numbers_again(clock: Any) -> None:
    slurm = FakeSlurm(clock=clock)
    first = await slurm.submit(script(), "alice")
    slurm.start(first)
    clock.forward(60)
    lost = await slurm.submit(script("sluice-y-1"), "alice")
    slurm.restart(lost=5)
    assert await state(slurm, first) is JobState.RUNNING
    assert await slurm.look([lost]) == {}
    assert await slurm.find("sluice-y-1", "alice") is None
    assert await slurm.submit(script("sluice-z-1"), "alice") == lost
    slurm.restart()
    assert await state(slurm, lost) is JobState.PENDING
