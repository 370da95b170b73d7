"""The command-line back end on this machine's own processes, with programs that play what Slurm's print."""

import os
import pwd
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Forbidden, SchedulerUnavailable, SubmitRefused, SubmitUnknown
from gateway.model.job import JobOptions, JobScript, JobState, SeenJob
from gateway.slurm.cli import CliScheduler
from gateway.slurm.transport import LocalShell
from tests.waiting import until_so

ME = pwd.getpwuid(os.getuid()).pw_name
SCRIPT = JobScript(options=JobOptions(name="sluice-x-1"), text="#!/bin/sh\n")

# Prints rows whose fields are divided by | with the mark that it was asked for, and notes that it was called.
ROWS = r"""
echo "${0##*/} $*" >> NOTES
mark=$(printf '%s\n' "$*" | sed -n 's/.*--Format=JobID:\([^,]*\),.*/\1/p; s/.*--delimiter=\([^ ]*\) .*/\1/p')
while IFS= read -r row; do
  [ -n "$row" ] || continue
  case "$*" in *--only-job-state*)
    IFS='|'; set -- $row; echo "$1 $4"; unset IFS; set -- --only-job-state; continue;; esac
  IFS='|'; for field in $row; do printf '%s%s' "$field" "$mark"; done; unset IFS; echo
done <<'END'
TABLE
END
"""
RUNNING = "7|sluice-x-1|alice|RUNNING|None|node1|(null)|0|0:0|1795230136|1795230137|N/A|10:00"
ENDED = "8|sluice-y-1|alice|CANCELLED by 2001|None|node1|bye|0|0:0|1795230136|1795230137|1795230138|10"
LATE = ENDED.replace("CANCELLED by 2001", "RUNNING")

Programs = Callable[..., None]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Put programs on the PATH, by name: a table of rows, or the text of a script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def put(**texts: str) -> None:
        for name, text in texts.items():
            rows = "|" in text.split("\n", 1)[0] or not text
            body = ROWS.replace("NOTES", str(tmp_path / "notes")).replace("TABLE", text) if rows else text
            (folder / name).write_text(f"#!/bin/sh\n{body}\n")
            (folder / name).chmod(stat.S_IRWXU)

    return put


@pytest.fixture
def notes(tmp_path: Path) -> Callable[[], list[str]]:
    """Which programs were called so far."""

    def read() -> list[str]:
        path = tmp_path / "notes"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    return read


@pytest.fixture
async def scheduler(clock: Any) -> AsyncIterator[CliScheduler]:
    made = CliScheduler(LocalShell(), cluster="c", viewer=ME, timeout=120.0, monotonic=clock.seconds, clock=clock)
    yield made
    await made.close()


async def until_accounted(scheduler: CliScheduler, told: Callable[[SeenJob], bool]) -> int:
    """What sacct says of job 8 is told, after so many looks: none waits for one that is slow."""
    looks = 0

    async def look() -> SeenJob:
        nonlocal looks
        looks += 1
        seen = await scheduler.look([7, 8])
        assert seen[7].state is JobState.RUNNING
        return seen[8]

    await until_so(look, told)
    return looks


async def test_one_squeue_for_all_and_sacct_once_for_what_left(
    programs: Programs, scheduler: CliScheduler, notes: Callable[[], list[str]]
) -> None:
    programs(squeue=RUNNING, sacct=ENDED)
    looks = await until_accounted(scheduler, lambda job: job.state is not JobState.UNKNOWN)
    for _ in range(3):
        seen = await scheduler.look([7, 8])
        assert [seen[7].state, seen[8].state] == [JobState.RUNNING, JobState.CANCELLED]
    assert seen[8].comment == "bye"
    assert seen[8].time_limit == 10
    called = notes()
    assert called.count("sacct") == 1
    assert called.count("squeue") == looks + 3 + 1  # the states each time, the job itself when it is new


async def test_before_slurm_24_05_one_squeue_tells_all(
    programs: Programs, scheduler: CliScheduler, notes: Callable[[], list[str]]
) -> None:
    programs(squeue=RUNNING)
    fails = (
        """case "$*" in *only-job-state*) echo "squeue: unrecognized option '--only-job-state'" >&2; exit 1;; esac"""
    )
    program = Path(os.environ["PATH"].split(":", maxsplit=1)[0]) / "squeue"
    program.write_text(program.read_text().replace("\n", f"\n{fails}\n", 1))
    for _ in range(3):
        assert (await scheduler.look([7]))[7].nodes == "node1"
    assert notes().count("squeue") == 3


async def test_more_than_a_few_jobs_with_news_are_one_squeue(
    programs: Programs, scheduler: CliScheduler, notes: Callable[[], list[str]]
) -> None:
    rows = [RUNNING.replace("7|", f"{number}|", 1) for number in range(1, 31)]
    programs(squeue="\n".join(rows))
    assert len(await scheduler.look(range(1, 31))) == 30
    assert notes().count("squeue") == 2


async def test_late_or_silent_accounting_ends_nothing_and_hides_no_live_job(
    programs: Programs, scheduler: CliScheduler, clock: Any
) -> None:
    programs(squeue=RUNNING, sacct=LATE)
    seen = await scheduler.look([7, 8])
    assert [seen[7].state, seen[8].state] == [JobState.RUNNING, JobState.UNKNOWN]
    await until_accounted(scheduler, lambda job: "accounting still says RUNNING" in job.reason)
    programs(sacct='echo "sacct: error: Problem talking to the database: Connection refused" >&2; exit 1')
    clock.forward(5)
    seen = await scheduler.look([7, 8])
    assert [seen[7].state, seen[8].state] == [JobState.RUNNING, JobState.UNKNOWN]
    await until_accounted(scheduler, lambda job: "Problem talking to the database" in job.reason)
    programs(sacct=ENDED)
    clock.forward(5)
    await until_accounted(scheduler, lambda job: job.state is JobState.CANCELLED)


async def test_a_squeue_that_fails_says_nothing_about_jobs(programs: Programs, scheduler: CliScheduler) -> None:
    programs(squeue='echo "slurm_load_jobs error: Socket timed out on send/recv operation" >&2; exit 1', sacct=ENDED)
    with pytest.raises(SchedulerUnavailable, match="Socket timed out"):
        await scheduler.look([7, 8])
    programs(squeue="echo what is this")
    with pytest.raises(SchedulerUnavailable, match="cannot read"):
        await scheduler.look([7, 8])


async def test_an_unknown_id_alone_is_an_answer(programs: Programs, scheduler: CliScheduler) -> None:
    programs(squeue="", sacct="")
    await until_so(lambda: scheduler.look([9]), lambda seen: seen == {})  # as soon as sacct has said so
    gone = """case "$*" in *only-job-state*) echo 9 RUNNING; exit;; esac
    echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1"""
    programs(squeue=gone)
    assert await scheduler.look([9]) == {}


async def test_a_name_is_looked_for_in_the_queue_then_in_accounting(
    programs: Programs, scheduler: CliScheduler
) -> None:
    programs(squeue="", sacct=ENDED)
    found = await scheduler.find("sluice-y-1", ME)
    assert found is not None
    assert (found.job_id, found.state) == (8, JobState.CANCELLED)
    assert await scheduler.find("sluice-z-1", ME) is None
    programs(sacct="exit 1")
    with pytest.raises(SchedulerUnavailable):
        await scheduler.find("sluice-z-1", ME)


async def test_submitting(programs: Programs, scheduler: CliScheduler) -> None:
    programs(sbatch="cat > /dev/null; echo Welcome; echo '42;cluster'")
    assert await scheduler.submit(SCRIPT, ME) == 42
    programs(sbatch='cat > /dev/null; echo "sbatch: error: Batch job submission failed: Invalid qos" >&2; exit 1')
    with pytest.raises(SubmitRefused, match="Invalid qos"):
        await scheduler.submit(SCRIPT, ME)
    hasty = CliScheduler(LocalShell(), cluster="c", viewer=ME, timeout=2.0)
    for lost, made in (("echo no id here", scheduler), ("kill -KILL $$", scheduler), ("exec sleep 3600", hasty)):
        programs(sbatch=f"cat > /dev/null; {lost}")
        with pytest.raises(SubmitUnknown):
            await made.submit(SCRIPT, ME)
    await hasty.close()


async def test_without_slurms_commands_nothing_is_submitted(programs: Programs, scheduler: CliScheduler) -> None:
    programs(other="true")
    with pytest.raises(SchedulerUnavailable, match="no sbatch on the PATH"):
        await scheduler.submit(SCRIPT, ME)
    with pytest.raises(SchedulerUnavailable, match="no squeue on the PATH"):
        await scheduler.look([7])


async def test_single_user_mode_is_for_one_user(programs: Programs, scheduler: CliScheduler) -> None:
    programs(sbatch="echo 42")
    with pytest.raises(Forbidden, match="starts nothing as somebody-else"):
        await scheduler.submit(SCRIPT, "somebody-else")


@pytest.mark.parametrize("words", ["Invalid job id specified", "Job/step already completing or completed"])
async def test_what_is_over_needs_no_cancelling(programs: Programs, scheduler: CliScheduler, words: str) -> None:
    programs(scancel=f'echo "scancel: error: Kill job error on job id 7: {words}" >&2; exit 1')
    await scheduler.cancel(7, ME)


async def test_a_cancel_that_slurm_refuses(programs: Programs, scheduler: CliScheduler) -> None:
    programs(scancel='echo "scancel: error: Kill job error on job id 7: Access/permission denied" >&2; exit 1')
    with pytest.raises(Forbidden):
        await scheduler.cancel(7, ME)
    programs(scancel='echo "scancel: error: Unable to contact slurm controller (connect failure)" >&2; exit 1')
    with pytest.raises(SchedulerUnavailable):
        await scheduler.cancel(7, ME)
