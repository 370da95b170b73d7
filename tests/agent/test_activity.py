"""What an agent sees at work besides requests: kernels and terminals of a Jupyter server, GPUs."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.agent.activity import Activity, mine
from gateway.agent.processes import Payload
from tests.waiting import until_so

NVIDIA = """#!/bin/sh
[ "$1" = --query-gpu=index,utilization.gpu ] || exit 9
cat "$(dirname "$0")/use"
"""


@dataclass
class Server:
    """Answers as a Jupyter server does that was started below /s/x."""

    path: str
    kernels: list[dict[str, Any]] = field(default_factory=list)
    terminals: list[dict[str, Any]] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
            rows = {"/s/x/api/kernels": self.kernels, "/s/x/api/terminals": self.terminals}.get(path)
            body = json.dumps(rows).encode()
            status = b"404 Not Found" if rows is None else b"200 OK"
            head = b"HTTP/1.1 %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (status, len(body))
            writer.write(head + body)
            await writer.drain()
        finally:  # also when the test is over while somebody asks
            writer.close()


def moment(ago: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.123456Z", time.gmtime(time.time() - ago))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(str(tmp_path / "s.sock"))
    listening = await asyncio.start_unix_server(made.answer, made.path)
    yield made
    listening.close()


@pytest.fixture
async def watch() -> AsyncIterator[Callable[..., Awaitable[Activity]]]:
    """Watch something whose last sign of work was long ago, as far as is known."""
    tasks = []

    async def make(target: str, said: list[str] | None = None, **activity: Any) -> Activity:
        service = {"activity": activity, "prefix": "/s/x"}
        log = said if said is not None else []
        found = Activity(service, target, Payload().tool, log.append, every=0.02)
        tasks.append(asyncio.create_task(found.run()))
        return found

    yield make
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until_looked(activity: Activity) -> dict[str, float]:
    """Whatever it had seen before, it has looked again since."""
    rounds = activity.rounds
    await until_so(lambda: activity.rounds > rounds + 1)
    return activity.quiet()


def last_work(activity: Activity, what: str) -> float:
    """When something was done last, Unix time; what is told is rounded."""
    return time.time() - activity.quiet()[what] + 0.001


async def test_a_busy_kernel_is_work_and_an_idle_one_is_not(server: Server, watch: Any) -> None:
    server.kernels = [{"execution_state": "busy", "last_activity": moment(900)}]
    activity = await watch(server.path, kernels=True)
    assert (await until_looked(activity))["kernels"] < 10
    server.kernels[0]["execution_state"] = "idle"
    still = (await until_looked(activity))["kernels"]
    await until_so(lambda: activity.quiet()["kernels"] > still + 0.5)
    now = time.time()
    server.terminals = [{"name": "1", "last_activity": moment(-1)}]  # whole seconds: not before now
    await until_so(lambda: last_work(activity, "kernels") >= now)


async def test_a_server_that_cannot_be_asked_counts_as_busy_and_is_told_once(tmp_path: Path, watch: Any) -> None:
    said: list[str] = []
    activity = await watch(str(tmp_path / "nobody.sock"), said, kernels=True)
    assert (await until_looked(activity))["kernels"] < 10
    assert len([line for line in said if "count as busy" in line]) == 1


async def test_gpus_in_use_are_work_and_without_nvidia_smi_they_count_as_busy(
    tmp_path: Path, watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SLURM_JOB_GPUS", "2,3")
    program = tmp_path / "nvidia-smi"
    (tmp_path / "use").write_text("0, 99\n1, 98\n2, 0\n3, 4\n")
    program.write_text(NVIDIA)
    program.chmod(0o755)
    activity = await watch(str(tmp_path / "nobody.sock"), gpu_below=5)
    await until_so(lambda: activity.quiet()["gpu_below"] > 0.5)
    now = time.time()
    (tmp_path / "use").write_text("0, 0\n1, 0\n2, 0\n3, 5\n")
    await until_so(lambda: last_work(activity, "gpu_below") >= now)
    (tmp_path / "use").write_text("0, [N/A]\n")
    await until_looked(activity)
    program.unlink()
    assert (await until_looked(activity))["gpu_below"] < 10


async def test_nothing_is_watched_where_nothing_was_asked_for(watch: Any) -> None:
    activity = await watch("/nowhere", kernels=False, gpu_below=None)
    assert activity.quiet() == {}


def test_the_gpus_of_the_job_are_told_from_the_others() -> None:
    rows = [("0", 10.0), ("1", 20.0), ("2", 30.0)]
    assert mine(rows, "1,2") == [20.0, 30.0]
    assert mine(rows[:2], "4,5") == [10.0, 20.0], "devices are constrained: they are numbered anew"
    assert mine(rows, "") == [10.0, 20.0, 30.0]
