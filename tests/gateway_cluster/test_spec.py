"""What may be asked for, and the names that follow from it."""

import pytest

from gateway.cluster.spec import Gpu, Net, Spec, parse_gpus
from gateway.errors import Invalid


def test_hosts_and_addresses() -> None:
    spec = Spec("demo", nodes=3)
    net = Net(7, "0011223344556677")
    assert {host.name: net.address(host.octet) for host in spec.hosts} == {
        "ctl": "10.77.7.2",
        "login": "10.77.7.10",
        "node1": "10.77.7.11",
        "node2": "10.77.7.12",
        "node3": "10.77.7.13",
        "build": "10.77.7.1",
    }


def test_interface_names_fit_the_kernel() -> None:
    net = Net(255, "ffeeddccbbaa9988")
    octets = [host.octet for host in Spec("demo", nodes=64).hosts]
    assert all(len(name) <= 15 for name in [net.bridge, *map(net.veth, octets)])
    assert len({net.veth(octet) for octet in octets}) == len(octets)
    assert net.bridge_mac == "02:ff:ee:dd:cc:bb"


@pytest.mark.parametrize("name", ["", "Demo", "-x", "1st", "a/b", "..", "a" * 32, "a b"])
def test_a_name_that_cannot_be_a_path_or_a_cluster(name: str) -> None:
    with pytest.raises(Invalid, match="cannot be a cluster's name"):
        Spec(name)


@pytest.mark.parametrize("nodes", [0, -1, 65])
def test_number_of_nodes(nodes: int) -> None:
    with pytest.raises(Invalid, match="1 to 64 nodes"):
        Spec("demo", nodes=nodes)


def test_unknown_release_names_the_known_ones() -> None:
    with pytest.raises(Invalid, match="sid, trixie"):
        Spec("demo", release="potato")


def test_extras() -> None:
    assert Spec("demo").extras == ""
    assert Spec("demo", extras="pyslurm").extras == "pyslurm"
    with pytest.raises(Invalid, match="unknown extra 'potato'"):
        Spec("demo", extras="pyslurm,potato")
    with pytest.raises(Invalid, match="pyslurm is for release sid"):
        Spec("demo", release="trixie", extras="pyslurm")


def test_gpus() -> None:
    assert parse_gpus("a100:4, a100_1g.10gb:2,shard:16") == (
        Gpu("a100", 4),
        Gpu("a100_1g.10gb", 2),
        Gpu("shard", 16),
    )
    assert [gpu.mig for gpu in parse_gpus("a100:4,a100_1g.10gb:2")] == [False, True]
    assert parse_gpus("none") == parse_gpus("") == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a100", "TYPE:COUNT"),
        ("a100:0", "TYPE:COUNT"),
        ("a100:4 gpus", "TYPE:COUNT"),
        ("a100:2,a100:2", "stands twice"),
        ("a100:4,shard:6", "6 shards cannot be spread evenly over 4"),
        ("shard:4", "4 shards cannot be spread evenly over 0"),
    ],
)
def test_gpus_that_cannot_be(text: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        parse_gpus(text)
