"""What tests of every folder share: a real Slurm cluster and a real PostgreSQL, made when a test asks for them."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from gateway.cluster import Cluster, all_names, end
from gateway.store.database import Database
from tests.postgresql import TEMPLATE, Server, serving

# What takes minutes to build, by the marker of the tests that need it; in the order in which they come.
_BUILDS = {"pyslurm": "extras.ensure(rootfs.ensure('sid'))", "older": "rootfs.ensure('trixie')"}
_OLDER_RUNS = os.environ.get("SLUICE_TEST_OLDER_CLUSTER")
_builder: list[subprocess.Popen[bytes]] = []

# No test says how fast it is: beside others a machine may be ten times as slow.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits for a real cluster begins first, so that beside it the quick ones fill the other workers' time."""
    items.sort(key=lambda item: item.get_closest_marker("cluster") is None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is not in the cache yet is built beside the tests that do not need it yet; by one worker for all."""
    if os.environ.get("PYTEST_XDIST_WORKER", "gw0") != "gw0":
        return
    wanted = [mark for mark in _BUILDS if any(item.get_closest_marker(mark) for item in session.items)]
    if _OLDER_RUNS and "older" in wanted:
        wanted.remove("older")
    if wanted and os.geteuid() == 0 and not session.config.getoption("collectonly"):
        steps = [
            "from gateway.cluster import extras, rootfs",
            "rootfs.ensure('sid')",
            *(_BUILDS[mark] for mark in wanted),
        ]
        build, null = ["nice", sys.executable, "-c", "; ".join(steps)], subprocess.DEVNULL
        _builder.append(subprocess.Popen(build, stdout=null, stderr=null))


def pytest_sessionfinish() -> None:
    for builder in _builder:
        builder.terminate()
        builder.wait()


def _cluster(name: str, running: str | None, release: str) -> Iterator[Cluster]:
    if os.geteuid() != 0:
        pytest.skip("a real Slurm cluster needs root")
    if running:
        yield Cluster.load(running)
        return
    for old in all_names():  # of a run that was killed
        if (found := re.fullmatch(r"t(\d+)[a-z]?", old)) and not Path(f"/proc/{found[1]}").exists():
            end(old)
    cluster = Cluster.up(name, release=release)
    try:
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Cluster]:
    """A real Slurm cluster of this run's own; or the running one that SLUICE_TEST_CLUSTER names, left as it is."""
    yield from _cluster(f"t{os.getpid()}", os.environ.get("SLUICE_TEST_CLUSTER"), "sid")


@pytest.fixture(scope="session")
def older_cluster() -> Iterator[Cluster]:
    """The same with Slurm 24.11; or the running one that SLUICE_TEST_OLDER_CLUSTER names."""
    yield from _cluster(f"t{os.getpid()}o", _OLDER_RUNS, "trixie")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A real PostgreSQL of this run's own, with a template of a database that is up to date."""
    with serving() as server:
        server.run(f"CREATE DATABASE {TEMPLATE} TEMPLATE template0")
        template = Database(server.url(TEMPLATE))
        template.open()
        template.close()
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database of the test's own, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'sluice.db'}"
    server: Server = request.getfixturevalue("postgresql")
    return server.fresh()


@pytest.fixture
def hears_ctrl_c() -> Iterator[None]:
    """A run of tests that was started in the background is deaf to Ctrl-C, and so would be what it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
