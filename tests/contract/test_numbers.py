"""Numbers of jobs that are not one job each: arrays (`123_[4-7%2]`) and heterogeneous jobs (`123+1`)."""

from typing import Any

from gateway.model.job import JobState


def sbatch(case: Any, *options: str) -> int:
    """Somebody submits by hand; the number that sbatch tells."""
    common = ("--parsable", "--partition=cpu", "--account=research", "--mem=50", "--output=/dev/null")
    said = case.cluster.exec("login", ["sbatch", *common, *options, "--wrap", "sleep 300"], user=case.owner).stdout
    number = int(said)
    case.submitted.append(number)
    return number


def numbers(case: Any, number: int) -> dict[str, int]:
    """What Slurm shows people for the parts of a job, and the number of each."""
    shown = case.cluster.exec("login", ["squeue", "-h", "-a", "-j", str(number), "-o", "%i %A"], user=case.owner).stdout
    return {name: int(its) for name, _, its in (line.partition(" ") for line in shown.splitlines())}


async def test_the_tasks_of_an_array_are_told_by_their_own_numbers(case: Any) -> None:
    array = sbatch(case, "--array=4-7%2", f"--job-name=sluice-{case.run}-9")

    async def shown() -> dict[str, int]:
        return numbers(case, array)

    names = await case.wait(shown, lambda parts: len(parts) == 3)
    assert names[f"{array}_[6-7%2]"] == array
    tasks = [names[f"{array}_4"], names[f"{array}_5"]]
    await case.until(tasks[1], lambda job: job.state is JobState.RUNNING)
    seen = await case.scheduler.look([array, *tasks])
    assert {job_id: job.state for job_id, job in seen.items()} == {
        array: JobState.PENDING,
        tasks[0]: JobState.RUNNING,
        tasks[1]: JobState.RUNNING,
    }
    found = await case.scheduler.find(f"sluice-{case.run}-9", case.owner)
    assert found is not None
    assert found.job_id in names.values()
    await case.scheduler.cancel(array, case.owner)
    for job_id in (array, *tasks):
        assert (await case.until(job_id, lambda job: job.state.ended)).state is JobState.CANCELLED


async def test_the_components_of_a_heterogeneous_job_are_told_by_their_own_numbers(case: Any) -> None:
    leader = sbatch(case, "--ntasks=1", ":", "--ntasks=2", "--partition=cpu", "--mem=50")

    async def shown() -> dict[str, int]:
        return numbers(case, leader)

    names = await case.wait(shown, lambda parts: len(parts) == 2)
    component = names[f"{leader}+1"]
    assert names[f"{leader}+0"] == leader
    await case.until(component, lambda job: job.state is JobState.RUNNING)
    seen = await case.scheduler.look([leader, component])
    assert [seen[job_id].state for job_id in (leader, component)] == [JobState.RUNNING] * 2
    await case.scheduler.cancel(leader, case.owner)
    for job_id in (leader, component):
        assert (await case.until(job_id, lambda job: job.state.ended)).state is JobState.CANCELLED
