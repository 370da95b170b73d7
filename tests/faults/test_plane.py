"""The fault of the data plane that costs least to play; `python -m tests.faults.plane` plays them all."""

import pytest

from gateway.cluster import Cluster
from tests.faults.plane import CLIENT_KILLED, LONG, SHORT, play, scene_on

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


async def test_a_client_service_that_is_killed_cuts_what_was_under_way_and_serves_again(slurm_cluster: Cluster) -> None:
    async with scene_on(slurm_cluster) as scene:
        cost = await play(CLIENT_KILLED, scene)
        assert scene.client.starts == 2
    assert cost.cut <= SHORT + LONG
    assert cost.sent > cost.failed + cost.cut
