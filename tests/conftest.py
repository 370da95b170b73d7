"""What tests of every folder share: a real Slurm cluster and a real PostgreSQL, made when a test asks for them."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cluster import Cluster, all_names, end
from gateway.store.database import Database
from tests.postgresql import TEMPLATE, Server, serving


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Cluster]:
    """A real Slurm cluster of this run's own; or the running one that SLUICE_TEST_CLUSTER names, left as it is."""
    if os.geteuid() != 0:
        pytest.skip("a real Slurm cluster needs root")
    if name := os.environ.get("SLUICE_TEST_CLUSTER"):
        yield Cluster.load(name)
        return
    for old in all_names():  # of a run that was killed
        if re.fullmatch(r"t\d+", old) and not Path(f"/proc/{old[1:]}").exists():
            end(old)
    cluster = Cluster.up(f"t{os.getpid()}")
    try:
        yield cluster
    finally:
        cluster.down()


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
