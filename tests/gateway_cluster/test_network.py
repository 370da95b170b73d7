"""Choosing a subnet that nobody has, and the cables in it."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.cluster import network
from gateway.cluster.spec import Net
from gateway.errors import ClusterError
from tests.waiting import until

ADDRESSES = "2: eth0 inet 192.0.2.2/24 scope global eth0\n9: sluice0 inet 10.77.0.1/24 scope global sluice0\n"
ROUTES = "10.77.2.0/24 via 192.0.2.9 dev eth0\n110.77.5.0/24 dev eth0\n"


def test_used_subnets_are_read_from_addresses_and_routes() -> None:
    assert network.used_indexes([ADDRESSES, ROUTES]) == {0, 2}


def test_the_first_free_one_is_chosen() -> None:
    assert network.choose({0, 2}, identity="ab").index == 1
    assert network.choose(set(), identity="ab").bridge == "sluice0"


def test_all_taken() -> None:
    with pytest.raises(ClusterError, match="all 256 subnets"):
        network.choose(range(256), identity="ab")


@pytest.fixture
def net() -> Iterator[Net]:
    """A bridge of the test's own."""
    if os.geteuid() != 0:
        pytest.skip("a bridge needs root")
    while not network.make_bridge(made := network.free(())):
        pass  # another cluster was faster
    yield made
    network.remove(made)


@contextmanager
def a_host() -> Iterator[int]:
    """A process with a network of its own; its number."""
    ours = Path("/proc/self/ns/net").readlink()
    with subprocess.Popen(["unshare", "--net", "sleep", "600"]) as process:
        try:
            until(lambda: Path(f"/proc/{process.pid}/ns/net").readlink() != ours, what="it has a network of its own")
            yield process.pid
        finally:
            process.kill()


def test_a_host_is_plugged_in_while_the_cable_of_the_one_before_is_still_there(net: Net) -> None:
    """When a host is killed the kernel takes its network down by and by, with the cable in it."""
    shown = ["ip", "-o", "link", "show", "eth0"]
    with a_host() as before, a_host() as after:
        network.wire(net, 11, before)
        network.wire(net, 11, after)
        for pid, there in ((before, False), (after, True)):
            found = subprocess.run(["nsenter", "--target", str(pid), "--net", *shown], capture_output=True, check=False)
            assert (found.returncode == 0) is there
