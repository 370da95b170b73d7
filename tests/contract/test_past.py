"""Jobs that the queue has forgotten, and numbers that are given a second time: on clusters of these tests' own."""

from functools import partial
from typing import Any

import pytest

from gateway.model.job import JobState, SeenJob

pytestmark = pytest.mark.own_cluster


# Since 26.05 slurmctld starts without its jobs only if told so; what it then saves is good for the service.
_FORGET = """
    sluice-service stop slurmctld
    rm -f /var/spool/slurmctld/job_state*
    setpriv --reuid=slurm --regid=slurm --init-groups slurmctld -i
    until scontrol ping | grep -q UP; do :; done
    pid=$(cat /run/slurm/slurmctld.pid)
    kill $pid
    while kill -0 $pid 2>/dev/null; do :; done
    sluice-service start slurmctld
"""


def empty_the_queue(case: Any) -> None:
    """Let slurmctld forget every job and begin again with the first number; accounting keeps them."""
    if case.fake is not None:
        case.fake.begin_numbers_again()
        return
    case.cluster.exec("ctl", ["sh", "-c", _FORGET])


def told_by_accounting(job: SeenJob | None) -> bool:
    """No look waits for accounting that takes its time: until then nothing is known."""
    return job is not None and job.state is not JobState.UNKNOWN


async def test_a_job_that_left_the_queue_is_told_by_accounting_and_its_number_may_come_again(case: Any) -> None:
    script = case.script("exit 3")
    job_id = await case.submit(script)
    ended = await case.until(job_id, lambda job: job.state.ended)
    await case.until_accounted(job_id)

    empty_the_queue(case)
    fresh = case.another()  # one that has not seen the job
    for scheduler in (case.scheduler, fresh):
        seen = await case.wait(partial(case.told, scheduler, job_id), told_by_accounting)
        assert (seen.job_id, seen.name, seen.user) == (job_id, script.options.name, case.owner)
        assert (seen.state, seen.exit_code, seen.signal) == (JobState.FAILED, 3, None)
        assert (seen.nodes, seen.end_time, seen.time_limit) == (ended.nodes, ended.end_time, ended.time_limit)
    found = await fresh.find(script.options.name, case.owner)
    assert found is not None
    assert (found.job_id, found.state) == (job_id, JobState.FAILED)
    if fresh is not case.scheduler:
        await fresh.close()

    again = 0
    while again != job_id:
        assert again < job_id
        newer = case.script("sleep 300")
        again = await case.submit(newer)
    seen = await case.until(job_id, lambda job: job.state is JobState.RUNNING)
    assert (seen.name, seen.exit_code) == (newer.options.name, None)
    await case.scheduler.cancel(job_id, case.owner)
    seen = await case.until(job_id, lambda job: job.state.ended)
    assert (seen.name, seen.state) == (newer.options.name, JobState.CANCELLED)
