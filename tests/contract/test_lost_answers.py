"""Connections cut in the middle of a submit: what is said, and that the job is found again by its name."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.cluster import Cluster
from gateway.errors import FilesUnavailable, SchedulerUnavailable, SubmitUnknown
from gateway.slurm import Backend
from tests.contract.relay import Relay

if TYPE_CHECKING:
    from gateway.core.ports import Scheduler

pytestmark = pytest.mark.cluster


LONG = "# " + "x" * 100_000 + "\nsleep 300"  # a script that takes a while to send
SENT = 100_000


@pytest.fixture
async def relay(either_cluster: Cluster) -> AsyncIterator[Relay]:
    relay = Relay(either_cluster.addresses["ctl"], 6820)
    await relay.start()
    yield relay
    await relay.stop()


@pytest.fixture
async def ssh_relay(either_cluster: Cluster) -> AsyncIterator[Relay]:
    relay = Relay(either_cluster.addresses["login"], 22)
    await relay.start()
    yield relay
    await relay.stop()


async def test_slurmrestds_answer_is_lost_and_the_job_exists(
    either_cluster: Cluster, connected: Any, relay: Relay, jobs: Any, run: str, until: Any
) -> None:
    direct: Scheduler = connected(either_cluster).scheduler
    scheduler: Scheduler = connected(either_cluster, rest_url=f"http://127.0.0.1:{relay.here}").scheduler
    await scheduler.info()
    name = f"sluice-{run}-1"
    relay.hush_after = SENT
    try:
        submitting = asyncio.ensure_future(scheduler.submit(jobs(name, LONG), "alice"))
        found = await until(lambda: direct.find(name, "alice"), lambda job: job is not None)
        relay.cut()
        with pytest.raises(SubmitUnknown):
            await submitting
        relay.whole()
        again = await scheduler.find(name, "alice")
        assert again is not None
        assert again.job_id == found.job_id
        await scheduler.cancel(found.job_id, "alice")
    finally:
        await scheduler.close()
        await direct.close()


async def test_slurmrestd_is_not_there(
    either_cluster: Cluster, connected: Any, relay: Relay, jobs: Any, run: str
) -> None:
    scheduler: Scheduler = connected(either_cluster, rest_url=f"http://127.0.0.1:{relay.here}").scheduler
    await scheduler.info()
    await relay.stop()
    with pytest.raises(SchedulerUnavailable):
        await scheduler.look([1])
    with pytest.raises((SchedulerUnavailable, SubmitUnknown)):
        await scheduler.submit(jobs(f"sluice-{run}-1", "true"), "alice")
    with pytest.raises(SchedulerUnavailable):  # and by now it is certain
        await scheduler.submit(jobs(f"sluice-{run}-1", "true"), "alice")
    await scheduler.close()


@pytest.fixture
async def through(either_cluster: Cluster, connected: Any, ssh_relay: Relay, tmp_path: Path) -> AsyncIterator[Backend]:
    """The cluster over the relay, by its commands."""
    known = tmp_path / "known_hosts"
    host = either_cluster.addresses["login"]
    lines = [line.split(" ", 1) for line in either_cluster.known_hosts.read_text().splitlines()]
    known.write_text("".join(f"[127.0.0.1]:{ssh_relay.here} {key}\n" for hosts, key in lines if host in hosts))
    here = {"ssh_host": "127.0.0.1", "ssh_port": ssh_relay.here, "known_hosts_file": known, "build_host": None}
    backend: Backend = connected(either_cluster, backend="cli", **here)
    yield backend
    await backend.close()


async def test_ssh_breaks_after_sbatch_was_started_and_the_job_exists(
    either_cluster: Cluster, connected: Any, through: Backend, ssh_relay: Relay, jobs: Any, run: str, until: Any
) -> None:
    direct: Scheduler = connected(either_cluster).scheduler
    name = f"sluice-{run}-1"
    await through.scheduler.info()
    ssh_relay.hush_after = SENT
    try:
        submitting = asyncio.ensure_future(through.scheduler.submit(jobs(name, LONG), "alice"))
        found = await until(lambda: direct.find(name, "alice"), lambda job: job is not None)
        ssh_relay.cut()
        with pytest.raises(SubmitUnknown):
            await submitting
        ssh_relay.whole()
        again = await through.scheduler.find(name, "alice")  # on a new connection, by itself
        assert again is not None
        assert again.job_id == found.job_id
        await through.scheduler.cancel(found.job_id, "alice")
    finally:
        await direct.close()


async def test_half_a_script_does_not_become_a_job(
    either_cluster: Cluster, through: Backend, ssh_relay: Relay, jobs: Any, run: str, until: Any
) -> None:
    name = f"sluice-{run}-1"
    await through.scheduler.info()
    ssh_relay.cut_after = SENT // 2
    with pytest.raises(SubmitUnknown):
        await through.scheduler.submit(jobs(name, LONG), "alice")
    ssh_relay.whole()

    async def found() -> int:
        """By pgrep: 0 some, 1 none, and any other if it could not say."""
        done: int = either_cluster.exec("login", ["pgrep", "-f", name], user="alice", check=False).returncode
        return done

    await until(found, lambda code: code == 1)
    assert await through.scheduler.find(name, "alice") is None


async def test_a_broken_connection_is_opened_again(through: Backend, ssh_relay: Relay) -> None:
    assert (await through.shell.run(["echo", "1"], user="alice")).stdout == "1\n"
    ssh_relay.cut()
    with suppress(FilesUnavailable):  # it may be noticed only by its use
        await through.files.stat("alice", ".")
    assert (await through.shell.run(["echo", "2"], user="alice")).stdout == "2\n"
    assert (await through.files.stat("alice", ".")) is not None
