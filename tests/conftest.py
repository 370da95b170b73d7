"""What tests of every folder share: a real Slurm cluster, brought up when the first test asks for it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cluster import Cluster, all_names, end


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
