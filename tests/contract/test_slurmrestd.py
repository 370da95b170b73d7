"""Real slurmrestds: upgraded and downgraded underneath, restarted under load, in every version, by a socket."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.cluster import Cluster
from gateway.errors import SubmitUnknown
from gateway.slurm.rest import RestScheduler
from gateway.slurm.rest_http import VERSIONS, RestClient
from gateway.slurm.tokens import Tokens
from tests.contract.relay import Relay

if TYPE_CHECKING:
    from gateway.core.ports import Scheduler

pytestmark = pytest.mark.cluster

SPOKEN = {"26.05": VERSIONS[:4], "24.11": VERSIONS[3:]}
PORT = 6820


def by(cluster: Cluster, url: str, *versions: str) -> RestScheduler:
    client = RestClient(url, Tokens(cluster.jwt_key, time.time), versions=versions or VERSIONS)
    return RestScheduler(client, cluster="c", viewer="alice")


@pytest.mark.older
async def test_slurm_is_upgraded_and_downgraded_underneath(
    slurm_cluster: Cluster, older_cluster: Cluster, tmp_path: Path
) -> None:
    key = tmp_path / "jwt.key"
    relay = Relay(older_cluster.addresses["ctl"], PORT)
    await relay.start()
    client = RestClient(f"http://127.0.0.1:{relay.here}", Tokens(key, time.time))
    scheduler = RestScheduler(client, cluster="c", viewer="alice")

    def lead_to(cluster: Cluster) -> None:
        relay.host = cluster.addresses["ctl"]
        key.write_bytes(cluster.jwt_key.read_bytes())  # each cluster has a key of its own
        relay.cut()

    try:
        for cluster, release, version in (
            (older_cluster, "24.11", "v0.0.42"),
            (slurm_cluster, "26.05", "v0.0.45"),
            (older_cluster, "24.11", "v0.0.42"),
        ):
            lead_to(cluster)
            assert (await scheduler.info()).version.startswith(release)  # no caller notices
            assert {part.name for part in (await scheduler.inventory()).partitions} >= {"cpu", "gpu"}
            assert (await scheduler.info()).backend == f"rest {version}"
    finally:
        await scheduler.close()
        await relay.stop()


async def test_every_version_tells_the_same_and_takes_jobs(
    either_cluster: Cluster, run: str, jobs: Any, until: Any
) -> None:
    first = by(either_cluster, either_cluster.rest_url)
    release = (await first.info()).version[:5]
    inventories, seen = [], []
    for version in SPOKEN[release]:
        scheduler = by(either_cluster, either_cluster.rest_url, version)
        script = jobs(f"sluice-{run}-1", "exit 2", gres="gpu:a100:1", partition="gpu", qos="normal", requeue=True)
        job_id = await scheduler.submit(script, "alice")

        async def look(scheduler: RestScheduler = scheduler, job_id: int = job_id) -> Any:
            return (await scheduler.look([job_id])).get(job_id)

        ended = await until(look, lambda job: job is not None and job.state.ended and not job.flags)
        seen.append([(await by_version.look([job_id]))[job_id] for by_version in (scheduler, first)])
        told = ended.model_dump(include={"name", "user", "state", "exit_code", "signal", "time_limit"})
        assert told == {
            "name": f"sluice-{run}-1",
            "user": "alice",
            "state": "FAILED",
            "exit_code": 2,
            "signal": None,
            "time_limit": 5,
        }
        found = await scheduler.find(f"sluice-{run}-1", "alice")
        assert found is not None
        assert found.job_id == job_id
        inventory = await scheduler.inventory()
        inventories.append([part.model_copy(update={"default": False}) for part in inventory.partitions])
        assert {gpu.type for gpu in inventory.gpus()} >= {"a100"}
        assert (await scheduler.info()).backend == f"rest {version}"
        await scheduler.close()
    assert all(one == other for one, other in seen)  # each version's word is the newest version's
    assert all(partitions == inventories[0] for partitions in inventories)
    await first.close()


async def test_restarts_of_slurmrestd_are_not_noticed(slurm_cluster: Cluster, run: str, jobs: Any) -> None:
    scheduler: Scheduler = by(slurm_cluster, slurm_cluster.rest_url)
    await scheduler.info()
    done = False
    looks, submitted, doubtful = 0, dict[str, int](), list[str]()

    async def look() -> None:
        nonlocal looks
        while not done:
            await scheduler.info()
            await scheduler.look([1, 2, 3])
            looks += 1

    async def submit(worker: int) -> None:
        number = 0
        while not done:
            number += 1
            name = f"sluice-{run}x{worker}x{number}-1"
            try:
                submitted[name] = await scheduler.submit(jobs(name, "true"), "alice")
            except SubmitUnknown:
                doubtful.append(name)

    work = [asyncio.ensure_future(each) for each in (look(), look(), submit(1), submit(2))]
    try:
        for _ in range(3):
            crash = "sluice-service signal slurmrestd KILL; sluice-service start slurmrestd"
            before = looks
            await asyncio.to_thread(slurm_cluster.exec, "ctl", ["sh", "-c", crash])
            async with asyncio.timeout(120):
                while looks < before + 4:
                    await scheduler.look([1])
    finally:
        done = True
        await asyncio.gather(*work)  # what a caller was told raises here
    for name in doubtful:
        found = await scheduler.find(name, "alice")  # there or not there: no doubt remains, and no error
        assert found is None or found.name == name
    assert submitted
    await scheduler.close()


@pytest.fixture
async def unix_socket(slurm_cluster: Cluster, until: Any) -> AsyncIterator[str]:
    """A second slurmrestd, at a socket on the file system that this machine shares."""
    folder = f".rest-{os.getpid()}"
    start = f"""
        install -d -m 755 -o slurmrestd /home/{folder}
        export SLURM_JWT=daemon
        setsid setpriv --reuid=slurmrestd --regid=slurmrestd --init-groups \\
            slurmrestd -a rest_auth/jwt unix:/home/{folder}/socket >/dev/null 2>&1 </dev/null &
        echo $!
    """
    pid = slurm_cluster.exec("ctl", ["sh", "-c", start]).stdout.strip()
    path = slurm_cluster.home / folder / "socket"

    async def there() -> bool:
        return path.exists()

    await until(there, lambda yes: yes)
    slurm_cluster.exec("ctl", ["chmod", "666", f"/home/{folder}/socket"])
    yield f"unix:{path}"
    slurm_cluster.exec("ctl", ["sh", "-c", f"kill {pid}; rm -rf /home/{folder}"])


async def test_a_unix_socket_is_a_way_too(slurm_cluster: Cluster, unix_socket: str, run: str, jobs: Any) -> None:
    scheduler = by(slurm_cluster, unix_socket)
    job_id = await scheduler.submit(jobs(f"sluice-{run}-1", "sleep 60"), "alice")
    assert (await scheduler.look([job_id]))[job_id].user == "alice"
    await scheduler.cancel(job_id, "alice")
    await scheduler.close()
