"""libslurm may end its process, hang, be missing or be another one: what is said then, and that all goes on."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.cluster import Cluster, processes, rootfs
from gateway.errors import Forbidden, LibslurmUnusable, SchedulerUnavailable, SubmitUnknown
from gateway.model.job import JobState
from gateway.slurm.libslurm import Libslurm
from gateway.slurm.pyslurm import PyslurmScheduler
from tests import libslurm

pytestmark = [pytest.mark.cluster, pytest.mark.pyslurm]

ESTABLISHED = "01"
SLURMCTLD_PORT = f"{6817:04X}"
#: Bytes before a message to slurmctld that say how long it is.
LENGTH = 4
#: Seconds that a call may take where one hangs: a slow machine starts the process in them and is answered.
HASTY = 20


HERE = Path(__file__).parents[2]
HOLD = """
import asyncio, sys
from gateway.cluster import Cluster
from tests import libslurm
async def hold():
    process = libslurm.on_login(Cluster.load(sys.argv[1]))
    await process.ask("info")
    print(process.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(hold())
"""


class Connection(NamedTuple):
    """One that is established; how many bytes wait at this end, to go out and to be read."""

    near: str
    far: str
    to_send: int
    to_read: int


def _connections(table: str) -> list[Connection]:
    """From a table of TCP as the kernel shows it."""
    rows = [line.split() for line in table.splitlines()[1:]]
    return [
        Connection(row[1], row[2], int(row[4].partition(":")[0], 16), int(row[4].partition(":")[2], 16))
        for row in rows
        if row[3] == ESTABLISHED
    ]


class There:
    """A scheduler on the login host, and the process in which its libslurm is."""

    def __init__(self, cluster: Cluster, *, timeout: float = 60) -> None:
        self.cluster = cluster
        self.process = libslurm.on_login(cluster, timeout=timeout)
        self.scheduler = PyslurmScheduler(self.process, cluster="login", user="alice")

    @property
    def pid(self) -> int:
        """The Python with pyslurm, below what enters the host."""
        assert self.process.pid is not None
        (python,) = processes.children(self.process.pid)
        return python

    async def running(self) -> bool:
        return self.process.pid is not None

    async def busy(self) -> bool:
        return self.process.busy

    def kill(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def go_on(self) -> None:
        """After a stop: nsenter stops with what it started."""
        assert self.process.pid is not None
        os.killpg(self.process.pid, signal.SIGCONT)

    async def info(self) -> str:
        """Which Slurm answers; "" while libslurm is not started again."""
        try:
            return (await self.scheduler.info()).version
        except SchedulerUnavailable:
            return ""

    async def waits_for_slurmctld(self) -> bool:
        """It has sent all, and is told nothing: what it asks lies before slurmctld, which does not read it."""
        here = _connections(Path(f"/proc/{self.pid}/net/tcp").read_text())
        there = _connections(self.cluster.exec("ctl", ["cat", "/proc/net/tcp"]).stdout)
        asked = {(row.near, row.far) for row in here if row.far.endswith(f":{SLURMCTLD_PORT}") and not row.to_send}
        return any((row.far, row.near) in asked and row.to_read > LENGTH for row in there)


async def until_gone(pid: int, until: Any) -> None:
    async def started() -> int:
        return processes.started(pid)

    await until(started, lambda at: at == 0)


@pytest.fixture
async def there(slurm_cluster: Cluster) -> AsyncIterator[There]:
    made = There(slurm_cluster)
    await made.scheduler.info()
    yield made
    await made.scheduler.close()


async def test_a_segfault_costs_the_call_under_way_and_no_more(there: There, until: Any) -> None:
    first = there.pid
    there.kill(signal.SIGSTOP)
    looking = asyncio.ensure_future(there.scheduler.look([1]))
    await until(there.busy, bool)
    there.kill(signal.SIGSEGV)
    there.go_on()
    with pytest.raises(SchedulerUnavailable, match="SIGSEGV"):
        await looking
    assert await until(there.info, bool)
    assert there.pid != first


async def test_a_segfault_between_two_calls_costs_nothing(there: There, until: Any) -> None:
    there.kill(signal.SIGSEGV)
    await until(there.running, lambda running: not running)
    assert (await there.scheduler.info()).version


async def test_a_segfault_in_a_submit_leaves_a_doubt_and_the_job_is_found(
    there: There, slurm_cluster: Cluster, jobs: Any, run: str, until: Any
) -> None:
    name = f"sluice-{run}-1"
    slurm_cluster.exec("ctl", ["pkill", "-STOP", "-x", "slurmctld"])
    try:
        submitting = asyncio.ensure_future(there.scheduler.submit(jobs(name, "sleep 300"), "alice"))
        await until(there.waits_for_slurmctld, bool)
        there.kill(signal.SIGSEGV)
        with pytest.raises(SubmitUnknown, match="SIGSEGV"):
            await submitting
    finally:
        slurm_cluster.exec("ctl", ["pkill", "-CONT", "-x", "slurmctld"])
    await until(there.info, bool)
    found = await until(lambda: there.scheduler.find(name, "alice"), lambda job: job is not None)
    assert found.name == name
    await there.scheduler.cancel(found.job_id, "alice")


async def test_a_call_that_hangs_is_ended_with_its_process(
    slurm_cluster: Cluster, jobs: Any, run: str, until: Any
) -> None:
    there = There(slurm_cluster, timeout=HASTY)
    await there.scheduler.info()
    first = there.pid
    there.kill(signal.SIGSTOP)
    with pytest.raises(SubmitUnknown, match="did not return"):
        await there.scheduler.submit(jobs(f"sluice-{run}-1", "true"), "alice")
    with pytest.raises(SchedulerUnavailable, match="started again"):
        await there.scheduler.look([1])
    await until_gone(first, until)
    assert await until(there.info, bool)
    assert await there.scheduler.find(f"sluice-{run}-1", "alice") is None
    await there.scheduler.close()


async def test_who_waits_behind_a_call_that_hangs_is_told_that_nothing_was_sent(
    slurm_cluster: Cluster, jobs: Any, run: str, until: Any
) -> None:
    there = There(slurm_cluster, timeout=HASTY)
    await there.scheduler.info()
    there.kill(signal.SIGSTOP)
    looking = asyncio.ensure_future(there.scheduler.look([1]))
    await until(there.busy, bool)
    with pytest.raises(SchedulerUnavailable):
        await there.scheduler.submit(jobs(f"sluice-{run}-1", "true"), "alice")
    with pytest.raises(SchedulerUnavailable):
        await looking
    await there.scheduler.close()


async def test_its_process_does_not_outlive_a_gateway_that_is_killed(slurm_cluster: Cluster, until: Any) -> None:
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, slurm_cluster.name, cwd=HERE, stdout=asyncio.subprocess.PIPE
    )
    assert holder.stdout is not None
    while not (line := (await holder.stdout.readline()).strip()).isdigit():
        assert line, "it ended"  # other lines are logs
    (python,) = processes.children(int(line))
    holder.kill()
    await holder.wait()

    await until_gone(python, until)


async def test_slurmctld_is_not_there_and_comes_back(
    there: There, slurm_cluster: Cluster, jobs: Any, run: str, until: Any
) -> None:
    slurm_cluster.service("ctl", "stop", "slurmctld")
    try:
        with pytest.raises(SchedulerUnavailable):  # libslurm tries for a while
            await there.scheduler.submit(jobs(f"sluice-{run}-1", "true"), "alice")
    finally:
        slurm_cluster.service("ctl", "start", "slurmctld")
    assert await until(there.info, bool)


async def test_a_silent_slurmdbd_is_no_end_of_a_job(there: There, slurm_cluster: Cluster, until: Any) -> None:
    slurm_cluster.service("ctl", "stop", "slurmdbd")
    try:

        async def look() -> Any:
            return (await there.scheduler.look([50_000_000])).get(50_000_000)

        seen = await until(look, lambda job: job is not None and "does not answer" in job.reason)
        assert seen.state is JobState.UNKNOWN
        with pytest.raises(SchedulerUnavailable):
            await there.scheduler.find("sluice-nobody-1", "alice")
    finally:
        slurm_cluster.service("ctl", "start", "slurmdbd")


async def test_slurm_itself_refuses_to_end_another_users_job(
    there: There, slurm_cluster: Cluster, connected: Any, jobs: Any, run: str
) -> None:
    rest = connected(slurm_cluster, backend="rest").scheduler
    job_id = await rest.submit(jobs(f"sluice-{run}-1", "sleep 300", account="teaching"), "bob")
    try:
        for order in (there.scheduler.cancel, there.scheduler.terminate):
            with pytest.raises(Forbidden, match="denied"):
                await order(job_id, "alice")
            with pytest.raises(Forbidden, match="libslurm runs as alice here"):
                await order(job_id, "bob")
        with pytest.raises(Forbidden):
            await there.scheduler.submit(jobs(f"sluice-{run}-2", "true"), "bob")
        assert (await there.scheduler.look([job_id]))[job_id].user == "bob"
    finally:
        await rest.cancel(job_id, "bob")
        await rest.close()


@pytest.mark.parametrize("code", [0, 1, 127, 128, 137, 255])
async def test_an_exit_code_is_told_as_the_script_left(
    there: There, jobs: Any, run: str, until: Any, code: int
) -> None:
    job_id = await there.scheduler.submit(jobs(f"sluice-{run}-1", f"exit {code}"), "alice")

    async def look() -> Any:
        return (await there.scheduler.look([job_id]))[job_id]

    ended = await until(look, lambda job: job.state.ended)
    assert (ended.exit_code, ended.signal) == (code, None)


async def unusable(process: Libslurm) -> LibslurmUnusable:
    try:
        with pytest.raises(LibslurmUnusable) as caught:
            await process.ask("info")
        with pytest.raises(LibslurmUnusable):  # the same while it is not tried again
            await process.ask("info")
    finally:
        await process.close()
    assert caught.value.hint
    return caught.value


async def test_a_python_without_pyslurm(slurm_cluster: Cluster) -> None:
    said = await unusable(libslurm.on_login(slurm_cluster, python=("python3", "-S")))
    assert said.message == "that Python has no pyslurm: No module named 'pyslurm'"


async def test_no_such_python(slurm_cluster: Cluster) -> None:
    assert "/nowhere/python" in (await unusable(libslurm.on_login(slurm_cluster, python=("/nowhere/python",)))).message
    assert "/nowhere/python" in (await unusable(Libslurm(["/nowhere/python"]))).message


async def test_no_slurm_conf(slurm_cluster: Cluster) -> None:
    said = await unusable(libslurm.on_login(slurm_cluster, python=("env", "SLURM_CONF=/nowhere", "python3")))
    assert said.message.startswith("libslurm finds no configuration it can use")
    assert "/nowhere" in said.message


@pytest.mark.older
async def test_the_libslurm_of_another_slurm(slurm_cluster: Cluster) -> None:
    older = next(rootfs.ensure("trixie").glob("usr/lib/*/slurm-wlm/libslurmfull.so"))
    folder = slurm_cluster.home / "alice" / "older-libslurm"
    folder.mkdir()
    try:
        shutil.copy(older, folder)
        wrong = ("env", "LD_LIBRARY_PATH=/home/alice/older-libslurm", "python3")
        said = await unusable(libslurm.on_login(slurm_cluster, python=wrong))
    finally:
        shutil.rmtree(folder)
    assert said.message.startswith("pyslurm does not go with the libslurm of this host")


async def test_it_never_runs_as_root(slurm_cluster: Cluster) -> None:
    assert "root" in (await unusable(libslurm.on_login(slurm_cluster, user=""))).message
