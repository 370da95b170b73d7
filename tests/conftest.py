"""What tests of every folder share: a real Slurm cluster, brought up when the first test asks for it."""

import os
from collections.abc import Iterator

import pytest
from gateway.cluster import Cluster


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Cluster]:
    """A real Slurm cluster of this run's own; or the running one that SLUICE_TEST_CLUSTER names, left as it is."""
    if os.geteuid() != 0:
        pytest.skip("a real Slurm cluster needs root")
    if name := os.environ.get("SLUICE_TEST_CLUSTER"):
        yield Cluster.load(name)
        return
    cluster = Cluster.up(f"t{os.getpid()}")
    try:
        yield cluster
    finally:
        cluster.down()
