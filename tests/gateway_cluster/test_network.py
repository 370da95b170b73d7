"""Choosing a subnet that nobody has."""

import pytest

from gateway.cluster import network
from gateway.errors import ClusterError

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
