"""A script gives the same job by whatever way it is submitted: Slurm itself is asked, and the job."""

import re
from typing import TYPE_CHECKING, Any

import pytest

from gateway.cluster import Cluster
from gateway.cluster.spec import EXTRAS
from gateway.model.job import JobState
from tests import libslurm

if TYPE_CHECKING:
    from gateway.core.ports import Scheduler
    from gateway.slurm import Backend

pytestmark = [pytest.mark.cluster, pytest.mark.pyslurm]

# What must differ, and what only tells how the job came.
_OWN = {
    *(
        "JobId",
        "JobName",
        "SubmitTime",
        "EligibleTime",
        "AccrueTime",
        "StartTime",
        "EndTime",
        "RunTime",
        "LastSchedEval",
        "PreemptEligibleTime",
    ),
    *("AllocNode:Sid", "SubmitLine", "StdOut", "StdErr", "StdIn", "NodeList", "BatchHost", "Priority", "Scheduler"),
    *("OOMKillStep", "TresPerTask", "JobState", "Reason"),
}
_NAMES_OF_THE_WAY = re.compile(
    r"(HYDRA|I_MPI|OMPI|PRTE|SLURM_(SUBMIT_HOST|SUBMIT_DIR|PRIO|TRES_PER_TASK|JOB_(ID|NAME|SLUID|.*TIME)|JOBID))"
)


def ways(cluster: Cluster) -> tuple[str, ...]:
    """Pyslurm is built for the newest Slurm only."""
    return ("rest", "cli", *(["pyslurm"] if cluster.record.spec.release == EXTRAS["pyslurm"] else []))


def scheduler_of(way: str, cluster: Cluster, connected: Any) -> "Scheduler":
    return libslurm.scheduler(cluster) if way == "pyslurm" else connected(cluster, backend=way).scheduler


def told_by_slurm(cluster: Cluster, job_id: int) -> dict[str, str]:
    shown = cluster.exec("login", ["scontrol", "show", "job", str(job_id)], user="alice").stdout
    lines = (line for line in shown.splitlines() if "SubmitLine=" not in line)
    pairs = (word.partition("=") for line in lines for word in line.split())
    return {key: value for key, _, value in pairs if key not in _OWN}


async def test_a_rich_request_is_the_same_job(
    either_cluster: Cluster, connected: Any, run: str, jobs: Any, until: Any
) -> None:
    told = {}
    for way in ways(either_cluster):
        scheduler = scheduler_of(way, either_cluster, connected)
        script = jobs(
            f"sluice-{run}-{way}",
            "sleep 300",
            partition="gpu",
            account="research",
            qos="preemptible",
            time_limit=7,
            nodes=2,
            tasks=4,
            tasks_per_node=2,
            cpus_per_task=2,
            memory=123,
            gres="gpu:a100:1",
            requeue=True,
            working_directory="/home/alice",
        )
        job_id = await scheduler.submit(script, "alice")

        async def look(scheduler: Any = scheduler, job_id: int = job_id) -> Any:
            return (await scheduler.look([job_id]))[job_id]

        try:
            await until(look, lambda job: job.state is JobState.RUNNING)  # while it waits, less is said of it
            told[way] = told_by_slurm(either_cluster, job_id)
        finally:
            await scheduler.cancel(job_id, "alice")
            await scheduler.close()
    differing = {
        (way, key, value, told["cli"].get(key))
        for way, said in told.items()
        for key, value in said.items()
        if value != told["cli"].get(key)
    }
    assert (differing, {len(said) for said in told.values()}) == (set(), {len(told["cli"])})
    assert told["rest"]["NumTasks"] == "4"
    assert told["rest"]["TimeLimit"] == "00:07:00"
    assert told["rest"]["Requeue"] == "1"
    assert "gres/gpu:a100:1" in told["rest"]["TresPerNode"]


async def test_a_job_finds_the_same_surroundings(
    either_cluster: Cluster, connected: Any, run: str, jobs: Any, until: Any
) -> None:
    found = {}
    backend: Backend = connected(either_cluster)
    files = backend.files
    for way in ways(either_cluster):
        scheduler = scheduler_of(way, either_cluster, connected)
        folder = f"t-{run}-{way}"
        await files.write("alice", f"{folder}/here", b"")
        script = jobs(
            f"sluice-{run}-{way}",
            "env; pwd; umask; id -un; ulimit -n",
            cpus_per_task=2,
            tasks_per_node=1,
            exclusive=False,
            output="out",
            working_directory=f"/home/alice/{folder}",
        )
        job_id = await scheduler.submit(script, "alice")

        async def look(scheduler: Any = scheduler, job_id: int = job_id) -> Any:
            return (await scheduler.look([job_id]))[job_id]

        ended = await until(look, lambda job: job.state.ended)
        assert ended.state is JobState.COMPLETED
        text = (await files.read("alice", f"{folder}/out")).decode().replace(folder, "FOLDER")
        lines = [line for line in text.splitlines() if not _NAMES_OF_THE_WAY.match(line)]
        nodes = re.compile(r"node\d|=\d{2,}$")  # which node, which process
        found[way] = sorted(nodes.sub("*", line) for line in lines)
        await files.remove("alice", folder)
        await scheduler.close()
    await backend.close()
    assert all(said == found["cli"] for said in found.values())
    assert "PATH=/usr/local/bin:/usr/bin:/bin" in found["rest"]
    assert "SLURM_CPUS_PER_TASK=2" in found["rest"]
    assert "/home/alice/FOLDER" in found["rest"]
