"""The back ends that one suite holds to one contract, as `matrix.py` lists them, and what their tests share."""

import os
import re
import shlex
import time
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import pytest

from gateway.cluster import Cluster
from gateway.core.ports import CommandResult, LineHandler, Scheduler
from gateway.errors import SchedulerUnavailable
from gateway.model.job import JobOptions, JobScript, SeenJob
from gateway.settings import ClusterSettings
from gateway.slurm import Backend, connect
from gateway.slurm.cli import CliScheduler
from gateway.slurm.fake import FakeSlurm, Run
from gateway.slurm.places import WithPlaces
from gateway.slurm.transport import LocalShell
from tests import libslurm
from tests.contract import matrix
from tests.contract.matrix import FAKE, NEWEST, OLDER, WAYS, Way
from tests.waiting import until_so

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
    another: Callable[[], Scheduler]
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

    async def told(self, scheduler: Scheduler, job_id: int) -> SeenJob | None:
        """What it says of the job now; None also while Slurm is not there."""
        try:
            return (await scheduler.look([job_id])).get(job_id)
        except SchedulerUnavailable:
            return None

    async def until_accounted(self, job_id: int) -> None:
        """Accounting has heard of the job's end."""
        if self.cluster is not None:
            sacct = ["sacct", "-nPX", "-j", str(job_id), "-o", "state,end"]
            login = OnLogin(self.cluster)

            async def ask() -> str:
                return (await login.run(sacct, user=self.owner)).stdout

            await until_so(ask, lambda said: bool(said.strip()) and "Unknown" not in said)

    @staticmethod
    async def wait(look: Callable[[], Awaitable[T]], reached: Callable[[T], bool], seconds: float = 120) -> T:
        return await until_so(look, reached, within=seconds)

    async def until(self, job_id: int, reached: Callable[[SeenJob], bool], seconds: float = 120) -> SeenJob:
        """Look until the job is as wanted."""
        return await until_so(lambda: self.look(job_id), reached, within=seconds)


def settings(cluster: Cluster, **changes: object) -> ClusterSettings:
    """The cluster as a site would write it in sluice.toml."""
    (found,) = tomllib.loads(cluster.settings_toml())["clusters"].values()
    return ClusterSettings.model_validate({**found, **changes})


def runs(script: JobScript) -> Run:
    """What the suite's scripts do, for a scheduler that does not run them."""
    sleep, leave = re.search(r"sleep (\d+)", script.text), re.search(r"exit (\d+)", script.text)
    return Run(float(sleep[1]) if sleep else 0.0, int(leave[1]) if leave else 0)


def _cli_local(cluster: Cluster) -> Scheduler:
    shell = OnLogin(cluster)
    return WithPlaces(CliScheduler(shell, cluster="login", viewer=OWNER), shell, viewer=OWNER)


# How each back end is made; the one in memory apart.
MAKERS: dict[str, Callable[[Cluster], Scheduler]] = {
    "rest": lambda cluster: connect(settings(cluster, backend="rest"), name="test").scheduler,
    "cli-ssh": lambda cluster: connect(settings(cluster, backend="cli"), name="test").scheduler,
    "cli-local": _cli_local,
    "pyslurm": lambda cluster: WithPlaces(libslurm.scheduler(cluster, OWNER), OnLogin(cluster), viewer=OWNER),
}

# Which cluster: one of the tests' own, or the one that all share.
_FIXTURES = {
    (False, NEWEST): "slurm_cluster",
    (False, OLDER): "older_cluster",
    (True, NEWEST): "own_cluster",
    (True, OLDER): "own_older_cluster",
}

_not_applicable: list[tuple[str, Way, str]] = []
_asked: list[str] = []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        ways = [pytest.param(way, id=str(way), marks=_marks(way)) for way in WAYS]
        metafunc.parametrize("case", ways, indirect=True)


def _marks(way: Way) -> list[pytest.MarkDecorator]:
    if way == FAKE:
        return []
    needs = {"older": way.release == OLDER, "pyslurm": way.backend == "pyslurm"}
    return [pytest.mark.cluster, *(getattr(pytest.mark, name) for name, needed in needs.items() if needed)]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What cannot be asked is not asked, and is told at the end."""
    kept: list[pytest.Item] = []
    out: list[pytest.Item] = []
    for item in items:
        if not isinstance(item, pytest.Function):
            kept.append(item)
            continue
        way = item.callspec.params.get("case") if hasattr(item, "callspec") else None
        if not isinstance(way, Way):
            kept.append(item)
        elif reason := matrix.why_not(item.originalname, way):
            _not_applicable.append((item.originalname, way, reason))
            out.append(item)
        else:
            _asked.append(item.nodeid)
            kept.append(item)
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = kept


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    asked = set(_asked)
    passed = sum(report.nodeid in asked for report in terminalreporter.stats.get("passed", ()))
    if not passed:
        return
    terminalreporter.section("contract")
    terminalreporter.line(f"contract: {passed} cases, {len(_not_applicable)} not applicable")
    for name, way, reason in _not_applicable:
        terminalreporter.line(f"not applicable: {name} [{way}]: {reason}")


@pytest.fixture(params=["slurm_cluster", pytest.param("older_cluster", marks=pytest.mark.older)], ids=[NEWEST, OLDER])
def either_cluster(request: pytest.FixtureRequest) -> Cluster:
    """The shared cluster of each release, one after the other."""
    cluster: Cluster = request.getfixturevalue(request.param)
    return cluster


def _own(name: str, release: str) -> Iterator[Cluster]:
    if os.geteuid() != 0:
        pytest.skip("a real Slurm cluster needs root")
    cluster = Cluster.up(f"t{os.getpid()}{name}", release=release)
    try:
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Cluster]:
    """A cluster that one module may break."""
    yield from _own("p", "sid")


@pytest.fixture(scope="module")
def own_older_cluster() -> Iterator[Cluster]:
    yield from _own("q", "trixie")


@pytest.fixture
async def case(request: pytest.FixtureRequest, run: str) -> AsyncIterator[Case]:
    way: Way = request.param
    cluster: Cluster | None = None
    if way == FAKE:
        scheduler: Scheduler = FakeSlurm(automatic=True, runs=runs)
        another: Callable[[], Scheduler] = lambda: scheduler  # noqa: E731
    else:
        own = request.node.get_closest_marker("own_cluster") is not None
        cluster = request.getfixturevalue(_FIXTURES[own, way.release])
        another = partial(MAKERS[way.backend], cluster)
        scheduler = another()
    case = Case(scheduler, cluster, f"{run}{re.sub(r'[^a-z0-9]', '', str(way))}", another)
    try:
        yield case
    finally:
        for job_id in case.submitted:
            await until_so(partial(_cancelled, scheduler, job_id))
        await scheduler.close()


async def _cancelled(scheduler: Scheduler, job_id: int) -> bool:
    """Slurm has taken the order; a controller that is overwhelmed takes it the next time."""
    try:
        await scheduler.cancel(job_id, OWNER)
    except SchedulerUnavailable:
        return False
    return True


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
    return until_so
