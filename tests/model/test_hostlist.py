"""Which hosts a list of Slurm's stands for."""

import pytest

from gateway.model.hostlist import hosts


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", set()),
        ("node1", {"node1"}),
        ("node[1-3,7]", {"node1", "node2", "node3", "node7"}),
        ("gpu[08-10],login", {"gpu08", "gpu09", "gpu10", "login"}),
        ("r[1-2]n[01,03]-ib", {"r1n01-ib", "r1n03-ib", "r2n01-ib", "r2n03-ib"}),
        ("x[a]", {"xa"}),
    ],
)
def test_a_list_of_hosts_is_read(text: str, names: set[str]) -> None:
    assert hosts(text) == names
