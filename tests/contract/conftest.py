"""The back ends that one suite holds to one contract: the fake, slurmrestd, the commands over ssh and in a shell."""

import asyncio
import re
import shlex
import time
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from gateway.cluster import Cluster
from gateway.core.ports import CommandResult, LineHandler, Scheduler
from gateway.model.job import JobOptions, JobScript, SeenJob
from gateway.settings import ClusterSettings
from gateway.slurm import Backend, connect
from gateway.slurm.cli import CliScheduler
from gateway.slurm.fake import FakeSlurm, Run
from gateway.slurm.transport import LocalShell

T = TypeVar("T")

OWNER = "alice"
OTHER = "bob"


class OnLogin(LocalShell):
    """The local shell, on the cluster's login host: what single-user mode runs there."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self.cluster = cluster

    async def run(
        self,
        argv: Sequence[str],
        *,
        user: str,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  the port says so
        on_line: LineHandler | None = None,
    ) -> CommandResult:
        there = self.cluster.exec_argv("login", list(argv), user=user)
        return await super().run(there, user=self._user, stdin=stdin, env=env, timeout=timeout, on_line=on_line)


@dataclass
class Case:
    """A back end, and what the suite does with it."""

    scheduler: Scheduler
    cluster: Cluster | None
    run: str
    owner: str = OWNER
    other: str = OTHER
    submitted: list[int] = field(default_factory=list)
    made: int = 0

    @property
    def fake(self) -> FakeSlurm | None:
        return self.scheduler if isinstance(self.scheduler, FakeSlurm) else None

    def script(self, text: str, **options: Any) -> JobScript:
        self.made += 1
        given = {
            "name": f"sluice-{self.run}x{self.made}-1",
            "partition": "cpu",
            "account": "research",
            "time_limit": 5,
            "memory": 50,
            "working_directory": "/tmp",
            **options,
        }
        return JobScript(options=JobOptions.model_validate(given), text=f"#!/bin/bash\n{text}\n")

    async def submit(self, script: JobScript) -> int:
        job_id = await self.scheduler.submit(script, self.owner)
        self.submitted.append(job_id)
        return job_id

    async def look(self, job_id: int) -> SeenJob:
        return (await self.scheduler.look([job_id]))[job_id]

    async def until(self, job_id: int, reached: Callable[[SeenJob], bool], seconds: float = 60) -> SeenJob:
        """Look until the job is as wanted."""
        return await until(lambda: self.look(job_id), reached, seconds)


async def until(look: Callable[[], Awaitable[T]], reached: Callable[[T], bool], seconds: float = 60) -> T:
    never = asyncio.Event()
    deadline = time.monotonic() + seconds
    while not reached(seen := await look()):
        assert time.monotonic() < deadline, f"not within {seconds} s; last seen: {seen}"
        with suppress(TimeoutError):
            await asyncio.wait_for(never.wait(), 0.1)
    return seen


def settings(cluster: Cluster, **changes: object) -> ClusterSettings:
    """The cluster as a site would write it in sluice.toml."""
    (found,) = tomllib.loads(cluster.settings_toml())["clusters"].values()
    return ClusterSettings.model_validate({**found, **changes})


def runs(script: JobScript) -> Run:
    """What the suite's scripts do, for a scheduler that does not run them."""
    sleep, leave = re.search(r"sleep (\d+)", script.text), re.search(r"exit (\d+)", script.text)
    return Run(float(sleep[1]) if sleep else 0.0, int(leave[1]) if leave else 0)


REAL = [pytest.param(kind, marks=pytest.mark.cluster) for kind in ("rest", "cli-ssh", "cli-local")]


@pytest.fixture(params=["fake", *REAL])
async def case(request: pytest.FixtureRequest, run: str) -> AsyncIterator[Case]:
    kind: str = request.param
    cluster: Cluster | None = None
    scheduler: Scheduler
    if kind == "fake":
        scheduler = FakeSlurm(automatic=True, runs=runs)
    else:
        cluster = request.getfixturevalue("slurm_cluster")
        assert cluster is not None
        if kind == "cli-local":
            scheduler = CliScheduler(OnLogin(cluster), cluster="login", viewer=OWNER)
        else:
            backend = "rest" if kind == "rest" else "cli"
            scheduler = connect(settings(cluster, backend=backend), name="test").scheduler
    case = Case(scheduler, cluster, f"{run}{kind.replace('-', '')}")
    try:
        yield case
    finally:
        for job_id in case.submitted:
            await scheduler.cancel(job_id, OWNER)
        await scheduler.close()


@pytest.fixture
def run() -> str:
    """A word of this test's own, for job names: tests may share a cluster."""
    return f"{time.time_ns():x}"


@pytest.fixture
def comment_script() -> Callable[[str], str]:
    """A script that writes its job's comment, as the agent does, and waits to be ended."""

    def make(comment: str) -> str:
        words = shlex.join(["scontrol", "update", f"Comment={comment}"])
        return f'{words} JobId="$SLURM_JOB_ID"\nsleep 300'

    return make


@pytest.fixture
def connected() -> Callable[..., Backend]:
    """Connect to a cluster, with changes to its settings."""

    def make(cluster: Cluster, **changes: object) -> Backend:
        return connect(settings(cluster, **changes), name="test")

    return make


@pytest.fixture
def jobs() -> Callable[..., JobScript]:
    """Make a script: its name, its text, its options."""

    def make(name: str, text: str, **options: Any) -> JobScript:
        given = {"name": name, "partition": "cpu", "account": "research", "time_limit": 5, "memory": 50, **options}
        return JobScript(options=JobOptions.model_validate(given), text=f"#!/bin/bash\n{text}\n")

    return make


@pytest.fixture(name="until")
def _until() -> Any:
    return until
