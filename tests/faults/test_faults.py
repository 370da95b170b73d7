"""The faults that cost least to play, in small; `make chaos` plays all of them with the big numbers."""

import pytest

from gateway.cluster import Cluster
from tests.faults.fault import Fault
from tests.faults.faults import ControllerFrozen, DatabaseLocked, ServerKilled, SshCut
from tests.faults.harness import play

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    "fault", [ServerKilled(), ControllerFrozen(), SshCut(), DatabaseLocked()], ids=lambda fault: str(fault.name)
)
async def test_nothing_is_lost_doubled_or_falsely_ended(slurm_cluster: Cluster, fault: Fault) -> None:
    result = await play(fault, fault.fast, slurm_cluster, print)
    assert result.problems == []
    assert result.times == fault.fast.times
    assert result.sessions >= fault.fast.sessions
