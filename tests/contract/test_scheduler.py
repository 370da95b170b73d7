"""What every way to Slurm must do, the in-memory one included."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.errors import Forbidden, SubmitRefused
from gateway.model.announcement import Endpoint, parse
from gateway.model.job import JobState, SeenJob

READY = f"sluice/1 ready tcp=10.77.0.11:41231 sha256={'ab' * 32}"
BEYOND_ALL_IDS = 67_108_864 + 5


async def test_a_job_is_followed_from_submit_to_its_good_end(case: Any) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    script = case.script("sleep 5; exit 0")  # and so it has not ended when it is looked at
    job_id = await case.submit(script)
    seen = await case.look(job_id)
    assert seen.state in {JobState.PENDING, JobState.RUNNING}
    assert (seen.name, seen.user, seen.time_limit) == (script.options.name, case.owner, 5)
    assert seen.submit_time is not None
    assert before <= seen.submit_time <= datetime.now(UTC) + timedelta(seconds=5)
    assert (seen.comment, seen.exit_code, seen.signal, seen.restarts) == ("", None, None, 0)

    running = await case.until(job_id, lambda job: job.state is not JobState.PENDING)
    assert running.nodes
    assert running.start_time is not None

    ended = await case.until(job_id, lambda job: job.state.ended)
    assert (ended.state, ended.exit_code, ended.signal) == (JobState.COMPLETED, 0, None)
    assert ended.end_time is not None
    assert ended.end_time >= running.start_time
    assert ended.nodes == running.nodes


async def test_an_exit_code_is_kept(case: Any) -> None:
    job_id = await case.submit(case.script("exit 3"))
    ended = await case.until(job_id, lambda job: job.state.ended)
    assert (ended.state, ended.exit_code, ended.signal) == (JobState.FAILED, 3, None)


async def test_a_running_job_is_cancelled_by_its_owner_only(case: Any) -> None:
    job_id = await case.submit(case.script("sleep 300"))
    await case.until(job_id, lambda job: job.state is JobState.RUNNING)
    with pytest.raises(Forbidden):
        await case.scheduler.cancel(job_id, case.other)
    assert (await case.look(job_id)).state is JobState.RUNNING

    await case.scheduler.cancel(job_id, case.owner)
    ended = await case.until(job_id, lambda job: job.state.ended)
    assert ended.state is JobState.CANCELLED
    await case.scheduler.cancel(job_id, case.owner)  # a second time is no error


async def test_a_job_that_is_terminated_ends_itself_in_good_order(case: Any) -> None:
    script = case.script("trap 'exit 0' TERM; scontrol update JobId=$SLURM_JOB_ID Comment=armed; sleep 300 & wait")
    job_id = await case.submit(script)
    await case.until(
        job_id, lambda job: job.state is JobState.RUNNING and (case.fake is not None or job.comment == "armed")
    )
    with pytest.raises(Forbidden):
        await case.scheduler.terminate(job_id, case.other)
    await case.scheduler.terminate(job_id, case.owner)
    ended = await case.until(job_id, lambda job: job.state.ended)
    assert (ended.state, ended.exit_code, ended.signal) == (JobState.COMPLETED, 0, None)
    await case.scheduler.terminate(job_id, case.owner)  # a second time is no error


async def test_a_job_waits_for_its_time_to_begin(case: Any) -> None:
    begin = datetime.now(UTC) + timedelta(hours=1)
    job_id = await case.submit(case.script("true", begin_at=begin))
    seen = await case.until(job_id, lambda job: job.reason not in {"", "None"})
    assert (seen.state, seen.reason.partition(":")[0]) == (JobState.PENDING, "BeginTime")
    await case.scheduler.cancel(job_id, case.owner)


async def test_a_running_job_says_when_it_is_to_end(case: Any) -> None:
    job_id = await case.submit(case.script("sleep 300", time_limit=7))
    seen = await case.until(job_id, lambda job: job.state is JobState.RUNNING)
    assert seen.end_time - seen.start_time == timedelta(minutes=7)
    await case.scheduler.cancel(job_id, case.owner)


async def test_a_pending_job_says_why_and_is_cancelled(case: Any) -> None:
    first = await case.submit(case.script("sleep 300", nodes=2, tasks=2, exclusive=True))
    await case.until(first, lambda job: job.state is JobState.RUNNING)
    job_id = await case.submit(case.script("sleep 300", nodes=2, tasks=2, exclusive=True))
    seen = await case.until(job_id, lambda job: job.reason not in {"", "None"})
    assert (seen.state, seen.nodes, seen.exit_code) == (JobState.PENDING, "", None)
    assert seen.reason.partition(":")[0] in {"Resources", "Priority"}
    await case.scheduler.cancel(job_id, case.owner)
    ended = await case.until(job_id, lambda job: job.state.ended)
    assert ended.state is JobState.CANCELLED


@pytest.mark.parametrize("job_id", [BEYOND_ALL_IDS, 60_000_000])
async def test_a_job_that_is_not_there_needs_no_cancelling(case: Any, job_id: int) -> None:
    await case.scheduler.cancel(job_id, case.owner)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"partition": "nowhere"}, "partition"),
        ({"account": "nobody"}, "account"),
        ({"gres": "gpu:h900:1"}, "node configuration"),
    ],
    ids=["partition", "account", "gres"],
)
async def test_what_cannot_be_is_refused_in_slurms_words(case: Any, wrong: dict[str, str], words: str) -> None:
    with pytest.raises(SubmitRefused, match=words):
        await case.submit(case.script("exit 0", **wrong))


async def test_one_bad_id_does_not_hide_the_others(case: Any, until: Any) -> None:
    first = await case.submit(case.script("sleep 300"))
    second = await case.submit(case.script("sleep 300"))

    async def look() -> set[int]:
        seen = set(await case.scheduler.look([first, 60_000_000, BEYOND_ALL_IDS, second]))
        assert {first, second} <= seen
        return seen

    await until(look, lambda seen: seen == {first, second})  # no look waits for accounting that takes its time
    assert await case.scheduler.look([60_000_000]) == {}
    assert await case.scheduler.look([]) == {}


async def test_a_job_is_found_by_its_name_at_once_and_after_its_end(case: Any) -> None:
    script = case.script("sleep 300")
    job_id = await case.submit(script)
    found = await case.scheduler.find(script.options.name, case.owner)
    assert found is not None
    assert (found.job_id, found.name) == (job_id, script.options.name)
    assert await case.scheduler.find(script.options.name, case.other) is None
    assert await case.scheduler.find(f"{script.options.name}0", case.owner) is None

    await case.scheduler.cancel(job_id, case.owner)
    await case.until(job_id, lambda job: job.state.ended)
    found = await case.scheduler.find(script.options.name, case.owner)
    assert found is not None
    assert found.state is JobState.CANCELLED


async def test_of_two_jobs_with_one_name_the_newer_is_found(case: Any) -> None:
    script = case.script("sleep 300")
    await case.submit(script)
    newer = await case.submit(script)
    found = await case.scheduler.find(script.options.name, case.owner)
    assert found is not None
    assert found.job_id == newer


async def test_the_live_jobs_of_our_users_are_told_and_nobody_elses(case: Any, until: Any) -> None:
    script = case.script("sleep 300", comment="sluice/1@0a1b2c3d")
    running = await case.submit(script)
    ended = await case.submit(case.script("exit 0"))
    foreign = await case.submit(case.script("sleep 300", name=f"other-{case.run}"))
    await case.until(ended, lambda job: job.state.ended)
    await case.until(running, lambda job: job.state is JobState.RUNNING)
    waiting = await case.submit(case.script("sleep 300", nodes=2, tasks=2, exclusive=True))

    async def told() -> dict[int, SeenJob]:
        return {job.job_id: job for job in await case.scheduler.mine([case.owner, "nobody-of-that-name"])}

    # accounting, where it is asked, may be some seconds behind the queue
    jobs = await until(told, lambda jobs: {running, waiting} <= jobs.keys() and ended not in jobs)
    assert foreign not in jobs
    assert (jobs[running].name, jobs[running].user) == (script.options.name, case.owner)
    assert (await case.look(running)).comment == "sluice/1@0a1b2c3d"
    others = await case.scheduler.mine([case.other, "nobody-of-that-name"])
    assert not {running, waiting} & {job.job_id for job in others}
    assert await case.scheduler.mine([]) == []


@pytest.mark.parametrize(
    "comment",
    [READY, "a|b, c = d; 'e' \"f\" é", "one\n5|sluice-x-1|alice|RUNNING\nthree"],
    ids=["announcement", "separators", "lines"],
)
async def test_what_a_job_says_of_itself_is_told_as_it_is(
    case: Any, comment: str, comment_script: Callable[[str], str]
) -> None:
    job_id = await case.submit(case.script(comment_script(comment)))
    await case.until(job_id, lambda job: job.state is JobState.RUNNING)
    if case.fake is not None:
        case.fake.announce(job_id, comment)
    seen = await case.until(job_id, lambda job: job.comment != "")
    assert seen.comment == comment
    if comment == READY:
        assert parse(seen.comment) == Endpoint(host="10.77.0.11", port=41231, fingerprint="ab" * 32)
    await case.scheduler.cancel(job_id, case.owner)
    ended = await case.until(job_id, lambda job: job.state.ended)
    assert ended.comment == comment


async def test_a_requeued_job_is_pending_again(case: Any) -> None:
    job_id = await case.submit(case.script("sleep 300", requeue=True))
    await case.until(job_id, lambda job: job.state is JobState.RUNNING)
    if case.fake is not None:
        case.fake.hold(job_id)
        case.fake.requeue(job_id)
    else:
        case.cluster.exec("login", ["scontrol", "requeue", str(job_id)], user=case.owner)
    seen = await case.until(job_id, lambda job: job.state is not JobState.RUNNING)
    assert (seen.state, seen.restarts, seen.exit_code) == (JobState.PENDING, 1, None)


async def test_what_the_cluster_has_and_what_is_in_use(case: Any) -> None:
    job_id = await case.submit(case.script("sleep 300", partition="gpu", gres="gpu:a100:1", cpus_per_task=2))
    running = await case.until(job_id, lambda job: job.state is JobState.RUNNING)
    inventory = await case.scheduler.inventory()
    partitions = {partition.name: partition for partition in inventory.partitions}
    assert {"cpu", "gpu", "debug"} <= set(partitions)
    assert partitions["cpu"].up
    assert partitions["debug"].max_time == 30
    assert partitions["gpu"].total_nodes == len(inventory.nodes)
    node = next(node for node in inventory.nodes if node.name == running.nodes)
    assert node.available
    assert (node.cpus, node.memory) == (16, 64_000)
    assert node.cpus_used >= 2
    assert node.memory_used >= 50
    a100 = next(gpus for gpus in node.gpus if (gpus.name, gpus.type) == ("gpu", "a100"))
    assert (a100.total, 1 <= a100.used <= 4) == (4, True)


async def test_the_default_partition_is_told(case: Any) -> None:
    inventory = await case.scheduler.inventory()
    assert [partition.name for partition in inventory.partitions if partition.default] == ["cpu"]


async def test_waiting_jobs_stand_in_line(case: Any, until: Any) -> None:
    first = await case.submit(case.script("sleep 300", nodes=2, tasks=2, exclusive=True))
    await case.until(first, lambda job: job.state is JobState.RUNNING)
    waiting = [await case.submit(case.script("sleep 300", nodes=2, tasks=2, exclusive=True)) for _ in range(2)]
    fresh = case.another()  # where jobs stand is asked every 30 s only, and a look does not wait for the answer
    seen = await until(lambda: fresh.look(waiting), lambda seen: seen[waiting[0]].position is not None)
    assert [seen[job_id].position for job_id in waiting] == [1, 2]
    if fresh is not case.scheduler:
        await fresh.close()


async def test_it_says_who_it_is(case: Any) -> None:
    info = await case.scheduler.info()
    assert info.version
    assert info.cluster
    assert info.backend
